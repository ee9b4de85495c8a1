//! What a number includes, and on what it was taken: two numbers may be compared only inside one boundary.

use crate::{Difference, Layer, StackInfo, stack::fingerprint};
use std::{fmt, time::Duration};

/// Version of this crate's definitions of phases and boundaries. Raised whenever a number taken before and one taken
/// after would mean different things.
pub const DEFINITIONS_VERSION: u32 = 1;

/// What the timed region spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Span {
    /// One call of a phase trait, from just before it to just after its return.
    Call,
    /// Work on a device between two device events.
    Device,
    /// A whole request as an application sees it.
    Request,
}

/// Who took the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum TimingMethod {
    /// The host's monotonic clock.
    System,
    /// The device's own events.
    Device,
}

/// What happens inside the timed region: a set.
///
/// ```
/// use phase_core::Includes;
/// let region = Includes::COMPUTE | Includes::SAMPLE;
/// assert!(region.contains(Includes::SAMPLE) && !region.contains(Includes::TOKENIZE));
/// assert_eq!(region.to_string(), "compute+sample");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(into = "Vec<String>", try_from = "Vec<String>"))]
pub struct Includes(u16);

impl Includes {
    /// Waiting before work starts.
    pub const QUEUE: Self = Self(1);
    /// Text to tokens.
    pub const TOKENIZE: Self = Self(1 << 1);
    /// Host-to-device copies of inputs.
    pub const HOST_TO_DEVICE: Self = Self(1 << 2);
    /// The model itself.
    pub const COMPUTE: Self = Self(1 << 3);
    /// Device-to-host copies of outputs.
    pub const DEVICE_TO_HOST: Self = Self(1 << 4);
    /// Picking the next token.
    pub const SAMPLE: Self = Self(1 << 5);
    /// Tokens to text.
    pub const DETOKENIZE: Self = Self(1 << 6);

    const NAMES: [(Self, &'static str); 7] = [
        (Self::QUEUE, "queue"),
        (Self::TOKENIZE, "tokenize"),
        (Self::HOST_TO_DEVICE, "host_to_device"),
        (Self::COMPUTE, "compute"),
        (Self::DEVICE_TO_HOST, "device_to_host"),
        (Self::SAMPLE, "sample"),
        (Self::DETOKENIZE, "detokenize"),
    ];

    /// Whether all of `other` is included.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(bit, _)| self.contains(*bit)).map(|(_, name)| name)
    }
}

impl std::ops::BitOr for Includes {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Includes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names().collect();
        f.pad(&names.join("+"))
    }
}

impl From<Includes> for Vec<String> {
    fn from(set: Includes) -> Self {
        set.names().map(str::to_owned).collect()
    }
}

impl TryFrom<Vec<String>> for Includes {
    type Error = String;

    fn try_from(names: Vec<String>) -> Result<Self, String> {
        names.iter().try_fold(Self::default(), |set, name| {
            let known = Self::NAMES.into_iter().find(|(_, n)| n == name);
            let parts = || Self::NAMES.map(|(_, name)| name).join(", ");
            known.map(|(bit, _)| set | bit).ok_or_else(|| format!("`{name}` is not a part of a timed region: one of {}", parts()))
        })
    }
}

/// The conditions under which a number holds. Every number carries one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct MeasurementBoundary {
    /// Machine, model and runtime.
    pub stack: StackInfo,
    /// What the timed region spans.
    pub span: Span,
    /// What happens inside it.
    pub includes: Includes,
    /// Who took the time.
    pub timing: TimingMethod,
    /// Period of the energy or power sampling, when there is one.
    pub cadence: Option<Duration>,
    /// [`DEFINITIONS_VERSION`] at the time of the measurement.
    pub definitions: u32,
}

impl MeasurementBoundary {
    /// The boundary of [`Measured`](crate::Measured) around phase calls that return logits: one call, host clock,
    /// compute and the copies, no sampling.
    pub fn call(stack: StackInfo) -> Self {
        Self {
            stack,
            span: Span::Call,
            includes: Includes::HOST_TO_DEVICE | Includes::COMPUTE | Includes::DEVICE_TO_HOST,
            timing: TimingMethod::System,
            cadence: None,
            definitions: DEFINITIONS_VERSION,
        }
    }

    /// The same stack and clock with another region.
    #[must_use]
    pub fn with_region(mut self, span: Span, includes: Includes) -> Self {
        self.span = span;
        self.includes = includes;
        self
    }

    /// A short name: a hash of everything in the boundary, 16 hexadecimal digits.
    pub fn id(&self) -> String {
        let Self { stack, span, includes, timing, cadence, definitions } = self;
        let parts = [
            stack.id().to_string(),
            format!("{span:?}"),
            includes.to_string(),
            format!("{timing:?}"),
            format!("{cadence:?}"),
            definitions.to_string(),
        ];
        fingerprint(parts.iter().map(String::as_str))[..16].to_owned()
    }

