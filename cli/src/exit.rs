//! What a failed command prints and which code it ends with.

use clap::ColorChoice;
use phase_core::{ErrorKind, PhaseError};
use phase_policy::Severity;
use std::{
    error::Error,
    ffi::OsString,
    fmt,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A check said no, or the work went wrong. Code 1.
    Check(String),
    /// The arguments can't be meant. Code 2.
    Usage(String),
    /// A library or a device is missing. Code 3.
    Environment(String),
    /// A policy does not hold any more. Code 10 to 13, by severity.
    Severity(Severity),
}

impl Failure {
    /// A failure of a backend, by its kind.
    pub(crate) fn of(error: &impl PhaseError) -> Self {
        let text = chain(error);
        match error.kind() {
            ErrorKind::Unavailable | ErrorKind::DeviceLost => Self::Environment(text),
            ErrorKind::InvalidInput | ErrorKind::ContextOverflow | ErrorKind::Unsupported => Self::Usage(text),
            _ => Self::Check(text),
        }
    }

    /// A failure of anything else.
    pub(crate) fn work(error: &dyn Error) -> Self {
        Self::Check(chain(error))
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Check(_) => 1,
            Self::Usage(_) => 2,
            Self::Environment(_) => 3,
            Self::Severity(Severity::Info) => 0,
            Self::Severity(Severity::Reweight) => 10,
            Self::Severity(Severity::Recheck) => 11,
            Self::Severity(Severity::EnergyInvalid) => 12,
            Self::Severity(Severity::Invalid) => 13,
        })
    }

    #[expect(clippy::print_stderr, reason = "this is the program's error output")]
    pub(crate) fn print(&self) {
        eprintln!("phase: {self}");
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(text) | Self::Usage(text) | Self::Environment(text) => f.write_str(text),
            Self::Severity(severity) => write!(f, "{severity}"),
        }
    }
}

/// The error and everything below it, each once.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        below = cause.source();
    }
    text
}

/// Prints a line of the answer, quietly ending when nobody reads any more.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out
        .write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") })
        .and_then(|()| out.flush())
    {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Check(format!("standard output: {e}"))),
        _ => Ok(()),
    }
}

static QUIET: AtomicBool = AtomicBool::new(false);

/// Whether `note` and progress say nothing from now on.
pub(crate) fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Whether only the answer and failures are wanted.
pub(crate) fn quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Prints a line beside the answer, unless that is not wanted.
#[expect(clippy::print_stderr, reason = "what is beside the answer goes to standard error")]
pub(crate) fn note(text: &str) {
    if !quiet() {
        eprintln!("{text}");
    }
}

/// What `--color` among `arguments` says, for what is printed before they are understood: help and usage errors.
pub(crate) fn color_asked_for(arguments: impl IntoIterator<Item = OsString>) -> ColorChoice {
    let mut words = arguments.into_iter().take_while(|word| word != "--");
    while let Some(word) = words.next() {
        let value = match word.to_str() {
            Some("--color") => words.next().and_then(|value| value.into_string().ok()),
            Some(text) => text.strip_prefix("--color=").map(str::to_owned),
            None => None,
        };
        if let Some(choice) = value.and_then(|value| value.parse().ok()) {
            return choice;
        }
    }
    ColorChoice::Auto
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_colour_is_known_before_the_arguments_are() {
        let of = |line: &str| color_asked_for(line.split(' ').map(OsString::from));
        assert_eq!(of("phase --color never report x"), ColorChoice::Never);
        assert_eq!(of("phase report x --color=always"), ColorChoice::Always);
        for line in ["phase report x", "phase --color loud", "phase generate -- --color never", "phase --color"] {
            assert_eq!(of(line), ColorChoice::Auto, "{line}");
        }
    }

    #[test]
    fn every_severity_has_its_code() {
        let of = |severity| format!("{:?}", Failure::Severity(severity).code());
        for (severity, code) in
            [(Severity::Info, 0), (Severity::Reweight, 10), (Severity::Recheck, 11), (Severity::EnergyInvalid, 12), (Severity::Invalid, 13)]
        {
            assert_eq!(of(severity), format!("{:?}", ExitCode::from(code)));
        }
    }
}
