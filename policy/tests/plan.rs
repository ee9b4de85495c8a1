//! Plans: what a load takes on the made-up machine, and what is refused.

mod common;

use common::{BULK, FAST, SAFE, router};
use phase_policy::{
    capacity::{Mix, Trace},
    cost::{BreakEven, PriceBook, TierKind},
    plan::{Candidate, Load, Plan, PlanError, PlanOptions, Refusal},
};
use std::fmt::Write as _;

fn book() -> PriceBook {
    PriceBook::from_json(include_str!("../prices/tr119-2025-12-21.json")).expect("a good book")
}

fn small_book(machines: &str) -> PriceBook {
    let text = format!(
        r#"{{"schema":"phase.prices/1","name":"b","date":"2026-01-31","source":"s","machines":[{machines}],"energy":{{"usd_per_kwh":0.2}}}}"#
    );
    PriceBook::from_json(&text).expect("a good book")
}

fn by_mix<'a>(mix: &'a Mix, per_s: f64) -> Load<'a> {
    Load::Mix { mix, requests_per_s: per_s, burst: 2.0, ca2: 1.0 }
}

fn find<'p>(plan: &'p Plan, name: &str) -> &'p Candidate {
    plan.candidates.iter().find(|c| c.name() == name).expect("a candidate of that name")
}

fn options(slo: &str) -> PlanOptions {
    PlanOptions::default().with_slo(slo.parse().expect("limits"))
}

#[test]
fn a_plan_adds_up() {
    // safe: prefill 12.8 ms, 63 steps of 5 ms and 1 us per context token; fast decodes in 4 ms.
    let mix = Mix::parse("128x64").unwrap();
    let plan = Plan::new(&router(), by_mix(&mix, 10.0), &book(), &PlanOptions::default()).unwrap();
    assert_eq!(plan.candidates.iter().map(Candidate::name).collect::<Vec<_>>(), ["the policy", "bulk", "fast", "safe"]);
    let [policy, fast, safe] = ["the policy", "fast", "safe"].map(|name| find(&plan, name));
    assert_eq!(policy.sizing, fast.sizing, "the policy routes this mix to the fast one");
    let s = safe.sizing.unwrap();
    let expected = 0.0128 + 63.0 * 0.005_159;
    assert!((s.service_s.value() / expected - 1.0).abs() < 0.02, "{s:?}");
    assert!((s.workers_lower_bound.value() - 10.0 * s.service_s.value()).abs() < 1e-9);
    assert!((s.workers_with_burst.value() - 20.0 * s.service_s.value()).abs() < 1e-9);
    assert!((f64::from(s.workers_conservative) - (20.0 * s.service_s.high() / 0.7).ceil()).abs() < 1e-9);
    assert!(s.cs2 < 1e-9 && s.workers_by_replay.is_none());
    for p in &safe.prices {
        assert!(p.usd_per_1m.value() < p.usd_per_1m_at_fleet.value(), "idle time is paid too: {p:?}");
        assert!((p.usd_per_request.value() * 1e6 / 192.0 / p.usd_per_1m.value() - 1.0).abs() < 1e-9);
        assert_eq!((p.kwh_per_1m, p.gco2e_per_1m), (None, None), "no energy was measured");
    }
    let g5 = safe.prices.iter().find(|p| p.machine == "aws_g5_xlarge" && p.tier.kind == TierKind::Spot).unwrap();
    assert!((g5.usd_per_month.value() - f64::from(s.workers) * 720.0 * 0.302).abs() < 1e-6);
    assert!(fast.cheapest().unwrap().usd_per_month.value() < safe.cheapest().unwrap().usd_per_month.value());
}

