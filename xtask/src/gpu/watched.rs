//! Test programs under compute-sanitizer: which, for how long, and what it found.

use crate::run::Result;

/// The tests that are watched: each program's module of small ones, which launch every kernel. racecheck takes about a hundred
/// times as long as a run without it.
pub const TESTS: &str = "small::";

/// The longest that one of them may take.
pub const SECONDS: u64 = 110;

/// Tools, and the programs they watch. The runtimes' tests also launch the kernels of libraries, whose races are not ours.
pub const RUNS: [(&str, &str); 5] = [
    ("memcheck", "kernels-cuda"),
    ("racecheck", "kernels-cuda"),
    ("memcheck", "backend-burn-cuda"),
    ("racecheck", "backend-burn-cuda"),
    ("memcheck", "backend-candle-cuda"),
];

/// What the tool and the tests say at their end; an error where either found something, or where nothing was watched.
pub fn verdict(log: &str) -> Result<String> {
    let passed = log.lines().filter_map(passed).next_back();
    let summaries: Vec<&str> =
        log.lines().filter_map(|line| line.strip_prefix("========= ")).filter(|line| line.contains("SUMMARY:")).collect();
    match (passed, summaries.as_slice()) {
        (None | Some(0), _) => Err("no test was watched".to_owned()),
        (_, []) => Err("the tool gave no summary".to_owned()),
        (Some(passed), found) => {
            let said = format!("{passed} tests; {}", found.join("; "));
            let clean = |line: &&str| line.contains(" 0 errors") || line.contains(" 0 hazards");
            if found.iter().all(clean) { Ok(said) } else { Err(said) }
        }
    }
}

/// How many tests passed, where none failed.
fn passed(line: &str) -> Option<u32> {
    line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = "running 3 tests\ntest result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 5 filtered out; finished in 2.00s\n";

    #[test]
    fn a_clean_run_says_how_many_tests_it_was() {
        let log = format!("========= COMPUTE-SANITIZER\n{OK}========= ERROR SUMMARY: 0 errors\n");
        assert_eq!(verdict(&log).unwrap(), "3 tests; ERROR SUMMARY: 0 errors");
        let log = format!("{OK}========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n");
        assert!(verdict(&log).unwrap().starts_with("3 tests; RACECHECK"));
    }

    #[test]
    fn what_was_found_or_not_watched_fails() {
        let found = format!("{OK}========= RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)\n");
        assert!(verdict(&found).unwrap_err().contains("2 hazards"));
        assert!(verdict(&format!("{OK}========= ERROR SUMMARY: 10 errors\n")).unwrap_err().contains("10 errors"));
        assert!(verdict(OK).unwrap_err().contains("no summary"));
        let none = OK.replace("ok. 3", "ok. 0");
        assert!(verdict(&format!("{none}========= ERROR SUMMARY: 0 errors\n")).unwrap_err().contains("no test"));
        assert!(verdict("========= ERROR SUMMARY: 0 errors\n").unwrap_err().contains("no test"));
    }
}
