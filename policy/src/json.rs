//! What is wrong with a document that is not one.

/// In words for the end of a sentence; the error itself has the place.
pub(crate) fn state(error: &serde_json::Error) -> &'static str {
    match (error.is_eof(), error.line(), error.column()) {
        (true, 0..=1, 0) => "is empty",
        (true, ..) => "is cut off",
        _ => "can't be read",
    }
}
