//! What class of failure an error is, without knowing the backend that gave it.

use std::fmt;

/// The class of a failure. A kind exists because a router treats it differently from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ErrorKind {
    /// More positions than the cache or the model holds. The request must shrink; the backend is fine.
    ContextOverflow,
    /// The device went away. The model and its caches are lost; load again or route elsewhere.
    DeviceLost,
    /// The cache belongs to another model. A programming error of the caller.
    ForeignCache,
    /// The arguments contradict the contract. A programming error of the caller.
    InvalidInput,
    /// The checkpoint can't be used: missing, damaged, or not what it says. Another backend won't help.
    Load,
    /// No memory for weights or cache. Shrink the request or free caches.
    OutOfMemory,
    /// A library or device that this backend needs is absent here. Another backend may work.
    Unavailable,
    /// This backend does not implement what was asked. Another backend may.
    Unsupported,
    /// None of the above.
    Other,
}

impl ErrorKind {
    /// The name used in files, for example `context_overflow`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ContextOverflow => "context_overflow",
            Self::DeviceLost => "device_lost",
            Self::ForeignCache => "foreign_cache",
            Self::InvalidInput => "invalid_input",
            Self::Load => "load",
            Self::OutOfMemory => "out_of_memory",
            Self::Unavailable => "unavailable",
            Self::Unsupported => "unsupported",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An error of a backend: rich for people, classified for programs.
pub trait PhaseError: std::error::Error + Send + Sync + 'static {
    /// The class of this failure.
    fn kind(&self) -> ErrorKind;
}

/// Checks of a call's arguments that every backend makes the same way, with one wording.
///
/// A backend converts it into its own error and keeps the kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The call has another number of rows than the cache.
    #[error("{got} rows given, the cache holds {want}")]
    Rows {
        /// Rows of the call.
        got: usize,
        /// Rows of the cache.
        want: usize,
    },
    /// The new positions don't fit.
    #[error("context overflow: {len} cached + {new} new positions exceed the capacity of {capacity}")]
    Overflow {
        /// Positions already cached.
        len: usize,
        /// Positions to add.
        new: usize,
        /// Positions the cache can hold.
        capacity: usize,
    },
    /// A token id outside of the vocabulary.
    #[error("token id {token} in row {row} is out of range: the vocabulary has {vocab} entries")]
    Token {
        /// The offending id.
        token: u32,
        /// Its row.
        row: usize,
        /// Vocabulary size.
        vocab: usize,
    },
    /// A cache of no rows, or of more rows than the model serves.
    #[error("batch of {got} is outside 1..={max}")]
    Batch {
        /// Rows asked for.
        got: usize,
        /// Most rows the model serves.
        max: usize,
    },
    /// A cache of no positions, or of more positions than the model was made for.
    #[error("context of {got} is outside 1..={max}")]
    Context {
        /// Positions asked for.
        got: usize,
        /// Most positions the model serves.
        max: usize,
    },
    /// A number of a [`LoadSpec`](crate::LoadSpec) that means nothing.
    #[error("{setting} is {found}, expected {expected}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// Its value.
        found: usize,
        /// What would be right.
        expected: &'static str,
    },
    /// A prompt without tokens, or rows of unequal length.
    #[error("a prompt of {tokens} tokens can't be split into {batch} equal, non-empty rows")]
    Prompt {
        /// Tokens given.
        tokens: usize,
        /// Rows asked for.
        batch: usize,
    },
}

impl PhaseError for CallError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Overflow { .. } | Self::Context { .. } => ErrorKind::ContextOverflow,
            Self::Rows { .. } | Self::Token { .. } | Self::Batch { .. } | Self::Setting { .. } | Self::Prompt { .. } => {
                ErrorKind::InvalidInput
            }
        }
    }
}
