//! The main job in one command.

use crate::{
    fetch,
    run::{Result, cargo, root, step, target},
};
use std::process::Command;

const PROMPT: &str = "Explain in two sentences why the sky is blue.";

pub fn demo() -> Result<()> {
    println!("==> model and ONNX Runtime");
    let assets = fetch::fetch()?;
    println!("    model    {}\n    runtime  {}", assets.model.display(), assets.runtime.display());
    step("build the program `phase` (some minutes the first time)", &mut cargo(&["build", "--release", "--workspace", "--bin", "phase"]))?;
    let program = target()?.join("release/phase");
    let phase = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).current_dir(root()).env("PHASE_MODEL", &assets.model).env("PHASE_ORT_LIBRARY", &assets.runtime);
        command
    };
    let place = target()?.join("phase-demo");
    let run = place.join(format!("run-{}", std::process::id()));
    let [run, policy, page] =
        [run.clone(), run.with_extension("policy.json"), run.with_extension("html")].map(|p| p.to_string_lossy().into_owned());
    std::fs::create_dir_all(&place).map_err(|e| format!("{}: {e}", place.display()))?;
    step("what is here", &mut phase(&["doctor"]))?;
    step("measure on three backends", &mut phase(&["bench", "--scenarios", "S0,S1,S2", "--effort", "short", "--out", &run]))?;
    step("check the run", &mut phase(&["validate", &run]))?;
    step("compile the policy", &mut phase(&["policy", &run, "-o", &policy]))?;
    step("the decision card, and the whole report as a page", &mut phase(&["report", &run, "--card", "--html", &page]))?;
    step(
        "one decision, explained",
        &mut phase(&["decide", "--policy", &policy, "--batch", "1", "--prompt-tokens", "128", "--new-tokens", "128", "--explain"]),
    )?;
    step("a routed answer", &mut phase(&["generate", "--backend", "auto", "--policy", &policy, "--chat", "--max-tokens", "80", PROMPT]))?;
    println!("\nThe run is in {run}, the policy in {policy}.\nThe whole report is a page:  {page}");
    Ok(())
}
