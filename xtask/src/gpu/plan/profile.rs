//! The group `profile`: which kernels a call's time goes to.

use super::{Plan, Step};
use crate::gpu::{
    job::Job,
    profile::{METRICS, Tables},
    run::Work,
};
use std::{env, process::Command};

/// Where ncu is when `PATH` doesn't say.
const TOOLKIT: &str = "/usr/local/cuda/bin";

/// The cells of a model, and which backends show them.
fn cells(model: &str) -> (&'static [&'static str], &'static [&'static str]) {
    match model {
        "smollm2" => (&["decode:1@512"], &["candle"]),
        "llama-3.2-1b" => (&["decode:1@512", "decode:8@512", "decode:64@512", "prefill:1x2048"], &["candle", "burn", "ort"]),
        _ => (&[], &[]),
    }
}

impl Plan<'_> {
    /// For each backend: times of both modes, then under ncu the eager one, whose kernels come one by one, then a table of both.
    pub(super) fn profile(&self, model: &str) -> Vec<Step> {
        let (cells, backends) = cells(model);
        let backends = backends.iter().filter(|backend| self.options.backends.iter().any(|b| b == *backend));
        backends.flat_map(|backend| self.profiled(model, backend, cells)).collect()
    }

    fn profiled(&self, model: &str, backend: &str, cells: &[&str]) -> [Step; 3] {
        let path = self.model(model);
        let program = self.place.tree.join("bin/cuda_profile");
        let (path, program) = (path.to_string_lossy(), program.to_string_lossy());
        let file = |extension: &str| self.out.join(format!("profile-{model}-{backend}.{extension}"));
        let (kernels, times) = (file("csv"), file("jsonl"));
        let step = |name: &str, work| Step { group: "profile", name: format!("{name} {model} {backend}"), work };
        let eager = format!("{backend}-cuda@eager");
        let both = format!("{eager},{backend}-cuda@compiled");

        let timed = self.packed("cuda_profile", &[&[&*both, &path, self.dtype()], cells].concat(), 60).answering(times.clone());
        let log = kernels.to_string_lossy();
        // Caches and clocks as they are: as in a call that nobody watches.
        let options = ["--clock-control", "none", "--cache-control", "none", "--profile-from-start", "off", "--target-processes", "all"];
        let answer = ["--metrics", METRICS, "--print-units", "base", "--csv", "--log-file", &log];
        let call = [&*program, &eager, &path, self.dtype()];
        let mut ncu = Command::new("ncu");
        ncu.args([&options[..], &answer, &call, cells].concat()).current_dir(self.out);
        ncu.env("PATH", format!("{}:{TOOLKIT}", env::var("PATH").unwrap_or_default()));
        self.environment(&mut ncu);
        let cells = cells.iter().map(|cell| (*cell).to_owned()).collect();
        let tables = Tables { kernels: kernels.clone(), times, cells, title: format!("{model} on {backend}"), out: file("md") };
        [step("times", Work::job(timed)), step("kernels", Work::job(Job::new(ncu, 90))), step("table", Work::Tabulate(tables))]
    }
}
