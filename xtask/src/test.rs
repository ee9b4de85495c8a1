//! Everything that must hold before a change is done, in order of cost.

use crate::{
    fetch, gpu, peers,
    run::{Result, cargo, root, step, target},
};
use std::process::Command;

/// Every example runs as a whole program; those that load a model take the fetched one.
const EXAMPLES: [&str; 8] = ["quickstart", "own_backend", "own_policy", "route", "slo", "planner", "chat", "observe"];

pub fn test() -> Result<()> {
    step("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    let assets = fetch::fetch()?;
    println!("\n{assets}");
    let (python, prometheus) = (peers::python_modules()?, peers::prometheus()?);
    let toolkit = toolkit()?;
    let browser = browser()?;
    let deny = ["--", "--deny", "warnings"];
    step("clippy", cargo(&["clippy", "--release", "--workspace", "--all-targets"]).args(deny))?;
    // From here on with CUDA: a program that has it must do all the same where no device is.
    let with_cuda = |arguments: &[&str]| {
        let mut command = cargo(arguments);
        if let Some(toolkit) = &toolkit {
            command.args(["--features", gpu::FEATURES]).envs(toolkit.environment());
        }
        command
    };
    if toolkit.is_some() {
        step("clippy, with CUDA", with_cuda(&["clippy", "--release", "--workspace", "--all-targets"]).args(deny))?;
    }
    let with_assets = |arguments: &[&str]| {
        let mut command = with_cuda(arguments);
        command.env("PHASE_TEST_MODEL", &assets.model).env("PHASE_MODEL", &assets.model).env("PHASE_ORT_LIBRARY", &assets.runtime);
        command.env("PHASE_TEST_PYTHONPATH", &python).env("PHASE_TEST_PROMETHEUS", &prometheus);
        command.env("PHASE_TEST_CHROMIUM", &browser);
        command
    };
    step("tests", &mut with_assets(&["test", "--release", "--workspace", "--lib", "--bins", "--tests"]))?;
    step("documentation tests", &mut with_assets(&["test", "--release", "--workspace", "--doc"]))?;
    step(
        "documentation",
        with_assets(&["doc", "--release", "--workspace", "--no-deps", "--document-private-items"]).env("RUSTDOCFLAGS", "--deny warnings"),
    )?;
    // The whole workspace each time: a package by itself has other features, and the runtimes would be built again.
    step("build the examples", &mut with_assets(&["build", "--release", "--workspace", "--examples"]))?;
    let built = target()?.join("release/examples");
    for example in EXAMPLES {
        let mut program = Command::new(built.join(example));
        program.current_dir(root()).env("PHASE_MODEL", &assets.model).env("PHASE_ORT_LIBRARY", &assets.runtime);
        step(&format!("example {example}"), &mut program)?;
    }
    step("benches, one round each", &mut with_assets(&["test", "--release", "--workspace", "--bench", "*"]))?;
    println!("\neverything passed");
    Ok(())
}

/// What builds with CUDA, where there is such a thing.
fn toolkit() -> Result<Option<gpu::Toolkit>> {
    if gpu::Toolkit::SUPPORTED {
        return gpu::Toolkit::obtain().map(Some);
    }
    println!("\nwithout CUDA: its toolkit can be put together on x86-64 Linux only");
    Ok(None)
}

/// A Chromium to look at pages with: the one that is here, else Debian's.
fn browser() -> Result<String> {
    let works = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
    let find = || ["chromium", "chromium-browser", "google-chrome"].into_iter().find(works).map(str::to_owned);
    if let Some(found) = find() {
        return Ok(found);
    }
    step("look for Chromium", Command::new("apt-get").args(["update", "-qq"]))?;
    step("install Chromium", Command::new("apt-get").args(["install", "-y", "-qq", "--no-install-recommends", "chromium"]))?;
    find().ok_or_else(|| "no Chromium: install one, the pages are tested in it".into())
}
