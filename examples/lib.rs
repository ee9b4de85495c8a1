//! Runnable programs, one per use: see the `.rs` files beside the manifest. Here is what `route` and `own_policy` share: a
//! measurement of a few cells.

use phase_core::{DynBackend, LoadSpec, MonotonicClock, Registry};
use phase_policy::ScenarioMatrix;
use phase_scenario::{BenchCells, Plan, PlanSpec, Run, Runner, ScenarioSet};
use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::{SystemTime, UNIX_EPOCH},
};

/// The workspace's README, so that its example is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// The pages of the documentation site that have Rust in them, likewise.
#[cfg(doctest)]
pub mod book {
    #[doc = include_str!("../docs/tutorial.md")]
    pub struct Tutorial;
    #[doc = include_str!("../docs/howto/backend.md")]
    pub struct Backend;
    #[doc = include_str!("../docs/howto/dashboards.md")]
    pub struct Dashboards;
    #[doc = include_str!("../docs/reference/boundary.md")]
    pub struct Boundary;
}

/// The checkpoint in `PHASE_MODEL`.
pub fn model() -> Result<PathBuf, Box<dyn Error>> {
    std::env::var_os("PHASE_MODEL")
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
        .ok_or_else(|| "set PHASE_MODEL to a checkpoint: `cargo xtask fetch` fetches one".into())
}

/// A folder of this process's own under the system's temporary one, empty.
pub fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("phase-{name}-{}", std::process::id()));
    // It is there only when another process had the same number and left it.
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

/// Measures every backend of `registry` on a few small cells, in three randomised blocks, and gives what a policy may be
/// made of.
pub fn measure(registry: &Registry, model: &Path) -> Result<ScenarioMatrix, Box<dyn Error>> {
    let cells = BenchCells { prompt_tokens: vec![16, 64], decode_steps: vec![8], batches: vec![1], depths: vec![32], repetitions: 3 };
    let backends = registry.iter().map(DynBackend::arm);
    let plan = Plan::new(&PlanSpec::new(vec![ScenarioSet::bench(&cells)?], backends))?;
    let dir = folder("measure");
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut runner = Runner::create(registry, plan, LoadSpec::new(model), Arc::new(MonotonicClock::new()), &dir)?.with_created(now);
    runner.run(&mut (), &AtomicBool::new(false))?;
    drop(runner);
    let matrix = Run::open(&dir)?.policy_matrix()?;
    std::fs::remove_dir_all(&dir)?;
    matrix.ok_or_else(|| "no backend passed the agreement check".into())
}
