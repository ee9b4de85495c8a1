//! What `bench --energy` is going to replay, as text.

use phase_scenario::PlannedReplays;
use std::fmt::Write as _;

/// A line for each backend and call, and what it comes to.
pub(crate) fn text(replays: &[PlannedReplays], left_s: Option<f64>) -> String {
    let width = |of: fn(&PlannedReplays) -> String| replays.iter().map(|r| of(r).chars().count()).max().unwrap_or(0);
    let (call, backend) = (width(|r| r.call.clone()), width(|r| r.backend.to_string()));
    let mut text = String::new();
    for r in replays {
        let PlannedReplays { windows, window_s, seconds, .. } = r;
        let what = match (r.left_out, r.passes) {
            (true, _) => format!("left out: needs {seconds:.0} s"),
            (false, Some(n)) => format!("{windows} windows of {n} passes, {window_s:.1} s each: {seconds:.0} s"),
            (false, None) => format!("{windows} windows of {window_s:.1} s: {seconds:.0} s"),
        };
        let (name, who) = (&r.call, r.backend.to_string());
        // Writing to a string does not fail.
        let _ = writeln!(text, "    {name:call$}  {who:backend$}  {what}");
    }
    let of = |out: bool| replays.iter().filter(|r| r.left_out == out).fold(0.0, |sum, r| sum + r.seconds);
    let all = format!("  replays take {:.0} s", of(false));
    let budget = left_s.map_or_else(String::new, |s| format!(" of {s:.0} s"));
    let lacking = if of(true) > 0.0 { format!("; what is left out would take {:.0} s more", of(true)) } else { String::new() };
    text + &all + &budget + &lacking
}

#[cfg(test)]
mod tests {
    use phase_core::BackendId;
    use phase_energy::{Perimeter, ReadingKind, SensorCalibration, SensorKind, SourceId};
    use phase_scenario::{BenchCells, EnergyOptions, Plan, PlanSpec, ScenarioSet, match_calibrations};
    use std::time::Duration;

    #[test]
    fn a_plan_says_what_it_takes_and_what_is_left_out() {
        let cells =
            BenchCells { prompt_tokens: vec![512, 2048], decode_steps: vec![64], batches: vec![1], depths: vec![512], repetitions: 5 };
        let set = ScenarioSet::bench(&cells).unwrap();
        let plan = Plan::new(&PlanSpec::new(vec![set], ["candle", "ort"].map(BackendId::new))).unwrap();
        let id = SourceId::new("GPU-0", "none", "total_energy", Perimeter::GpuBoard);
        let calibration = SensorCalibration::described(SensorKind::Integrating, 1e8, 1e8, 0.0, 60.0, 700.0);
        let (sensors, _) = match_calibrations(&[(id, ReadingKind::Counter)], &[calibration], 0);
        let of = |left: Option<u64>| {
            let replays = EnergyOptions::default().agenda(&plan, &sensors, left.map(Duration::from_secs));
            super::text(&replays, left.map(|s| Duration::from_secs(s).as_secs_f64()))
        };
        let all = of(None);
        assert_eq!(all.lines().count(), 7, "{all}");
        assert!(all.lines().next().unwrap().contains("decode b1 c512..575  candle"), "{all}");
        assert!(all.contains("5 windows of 5.0 s") && !all.contains("left out"), "{all}");
        let none = of(Some(5));
        assert!(none.contains("replays take 0 s of 5 s; "), "{none}");
        let short = of(Some(100));
        assert!(short.contains("of 100 s; what is left out would take") && short.contains("prefill b1 n2048"), "{short}");
        assert_eq!(short.matches("left out: needs 2").count(), 2, "{short}");
    }
}
