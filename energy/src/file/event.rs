use super::{FileError, lines, text};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One phase whose energy is asked for: `{"event":"id","phase":"prefill","start_ns":N,"end_ns":N}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a line of a file format")]
pub struct EventLine {
    /// Its name in the answer.
    pub event: String,
    /// What was done: `prefill`, `decode`, `request`, or a word of the recording tool.
    pub phase: String,
    /// When it began, nanoseconds on the clock of the samples.
    pub start_ns: u64,
    /// When it ended, not before it began.
    pub end_ns: u64,
}

/// Reads events, one JSON object a line. They may overlap and be in any order.
///
/// # Errors
/// [`FileError`] names the first line that is no event, or ends before it begins.
pub fn read_events(path: &Path) -> Result<Vec<EventLine>, FileError> {
    parse(&path.display().to_string(), &text(path)?)
}

fn parse(name: &str, text: &str) -> Result<Vec<EventLine>, FileError> {
    let mut events = Vec::new();
    for (number, line) in lines(text) {
        let event: EventLine = serde_json::from_str(line).map_err(|e| FileError::json(name, number, &e))?;
        let EventLine { event: id, start_ns, end_ns, .. } = &event;
        if end_ns < start_ns {
            return Err(FileError::at(name, number, format!("event `{id}` ends at {end_ns} ns, before it begins at {start_ns} ns")));
        }
        events.push(event);
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_events_are_named_by_their_line() {
        let good = r#"{"event":"a","phase":"prefill","start_ns":5,"end_ns":5}"#;
        assert_eq!(parse("e", &format!("{good}\n\n{good}")).unwrap().len(), 2);
        for (bad, said) in [
            (r#"{"event":"b","phase":"prefill","start_ns":9,"end_ns":5}"#, "`b` ends at 5 ns, before it begins at 9 ns"),
            (r#"{"event":"b","phase":"prefill","start_ns":-9,"end_ns":5}"#, "invalid value"),
            (r#"{"event":"b","phase":"prefill","start_ns":1.5,"end_ns":5}"#, "invalid type"),
            (r#"{"event":"b","phase":"prefill","start_ns":NaN,"end_ns":5}"#, "expected"),
            (r#"{"event":"b","phase":"prefill","start_ns":1}"#, "missing field `end_ns`"),
            (r#"{"event":"b","phase":"pref"#, "cut short"),
        ] {
            let error = parse("e.jsonl", &format!("{good}\n{bad}\n{good}\n")).unwrap_err();
            assert_eq!(error.line(), Some(2));
            assert!(error.to_string().starts_with("e.jsonl:2: ") && error.to_string().contains(said), "{error}");
        }
    }
}
