//! The steps that measure time: the scenario matrix, benches, peers.

use super::{Plan, Step};
use crate::gpu::{job::Job, run::Work};
use std::{path::Path, process::Command};

/// The model that peers are measured with.
pub const PEERED: &str = "llama-3.2-1b";

/// What a bench measures, as the options of `phase bench` take it.
struct Cells {
    prompts: &'static str,
    new: &'static str,
    depth: &'static str,
    batches: &'static str,
    /// All where there are none.
    modes: &'static [&'static str],
}

impl Plan<'_> {
    /// All scenario sets, then what is made of them.
    pub(super) fn matrix(&self, model: &str) -> Vec<Step> {
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
        let report = self.program(&["report", &run], 60).answering(report);
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
    pub(super) fn ceilings(&self) -> Step {
        let arguments = ["--device", &self.options.device, "ceilings", "--out", "ceilings.json"];
        self.phase("bench", "ceilings".to_owned(), &arguments, 120)
    }

    fn cells(&self, model: &str) -> Cells {
        let cells = Cells { prompts: "512,2048", new: "128", depth: "512", batches: "1,8,64", modes: &[] };
        match (self.on_gpu(), model) {
            (false, _) => Cells { prompts: "128", new: "16", depth: "128", batches: "1", ..cells },
            (true, "smollm2") => Cells { prompts: "512", batches: "1", ..cells },
            // All arms hold their weights at once: of a large model, one mode of each runtime is what a device has room for.
            (true, "llama-3.1-8b") => Cells { prompts: "2048", batches: "1,8", modes: &["--modes", "compiled"], ..cells },
            (true, _) => cells,
        }
    }

    /// Prefill and decode by themselves.
    pub(super) fn bench(&self, model: &str) -> Step {
        let path = self.model(model);
        let (path, backends) = (path.to_string_lossy(), self.options.backends.join(","));
        let run = format!("bench-{model}");
        let Cells { prompts, new, depth, batches, modes } = self.cells(model);
        let device = ["--device", &self.options.device, "bench", "--model", &path, "--dtype", self.dtype(), "--backends", &backends];
        let cells = ["-p", prompts, "-n", new, "-d", depth, "-b", batches, "--out", &run];
        self.phase("bench", format!("phase {model}"), &[&device[..], &cells, modes].concat(), 1800)
    }

    /// Each kernel of a decode step, whole steps, and the parts of a prompt.
    pub(super) fn kernels(&self, model: &str) -> Vec<Step> {
        let path = self.model(model);
        let step = |name: &str, program, arguments: &[&str]| {
            let job = self.packed(program, arguments, 180).answering(self.out.join(format!("kernels-{name}-{model}.txt")));
            Step { group: "kernels", name: format!("{name} {model}"), work: Work::job(job) }
        };
        let size = if model == "llama-3.1-8b" { "8b" } else { "1b" };
        let steps = step("steps", "cuda_bandwidth", &[size, "512"]);
        // Whole steps and prompts by every path.
        let speed = step("speed", "candle_cuda_speed", &[&path.to_string_lossy(), "bf16", "512", "1,2,4,8,64"]);
        // Where a prompt's time goes. Four models are loaded at once, which a large one is too large for.
        let prompts = (size == "1b").then(|| step("prompts", "candle_cuda_prompt", &[&path.to_string_lossy(), "bf16", "1x2048,32x128"]));
        [steps, speed].into_iter().chain(prompts).collect()
    }

    /// Other programs over the same weights, and what torch reaches of the device.
    pub(super) fn peers(&self) -> Vec<Step> {
        let (model, Cells { prompts, new, depth, .. }) = (self.model(PEERED), self.cells(PEERED));
        let path = model.to_string_lossy();
        let arguments = |mode, prompts| [&*path, "--mode", mode, "-p", prompts, "-n", new, "-D", depth, "-r", "5"];
        let (package, kept) = (self.place.tree.join("peers"), self.work.join(format!("genai-{PEERED}")));
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let own = ["--package", &text(&package), "--library", &text(&self.place.library), "--keep", &text(&kept)];
        let genai = |mode| [&arguments(mode, prompts)[..], &own].concat();
        vec![
            self.driver("ceilings", "ceilings_cuda.py", &[]),
            self.driver("transformers-compiled", "hf_cuda.py", &arguments("compiled", "")),
            self.driver("genai-graph", "genai_cuda.py", &genai("graph")),
            self.driver("genai-plain", "genai_cuda.py", &genai("plain")),
            self.driver("transformers-eager", "hf_cuda.py", &arguments("eager", prompts)),
        ]
    }

    /// A peer, whose lines of JSON are kept.
    fn driver(&self, name: &str, driver: &str, arguments: &[&str]) -> Step {
        let mut command = Command::new("python3");
        command.arg(self.place.tree.join("sources/benches/peers/drivers").join(driver)).args(arguments).env("HF_HUB_OFFLINE", "1");
        self.environment(command.current_dir(self.out));
        let answer = self.out.join(format!("peers-{PEERED}-{name}.jsonl"));
        Step { group: "peers", name: name.to_owned(), work: Work::job(Job::new(command, 300).answering(answer)) }
    }
}
