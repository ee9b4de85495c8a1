//! The four sensors of a board.

use super::{Board, ReadError, SourceId, read_error};
use crate::{Reading, ReadingKind, Source, Stamped};
use nvml_wrapper::error::nvml_try;
use nvml_wrapper_sys::bindings::{
    field_id::{NVML_FI_DEV_POWER_AVERAGE, NVML_FI_DEV_POWER_INSTANT},
    nvmlFieldValue_t, nvmlReturn_enum_NVML_ERROR_NOT_FOUND, nvmlSample_t, nvmlSamplingType_enum_NVML_TOTAL_POWER_SAMPLES, nvmlValue_t,
};
use std::{fmt, time::Duration};

/// What can be read of a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum BoardField {
    /// Power over the last second (field 185, which `power_usage` gives too on Ampere, Ada and Hopper): for events of ten
    /// seconds and more.
    PowerAverage,
    /// Power now (field 186).
    PowerInstant,
    /// The driver's own ring of power samples, with its own times: a read gives all since the last.
    PowerSamples,
    /// Millijoules since the driver was loaded (Volta and later). A read asks the GPU's own processor and takes milliseconds;
    /// field 83 takes as long.
    TotalEnergy,
}

impl BoardField {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::TotalEnergy, Self::PowerInstant, Self::PowerSamples, Self::PowerAverage];

    /// The name used in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PowerAverage => "power_average",
            Self::PowerInstant => "power_instant",
            Self::PowerSamples => "power_samples",
            Self::TotalEnergy => "total_energy",
        }
    }
}

impl fmt::Display for BoardField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The ring's length is not documented; 120 was seen. A longer one comes in several reads.
const RING: u32 = 1024;

pub(super) struct FieldSource {
    board: Board,
    field: BoardField,
    id: SourceId,
    ring: Vec<nvmlSample_t>,
    seen_us: u64,
}

impl fmt::Debug for FieldSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FieldSource").field("id", &self.id).finish_non_exhaustive()
    }
}

impl FieldSource {
    pub(super) fn new(board: Board, field: BoardField) -> Self {
        let id = board.source_id(field);
        let empty = nvmlSample_t { timeStamp: 0, sampleValue: nvmlValue_t { ullVal: 0 } };
        let ring = if field == BoardField::PowerSamples { vec![empty; RING as usize] } else { Vec::new() };
        Self { board, field, id, ring, seen_us: 0 }
    }

    fn power(&self, field: u32) -> Result<Reading, ReadError> {
        let symbol = self.board.nvml.lib().nvmlDeviceGetFieldValues.as_ref().map_err(|_| ReadError::NotSupported)?;
        let mut value = nvmlFieldValue_t {
            fieldId: field,
            scopeId: 0,
            timestamp: 0,
            latencyUsec: 0,
            valueType: 0,
            nvmlReturn: 0,
            value: nvmlValue_t { ullVal: 0 },
        };
        // SAFETY: the handle is of this library; one value is asked for and room for one is given.
        let code = unsafe { symbol(self.board.handle, 1, &raw mut value) };
        nvml_try(code).map_err(|e| read_error(&e))?;
        nvml_try(value.nvmlReturn).map_err(|e| read_error(&e))?;
        // SAFETY: NVML documents power fields as unsigned milliwatts; every bit pattern is one.
        match unsafe { value.value.uiVal } {
            0 => Err(ReadError::Zero),
            milliwatts => Ok(Reading::Power { milliwatts: u64::from(milliwatts) }),
        }
    }

    fn drain(&mut self, out: &mut dyn FnMut(Stamped)) -> Result<(), ReadError> {
        let symbol = self.board.nvml.lib().nvmlDeviceGetSamples.as_ref().map_err(|_| ReadError::NotSupported)?;
        let (mut count, mut value_type) = (RING, 0);
        let ring = self.ring.as_mut_ptr();
        // SAFETY: `ring` has room for `count` samples, and the library writes no more.
        let code = unsafe {
            symbol(
                self.board.handle,
                nvmlSamplingType_enum_NVML_TOTAL_POWER_SAMPLES,
                self.seen_us,
                &raw mut value_type,
                &raw mut count,
                ring,
            )
        };
        // Nothing new is no failure.
        if code == nvmlReturn_enum_NVML_ERROR_NOT_FOUND {
            return Ok(());
        }
        nvml_try(code).map_err(|e| read_error(&e))?;
        let before = self.seen_us;
        for sample in self.ring.iter().take(count as usize).filter(|s| s.timeStamp > before) {
            self.seen_us = self.seen_us.max(sample.timeStamp);
            // SAFETY: power samples are unsigned milliwatts; every bit pattern is one.
            let milliwatts = u64::from(unsafe { sample.sampleValue.uiVal });
            if milliwatts > 0 {
                out(Stamped::at(Reading::Power { milliwatts }, sample.timeStamp.saturating_mul(1000)));
            }
        }
        Ok(())
    }
}

impl Source for FieldSource {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn kind(&self) -> ReadingKind {
        if self.field == BoardField::TotalEnergy { ReadingKind::Counter } else { ReadingKind::Power }
    }

    fn refresh(&self) -> Option<Duration> {
        // Undocumented: calibration finds it out.
        None
    }

    fn memory(&self) -> Option<Duration> {
        // 120 samples of 20 ms were seen to be kept.
        (self.field == BoardField::PowerSamples).then_some(Duration::from_secs(2))
    }

    fn read(&mut self, out: &mut dyn FnMut(Stamped)) -> Result<(), ReadError> {
        let reading = match self.field {
            BoardField::TotalEnergy => {
                let millijoules = self.board.device().total_energy_consumption().map_err(|e| read_error(&e))?;
                Reading::Counter { microjoules: millijoules.saturating_mul(1000) }
            }
            BoardField::PowerInstant => self.power(NVML_FI_DEV_POWER_INSTANT)?,
            BoardField::PowerAverage => self.power(NVML_FI_DEV_POWER_AVERAGE)?,
            BoardField::PowerSamples => return self.drain(out),
        };
        out(reading.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::NvmlLibrary;

    #[test]
    fn without_a_driver_the_library_says_so() {
        // With a driver the boards must be there; both ends are an answer, silence is none.
        match NvmlLibrary::load() {
            Ok(library) => assert!(library.boards().is_ok()),
            Err(e) => assert!(e.to_string().starts_with("libnvidia-ml.so.1: "), "{e}"),
        }
    }
}
