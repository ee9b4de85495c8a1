//! Makes a run of about 1,000 cells and 1,000,000 events on simulated backends: what a report must do in under 3 s and
//! 200 MB. `cargo run --release -p phase-report --example large_run -- DIR`.

#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod support;

use phase_scenario::Calls;
use std::{fmt::Write as _, path::Path};
use support::{CREATED, Paced, run};

fn main() {
    let Some(dir) = std::env::args().nth(1) else { return };
    let mut set = r#"
schema = "phase.scenarios/1"
id = "large"
title = "Large"
parity = { prompt_tokens = 4, batch = 2, decode_steps = 2, tolerance = { f32 = 0.01 } }
[scale.cpu.full]
blocks = 5
workloads = [
"#
    .to_owned();
    for batch in 1..=16 {
        for prompt in [8, 16, 32, 64, 100, 150] {
            let _ = writeln!(
                set,
                "{{ id = \"b{batch}-p{prompt}\", kind = \"steady\", batch = {batch}, prompt_tokens = {prompt}, decode_steps = 63, samples = 11, warmup = 1 }},"
            );
        }
    }
    set.push_str("]\n");
    let backends = vec![Paced::new("a", 9_000, 600_000), Paced::new("b", 6_000, 800_000), Paced::new("c", 9_100, 610_000)];
    let run = run(&set, backends, Calls::Scores, CREATED, Path::new(&dir));
    let cells = run.matrix().map_or(0, |m| m.cells().len());
    assert!(cells >= 1_000 && run.events() >= 1_000_000, "{cells} cells, {} events", run.events());
}
