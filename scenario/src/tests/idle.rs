//! Time since idle, on a model that cools down when it rests for a second.

use super::*;
use phase_policy::constants::Constants;

fn cooling() -> (Actor, Arc<ManualClock>, Arc<AtomicU32>) {
    let (actor, clock) = (Actor::new("a"), Arc::new(ManualClock::ticking(Duration::from_nanos(1))));
    let cooled = Arc::new(AtomicU32::new(0));
    let (ticks, cold) = (Arc::clone(&clock), Arc::clone(&cooled));
    let work: Work = Arc::new(move |_| ticks.advance(Duration::from_millis(10 + u64::from(cold.swap(0, Ordering::Relaxed)))));
    *actor.script.work.lock().unwrap() = Some((work, "GPU-0"));
    (actor, clock, cooled)
}

pub(super) fn measured(plan: &IdlePlan) -> Result<IdleReport, ScenarioError> {
    let (actor, clock, cooled) = cooling();
    let registry = Registry::new().with(actor);
    let model = registry.get("a").unwrap().load_dyn(&LoadSpec::new("sim")).unwrap();
    let ticks = Arc::clone(&clock);
    measure_idle(&arm("a"), model, plan, clock, &mut |idle| {
        ticks.advance(idle);
        if idle >= Duration::from_secs(1) {
            cooled.store(5, Ordering::Relaxed);
        }
    })
}

#[test]
fn a_model_that_cools_after_a_second_is_seen_to() {
    let report = measured(&IdlePlan::short()).unwrap();
    assert_eq!(report.samples.len(), 4 * 2 * 5);
    assert!(report.samples.iter().all(|s| s.boundary == report.boundary.id() && s.idle_ns >= s.asked_ns && s.idle_ns < s.asked_ns + 1000));
    let file = IdleFile::new(vec![report]);
    let read = IdleFile::from_json("idle.json", &file.to_json().unwrap()).unwrap();
    assert_eq!(read, file);
    let curves = read.curves(&Constants::default()).unwrap();
    assert_eq!(
        curves.iter().map(|c| (c.phase, c.cools_after_ns)).collect::<Vec<_>>(),
        [(phase_core::Phase::Prefill, Some(1_000_000_000)), (phase_core::Phase::Decode, Some(1_000_000_000)),]
    );
    assert!(curves.iter().all(|c| (c.worst - 1.5).abs() < 0.01), "{curves:?}");
}

#[test]
fn plans_that_measure_nothing_and_files_of_another_version_are_refused() {
    let mut plan = IdlePlan::short();
    plan.idle.truncate(1);
    assert!(matches!(measured(&plan), Err(ScenarioError::Plan(_))));
    let mut plan = IdlePlan::short();
    plan.prompt_tokens = 100_000;
    assert!(matches!(measured(&plan), Err(ScenarioError::Call { .. })));
    let error = IdleFile::from_json("idle.json", r#"{"schema": "phase.idle/9", "reports": []}"#).unwrap_err().to_string();
    assert!(error.contains("phase.idle/9") && error.contains("idle.json"), "{error}");
    assert!(IdleFile::from_json("idle.json", "[]").is_err() && IdleFile::from_json("idle.json", "{").is_err());
}
