//! A program that runs in the background of a deadline, with its output in files.

use crate::run::Result;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

/// How many lines of a failed program's output are shown.
const TAIL: usize = 25;

/// A program to run.
pub struct Job {
    command: Command,
    answer: Option<PathBuf>,
    limit: Duration,
    budget: Option<(&'static str, Duration)>,
}

impl Job {
    /// A program that may take `seconds` at most, with its output in the log.
    pub fn new(command: Command, seconds: u64) -> Self {
        Self { command, answer: None, limit: Duration::from_secs(seconds), budget: None }
    }

    /// Its standard output goes to a file of its own.
    pub fn answering(self, file: PathBuf) -> Self {
        Self { answer: Some(file), ..self }
    }

    /// It has an option that takes the seconds it may take in all, and has to be done `reserve` earlier than it is ended.
    pub fn budgeted(self, option: &'static str, reserve: Duration) -> Self {
        Self { budget: Some((option, reserve)), ..self }
    }

    /// What it is started with.
    #[cfg(test)]
    pub fn arguments(&self) -> Vec<String> {
        std::iter::once(self.command.get_program()).chain(self.command.get_args()).map(|a| a.to_string_lossy().into_owned()).collect()
    }

    /// Runs it with its output in `log`, for as long as its own limit and `left` allow.
    pub fn run(mut self, log: &Path, left: Duration) -> Result<()> {
        let create = |path: &Path| File::create(path).map_err(|e| format!("{}: {e}", path.display()));
        let errors = create(log)?;
        let answer = match &self.answer {
            Some(path) => create(path)?,
            None => errors.try_clone().map_err(|e| format!("{}: {e}", log.display()))?,
        };
        let limit = self.limit.min(left);
        if let Some((option, reserve)) = self.budget {
            let seconds = limit.saturating_sub(reserve).as_secs().max(1);
            self.command.args([option.to_owned(), seconds.to_string()]);
        }
        let program = self.command.get_program().display().to_string();
        let mut child = own_group(self.command.stdout(answer).stderr(errors)).spawn().map_err(|e| format!("can't start {program}: {e}"))?;
        let ended = wait(&mut child, limit);
        let because = match ended {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => format!("ended with {status}"),
            Ok(None) => {
                end(&mut child);
                format!("ended: it took longer than {:.0} s", limit.as_secs_f64())
            }
            Err(e) => {
                end(&mut child);
                format!("can't be waited for: {e}")
            }
        };
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n    | ");
        Err(format!("{program} {because}\n    | {tail}"))
    }
}

fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// In a process group of its own, so that what it started can be ended with it.
fn own_group(command: &mut Command) -> &mut Command {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    command
}

fn end(child: &mut Child) {
    #[cfg(unix)]
    let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn job(script: &str) -> Job {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Job::new(command, 60)
    }

    #[test]
    fn a_budget_is_what_is_left_less_the_reserve() {
        let log = std::env::temp_dir().join(format!("phase-job-budget-{}", std::process::id()));
        let told = |left| {
            // What follows a script is $0, $1 and so on.
            job("echo $0 $1").budgeted("--within", Duration::from_secs(20)).run(&log, Duration::from_secs(left)).unwrap();
            fs::read_to_string(&log).unwrap()
        };
        assert_eq!(told(50), "--within 30\n");
        assert_eq!(told(600), "--within 40\n", "its own limit is the smaller");
        assert_eq!(told(10), "--within 1\n");
        fs::remove_file(&log).unwrap();
    }

    #[test]
    fn a_failure_shows_the_end_of_its_output() {
        let log = std::env::temp_dir().join(format!("phase-job-{}", std::process::id()));
        assert_eq!(job("echo fine").run(&log, Duration::from_secs(60)), Ok(()));
        let message = job("seq 100; echo why >&2; exit 3").run(&log, Duration::from_secs(60)).unwrap_err();
        assert!(message.contains("exit status: 3") && message.ends_with("100\n    | why") && !message.contains("| 50\n"), "{message}");
        fs::remove_file(&log).unwrap();
    }

    #[test]
    fn what_takes_too_long_is_ended_with_its_children() {
        let log = std::env::temp_dir().join(format!("phase-job-late-{}", std::process::id()));
        let message = job("sleep 600 & echo $!; wait").run(&log, Duration::from_millis(300)).unwrap_err();
        assert!(message.contains("longer than"), "{message}");
        let child = fs::read_to_string(&log).unwrap();
        let gone = || {
            let state = fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        };
        // The signal is sent; on a busy machine it takes effect a little later.
        let asked = Instant::now();
        while !gone() {
            assert!(asked.elapsed() < Duration::from_secs(60), "still there");
            std::thread::yield_now();
        }
        fs::remove_file(&log).unwrap();
    }
}
