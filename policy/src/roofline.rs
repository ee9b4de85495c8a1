//! Times that no machine can have: faster than the memory it reads and the operations it does allow.

use crate::{
    Cell, MatrixError, RegimeClass, ScenarioMatrix,
    stats::{real, real_size},
};
use phase_core::{BackendId, Phase};

/// What a device was measured to do at most.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Ceilings {
    bytes_per_second: f64,
    operations_per_second: Option<f64>,
}

impl Ceilings {
    /// Measured read bandwidth in bytes per second; `None` for a number that is none.
    pub fn bandwidth(bytes_per_second: f64) -> Option<Self> {
        positive(bytes_per_second).then_some(Self { bytes_per_second, operations_per_second: None })
    }

    /// And a measured rate of operations per second, a multiplication and an addition counting as two.
    #[must_use]
    pub fn with_operations(mut self, operations_per_second: f64) -> Option<Self> {
        self.operations_per_second = Some(operations_per_second);
        positive(operations_per_second).then_some(self)
    }
}

/// The least that a call of a dense model does.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct LeastWork {
    weight_bytes: f64,
    operations_per_token: f64,
}

impl LeastWork {
    /// Bytes of weights that each call reads once, and operations of one token: embeddings that are only looked up count in
    /// neither. A part that is 0 is not known, and bounds nothing.
    pub fn new(weight_bytes: u64, operations_per_token: u64) -> Self {
        Self { weight_bytes: real(weight_bytes), operations_per_token: real(operations_per_token) }
    }

    /// The least time of a call in nanoseconds: bytes over bandwidth or operations over their rate, whichever is longer.
    fn least_ns(&self, cell: &Cell, ceilings: Ceilings) -> f64 {
        let tokens = real_size(cell.key.shape.batch) * real_size(cell.key.shape.new_tokens);
        let bytes = self.weight_bytes / ceilings.bytes_per_second;
        let operations = ceilings.operations_per_second.map_or(0.0, |rate| self.operations_per_token * tokens / rate);
        bytes.max(operations) * 1e9
    }
}

/// A measured ceiling lies below the true one: times are refused only where they beat it by more than this factor. Ours.
pub(crate) const MARGIN: f64 = 1.25;

impl ScenarioMatrix {
    /// Refuses times below the roofline of their device: `known` says what each path's calls do at least and what its device
    /// was measured to do at most; paths of which that is not known are not judged. The fastest single call of a cell decides.
    ///
    /// # Errors
    /// [`MatrixError::FasterThanRoofline`] with the cell.
    pub fn check_roofline(&self, known: impl Fn(&BackendId) -> Option<(LeastWork, Ceilings)>) -> Result<(), MatrixError> {
        let calls = self.cells().iter().filter(|c| c.key.phase != Phase::Request && c.key.regime != RegimeClass::Cold);
        for cell in calls {
            let Some((time, (work, ceilings))) = cell.time.zip(known(&cell.key.backend)) else { continue };
            let least_ns = work.least_ns(cell, ceilings);
            if real(time.min_ns) * MARGIN < least_ns {
                return Err(MatrixError::FasterThanRoofline { cell: cell.key.id(), measured_ns: time.min_ns, least_ns });
            }
        }
        Ok(())
    }
}

fn positive(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{A, B, cells, seen};

    #[test]
    fn a_time_below_the_roofline_names_its_cell() {
        // 540 MB over 20 GB/s: 27 ms a step; 135 M parameters and 128 tokens over 100 GFLOP/s: 345.6 ms.
        let work = LeastWork::new(540_000_000, 270_000_000);
        let ceilings = Ceilings::bandwidth(20e9).unwrap().with_operations(100e9).unwrap();
        let check = |phase, tokens, ns| {
            cells(&[seen(&A, phase, 1, tokens, ns), seen(&B, phase, 1, tokens, 1)])
                .check_roofline(|id| (*id == A).then_some((work, ceilings)))
        };
        assert_eq!(check(Phase::Decode, 40, 27_000_000), Ok(()));
        assert_eq!(check(Phase::Decode, 40, 22_000_000), Ok(()), "within the margin");
        let MatrixError::FasterThanRoofline { cell, measured_ns, least_ns } = check(Phase::Decode, 40, 300_000).unwrap_err() else {
            panic!("another error")
        };
        assert_eq!((cell.as_str(), measured_ns), ("a/default/decode/b1/n1/c32/steady", 300_000));
        assert!((least_ns - 27e6).abs() < 1.0);
        assert_eq!(check(Phase::Prefill, 128, 300_000_000), Ok(()));
        assert!(check(Phase::Prefill, 128, 200_000_000).is_err(), "bandwidth alone would allow it");
    }

    #[test]
    fn ceilings_that_are_no_numbers_are_refused() {
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Ceilings::bandwidth(wrong), None);
            assert_eq!(Ceilings::bandwidth(1e9).unwrap().with_operations(wrong), None);
        }
    }
}
