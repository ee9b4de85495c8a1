//! Which steps a run has, in order.

mod energy;
mod measure;
mod profile;

use super::{
    job::Job,
    parity::Comparison,
    run::{Options, Place, Work},
    watched,
};
use crate::run::{Result, folder};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The groups `--only` picks from; all but the last four are the default.
pub const GROUPS: [&str; 9] = ["conformance", "parity", "matrix", "bench", "peers", "sanitizer", "energy", "kernels", "profile"];

/// The models `--models` picks from: the one in the package, and shapes whose weights are made on the spot.
pub const MODELS: [&str; 3] = ["smollm2", "llama-3.2-1b", "llama-3.1-8b"];

/// Formats with the largest difference from f32 on a CPU that is allowed, as a share of the largest score.
const PARITY: [(&str, f64); 3] = [("f32", 2e-3), ("f16", 2e-2), ("bf16", 1e-1)];

/// The start of a sentence in SmolLM2's tokens, and some more to decode.
const TOKENS: &str = "6403,1980,253,655,28,665,436,253,1838";
const THEN: &str = "28,253,665,436";

/// One step.
pub struct Step {
    pub group: &'static str,
    pub name: String,
    pub work: Work,
}

/// The steps that `options` ask for.
pub fn steps(options: &Options, place: &Place, out: &Path, work: &Path) -> Result<Vec<Step>> {
    let plan = Plan { options, place, out, work };
    let mut steps = vec![plan.phase("machine", "doctor".to_owned(), &["doctor"], 60)];
    if plan.wants("conformance") {
        steps.extend(plan.conformance()?);
    }
    if plan.wants("sanitizer") {
        steps.extend(plan.sanitizer()?);
    }
    if plan.wants("parity") && plan.models("smollm2") {
        steps.extend(plan.parity()?);
    }
    if ["matrix", "bench", "peers", "energy", "kernels", "profile"].iter().any(|group| plan.wants(group)) {
        steps.extend(MODELS[1..].iter().filter(|name| plan.models(name)).filter_map(|name| plan.make(name)));
    }
    if plan.wants("matrix") {
        steps.extend(MODELS.iter().filter(|name| plan.models(name)).flat_map(|name| plan.matrix(name)));
    }
    if plan.wants("bench") {
        steps.push(plan.ceilings());
        steps.extend(MODELS.iter().filter(|name| plan.models(name)).map(|name| plan.bench(name)));
    }
    if plan.wants("peers") && plan.on_gpu() && plan.models(measure::PEERED) {
        steps.extend(plan.peers());
    }
    if plan.wants("kernels") && plan.on_gpu() {
        steps.extend(MODELS[1..].iter().filter(|name| plan.models(name)).flat_map(|name| plan.kernels(name)));
    }
    if plan.wants("profile") && plan.on_gpu() {
        steps.extend(MODELS.iter().filter(|name| plan.models(name)).flat_map(|name| plan.profile(name)));
    }
    if plan.wants("energy") {
        steps.extend(plan.calibrate()?);
        let runs: Vec<_> = MODELS.iter().filter(|name| plan.models(name)).flat_map(|name| plan.energy_runs(name)).collect();
        let waiting = |at: usize| runs[at..].iter().map(|(_, backends)| backends.len()).sum::<usize>();
        steps.extend(runs.iter().enumerate().flat_map(|(at, (model, backends))| plan.energy(model, backends, waiting(at))));
    }
    Ok(steps)
}

struct Plan<'a> {
    options: &'a Options,
    place: &'a Place,
    out: &'a Path,
    work: &'a Path,
}

