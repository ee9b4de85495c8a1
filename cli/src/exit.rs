//! What a failed command prints and which code it ends with.

use phase_core::{ErrorKind, PhaseError};
use phase_policy::Severity;
use std::{error::Error, process::ExitCode};

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
        match self {
            Self::Check(text) | Self::Usage(text) | Self::Environment(text) => eprintln!("phase: {text}"),
            Self::Severity(severity) => eprintln!("phase: {severity}"),
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

/// Prints a line beside the answer.
#[expect(clippy::print_stderr, reason = "what is beside the answer goes to standard error")]
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

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
