//! Which steps a run has, in order.

mod energy;

use super::{
    job::Job,
    parity::Comparison,
    run::{Options, Place, Work},
};
use crate::run::{Result, folder};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// The groups `--only` picks from; all but the last two are the default.
pub const GROUPS: [&str; 6] = ["conformance", "parity", "matrix", "bench", "sanitizer", "energy"];

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
    if ["matrix", "bench", "energy"].iter().any(|group| plan.wants(group)) {
        steps.extend(MODELS[1..].iter().filter(|name| plan.models(name)).filter_map(|name| plan.make(name)));
    }
    if plan.wants("matrix") {
        steps.extend(MODELS.iter().filter(|name| plan.models(name)).flat_map(|name| plan.matrix(name)));
    }
    if plan.wants("bench") {
        steps.push(plan.ceilings());
        steps.extend(MODELS.iter().filter(|name| plan.models(name)).flat_map(|name| plan.bench(name)));
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
        let mut command = Command::new(self.place.tree.join("bin/phase"));
        command.args(arguments).current_dir(self.out);
        self.environment(&mut command);
        Job { command, answer: None, limit: Duration::from_secs(seconds), budget: None }
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
            // One device: tests beside each other would only wait for it, and share its memory.
            command.args(["--test-threads", "1"]).current_dir(self.out);
            self.environment(&mut command);
            let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Step {
                group: "conformance",
                name,
                work: Work::job(Job { command, answer: None, limit: Duration::from_secs(300), budget: None }),
            }
        };
        Ok(self.tests()?.into_iter().map(step).collect())
    }

    /// The kernels' tests, watched for accesses out of bounds and for races. The CUDA toolkit brings the watcher.
    fn sanitizer(&self) -> Result<Vec<Step>> {
        let name = |program: &Path| program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kernels: Vec<_> = self.tests()?.into_iter().filter(|program| name(program).starts_with("kernels-")).collect();
        let step = |tool: &'static str, program: &Path| {
            let mut command = Command::new("compute-sanitizer");
            command.args(["--tool", tool, "--error-exitcode", "1"]).arg(program).args(["--test-threads", "1"]).current_dir(self.out);
            self.environment(&mut command);
            let job = Job { command, answer: None, limit: Duration::from_secs(600), budget: None };
            Step { group: "sanitizer", name: format!("{tool} {}", name(program)), work: Work::job(job) }
        };
        Ok(["memcheck", "racecheck"].iter().flat_map(|tool| kernels.iter().map(|program| step(tool, program))).collect())
    }

    fn parity(&self) -> Result<Vec<Step>> {
        folder(&self.out.join("parity"))?;
        let file = |name: &str| self.out.join("parity").join(format!("{name}.json"));
        let scores = |name: &str, device: &str, backend: &str, dtype: &str| {
            let arguments =
                ["--device", device, "logits", "--backend", backend, "--dtype", dtype, "--tokens", TOKENS, "--then", THEN, "--json"];
            let job = Job { answer: Some(file(name)), ..self.program(&arguments, 180) };
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

    /// All scenario sets, then what is made of them.
    fn matrix(&self, model: &str) -> Vec<Step> {
        let path = self.model(model);
        let (path, backends) = (path.to_string_lossy(), self.options.backends.join(","));
        let run = format!("matrix-{model}");
        let (policy, report) = (format!("{run}.policy.json"), self.out.join(format!("{run}.md")));
        let (scale, effort) = if self.on_gpu() { ("gpu", self.options.effort.as_str()) } else { ("cpu", "short") };
        let step = |name: &str, arguments: &[&str], seconds| self.phase("matrix", format!("{name} {model}"), arguments, seconds);
        let measure = [
            "--device",
            &self.options.device,
            "bench",
            "--model",
            &path,
            "--dtype",
            self.dtype(),
            "--backends",
            &backends,
            "--scenarios",
            "S0,S1,S2,S3",
            "--scale",
            scale,
            "--effort",
            effort,
            "--out",
            &run,
        ];
        let report = Job { answer: Some(report), ..self.program(&["report", &run], 60) };
        let page = format!("{run}.html");
        vec![
            step("measure", &measure, 3600),
            step("validate", &["validate", &run], 60),
            step("policy", &["policy", &run, "--out", &policy], 60),
            step("page", &["report", &run, "--html", &page], 60),
            Step { group: "matrix", name: format!("report {model}"), work: Work::job(report) },
        ]
    }

    /// What the device can do at most, as every run measures it again before its first block.
    fn ceilings(&self) -> Step {
        let arguments = ["--device", &self.options.device, "ceilings", "--out", "ceilings.json"];
        self.phase("bench", "ceilings".to_owned(), &arguments, 120)
    }

    /// Prefill and decode by themselves, ours and then a peer's.
    fn bench(&self, model: &str) -> Vec<Step> {
        let path = self.model(model);
        let (path, backends) = (path.to_string_lossy(), self.options.backends.join(","));
        let run = format!("bench-{model}");
        // All arms hold their weights at once: of a large model, one mode of each runtime is what a device has room for.
        let large = model == "llama-3.1-8b";
        let (prompts, new, depth, batches) = match (self.on_gpu(), large) {
            (true, false) => ("512,2048", "128", "512", "1,8,64"),
            (true, true) => ("512,2048", "128", "512", "1,8"),
            (false, _) => ("128", "16", "128", "1"),
        };
        let modes: &[&str] = if large { &["--modes", "compiled"] } else { &[] };
        let measure = [
            "--device",
            &self.options.device,
            "bench",
            "--model",
            &path,
            "--dtype",
            self.dtype(),
            "--backends",
            &backends,
            "-p",
            prompts,
            "-n",
            new,
            "-d",
            depth,
            "-b",
            batches,
            "--out",
            &run,
        ];
        let mut steps = Vec::new();
        if self.on_gpu() {
            steps.push(self.driver("ceilings", model, "ceilings_cuda.py", &[]));
        }
        steps.push(self.phase("bench", format!("phase {model}"), &[&measure[..], modes].concat(), 1800));
        // The peer reads Hugging Face folders.
        if self.on_gpu() && model != "smollm2" {
            let arguments = |mode, prompts| [&*path, "--mode", mode, "-p", prompts, "-n", new, "-D", depth, "-r", "5"];
            steps.push(self.driver("transformers-eager", model, "hf_cuda.py", &arguments("eager", prompts)));
            steps.push(self.driver("transformers-compiled", model, "hf_cuda.py", &arguments("compiled", "")));
            let (package, library) = (self.place.tree.join("peers"), &self.place.library);
            let kept = self.work.join(format!("genai-{model}"));
            let own = [("--package", &package), ("--library", library), ("--keep", &kept)];
            let own: Vec<_> = own.iter().flat_map(|(name, path)| [(*name).into(), path.to_string_lossy()]).collect();
            let own: Vec<&str> = own.iter().map(|text: &std::borrow::Cow<'_, str>| &**text).collect();
            for mode in ["graph", "plain"] {
                steps.push(self.driver(&format!("genai-{mode}"), model, "genai_cuda.py", &[&arguments(mode, prompts)[..], &own].concat()));
            }
        }
        steps
    }

    /// A peer, whose lines of JSON are kept.
    fn driver(&self, name: &str, model: &str, driver: &str, arguments: &[&str]) -> Step {
        let mut command = Command::new("python3");
        command.arg(self.place.tree.join("sources/benches/peers/drivers").join(driver)).args(arguments).env("HF_HUB_OFFLINE", "1");
        self.environment(command.current_dir(self.out));
        let answer = Some(self.out.join(format!("peers-{model}-{name}.jsonl")));
        Step {
            group: "bench",
            name: format!("{name} {model}"),
            work: Work::job(Job { command, answer, limit: Duration::from_secs(300), budget: None }),
        }
    }
}
