//! What a device can do at most, measured beside what it is held against.

use crate::{ScenarioError, files::json_text};
use phase_core::{Clock, DType};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Schema of a file of ceilings.
pub const CEILINGS_SCHEMA: &str = "phase.ceilings/1";

/// What a device was measured to be able to do at most, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Ceilings {
    /// [`CEILINGS_SCHEMA`].
    pub schema: String,
    /// How and when they were measured.
    pub source: String,
    /// The processor or GPU, as the boundary's `machine.cpu` or `runtime.gpu` has it; compared where it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Bytes a second that a read of memory can reach.
    pub bytes_per_s: f64,
    /// Floating-point operations a second that a matrix product can reach, in the number format that allows most.
    pub flops_per_s: f64,
    /// Host threads that took part; a run with more of them is not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// What was measured, one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<CeilingRate>,
    /// Facts of the machine and the runtime that measured: the boundary of these numbers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

/// What a rate is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum CeilingKind {
    /// Reading as much memory over and over: bytes a second.
    Read {
        /// How much; where it fits a cache, this is the cache's rate.
        working_set_bytes: u64,
    },
    /// Products of matrices, or what no product can beat: operations a second.
    Product {
        /// The number format of what is multiplied.
        dtype: DType,
    },
}

/// One rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CeilingRate {
    /// What was done, in words.
    pub what: String,
    /// What it is a rate of.
    pub of: CeilingKind,
    /// Slowest block, in bytes or operations a second.
    pub low: f64,
    /// Median of the blocks.
    pub median: f64,
    /// Fastest block: the ceiling, as it was reached.
    pub high: f64,
    /// Blocks.
    pub blocks: u32,
}

/// Why a load could not be run.
pub type CeilingFailure = Box<dyn std::error::Error + Send + Sync>;

/// Something to be done as fast as it goes.
#[non_exhaustive]
pub struct CeilingLoad<'a> {
    /// What, in words.
    pub what: String,
    /// What it tells the rate of.
    pub of: CeilingKind,
    /// Bytes or operations of one call of `run`.
    pub work: f64,
    /// Does it, and returns when it is done.
    pub run: Box<dyn FnMut() -> Result<(), CeilingFailure> + 'a>,
}

impl<'a> CeilingLoad<'a> {
    /// All of the above.
    pub fn new(what: impl Into<String>, of: CeilingKind, work: f64, run: impl FnMut() -> Result<(), CeilingFailure> + 'a) -> Self {
        Self { what: what.into(), of, work, run: Box::new(run) }
    }
}

impl fmt::Debug for CeilingLoad<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CeilingLoad").field("what", &self.what).field("work", &self.work).finish_non_exhaustive()
    }
}

