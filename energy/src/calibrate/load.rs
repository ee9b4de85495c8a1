//! Who makes the device busy.

use phase_core::{Clock, Timestamp};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

/// A train of equal pulses.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a request, written out in full")]
pub struct Pulses {
    /// When the first begins.
    pub start: Timestamp,
    /// From one beginning to the next.
    pub period: Duration,
    /// How long each lasts.
    pub busy: Duration,
    /// How many there are.
    pub count: u32,
    /// Share of full load during a pulse, in `0..=1`: work and rest alternate far faster than any sensor looks.
    pub level: f64,
}

/// A pulse as it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a record of a pulse")]
pub struct Busy {
    /// When work began.
    pub start: Timestamp,
    /// When it was done.
    pub end: Timestamp,
    /// Units of work that were done, all alike.
    pub work: u64,
}

/// Why a load did not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The program could not be started or talked to.
    #[error("load `{program}`: {source}")]
    Program {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The program said that it failed.
    #[error("load `{program}`: {what}")]
    Failed {
        /// Which.
        program: String,
        /// What it said.
        what: String,
    },
    /// The program said something that is not in the protocol.
    #[error("load `{program}` answered `{line}` where {expected} was expected")]
    Answer {
        /// Which.
        program: String,
        /// What it said.
        line: String,
        /// What would have been right.
        expected: &'static str,
    },
}

/// Makes the device busy on time. What it makes it busy with is its own affair, as long as equal pulses are equal work.
pub trait Load: fmt::Debug {
    /// What it does, for the record.
    fn name(&self) -> &str;

    /// Runs `pulses` and gives what became of each. Returns after the last.
    ///
    /// # Errors
    /// [`LoadError`]; the device is then in an unknown state of work.
    fn pulses(&mut self, pulses: &Pulses) -> Result<Vec<Busy>, LoadError>;
}

/// A program that does the work, told by lines on its standard input and answering on its standard output. Times are
/// nanoseconds of the program's own monotonic clock:
///
/// ```text
/// > clock
/// < clock 123456789
/// > pulses START PERIOD BUSY COUNT LEVEL      three times in nanoseconds, a number, a share
/// < busy START END WORK                       once for each pulse
/// < done
/// > quit
/// ```
///
/// It says `ready NAME` once before the first request, and `error WHAT` instead of any answer when it can't go on.
pub struct SubprocessLoad {
    program: String,
    name: String,
    child: Child,
    /// Closed when the program is to end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// The program's clock less ours, nanoseconds.
    offset_ns: i64,
    /// Half of the shortest exchange of times, nanoseconds: how well the offset is known.
    offset_error_ns: u64,
    /// It kept to the protocol so far, and will end when asked.
    sound: bool,
}

impl fmt::Debug for SubprocessLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubprocessLoad").field("program", &self.program).field("name", &self.name).finish_non_exhaustive()
    }
}

const EXCHANGES: u32 = 50;

impl SubprocessLoad {
    /// Starts `command`, split at blanks, and relates its clock to `clock`.
    ///
    /// # Errors
    /// [`LoadError`] where it does not start, is not ready, or does not tell the time.
    pub fn start(command: &str, clock: &Arc<dyn Clock>) -> Result<Self, LoadError> {
        let program = command.to_owned();
        let wrong = |source| LoadError::Program { program: command.to_owned(), source };
        let mut words = command.split_whitespace();
        let first = words.next().ok_or_else(|| wrong(io::Error::new(io::ErrorKind::InvalidInput, "no program is named")))?;
        let mut child = Command::new(first).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(wrong)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(wrong(io::Error::other("it has no standard input or output")));
        };
        let (output, name) = (BufReader::new(output), String::new());
        let mut load = Self { program, name, child, input: Some(input), output, offset_ns: 0, offset_error_ns: u64::MAX, sound: false };
        load.name = load.answer("ready", "`ready NAME`")?;
        for _ in 0..EXCHANGES {
            let before = clock.now().as_nanos();
            load.ask("clock")?;
            let line = load.answer("clock", "`clock NANOSECONDS`")?;
            let after = clock.now().as_nanos();
            let theirs: u64 = line.parse().map_err(|_| load.unexpected(&line, "`clock NANOSECONDS`"))?;
            let error_ns = (after - before).div_ceil(2);
            if error_ns < load.offset_error_ns {
                load.offset_error_ns = error_ns;
                load.offset_ns = theirs.wrapping_sub(before.midpoint(after)).cast_signed();
            }
        }
        load.sound = true;
        Ok(load)
    }

    /// How far the times of its pulses may be off.
    pub const fn time_error(&self) -> Duration {
        Duration::from_nanos(self.offset_error_ns)
    }

    fn ask(&mut self, line: &str) -> Result<(), LoadError> {
        let Some(input) = &mut self.input else { return Ok(()) };
        let sent = writeln!(input, "{line}").and_then(|()| input.flush());
        sent.map_err(|source| LoadError::Program { program: self.program.clone(), source })
    }

    /// The rest of the next line, which begins with `word`.
    fn answer(&mut self, word: &str, expected: &'static str) -> Result<String, LoadError> {
        let line = self.line()?;
        match line.strip_prefix(word) {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => Err(self.unexpected(&line, expected)),
        }
    }

    fn line(&mut self) -> Result<String, LoadError> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line);
        let n = read.map_err(|source| LoadError::Program { program: self.program.clone(), source })?;
        if n == 0 {
            return Err(LoadError::Failed { program: self.program.clone(), what: "ended in the middle".to_owned() });
        }
        let line = line.trim().to_owned();
        match line.strip_prefix("error") {
            Some(what) => Err(LoadError::Failed { program: self.program.clone(), what: what.trim().to_owned() }),
            None => Ok(line),
        }
    }

    fn train(&mut self, pulses: &Pulses) -> Result<Vec<Busy>, LoadError> {
        let Pulses { start, period, busy, count, level } = pulses;
        let start = start.as_nanos().saturating_add_signed(self.offset_ns);
        self.ask(&format!("pulses {start} {} {} {count} {level}", period.as_nanos(), busy.as_nanos()))?;
        let mut found = Vec::new();
        loop {
            let line = self.line()?;
            if line == "done" {
                return Ok(found);
            }
            found.push(self.busy(&line).ok_or_else(|| self.unexpected(&line, "`busy START END WORK` or `done`"))?);
        }
    }

    fn unexpected(&self, line: &str, expected: &'static str) -> LoadError {
        LoadError::Answer { program: self.program.clone(), line: line.to_owned(), expected }
    }

    fn busy(&self, line: &str) -> Option<Busy> {
        let mut numbers = line.strip_prefix("busy")?.split_whitespace().map(|w| w.parse::<u64>().ok());
        let (start, end, work) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let ours = |theirs: u64| Timestamp::from_nanos(theirs.saturating_add_signed(self.offset_ns.saturating_neg()));
        (numbers.next().is_none() && start <= end).then(|| Busy { start: ours(start), end: ours(end), work })
    }
}