#[test]
fn limits_take_workers_and_too_tight_ones_are_refused() {
    let mix = Mix::parse("128x64:3,512x64:1").unwrap();
    let workers = |slo: &str| {
        let plan = Plan::new(&router(), by_mix(&mix, 20.0), &book(), &options(slo)).unwrap();
        find(&plan, "safe").sizing.map(|s| (s.workers, s.tail_is_bounded))
    };
    let (loose, tight) = (workers("total=10s,p95").unwrap(), workers("total=600ms,p95").unwrap());
    assert!(tight.0 > loose.0, "{tight:?} {loose:?}");
    assert!(!tight.1, "30 calls bound no p95: the slowest stands for it");
    let plan = Plan::new(&router(), by_mix(&mix, 20.0), &book(), &options("total=100ms,p95")).unwrap();
    for name in ["safe", "fast", "bulk", "the policy"] {
        let c = find(&plan, name);
        assert!(matches!(c.refused, Some(Refusal::LimitBelowService { limit: "total", .. })), "{c:?}");
        assert!(c.prices.is_empty() && c.sizing.is_none());
    }
    let tpot = Plan::new(&router(), by_mix(&mix, 20.0), &book(), &options("tpot=5ms")).unwrap();
    assert_eq!(["safe", "fast"].map(|name| find(&tpot, name).refused.is_some()), [true, false]);
    assert!(tpot.table().contains("tpot allows 0.005000 s"), "{}", tpot.table());
}

#[test]
fn what_was_not_measured_is_not_priced() {
    let mix = Mix::parse("128x64:9,9000x64:1").unwrap();
    let plan = Plan::new(&router(), by_mix(&mix, 1.0), &book(), &PlanOptions::default()).unwrap();
    assert!(matches!(find(&plan, "safe").refused, Some(Refusal::NotMeasured { share, .. }) if (share - 0.1).abs() < 1e-9));
    assert!(plan.table().contains("1x9000x64 (10.0% of requests): its prompt is longer than the longest measured"));
    let part = Plan::new(&router(), by_mix(&mix, 1.0), &book(), &PlanOptions::default().with_may_leave_out(0.1)).unwrap();
    let safe = find(&part, "safe");
    assert!(safe.refused.is_none() && (safe.left_out - 0.1).abs() < 1e-9);
}

fn trace(n: u32, gap: impl Fn(u32) -> f64) -> Trace {
    let mut text = String::from("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n");
    let mut at = 0.0;
    for i in 0..n {
        at += gap(i);
        let _ = writeln!(text, "{at},m,128,{},0,API log", if i % 50 == 49 { 0 } else { 64 });
    }
    Trace::parse(&text).expect("a good trace")
}

#[test]
fn a_trace_is_replayed_and_bursts_cost_workers() {
    // 0.34 s of work a request on `safe`, five a second on average, once evenly and once ten at a time.
    let [even, bursts] = [trace(2000, |_| 0.2), trace(2000, |i| if i % 10 == 0 { 2.0 } else { 0.0 })];
    let plan = |t: &Trace| Plan::new(&router(), Load::Trace(t), &book(), &options("total=700ms,p95")).unwrap();
    let (even, bursts) = (plan(&even), plan(&bursts));
    assert_eq!((even.unanswered, bursts.unanswered), (40, 40));
    let size = |p: &Plan| find(p, "safe").sizing.unwrap();
    let (e, b) = (size(&even), size(&bursts));
    assert!((e.workers_lower_bound.value() / b.workers_lower_bound.value() - 1.0).abs() < 0.01, "the same work");
    assert!(b.workers_by_replay > e.workers_by_replay, "{b:?} {e:?}");
    assert!(b.workers_conservative > b.workers_by_replay.unwrap(), "the bound is on the safe side of this replay");
    assert!(b.ca2 > 2.0 && e.ca2 < 1.5);
    assert_eq!(b.workers, b.workers_by_replay.unwrap());
    assert!((bursts.peak_requests_per_s - bursts.requests_per_s) > 0.0);
}

#[test]
fn a_trace_too_short_for_the_percentile_says_so() {
    let plan = |n, slo| Plan::new(&router(), Load::Trace(&trace(n, |_| 1.0)), &book(), &options(slo)).unwrap();
    assert!(matches!(find(&plan(20, "total=5s,p95"), "safe").refused, Some(Refusal::ShortTrace { requests: 20, needed: 90, .. })));
    let table = plan(20, "total=5s,p95").table();
    assert!(table.contains("a limit on p95 takes 90 requests in a replay, the trace has 20"), "{table}");
    assert!(find(&plan(20, "total=5s,p50"), "safe").refused.is_none());
}

