//! The group `energy`: what sensors are worth, then joules.

use super::{Plan, Step};
use crate::{
    gpu::{job::Budget, run::Work},
    run::{Result, write},
};
use std::time::Duration;

impl Plan<'_> {
    /// What the device's sensors are worth, and what sampling them changes; energies rest on it. A CPU has none here: there a
    /// made-up recording stands for them, so that all else can be tried.
    pub(super) fn calibrate(&self) -> Result<Option<Step>> {
        if !self.on_gpu() {
            let (samples, calibration) = made_up(MADE_UP_S);
            write(&self.out.join("made-up.jsonl"), samples)?;
            write(&self.out.join("made-up.json"), calibration)?;
            return Ok(None);
        }
        let load = format!("python3 {}", self.place.tree.join("sources/energy/tools/load_torch.py").display());
        let device = self.options.device.strip_prefix("cuda:").unwrap_or("0");
        let arguments = ["energy", "calibrate", "--short", "--gpu", device, "--load-command", &load, "--out", "calibration"];
        Ok(Some(self.phase("energy", "calibrate".to_owned(), &arguments, 300)))
    }

    /// The runs of a model, in order: two runtimes beside each other, then the third, whose models take longer to be ready.
    pub(super) fn energy_runs<'n>(&self, model: &'n str) -> Vec<(&'n str, Vec<&str>)> {
        let (last, first): (Vec<&str>, Vec<&str>) = self.options.backends.iter().map(String::as_str).partition(|b| *b == "burn");
        [first, last].into_iter().filter(|backends| !backends.is_empty()).map(|backends| (model, backends)).collect()
    }

    /// Joules a prompt and a token of `backends`, in their share of the time that is left for `waiting` of them; sealed in any
    /// case, and 20 s are for what comes after.
    pub(super) fn energy(&self, model: &str, backends: &[&str], waiting: usize) -> Vec<Step> {
        let (path, run) = (self.model(model), format!("energy-{model}-{}", backends.join("-")));
        let (path, backends_list) = (path.to_string_lossy(), backends.join(","));
        let device = ["--device", &self.options.device, "bench", "--model", &path, "--dtype", self.dtype(), "--backends", &backends_list];
        let (cells, sensors): (&[&str], &[&str]) = if self.on_gpu() {
            (&["--modes", "compiled", "-p", "512,2048", "-n", "64", "-d", "512"], &["--energy-calibration", "calibration"])
        } else {
            (&["-p", "16,32", "-n", "4", "-d", "16"], &["--energy-source", "made-up.jsonl", "--energy-calibration", "made-up.json"])
        };
        let rest = ["-r", "5", "--out", &run, "--energy"];
        let job = self.program(&[&device[..], cells, &rest, sensors].concat(), 600);
        #[expect(clippy::cast_possible_truncation, reason = "three backends")]
        let parts = (backends.len() as u32, waiting as u32);
        let budget = Budget { option: "--energy-budget", reserve: Duration::from_secs(20), parts };
        let measure = job.budgeted(budget);
        let report = self.program(&["report", &run], 60).answering(self.out.join(format!("{run}.md")));
        vec![
            Step { group: "energy", name: format!("measure {run}"), work: Work::job(measure) },
            self.phase("energy", format!("validate {run}"), &["validate", &run], 60),
            Step { group: "energy", name: format!("report {run}"), work: Work::job(report) },
            Step { group: "energy", name: format!("joules {run}"), work: Work::Show(self.out.join(format!("{run}.md")), "Energy") },
        ]
    }
}

/// Long enough for what `--limit` leaves at most of a day's try.
const MADE_UP_S: u64 = 1800;

/// A counter that gains 150 W in steps of 100 ms, read at every one of them for `seconds`, and what it is.
fn made_up(seconds: u64) -> (String, String) {
    let header = r#"{"schema":"phase.samples/1","kind":"counter","unit":"mJ","device":"made up"}"#;
    let line = |i: u64| format!("{{\"t_ns\":{},\"value\":{}}}\n", i * 100_000_000, i * 15_000);
    let samples = std::iter::once(format!("{header}\n")).chain((0..10 * seconds).map(line)).collect();
    let calibration = r#"{"kind":"integrating","update_ns":100000000,"window_ns":100000000,"lag_ns":0,"min_w":60,"max_w":700}"#;
    (samples, format!("{calibration}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{
        plan::steps,
        run::{Options, Place},
    };
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    fn options(device: &str, backends: &[&str]) -> Options {
        let list = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        Options {
            from: PathBuf::new(),
            out: PathBuf::new(),
            work: PathBuf::new(),
            only: list(&["energy"]),
            models: list(&["llama-3.2-1b"]),
            backends: list(backends),
            effort: "full".to_owned(),
            device: device.to_owned(),
            limit: Duration::MAX,
        }
    }

    /// The programs with their arguments, and the budgets' shares.
    fn energy_of(device: &str, backends: &[&str], out: &Path) -> Vec<(String, Option<(u32, u32)>)> {
        let path = |name: &str| Path::new("/p").join(name);
        let place = Place { tree: path("tree"), model: path("m"), library: path("l"), cache: path("c"), logs: path("logs") };
        let steps = steps(&options(device, backends), &place, out, Path::new("/w")).unwrap();
        let line = |step: Step| match step.work {
            Work::Run(job) => {
                let words = job.arguments();
                Some((words[1..].join(" "), job.budget().map(|b| b.parts)))
            }
            _ => None,
        };
        steps.into_iter().filter(|s| s.group == "energy").filter_map(line).collect()
    }

    #[test]
    fn two_runtimes_are_measured_beside_each_other_and_the_third_in_what_is_left() {
        let all = energy_of("cuda:1", &["ort", "candle", "burn"], Path::new("/nowhere"));
        assert!(all[0].0.starts_with("energy calibrate --short --gpu 1 --load-command python3 /p/tree/sources/energy/tools/load_torch.py"));
        let measured: Vec<_> = all.iter().filter(|(words, _)| words.contains(" bench ")).collect();
        assert_eq!(measured.iter().map(|m| m.1).collect::<Vec<_>>(), [Some((2, 3)), Some((1, 1))]);
        let wanted = "--device cuda:1 bench --model /w/models/llama-3.2-1b --dtype bf16 --backends ort,candle --modes compiled -p 512,2048 -n 64 \
                      -d 512 -r 5 --out energy-llama-3.2-1b-ort-candle --energy --energy-calibration calibration";
        assert_eq!(measured[0].0, wanted);
        assert!(measured[1].0.contains("--backends burn ") && measured[1].0.contains("--out energy-llama-3.2-1b-burn "));
        assert_eq!(energy_of("cuda", &["burn"], Path::new("/nowhere")).iter().filter_map(|e| e.1).collect::<Vec<_>>(), [(1, 1)]);
    }

    #[test]
    fn without_a_gpu_a_made_up_recording_stands_for_sensors() {
        let out = std::env::temp_dir().join(format!("phase-gpu-energy-{}", std::process::id()));
        fs::create_dir_all(&out).unwrap();
        let all = energy_of("cpu", &["candle"], &out);
        assert!(all[0].0.contains("--energy-source made-up.jsonl --energy-calibration made-up.json"), "{all:?}");
        let text = fs::read_to_string(out.join("made-up.jsonl")).unwrap();
        assert_eq!(text.lines().count() as u64, 1 + 10 * MADE_UP_S);
        fs::remove_dir_all(&out).unwrap();
    }
}