impl Load for SubprocessLoad {
    fn name(&self) -> &str {
        &self.name
    }

    fn pulses(&mut self, pulses: &Pulses) -> Result<Vec<Busy>, LoadError> {
        let found = self.train(pulses);
        self.sound &= found.is_ok();
        found
    }
}

impl Drop for SubprocessLoad {
    fn drop(&mut self) {
        // A program that keeps to the protocol ends by itself when asked to, or when its input is closed; any other is ended.
        let asked = self.ask("quit").is_ok();
        self.input = None;
        if !(self.sound && asked) {
            drop(self.child.kill());
        }
        drop(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use phase_core::MonotonicClock;

    fn start(script: &str) -> Result<(SubprocessLoad, tempfile::TempDir), LoadError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("load.sh");
        std::fs::write(&path, script).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        SubprocessLoad::start(&format!("sh {}", path.display()), &clock).map(|load| (load, folder))
    }

    const TALK: &str = r#"
        echo "ready test load"
        while read word a b c n l; do
            case $word in
                clock) echo "clock 5000000000" ;;
                pulses) if [ "$n" = 2 ]; then echo "busy $a $((a + c)) 7"; echo "busy $((a + b)) $((a + b + c)) 8"; echo done
                        elif [ "$n" = 3 ]; then echo "error no device"
                        else echo "busy 2 1 0"; fi ;;
                quit) exit 0 ;;
            esac
        done
    "#;

    #[test]
    fn pulses_come_back_on_our_clock() {
        let (mut load, _folder) = start(TALK).unwrap();
        assert_eq!(load.name(), "test load");
        let start = Timestamp::from_nanos(1_000_000_000_000);
        let pulses = |count| Pulses { start, period: Duration::from_millis(100), busy: Duration::from_millis(50), count, level: 1.0 };
        let busy = load.pulses(&pulses(2)).unwrap();
        assert_eq!(busy[0], Busy { start, end: Timestamp::from_nanos(start.as_nanos() + 50_000_000), work: 7 });
        assert_eq!(busy[1].start.since(start), Duration::from_millis(100));
        assert!(load.pulses(&pulses(3)).unwrap_err().to_string().ends_with("no device"));
        assert!(load.pulses(&pulses(4)).unwrap_err().to_string().contains("`busy 2 1 0`"));
    }

    #[test]
    fn a_program_that_does_not_speak_the_protocol_is_refused() {
        assert!(matches!(start("echo hello; cat"), Err(LoadError::Answer { .. })));
        assert!(matches!(start("exit 1"), Err(LoadError::Failed { .. })));
        assert!(matches!(start("echo ready; read x; echo clock soon; cat"), Err(LoadError::Answer { .. })));
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        assert!(matches!(SubprocessLoad::start("/nowhere/at-all", &clock), Err(LoadError::Program { .. })));
        assert!(matches!(SubprocessLoad::start(" ", &clock), Err(LoadError::Program { .. })));
    }
}
