//! Everything that must hold before a change is done, in order of cost.

use crate::{
    fetch,
    run::{Result, cargo, root, step, target},
};
use std::process::Command;

/// Every example runs as a whole program; those that load a model take the fetched one.
const EXAMPLES: [&str; 5] = ["quickstart", "own_backend", "own_policy", "route", "chat"];

pub fn test() -> Result<()> {
    step("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    let assets = fetch::fetch()?;
    println!("\n{assets}");
    let with_assets = |arguments: &[&str]| {
        let mut command = cargo(arguments);
        command.env("PHASE_TEST_MODEL", &assets.model).env("PHASE_MODEL", &assets.model).env("PHASE_ORT_LIBRARY", &assets.runtime);
        command
    };
    step("clippy", &mut cargo(&["clippy", "--release", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    step("tests", &mut with_assets(&["test", "--release", "--workspace", "--lib", "--bins", "--tests"]))?;
    step("documentation tests", &mut with_assets(&["test", "--release", "--workspace", "--doc"]))?;
    step(
        "documentation",
        cargo(&["doc", "--release", "--workspace", "--no-deps", "--document-private-items"]).env("RUSTDOCFLAGS", "--deny warnings"),
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
