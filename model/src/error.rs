//! The one error type of this crate: what was attempted, where, and what would have been right.

use std::path::{Path, PathBuf};

use phase_core::{ErrorKind, PhaseError};

use crate::Role;

/// Why a checkpoint can't be opened, read, or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file or folder could not be read or written.
    #[error("{action} {}", path.display())]
    Io {
        /// What was attempted, for example `read`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The path is neither a checkpoint folder nor a GGUF file.
    #[error("{} is no checkpoint: {reason}", path.display())]
    NotACheckpoint {
        /// The path given.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// A file that should be JSON is not, or has another structure.
    #[error("{} is not the JSON expected", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where the parser stopped.
        source: serde_json::Error,
    },
    /// A file's own structure is broken: truncated, overlapping, or of an unknown version.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A configuration entry is absent or out of its range.
    #[error("{}: `{key}` is {found}, expected {expected}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
        /// Its value, or `absent`.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// The model asks for something this crate does not implement, so running it would give wrong results.
    #[error("{}: `{key}` = {found} is not supported; supported: {supported}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
        /// Its value.
        found: String,
        /// What is implemented.
        supported: String,
    },
    /// The configuration asks for a tensor that no file has.
    #[error("tensor `{tensor}` of shape {expected:?} is missing from {}", path.display())]
    MissingTensor {
        /// Its name.
        tensor: String,
        /// The shape it should have, as stored.
        expected: Vec<usize>,
        /// The file or folder searched.
        path: PathBuf,
    },
    /// A file has a tensor that the configuration does not explain, so part of the model would be left out.
    #[error("tensor `{tensor}` in {} is not part of the model that the configuration describes: {reason}", path.display())]
    UnexpectedTensor {
        /// Its name.
        tensor: String,
        /// The file.
        path: PathBuf,
        /// Why it is not expected.
        reason: String,
    },
    /// A tensor's shape contradicts the configuration.
    #[error("tensor `{tensor}` in {} has shape {found:?}, the configuration asks for {expected:?}", path.display())]
    TensorShape {
        /// Its name.
        tensor: String,
        /// The file.
        path: PathBuf,
        /// Stored shape.
        found: Vec<usize>,
        /// The shape that follows from the configuration.
        expected: Vec<usize>,
    },
    /// A tensor is stored in a number format that can't be read.
    #[error("tensor `{tensor}` in {} is stored as {found}; supported: {supported}", path.display())]
    TensorType {
        /// Its name.
        tensor: String,
        /// The file.
        path: PathBuf,
        /// Stored format.
        found: String,
        /// Formats that can be read.
        supported: &'static str,
    },
    /// The model has no tensor of this role, for example a bias of a model without biases.
    #[error("the model has no tensor for {0:?}")]
    NoSuchRole(Role),
    /// The buffer's length is not the tensors' number of elements.
    #[error("a buffer of {found} elements was given for {role:?}, which needs {expected}")]
    Buffer {
        /// The tensor, or the first of several.
        role: Role,
        /// Elements needed.
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// Tensors to be joined have different row lengths.
    #[error("{role:?} has rows of {found} elements, the tensors before it of {expected}")]
    Join {
        /// The tensor that differs.
        role: Role,
        /// Row length of the first tensor.
        expected: usize,
        /// Its row length.
        found: usize,
    },
    /// The checkpoint has no tokenizer. It serves callers that hold token ids.
    #[error("{} has no tokenizer: expected {expected}", path.display())]
    NoTokenizer {
        /// The folder or file.
        path: PathBuf,
        /// What was looked for.
        expected: String,
    },
    /// The tokenizer is there and can't be used.
    #[error("tokenizer of {}: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The checkpoint has no chat template: it is a base model, or its template is kept elsewhere.
    #[error("{} has no chat template: expected {expected}", path.display())]
    NoChatTemplate {
        /// The folder or file.
        path: PathBuf,
        /// What was looked for.
        expected: String,
    },
    /// The chat template can't be parsed, or refused the messages.
    #[error("chat template of {}: {reason}", path.display())]
    ChatTemplate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A position outside of the range the model was made for.
    #[error("position {position} is out of range: the model holds {max}")]
    Position {
        /// The position asked for.
        position: usize,
        /// Positions the model holds.
        max: usize,
    },
}

impl ModelError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| Self::Json { path: path.to_owned(), source }
    }

    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn config(path: &Path, key: &str, found: impl ToString, expected: impl ToString) -> Self {
        Self::Config { path: path.to_owned(), key: key.to_owned(), found: found.to_string(), expected: expected.to_string() }
    }

    pub(crate) fn unsupported(path: &Path, key: &str, found: impl ToString, supported: impl ToString) -> Self {
        Self::Unsupported { path: path.to_owned(), key: key.to_owned(), found: found.to_string(), supported: supported.to_string() }
    }

    pub(crate) fn tokenizer(path: &Path, reason: impl ToString) -> Self {
        Self::Tokenizer { path: path.to_owned(), reason: reason.to_string() }
    }
}

impl PhaseError for ModelError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. }
            | Self::NotACheckpoint { .. }
            | Self::Json { .. }
            | Self::Damaged { .. }
            | Self::Config { .. }
            | Self::MissingTensor { .. }
            | Self::UnexpectedTensor { .. }
            | Self::TensorShape { .. }
            | Self::Tokenizer { .. }
            | Self::ChatTemplate { .. } => ErrorKind::Load,
            Self::Unsupported { .. } | Self::TensorType { .. } | Self::NoTokenizer { .. } | Self::NoChatTemplate { .. } => {
                ErrorKind::Unsupported
            }
            Self::NoSuchRole(_) | Self::Buffer { .. } | Self::Join { .. } | Self::Position { .. } => ErrorKind::InvalidInput,
        }
    }
}