/// Runs every load once unrecorded, then once in each of `blocks` blocks, the loads taking turns.
///
/// # Errors
/// [`ScenarioError::Ceilings`] where a load fails or takes no time, or for no block at all.
pub fn measure_ceilings(loads: &mut [CeilingLoad<'_>], blocks: u32, clock: &dyn Clock) -> Result<Vec<CeilingRate>, ScenarioError> {
    let mut times = vec![Vec::new(); loads.len()];
    for block in 0..=blocks {
        for (load, times) in loads.iter_mut().zip(&mut times) {
            let start = clock.now();
            (load.run)().map_err(|e| ScenarioError::Ceilings(format!("{}: {e}", load.what)))?;
            let seconds = clock.now().since(start).as_secs_f64();
            if block > 0 {
                times.push(seconds);
            }
        }
    }
    let rate = |(load, mut times): (&CeilingLoad<'_>, Vec<f64>)| {
        times.sort_by(f64::total_cmp);
        let &[fast, .., slow] = times.as_slice() else { return Err(ScenarioError::Ceilings("at least two blocks are needed".to_owned())) };
        let middle = f64::midpoint(times[(times.len() - 1) / 2], times[times.len() / 2]);
        if fast <= 0.0 {
            return Err(ScenarioError::Ceilings(format!("{}: too short for the clock", load.what)));
        }
        let [low, median, high] = [slow, middle, fast].map(|seconds| load.work / seconds);
        Ok(CeilingRate { what: load.what.clone(), of: load.of, low, median, high, blocks })
    };
    loads.iter().zip(times).map(rate).collect()
}

impl Ceilings {
    /// A document of measured rates: the ceilings are the fastest blocks of the largest working set and of the fastest product.
    ///
    /// # Errors
    /// [`ScenarioError::Ceilings`] without a read or without a product.
    pub fn new(source: impl Into<String>, device: Option<String>, rates: Vec<CeilingRate>) -> Result<Self, ScenarioError> {
        let missing = |what| ScenarioError::Ceilings(format!("nothing tells {what}"));
        let bytes_per_s = reads(&rates).max_by_key(|(set, _)| *set).ok_or_else(|| missing("the bandwidth"))?.1;
        let products = rates.iter().filter(|r| matches!(r.of, CeilingKind::Product { .. })).map(|r| r.high);
        let flops_per_s = products.max_by(f64::total_cmp).ok_or_else(|| missing("the rate of products"))?;
        let schema = CEILINGS_SCHEMA.to_owned();
        Ok(Self { schema, source: source.into(), device, bytes_per_s, flops_per_s, threads: None, rates, facts: BTreeMap::new() })
    }

    /// Names the host threads that took part.
    #[must_use]
    pub const fn with_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Adds facts of the boundary.
    #[must_use]
    pub fn with_facts(mut self, facts: impl IntoIterator<Item = (String, String)>) -> Self {
        self.facts.extend(facts);
        self
    }

    /// Reads and checks a file of ceilings.
    ///
    /// # Errors
    /// [`ScenarioError::Ceilings`] for another schema or numbers that are not positive.
    pub fn from_json(json: &str) -> Result<Self, ScenarioError> {
        let read: Self = serde_json::from_str(json).map_err(|e| ScenarioError::Ceilings(e.to_string()))?;
        let rates = read.rates.iter().flat_map(|r| [r.low, r.median, r.high]);
        let positive = rates.chain([read.bytes_per_s, read.flops_per_s]).all(|v| v.is_finite() && v > 0.0);
        match (read.schema.as_str(), positive) {
            (CEILINGS_SCHEMA, true) => Ok(read),
            (CEILINGS_SCHEMA, false) => Err(ScenarioError::Ceilings("every rate must be positive".to_owned())),
            (other, _) => Err(ScenarioError::Ceilings(format!("schema `{other}` is not `{CEILINGS_SCHEMA}`"))),
        }
    }

    /// The document.
    ///
    /// # Errors
    /// [`ScenarioError::Io`] when it can't be written as JSON.
    pub fn to_json(&self) -> Result<String, ScenarioError> {
        json_text(self)
    }

    /// Bytes a second at most for work that reads so many bytes: the rate of the largest measured working set that is no
    /// larger, because a larger one may have been read from a slower memory. `None` where all measured ones are larger.
    pub fn bytes_per_s_of(&self, bytes: f64) -> Option<f64> {
        if reads(&self.rates).next().is_none() {
            return Some(self.bytes_per_s);
        }
        #[expect(clippy::cast_precision_loss, reason = "sizes of memory, compared")]
        let smaller = reads(&self.rates).filter(|(set, _)| *set as f64 <= bytes);
        smaller.max_by_key(|(set, _)| *set).map(|(_, rate)| rate)
    }

    /// Operations a second at most in a number format; those of the fastest format where it was not measured.
    pub fn flops_per_s_of(&self, dtype: DType) -> f64 {
        let same = self.rates.iter().filter(|r| matches!(r.of, CeilingKind::Product { dtype: d } if d == dtype)).map(|r| r.high);
        same.max_by(f64::total_cmp).unwrap_or(self.flops_per_s)
    }
}

/// Working sets with the fastest read of each.
fn reads(rates: &[CeilingRate]) -> impl Iterator<Item = (u64, f64)> {
    rates.iter().filter_map(|r| match r.of {
        CeilingKind::Read { working_set_bytes } => Some((working_set_bytes, r.high)),
        CeilingKind::Product { .. } => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use phase_core::ManualClock;
    use std::{cell::Cell, time::Duration};

    fn read(set: u64) -> CeilingKind {
        CeilingKind::Read { working_set_bytes: set }
    }

    fn rate(of: CeilingKind, high: f64) -> CeilingRate {
        CeilingRate { what: "a test".to_owned(), of, low: high / 2.0, median: high / 2.0, high, blocks: 5 }
    }

    #[test]
    fn loads_take_turns_and_the_first_round_is_not_counted() {
        let clock = ManualClock::ticking(Duration::ZERO);
        let order = Cell::new(0u32);
        let take = |expected: u32, ms: &'static [u64]| {
            let (clock, order) = (&clock, &order);
            let mut times = ms.iter().copied();
            move || {
                assert_eq!(order.get() % 2, expected);
                order.set(order.get() + 1);
                clock.advance(Duration::from_millis(times.next().unwrap()));
                Ok(())
            }
        };
        let mut loads = [
            CeilingLoad::new("reading", read(8), 1e9, take(0, &[900, 100, 200, 400])),
            CeilingLoad::new("multiplying", CeilingKind::Product { dtype: DType::F32 }, 1e9, take(1, &[1, 50, 50, 50])),
        ];
        let rates = measure_ceilings(&mut loads, 3, &clock).unwrap();
        assert_eq!((rates[0].low, rates[0].median, rates[0].high), (2.5e9, 5e9, 1e10));
        assert_eq!((rates[1].high, rates[1].blocks), (2e10, 3));
    }

    #[test]
    fn what_can_not_be_measured_says_so() {
        let clock = ManualClock::ticking(Duration::ZERO);
        let mut timeless = [CeilingLoad::new("nothing", read(8), 1.0, || Ok(()))];
        assert!(measure_ceilings(&mut timeless, 3, &clock).unwrap_err().to_string().contains("too short"));
        assert!(measure_ceilings(&mut timeless, 1, &clock).is_err());
        let mut failing = [CeilingLoad::new("a device", read(8), 1.0, || Err("it is lost".into()))];
        assert!(measure_ceilings(&mut failing, 3, &clock).unwrap_err().to_string().contains("a device: it is lost"));
        assert!(Ceilings::new("none", None, vec![rate(read(8), 1.0)]).is_err());
    }

    #[test]
    fn a_working_set_is_held_against_one_that_is_no_larger() {
        let f32 = CeilingKind::Product { dtype: DType::F32 };
        let rates = vec![rate(read(1 << 20), 9e10), rate(read(1 << 30), 2e10), rate(f32, 1e11)];
        let ceilings = Ceilings::new("a test", Some("cpu".to_owned()), rates).unwrap().with_threads(2);
        assert_eq!((ceilings.bytes_per_s, ceilings.flops_per_s, ceilings.flops_per_s_of(DType::Bf16)), (2e10, 1e11, 1e11));
        assert_eq!(ceilings.bytes_per_s_of(5e5), None, "faster caches were not measured");
        assert_eq!(ceilings.bytes_per_s_of(5e8), Some(9e10));
        assert_eq!(ceilings.bytes_per_s_of(2e9), Some(2e10));
        assert_eq!(Ceilings::from_json(&ceilings.to_json().unwrap()).unwrap(), ceilings);
    }
}
