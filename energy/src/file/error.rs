use std::fmt;

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    file: String,
    line: Option<usize>,
    what: String,
    unreadable: bool,
}

impl FileError {
    /// About the file as a whole.
    pub(super) fn whole(file: &str, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, what: what.into(), unreadable: false }
    }

    /// About a file that can't be read at all.
    pub(super) fn unreadable(file: &str, error: &std::io::Error) -> Self {
        Self { file: file.to_owned(), line: None, what: error.to_string(), unreadable: true }
    }

    /// About one line, counted from 1.
    pub(super) fn at(file: &str, line: usize, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: Some(line), what: what.into(), unreadable: false }
    }

    /// About one line that is no JSON, or not of the form that was expected.
    pub(super) fn json(file: &str, line: usize, error: &serde_json::Error) -> Self {
        // The parser counts lines of the one line it was given; the column is of use.
        let text = error.to_string();
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
        let what = if error.is_eof() { format!("{text} at column {}: the line is cut short", error.column()) } else { text.to_owned() };
        Self { file: file.to_owned(), line: Some(line.max(1)), what, unreadable: false }
    }

    /// Whether the file could not be read at all, whatever is in it.
    pub const fn is_unreadable(&self) -> bool {
        self.unreadable
    }

    /// The line it is about, counted from 1; `None` when it is about the whole file.
    pub const fn line(&self) -> Option<usize> {
        self.line
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

impl std::error::Error for FileError {}
