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
    budget: Option<Budget>,
}

/// A program's own share of the time that is left.
#[derive(Clone, Copy)]
pub struct Budget {
    /// The option that takes the seconds.
    pub option: &'static str,
    /// How much earlier than it is ended it has to be done.
    pub reserve: Duration,
    /// Which share of the time that is left it gets: so many parts of so many.
    pub parts: (u32, u32),
}

impl Budget {
    fn seconds(&self, limit: Duration, left: Duration) -> u64 {
        let (mine, all) = self.parts;
        // Of all the time in the world a part is as much.
        let share = if left > Duration::from_secs(u64::from(u32::MAX)) { left } else { left * mine / all.max(1) };
        limit.min(share).saturating_sub(self.reserve).as_secs().max(1)
    }
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

    /// It is told of the time it may take.
    pub fn budgeted(self, budget: Budget) -> Self {
        Self { budget: Some(budget), ..self }
    }

    /// What it is told.
    #[cfg(test)]
    pub fn budget(&self) -> Option<Budget> {
        self.budget
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
        if let Some(budget) = self.budget {
            self.command.args([budget.option.to_owned(), budget.seconds(limit, left).to_string()]);
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
        let told_of = |left, parts| {
            // What follows a script is $0, $1 and so on.
            let budget = Budget { option: "--within", reserve: Duration::from_secs(20), parts };
            job("echo $0 $1").budgeted(budget).run(&log, Duration::from_secs(left)).unwrap();
            fs::read_to_string(&log).unwrap()
        };
        let told = |left| told_of(left, (1, 1));
        assert_eq!(told(50), "--within 30\n");
        assert_eq!((told_of(60, (2, 3)), told_of(60, (1, 3))), ("--within 20\n".to_owned(), "--within 1\n".to_owned()));
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
