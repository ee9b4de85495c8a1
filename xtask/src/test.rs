//! Everything that must hold before a change is done, in order of cost.

use crate::{
    fetch,
    run::{Result, cargo, step},
};

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
    for example in EXAMPLES {
        step(
            &format!("example {example}"),
            &mut with_assets(&["run", "--release", "--quiet", "--package", "phase-examples", "--example", example]),
        )?;
    }
    step("benches, one round each", &mut with_assets(&["bench", "--profile", "release", "--package", "phase-benches", "--", "--test"]))?;
    println!("\neverything passed");
    Ok(())
}