#[test]
fn a_machine_without_the_tier_is_named_and_the_others_are_priced() {
    let mix = Mix::parse("128x64").unwrap();
    let own = PlanOptions::default().with_tiers([TierKind::Own]);
    let plan = Plan::new(&router(), by_mix(&mix, 1.0), &book(), &own).unwrap();
    assert!(find(&plan, "safe").prices.iter().all(|p| p.machine == "consumer_1200_usd") && !find(&plan, "safe").prices.is_empty());
    assert_eq!(plan.not_priced.len(), 3);
    assert!(plan.table().contains("Not priced: `aws_g5_xlarge` has no own price; it has on_demand"), "{}", plan.table());
}

#[test]
fn owning_is_held_against_renting_at_the_fleet_it_takes() {
    let mix = Mix::parse("128x64").unwrap();
    let rented = r#"{"name":"cloud","usd_per_hour":{"on_demand":1.0}},"#;
    let own = r#"{"name":"card","own":{"purchase_usd":1200,"life_years":3,"hours_per_day":24}}"#;
    let plan = Plan::new(&router(), by_mix(&mix, 10.0), &small_book(&format!("{rented}{own}")), &PlanOptions::default()).unwrap();
    let safe = find(&plan, "safe");
    let card = safe.prices.iter().find(|p| p.machine == "card").unwrap();
    let workers = u64::from(safe.sizing.unwrap().workers);
    assert!(matches!(card.against_renting, Some(BreakEven::After { machines, months, .. })
        if machines == workers && (months - 1200.0 / 720.0).abs() < 1e-9));
    let alone = Plan::new(&router(), by_mix(&mix, 10.0), &small_book(own), &PlanOptions::default()).unwrap();
    assert_eq!(find(&alone, "safe").prices[0].against_renting, None);
}

#[test]
fn what_makes_no_sense_is_an_error() {
    let mix = Mix::parse("128x64").unwrap();
    let plan = |load, options: &PlanOptions| Plan::new(&router(), load, &book(), options);
    for per_s in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(plan(by_mix(&mix, per_s), &PlanOptions::default()), Err(PlanError::Load { .. })));
    }
    let rented = small_book(r#"{"name":"m","usd_per_hour":{"on_demand":1.0}}"#);
    let spot = PlanOptions::default().with_tiers([TierKind::OnDemand, TierKind::Spot]);
    let error = Plan::new(&router(), by_mix(&mix, 1.0), &rented, &spot).unwrap_err().to_string();
    assert!(error.contains("`m` has no spot price; it has on_demand"), "{error}");
    assert!(matches!(plan(by_mix(&mix, 1.0), &PlanOptions::default().with_may_leave_out(1.5)), Err(PlanError::Options)));
    let once = Trace::parse("time,prompt tokens,new tokens\n1,8,8\n1,8,8\n").unwrap();
    assert!(matches!(plan(Load::Trace(&once), &PlanOptions::default()), Err(PlanError::NoSpan)));
}

#[test]
fn the_table_the_picture_and_the_json_have_every_candidate() {
    let mix = Mix::parse("128x64").unwrap();
    let plan = Plan::new(&router(), by_mix(&mix, 10.0), &book(), &options("total=5s,p95")).unwrap();
    let (table, svg, json) = (plan.table(), plan.svg(), serde_json::to_value(&plan).unwrap());
    for name in [SAFE, FAST, BULK] {
        assert!(table.contains(&format!("| {name} | ")) && svg.contains(&format!(">{name}</text>")), "{name}");
    }
    assert!(table.contains("TR119 shadow prices of 2025-12-21") && table.contains("no_data"));
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && !svg.contains("NaN"));
    assert_eq!(json["candidates"][0]["backend"], serde_json::Value::Null);
    assert!(json["candidates"][1]["sizing"]["workers_lower_bound"]["low"].is_number());
}