impl Plan<'_> {
    fn wants(&self, group: &str) -> bool {
        self.options.only.iter().any(|g| g == group)
    }

    fn models(&self, name: &str) -> bool {
        self.options.models.iter().any(|m| m == name)
    }

    fn on_gpu(&self) -> bool {
        self.options.device != "cpu"
    }

    /// The format everything but parity runs in.
    fn dtype(&self) -> &'static str {
        if self.on_gpu() { "bf16" } else { "f32" }
    }

    fn model(&self, name: &str) -> PathBuf {
        if name == "smollm2" { self.place.model.clone() } else { self.work.join("models").join(name) }
    }

    fn environment(&self, command: &mut Command) {
        command.env("PHASE_MODEL", &self.place.model).env("PHASE_TEST_MODEL", &self.place.model);
        command.env("PHASE_ORT_LIBRARY", &self.place.library).env("PHASE_CACHE", &self.place.cache);
        command.env("PHASE_TEST_PROGRAM", self.place.tree.join("bin/phase"));
        if self.on_gpu() {
            // A test that finds no device then fails instead of saying that it can't run.
            command.env("PHASE_TEST_CUDA", &self.options.device);
        }
    }

    fn program(&self, arguments: &[&str], seconds: u64) -> Job {
        self.packed("phase", arguments, seconds)
    }

    /// A program of the package.
    fn packed(&self, name: &str, arguments: &[&str], seconds: u64) -> Job {
        let mut command = Command::new(self.place.tree.join("bin").join(name));
        command.args(arguments).current_dir(self.out);
        self.environment(&mut command);
        Job::new(command, seconds)
    }

    fn phase(&self, group: &'static str, name: String, arguments: &[&str], seconds: u64) -> Step {
        Step { group, name, work: Work::job(self.program(arguments, seconds)) }
    }

    /// The test programs in the package.
    fn tests(&self) -> Result<Vec<PathBuf>> {
        let tests = self.place.tree.join("tests");
        let entries = fs::read_dir(&tests).map_err(|e| format!("{}: {e}", tests.display()))?;
        let mut programs: Vec<_> = entries.flatten().map(|e| e.path()).collect();
        programs.sort();
        Ok(programs)
    }

    fn conformance(&self) -> Result<Vec<Step>> {
        let step = |program: PathBuf| {
            let mut command = Command::new(&program);
            let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Tests beside each other wait for one device and share its memory; burn's also compile, on the processor.
            let threads = if name.starts_with("backend-burn-") { "8" } else { "2" };
            command.args(["--test-threads", threads]).current_dir(self.out);
            self.environment(&mut command);
            Step { group: "conformance", name, work: Work::job(Job::new(command, 300)) }
        };
        Ok(self.tests()?.into_iter().map(step).collect())
    }

    /// The kernels' small tests, watched for accesses out of bounds and for races. The CUDA toolkit brings the watcher.
    fn sanitizer(&self) -> Result<Vec<Step>> {
        let programs = self.tests()?;
        let named = |name: &str| programs.iter().find(|program| program.file_name().is_some_and(|n| n.to_string_lossy() == name));
        let step = |tool: &'static str, name: &'static str| {
            let program = named(name).ok_or_else(|| format!("the package has no test program {name}"))?;
            let mut command = Command::new("compute-sanitizer");
            command.args(["--tool", tool, "--error-exitcode", "1"]).arg(program).args([watched::TESTS, "--test-threads", "1"]);
            self.environment(command.current_dir(self.out));
            Ok(Step {
                group: "sanitizer",
                name: format!("{tool} {name}"),
                work: Work::Watch(Box::new(Job::new(command, watched::SECONDS))),
            })
        };
        watched::RUNS.into_iter().map(|(tool, name)| step(tool, name)).collect()
    }

    fn parity(&self) -> Result<Vec<Step>> {
        folder(&self.out.join("parity"))?;
        let file = |name: &str| self.out.join("parity").join(format!("{name}.json"));
        let scores = |name: &str, device: &str, backend: &str, dtype: &str| {
            let arguments =
                ["--device", device, "logits", "--backend", backend, "--dtype", dtype, "--tokens", TOKENS, "--then", THEN, "--json"];
            let job = self.program(&arguments, 180).answering(file(name));
            Step { group: "parity", name: format!("scores {name}"), work: Work::job(job) }
        };
        let mut steps = vec![scores("reference", "cpu", "candle", "f32")];
        for backend in &self.options.backends {
            for (dtype, tolerance) in PARITY {
                // ONNX Runtime multiplies in f32 only on the processor, in 16 bits only on a GPU.
                if backend == "ort" && (dtype == "f32") == self.on_gpu() {
                    continue;
                }
                let name = format!("{backend}-{dtype}");
                steps.push(scores(&name, &self.options.device, backend, dtype));
                let comparison = Comparison { reference: file("reference"), scores: file(&name), tolerance };
                steps.push(Step { group: "parity", name, work: Work::Compare(comparison) });
            }
        }
        Ok(steps)
    }

    /// Random weights of a shape, where they are not there yet.
    fn make(&self, shape: &str) -> Option<Step> {
        let to = self.model(shape);
        if to.exists() {
            return None;
        }
        let to = to.to_string_lossy();
        Some(self.phase(
            "models",
            format!("make {shape}"),
            &["model", "random", "--shape", shape, "--seed", "1", "--dtype", "bf16", "--out", &to],
            300,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::write;
    use std::time::Duration;

    /// Names and command lines of the steps of `only`, for `models` on a GPU.
    fn planned(only: &[&str], models: &[&str]) -> Vec<(String, Vec<String>)> {
        let tree = std::env::temp_dir().join(format!("phase-plan-{}-{}", std::process::id(), only.join("-")));
        folder(&tree.join("tests")).unwrap();
        for name in ["backend-burn-cuda", "backend-burn-cuda_lost", "backend-candle-cuda", "kernels-cuda"] {
            write(&tree.join("tests").join(name), "").unwrap();
        }
        let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let options = Options {
            from: tree.clone(),
            out: tree.join("out"),
            work: tree.join("work"),
            only: strings(only),
            models: strings(models),
            backends: strings(&["ort", "candle", "burn"]),
            effort: "short".to_owned(),
            device: "cuda".to_owned(),
            limit: Duration::MAX,
        };
        let place = Place {
            model: "smollm2.gguf".into(),
            library: "lib/libonnxruntime.so".into(),
            cache: "cache".into(),
            logs: "logs".into(),
            tree: tree.clone(),
        };
        let steps = steps(&options, &place, Path::new("out"), Path::new("work")).unwrap();
        fs::remove_dir_all(&tree).unwrap();
        let command = |step: Step| match step.work {
            Work::Run(job) | Work::Watch(job) => (format!("{}: {}", step.group, step.name), job.arguments()),
            Work::Compare(_) | Work::Show(..) | Work::Tabulate(_) => (format!("{}: {}", step.group, step.name), Vec::new()),
        };
        steps.into_iter().map(command).collect()
    }

    fn line(steps: &[(String, Vec<String>)], name: &str) -> String {
        steps.iter().find(|(step, _)| step == name).unwrap_or_else(|| panic!("{name} in {steps:?}")).1[1..].join(" ")
    }

    #[test]
    fn models_are_benched_at_the_sizes_asked_of_them() {
        let steps = planned(&["bench"], &MODELS);
        let names: Vec<_> = steps.iter().map(|(name, _)| name.as_str()).collect();
        let made = ["models: make llama-3.2-1b", "models: make llama-3.1-8b"];
        let benched = ["bench: ceilings", "bench: phase smollm2", "bench: phase llama-3.2-1b", "bench: phase llama-3.1-8b"];
        assert_eq!(names, [&["machine: doctor"][..], &made, &benched].concat());
        assert!(line(&steps, "bench: phase smollm2").ends_with("-p 512 -n 128 -d 512 -b 1 --out bench-smollm2"));
        assert!(line(&steps, "bench: phase llama-3.2-1b").ends_with("-p 512,2048 -n 128 -d 512 -b 1,8,64 --out bench-llama-3.2-1b"));
        let large = line(&steps, "bench: phase llama-3.1-8b");
        assert!(large.ends_with("-p 2048 -n 128 -d 512 -b 1,8 --out bench-llama-3.1-8b --modes compiled"), "{large}");
    }

    #[test]
    fn peers_have_the_weights_and_sizes_of_the_bench() {
        let steps = planned(&["bench", "peers"], &["llama-3.2-1b"]);
        let peers = steps.iter().filter(|(name, _)| name.starts_with("peers: ")).map(|(_, line)| line.join(" "));
        let ours = line(&steps, "bench: phase llama-3.2-1b");
        for line in peers.filter(|line| !line.contains("ceilings")) {
            assert!(ours.contains("--model work/models/llama-3.2-1b") && line.contains("work/models/llama-3.2-1b --mode "), "{line}");
            assert!(line.contains(" -n 128 -D 512 -r 5"), "{line}");
        }
        let graph = line(&steps, "peers: genai-graph");
        let plain = line(&steps, "peers: genai-plain");
        assert_eq!(graph.replace("--mode graph", "--mode plain"), plain, "the second finds the first's graph");
        assert!(planned(&["peers"], &["smollm2"]).iter().all(|(name, _)| !name.starts_with("peers")));
    }

    #[test]
    fn kernels_are_timed_by_shape() {
        let steps = planned(&["kernels"], &["llama-3.2-1b", "llama-3.1-8b"]);
        assert_eq!(line(&steps, "kernels: steps llama-3.2-1b"), "1b 512");
        assert_eq!(line(&steps, "kernels: steps llama-3.1-8b"), "8b 512");
        assert_eq!(line(&steps, "kernels: speed llama-3.2-1b"), "work/models/llama-3.2-1b bf16 512 1,2,4,8,64");
        assert_eq!(line(&steps, "kernels: prompts llama-3.2-1b"), "work/models/llama-3.2-1b bf16 1x2048,32x128");
        assert!(planned(&["kernels"], &["smollm2"]).len() == 1);
    }

    #[test]
    fn profiles_have_times_without_the_profiler_beside_them() {
        let steps = planned(&["profile"], &["smollm2", "llama-3.2-1b"]);
        let names: Vec<_> = steps.iter().filter_map(|(name, _)| name.strip_prefix("profile: ")).collect();
        assert_eq!(names[..3], ["times smollm2 candle", "kernels smollm2 candle", "table smollm2 candle"]);
        assert_eq!(names.len(), 3 * (1 + 3));
        let cells = "bf16 decode:1@512 decode:8@512 decode:64@512 prefill:1x2048";
        let model = "work/models/llama-3.2-1b";
        assert_eq!(line(&steps, "profile: times llama-3.2-1b ort"), format!("ort-cuda@eager,ort-cuda@compiled {model} {cells}"));
        let kernels = line(&steps, "profile: kernels llama-3.2-1b ort");
        assert!(kernels.contains("--csv --log-file out/profile-llama-3.2-1b-ort.csv "), "{kernels}");
        assert!(kernels.ends_with(&format!("bin/cuda_profile ort-cuda@eager {model} {cells}")), "{kernels}");
    }

    #[test]
    fn small_tests_are_watched() {
        let steps = planned(&["sanitizer"], &["smollm2"]);
        assert_eq!(steps.len(), 1 + watched::RUNS.len());
        let race = line(&steps, "sanitizer: racecheck backend-burn-cuda");
        assert!(
            race.starts_with("--tool racecheck --error-exitcode 1 ") && race.ends_with("backend-burn-cuda small:: --test-threads 1"),
            "{race}"
        );
    }
}