    /// Whether a number under `self` may be ranked against one under `other`: same machine, same model and dtype, same
    /// timed region and clock, and the same kind of GPU where both run on one. The runtimes may differ: that is what is being
    /// ranked.
    ///
    /// # Errors
    /// Every field that differs or is unknown.
    pub fn comparable(&self, other: &Self) -> Result<(), BoundaryMismatch> {
        let mut fields = match self.mismatch(other, &[Layer::Machine, Layer::Model]) {
            Ok(()) => Vec::new(),
            Err(mismatch) => mismatch.fields,
        };
        let both = |key: &str| [self, other].into_iter().all(|b| b.stack.fact(Layer::Runtime, key).is_some());
        let kind = |field: &str| field.strip_prefix("runtime.").is_some_and(|key| GPU_KIND.contains(&key) && both(key));
        fields.extend(self.stack.differences(&other.stack, Layer::Runtime).into_iter().filter(|d| kind(&d.field)));
        if fields.is_empty() { Ok(()) } else { Err(BoundaryMismatch { fields }) }
    }

    /// Whether `other` is the very boundary that `self` was taken under: a policy made under the one holds under the
    /// other.
    ///
    /// # Errors
    /// Every field that differs or is unknown.
    pub fn same(&self, other: &Self) -> Result<(), BoundaryMismatch> {
        self.mismatch(other, &[Layer::Machine, Layer::Model, Layer::Runtime])
    }

    fn mismatch(&self, other: &Self, layers: &[Layer]) -> Result<(), BoundaryMismatch> {
        let Self { stack, span, includes, timing, cadence, definitions } = self;
        let mut fields: Vec<_> = layers.iter().flat_map(|layer| stack.differences(&other.stack, *layer)).collect();
        let mut check = |same: bool, difference: Difference| {
            if !same {
                fields.push(difference);
            }
        };
        check(span == &other.span, Difference::new("span", span, other.span));
        let (ours, theirs) = (includes.to_string(), other.includes.to_string());
        check(includes == &other.includes, Difference { field: "includes".to_owned(), ours, theirs });
        check(timing == &other.timing, Difference::new("timing", timing, other.timing));
        check(cadence == &other.cadence, Difference::new("cadence", cadence, other.cadence));
        check(definitions == &other.definitions, Difference::new("definitions", definitions, other.definitions));
        if fields.is_empty() { Ok(()) } else { Err(BoundaryMismatch { fields }) }
    }
}

/// Facts of a runtime that say which kind of GPU it runs on.
const GPU_KIND: [&str; 7] =
    ["gpu", "gpu_compute_capability", "gpu_l2_mib", "gpu_max_memory_mhz", "gpu_max_sm_mhz", "gpu_memory_gib", "gpu_multiprocessors"];

/// Two numbers can't be compared, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("different measurement boundaries: {}", .fields.iter().map(Difference::to_string).collect::<Vec<_>>().join("; "))]
#[non_exhaustive]
pub struct BoundaryMismatch {
    /// Every field that differs or is unknown.
    pub fields: Vec<Difference>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boundary(cpu: &str, library: &str) -> MeasurementBoundary {
        MeasurementBoundary::call(StackInfo::new().with(Layer::Machine, "cpu", cpu).with(Layer::Runtime, "library", library))
    }

    #[test]
    fn two_runtimes_on_one_machine_may_be_ranked_but_are_not_the_same() {
        let (a, b) = (boundary("x", "ort"), boundary("x", "candle"));
        assert_eq!(a.comparable(&b), Ok(()));
        assert_eq!(a.same(&b).unwrap_err().fields[0].field, "runtime.library");
        assert_ne!(a.id(), b.id());
    }

    #[test]
    fn two_kinds_of_gpu_are_not_ranked_but_a_gpu_and_a_processor_are() {
        let on = |gpu: &str| MeasurementBoundary::call(StackInfo::new().with(Layer::Machine, "cpu", "x").with(Layer::Runtime, "gpu", gpu));
        let error = on("H100").comparable(&on("H200")).unwrap_err();
        assert_eq!(error.fields.iter().map(ToString::to_string).collect::<Vec<_>>(), ["runtime.gpu: H100 against H200"]);
        assert_eq!(on("H100").comparable(&on("H100")), Ok(()));
        assert_eq!(on("H100").comparable(&boundary("x", "burn")), Ok(()));
    }

    #[test]
    fn another_machine_or_region_is_named() {
        let a = boundary("x", "ort");
        assert!(a.comparable(&boundary("y", "ort")).unwrap_err().to_string().contains("machine.cpu: x against y"));
        let sampled = a.clone().with_region(Span::Call, a.includes | Includes::SAMPLE);
        assert_eq!(a.comparable(&sampled).unwrap_err().fields[0].field, "includes");
    }
}
