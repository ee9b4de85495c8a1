//! What a number was measured on, captured by code.

use std::{collections::BTreeMap, fmt};

/// One captured fact, or why it could not be had. An unknown fact never equals anything, itself included: two
/// machines that both hide their driver version are not thereby the same.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[expect(clippy::exhaustive_enums, reason = "a fact is known or not")]
pub enum Fact {
    /// What was read.
    Known(String),
    /// Why it could not be read.
    Unknown(String),
}

impl Fact {
    /// Whether both are known and equal.
    pub fn agrees_with(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Known(a), Self::Known(b)) if a == b)
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(v) => f.write_str(v),
            Self::Unknown(why) => write!(f, "unknown ({why})"),
        }
    }
}

/// Which part of the stack a fact describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Layer {
    /// Processor, memory, operating system. Equal for every backend of one process.
    Machine,
    /// Checkpoint content, architecture, dtype. Equal for every backend that loaded the same model.
    Model,
    /// Library, version, file actually loaded, kernel path, threads, and the GPU with its driver where it runs on one. Differs from
    /// backend to backend.
    Runtime,
}

impl Layer {
    /// The name used in files: `machine`, `model`, `runtime`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Model => "model",
            Self::Runtime => "runtime",
        }
    }
}

/// Identifies a [`StackInfo`]: a hash of its facts. Equal ids mean equal facts; use
/// [`MeasurementBoundary::comparable`](crate::MeasurementBoundary::comparable) to decide, which also treats unknown
/// facts rightly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct StackId(String);

impl StackId {
    /// The id as 32 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The facts about one stack, in three layers.
///
/// ```
/// use phase_core::{Layer, StackInfo};
/// let stack = StackInfo::new().with(Layer::Runtime, "library", "onnxruntime 1.32.0").with_unknown(Layer::Machine, "power_limit", "no driver");
/// assert_eq!(stack.iter().count(), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct StackInfo(BTreeMap<Layer, BTreeMap<String, Fact>>);

impl StackInfo {
    /// No facts yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a fact that was read.
    #[must_use]
    pub fn with(mut self, layer: Layer, key: &str, value: impl Into<String>) -> Self {
        self.0.entry(layer).or_default().insert(key.to_owned(), Fact::Known(value.into()));
        self
    }

    /// Adds a fact that could not be read, and why.
    #[must_use]
    pub fn with_unknown(mut self, layer: Layer, key: &str, why: impl Into<String>) -> Self {
        self.0.entry(layer).or_default().insert(key.to_owned(), Fact::Unknown(why.into()));
        self
    }

    /// Adds every fact of `other`; its facts win.
    #[must_use]
    pub fn merged(mut self, other: &Self) -> Self {
        for (layer, facts) in &other.0 {
            self.0.entry(*layer).or_default().extend(facts.clone());
        }
        self
    }

    /// One fact.
    pub fn fact(&self, layer: Layer, key: &str) -> Option<&Fact> {
        self.0.get(&layer)?.get(key)
    }

    /// All facts in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (Layer, &str, &Fact)> {
        self.0.iter().flat_map(|(layer, facts)| facts.iter().map(|(key, fact)| (*layer, key.as_str(), fact)))
    }

    /// The hash of all facts (FNV-1a, 128 bits).
    pub fn id(&self) -> StackId {
        StackId(fingerprint(self.iter().flat_map(|(layer, key, fact)| {
            let (kind, text) = match fact {
                Fact::Known(v) => ("=", v.as_str()),
                Fact::Unknown(v) => ("?", v.as_str()),
            };
            [layer.as_str(), key, kind, text]
        })))
    }

    /// The facts of `layer` that do not agree, in either direction.
    pub fn differences(&self, other: &Self, layer: Layer) -> Vec<Difference> {
        let none = BTreeMap::new();
        let (a, b) = (self.0.get(&layer).unwrap_or(&none), other.0.get(&layer).unwrap_or(&none));
        let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
        keys.into_iter()
            .filter(|key| !matches!((a.get(*key), b.get(*key)), (Some(x), Some(y)) if x.agrees_with(y)))
            .map(|key| Difference {
                field: format!("{}.{key}", layer.as_str()),
                ours: a.get(key).map_or_else(|| "absent".to_owned(), Fact::to_string),
                theirs: b.get(key).map_or_else(|| "absent".to_owned(), Fact::to_string),
            })
            .collect()
    }
}

/// One field in which two boundaries differ.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Difference {
    /// The field, with its layer: `machine.cpu`.
    pub field: String,
    /// Our value.
    pub ours: String,
    /// The other's value.
    pub theirs: String,
}

impl Difference {
    pub(crate) fn new(field: &str, ours: impl fmt::Debug, theirs: impl fmt::Debug) -> Self {
        Self { field: field.to_owned(), ours: format!("{ours:?}"), theirs: format!("{theirs:?}") }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} against {}", self.field, self.ours, self.theirs)
    }
}

/// FNV-1a over length-prefixed parts, 128 bits, hexadecimal: names a set of facts, protects from nobody.
pub(crate) fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let mut eat = |byte: u8| {
        hash ^= u128::from(byte);
        hash = hash.wrapping_mul(PRIME);
    };
    for part in parts {
        part.len().to_le_bytes().into_iter().for_each(&mut eat);
        part.bytes().for_each(&mut eat);
    }
    format!("{hash:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_fact_never_agrees() {
        let a = StackInfo::new().with_unknown(Layer::Machine, "driver", "no access");
        assert_eq!(a.differences(&a.clone(), Layer::Machine).len(), 1);
    }

    #[test]
    fn the_id_depends_on_every_part_and_on_nothing_else() {
        let a = StackInfo::new().with(Layer::Machine, "cpu", "x").with(Layer::Runtime, "library", "y");
        let b = StackInfo::new().with(Layer::Runtime, "library", "y").with(Layer::Machine, "cpu", "x");
        assert_eq!(a.id(), b.id());
        assert_ne!(a.id(), a.clone().with(Layer::Machine, "cpu", "z").id());
        assert_ne!(a.id(), StackInfo::new().with(Layer::Machine, "cpu", "xlibrary").id());
    }

    #[test]
    fn fnv_matches_the_published_vector() {
        // "" with a zero length prefix would not be the plain vector, so the plain hash is checked on no parts.
        assert_eq!(fingerprint([]), "6c62272e07bb014262b821756295c58d");
    }

    #[test]
    fn an_absent_field_is_a_difference() {
        let a = StackInfo::new().with(Layer::Machine, "cpu", "x");
        let d = a.differences(&StackInfo::new(), Layer::Machine);
        assert_eq!((d[0].field.as_str(), d[0].theirs.as_str()), ("machine.cpu", "absent"));
    }
}
