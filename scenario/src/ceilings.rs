//! What a device can do at most, measured beside what it is held against.

mod meter;

use crate::{ScenarioError, files::json_text};
use phase_core::DType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use meter::{CeilingFailure, CeilingLoad, CeilingMeter};

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
    /// Slowest time, in bytes or operations a second.
    pub low: f64,
    /// Median.
    pub median: f64,
    /// With every part at its fastest, or like the middle one's: the ceiling, as it is where nobody else uses the device. The
    /// fastest time, where the whole is one part.
    pub high: f64,
    /// How many times.
    pub blocks: u32,
}

impl Ceilings {
    /// A document of measured rates: the ceilings are the fastest read of the largest working set and the fastest product.
    ///
    /// # Errors
    /// [`ScenarioError::Ceilings`] without a read or without a product.
    pub fn new(source: impl Into<String>, device: Option<String>, rates: Vec<CeilingRate>) -> Result<Self, ScenarioError> {
        let missing = |what| ScenarioError::Ceilings(format!("nothing tells {what}"));
        let largest = reads(&rates).map(|(set, _)| set).max().ok_or_else(|| missing("the bandwidth"))?;
        let bytes_per_s = fastest(reads(&rates).filter(|(set, _)| *set == largest).map(|(_, rate)| rate)).unwrap_or_default();
        let products = rates.iter().filter(|r| matches!(r.of, CeilingKind::Product { .. })).map(|r| r.high);
        let flops_per_s = fastest(products).ok_or_else(|| missing("the rate of products"))?;
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

    /// Bytes a second at most for work that reads so many bytes: the fastest read of the largest measured working set that is
    /// no larger, because a larger one may have been read from a slower memory, or of one above that, which a smaller set can't
    /// fall behind. `None` where all measured ones are larger.
    pub fn bytes_per_s_of(&self, bytes: f64) -> Option<f64> {
        if reads(&self.rates).next().is_none() {
            return Some(self.bytes_per_s);
        }
        #[expect(clippy::cast_precision_loss, reason = "sizes of memory, compared")]
        let least = reads(&self.rates).map(|(set, _)| set).filter(|set| *set as f64 <= bytes).max()?;
        fastest(reads(&self.rates).filter(|(set, _)| *set >= least).map(|(_, rate)| rate))
    }

    /// Operations a second at most in a number format; those of the fastest format where it was not measured.
    pub fn flops_per_s_of(&self, dtype: DType) -> f64 {
        let same = self.rates.iter().filter(|r| matches!(r.of, CeilingKind::Product { dtype: d } if d == dtype)).map(|r| r.high);
        fastest(same).unwrap_or(self.flops_per_s)
    }
}

fn fastest(rates: impl Iterator<Item = f64>) -> Option<f64> {
    rates.max_by(f64::total_cmp)
}

/// Working sets and the rate of each read; several ways of reading may have been tried on one.
fn reads(rates: &[CeilingRate]) -> impl Iterator<Item = (u64, f64)> {
    rates.iter().filter_map(|r| match r.of {
        CeilingKind::Read { working_set_bytes } => Some((working_set_bytes, r.high)),
        CeilingKind::Product { .. } => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: u64) -> CeilingKind {
        CeilingKind::Read { working_set_bytes: set }
    }

    fn rate(of: CeilingKind, high: f64) -> CeilingRate {
        CeilingRate { what: "a test".to_owned(), of, low: high / 2.0, median: high / 2.0, high, blocks: 5 }
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

    #[test]
    fn the_fastest_way_counts_and_what_a_larger_set_reaches_a_smaller_one_does_too() {
        let product = |dtype| CeilingKind::Product { dtype };
        let sets = [rate(read(1 << 20), 5e10), rate(read(1 << 25), 1e10), rate(read(1 << 25), 2e10), rate(read(1 << 30), 3e10)];
        let products = [rate(product(DType::F32), 1e11), rate(product(DType::F32), 9e10), rate(product(DType::Bf16), 2e11)];
        let ceilings = Ceilings::new("a test", None, [&sets[..], &[rate(read(1 << 30), 2e10)], &products].concat()).unwrap();
        assert_eq!((ceilings.bytes_per_s, ceilings.flops_per_s), (3e10, 2e11));
        assert_eq!([1e6, 2e6, 1e8, 2e9].map(|bytes| ceilings.bytes_per_s_of(bytes)), [None, Some(5e10), Some(3e10), Some(3e10)]);
        let flops = |dtype| Some(ceilings.flops_per_s_of(dtype));
        assert_eq!([DType::F32, DType::Bf16, DType::F16].map(flops), [Some(1e11), Some(2e11), Some(2e11)]);
        assert!(Ceilings::new("none", None, sets.to_vec()).is_err() && Ceilings::new("none", None, products.to_vec()).is_err());
    }

    #[test]
    fn files_of_earlier_programs_are_read() {
        let early = r#"{ "schema": "phase.ceilings/1", "source": "fastest of 5 blocks on 2 threads, 2026-11-24T15:00:00Z, phase 0.1.0",
            "device": "AMD EPYC", "bytes_per_s": 2e10, "flops_per_s": 1e11, "threads": 2, "rates": [
            { "what": "read 512 MiB", "of": { "kind": "read", "working_set_bytes": 536870912 }, "low": 1e10, "median": 1e10, "high": 2e10, "blocks": 5 },
            { "what": "multiply and add f32 in registers", "of": { "kind": "product", "dtype": "f32" }, "low": 9e10, "median": 1e11, "high": 1e11,
              "blocks": 5 }], "facts": { "cpu": "AMD EPYC" } }"#;
        let read = Ceilings::from_json(early).unwrap();
        assert_eq!((read.bytes_per_s_of(1e9), read.flops_per_s_of(DType::F32)), (Some(2e10), 1e11));
        let bare = r#"{ "schema": "phase.ceilings/1", "source": "by hand", "bytes_per_s": 2e10, "flops_per_s": 1e11 }"#;
        assert_eq!(Ceilings::from_json(bare).unwrap().bytes_per_s_of(1.0), Some(2e10));
        assert!(Ceilings::from_json(&bare.replace("ceilings/1", "ceilings/9")).unwrap_err().to_string().contains("phase.ceilings/9"));
        assert!(Ceilings::from_json(&bare.replace("2e10", "0.0")).unwrap_err().to_string().contains("positive"));
    }
}
