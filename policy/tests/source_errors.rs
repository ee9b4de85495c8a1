//! The errors that the source reports made, each with the data they made it with, and what happens to it here.

mod common;

use common::{FAST, SAFE, boundary_of, prefill, router};
use phase_core::{BackendId, Energy, Layer, MeasurementBoundary, NoData, Phase, Regime, Shape, StackInfo};
use phase_policy::{
    Basis, Ceilings, LeastWork, MatrixError, Observation, Policy, PolicyOptions, Reason, Router, ScenarioMatrix, Warmth, Workload,
    capacity::{Arrivals, Service, contention_efficiency, wait_upper},
    cost::{
        Blend, Bounded, BreakEven, Demand, EnergyPrice, Ownership, PriceBook, WorkerCost, break_even, fleet, mean_rate, sustained_rate,
    },
    stats::{BlockMedian, Verdict, paired_ratio},
};
use std::collections::BTreeMap;

fn exact(value: f64) -> Bounded {
    Bounded::exact(value).expect("a sane number")
}

/// TR119, tokens/s in five scenarios, onnxruntime-gpu.
const PREFILL: [f64; 5] = [1940.0, 2850.0, 1832.0, 2315.0, 2292.0];
const GENERATE: [f64; 5] = [537.5, 508.7, 168.4, 172.7, 170.6];

fn blocks(times: &[f64]) -> Vec<BlockMedian> {
    (0..).zip(times).map(|(block, ns)| BlockMedian::new(block, 1, *ns)).collect()
}

/// Section 0: the reports type their manifests by hand and contradict each other on memory, bandwidth, power and driver.
#[test]
fn two_machines_under_one_name_are_not_ranked() {
    let machine = |gib: &str| {
        let stack = StackInfo::new().with(Layer::Machine, "cpu", "i9-13980HX").with(Layer::Machine, "memory_gib", gib);
        MeasurementBoundary::call(stack.with(Layer::Model, "digest", "m"))
    };
    let seen = [(&SAFE, "a"), (&FAST, "b")].map(|(id, name)| prefill(id, 1, 32, 0).with_boundary(name));
    let error = ScenarioMatrix::build(&seen, &BTreeMap::from([("a".into(), machine("16")), ("b".into(), machine("64"))])).unwrap_err();
    assert_eq!(error.differing_fields(), ["machine.memory_gib"]);
    let unread = MeasurementBoundary::call(StackInfo::new().with_unknown(Layer::Machine, "memory_gib", "typed"));
    assert!(unread.comparable(&unread).is_err(), "what nobody read equals nothing");
}

/// Section 1.2: per-request rates times clients gave 454 tokens/s on a device that makes 207.
#[test]
fn pauses_between_requests_are_part_of_the_rate() {
    // 8 clients, 128 tokens in 2.25 s, 2 s of thinking.
    let (naive, sustained) = (8.0 * 128.0 / 2.25, 8.0 * sustained_rate(128.0, 2.25, 2.0).unwrap());
    assert!(naive > 454.0 && sustained < 242.0, "{naive} {sustained}");
}

/// Section 1.4: the headline winner is not significant against its rivals over five scenarios.
#[test]
fn a_winner_by_the_mean_is_no_winner_by_the_interval() {
    let transformers = [4798.0, 3102.0, 497.0, 811.0, 1150.0];
    let seconds = |rates: &[f64; 5]| blocks(&rates.map(|r| 1e9 / r));
    let ratio = paired_ratio(&seconds(&PREFILL), &seconds(&transformers), 0.95).unwrap();
    assert!(ratio.ratio < 0.75, "faster by a quarter on average");
    assert_eq!(ratio.verdict(0.02), Verdict::Ambiguous, "{ratio}");
}

/// Section 2.1: a model of 102,714 parameters was labelled 124M.
#[test]
fn a_model_is_its_digest_and_not_its_label() {
    let model = |digest: &str| MeasurementBoundary::call(StackInfo::new().with(Layer::Model, "digest", digest));
    let error = model("tiny").comparable(&model("gpt2")).unwrap_err();
    assert_eq!(error.fields[0].field, "model.digest");
}

/// Section 3.3: one first call after two warm-ups made a mean of 11.48 ms with a "95% interval" from -2.5 ms.
#[test]
fn a_late_first_call_moves_neither_the_median_nor_below_zero() {
    let seen = (0..7).map(|b| {
        let mut call = prefill(&SAFE, 1, 32, b);
        call.duration_ns = if b == 0 { 48_000_000 } else { 5_400_000 + u64::from(b) * 1_000 };
        call
    });
    let matrix = ScenarioMatrix::build(&seen.collect::<Vec<_>>(), &common::boundaries()).unwrap();
    let time = matrix.cells()[0].time.unwrap();
    assert!((time.median_ns - 5_404_000.0).abs() < 1.0);
    assert!(time.interval.unwrap().low > 5_400_000.0);
}

/// Section 3.3: "default onnxruntime-gpu for decode-heavy" rests on 8 uncached tokens of one model.
#[test]
fn the_default_is_a_hypothesis_and_short_generations_are_not_extrapolated() {
    let d = router();
    assert_eq!(d.decide(&Workload::new(1, 128, 64)).route.backend, &FAST, "a measured win replaces the default");
    let far = d.decide(&Workload::new(1, 128, 4096)).route;
    assert!(far.backend == &SAFE && matches!(far.reason, Reason::OutsideEnvelope(_)), "{far:?}");
}

/// Section 3.4: two runs of the same thing differ by 14%, more than most of the effects that were claimed.
#[test]
fn a_difference_smaller_than_that_between_starts_decides_nothing() {
    let starts = [52.4, 45.9, 50.1, 47.2];
    let other = [48.0, 49.9, 46.0, 51.0];
    let times = |rates: &[f64; 4]| blocks(&rates.map(|r| 1e9 / r));
    assert_eq!(paired_ratio(&times(&starts), &times(&other), 0.95).unwrap().verdict(0.02), Verdict::Ambiguous);
}

/// Section 3.5: the CPU's energy was the GPU's idle power, and "the CPU is most efficient" followed from it.
#[test]
fn energy_that_was_not_measured_has_no_number_anywhere() {
    let energy = router().energy(&SAFE, &Workload::new(1, 128, 8));
    assert_eq!(energy, Energy::NoData { reason: NoData::NotRecorded });
    let cost = WorkerCost::new(exact(46.6), exact(0.046)).per_million().unwrap();
    assert_eq!((cost.kwh_per_1m, cost.gco2e_per_1m, cost.energy_usd_per_1m), (None, None, None));
}

/// Section 4.2: "spot never reorders backends" fails once the rate goes to 0 and energy remains.
#[test]
fn a_ranking_holds_for_its_price_only() {
    let usd = |rate: f64, watts: f64, hour: f64| {
        let worker = WorkerCost::new(exact(rate), exact(hour)).with_energy(exact(watts), EnergyPrice::new(Some(0.2), None));
        worker.per_million().unwrap().usd_per_1m.value()
    };
    let [plain, compiled] = [(77.43, 22.92), (89.10, 27.53)].map(|(rate, watts)| move |hour| usd(rate, watts, hour));
    assert!(compiled(1.006) < plain(1.006));
    assert!(compiled(0.0) > plain(0.0), "by energy alone it is the other way round");
    assert!((plain(0.0) - 0.01644).abs() < 1e-5 && (compiled(0.0) - 0.01716).abs() < 1e-5);
}

/// Section 4.3: request times from the mean of rates are 14 to 41% too short.
#[test]
fn a_request_is_the_mean_of_times_and_not_of_rates() {
    let by_rates = |rates: &[f64; 5]| rates.iter().sum::<f64>() / 5.0;
    let printed = 256.0 / by_rates(&PREFILL) + 128.0 / by_rates(&GENERATE);
    assert!((printed / 3600.0 * 1.006 - 0.000_147).abs() < 1e-6, "what TR119 printed");
    let ours = 256.0 / mean_rate(&PREFILL).unwrap() + 128.0 / mean_rate(&GENERATE).unwrap();
    assert!((ours / 3600.0 * 1.006 - 0.000_186).abs() < 1e-6);
    let per_scenario: f64 = PREFILL.iter().zip(GENERATE).map(|(p, g)| (256.0 / p + 128.0 / g) / 5.0).sum();
    assert!((ours / per_scenario - 1.0).abs() < 1e-12, "it is the expectation over the scenarios");
}

/// Section 4.4: "a 20% faster backend saves hundreds of workers" at 10 billion tokens a month. It saves six.
#[test]
fn savings_follow_from_the_fleet() {
    let workers = |rate: f64| fleet(&Demand::new(10e9), exact(rate)).unwrap().workers_lower_bound.value();
    let saved = workers(100.0) - workers(120.0);
    assert!((workers(100.0) - 38.58).abs() < 0.01 && (saved - 6.43).abs() < 0.01, "{saved}");
}

/// Section 4.6: break-evens that ignore what one card can do, and labour.
#[test]
fn a_break_even_needs_machines_that_carry_the_load() {
    let card = Ownership::new(1200.0, 3.0);
    let demand = Demand::new(10e6 * 384.0);
    let one_card = exact(1.17 * 384.0);
    let machines = |demand: &Demand| fleet(demand, one_card).unwrap().machines;
    assert_eq!((machines(&demand), machines(&demand.with_utilisation_cap(0.7))), (4, 5));
    // 2,880 $ a year of renting: one card would pay after 5 months, the four it takes after 20.
    let answer = break_even(&card, &demand, one_card, None, exact(240.0)).unwrap();
    assert!(matches!(answer, BreakEven::After { machines: 4, months, .. } if (months - 20.0).abs() < 1e-9), "{answer:?}");
    let staffed = card.with_ops(200.0);
    let answer = break_even(&staffed, &demand, one_card, None, exact(249.0)).unwrap();
    assert!(matches!(answer, BreakEven::Never { .. }), "with four hours a month of labour on each: {answer:?}");
}

/// Section 4.7: 4,608 and 7,992 $ from the same data, because the weights of prompt and generated tokens were not said.
#[test]
fn a_blend_carries_its_weights() {
    let year = |weights: [f64; 2]| {
        let blend = Blend::new(weights.into_iter().zip([exact(0.1279), exact(1.204)])).unwrap();
        (blend.usd_per_1m.value() * 12_000.0, blend.shares)
    };
    let ((even, even_shares), (mix, mix_shares)) = (year([1.0, 1.0]), year([256.0, 128.0]));
    assert!((even - 7_992.0).abs() < 1.0 && (mix - 5_839.2).abs() < 1.0, "{even} {mix}");
    assert_eq!(even_shares, [0.5, 0.5]);
    assert!((mix_shares[0] - 2.0 / 3.0).abs() < 1e-12);
}

/// Section 5.3: the p99 of label-only runs (273 samples) was cited as evidence for compiling prefill.
#[test]
fn a_label_compiles_nothing_and_273_calls_have_no_p99() {
    let seen: Vec<_> = (0..273).map(|i| prefill(&SAFE, 1, 32, i % 7)).collect();
    let matrix = ScenarioMatrix::build(&seen, &common::boundaries()).unwrap();
    let time = matrix.cells()[0].time.unwrap();
    assert!(time.p95_ns.is_some() && time.p99_ns.is_none() && time.p99_upper_ns.is_none());
    let mut labelled = common::observations(&[SAFE]);
    labelled.extend(common::observations(&[FAST]).into_iter().map(|o| o.with_mode("compiled")));
    let matrix = ScenarioMatrix::build(&labelled, &common::boundaries()).unwrap();
    let router = Router::new(Policy::compile(&matrix, &PolicyOptions::new(SAFE, 0)).unwrap());
    let decision = router.decide(&Workload::new(1, 128, 64));
    assert!(!decision.compile.prefill && !decision.compile.decode && decision.route.backend == &SAFE);
}

/// Section 7.2: two energy runs, one with every decode "good" and one with none, were cited for each other.
#[test]
fn energies_of_two_runs_are_not_each_others() {
    // Readings every 100 ms in the one and 10 ms in the other: energy is compared within one cadence only.
    let run = |ms: u64| {
        let mut boundary = boundary_of("safe");
        boundary.cadence = Some(std::time::Duration::from_millis(ms));
        boundary
    };
    let [slow, fast] = [run(100), run(10)];
    let error = slow.comparable(&fast).unwrap_err();
    assert_eq!(error.fields.iter().map(|f| f.field.as_str()).collect::<Vec<_>>(), ["cadence"]);
    let seen: Vec<_> = [("slow", 0), ("fast", 1)].map(|(name, block)| prefill(&SAFE, 1, 32, block).with_boundary(name)).into();
    let error = ScenarioMatrix::build(&seen, &BTreeMap::from([("slow".into(), slow), ("fast".into(), fast)])).unwrap_err();
    assert_eq!(error.differing_fields(), ["cadence"]);
}

/// Section 6: a first call at 40 times the steady one must not enter its mean.
#[test]
fn cold_calls_have_cells_of_their_own() {
    let router = router();
    let d = router.decide(&Workload::new(1, 32, 1));
    assert!(matches!(d.warmup().prefill, Warmth::Measured { required: true, ratio, .. } if ratio > 39.0));
    let steady = router.predict(&SAFE, &Workload::new(1, 32, 1)).unwrap().prefill.ns;
    assert!(steady < 4e6, "{steady}");
    let cold = prefill(&SAFE, 1, 32, 0).with_regime(Regime::Cold);
    let matrix = ScenarioMatrix::build(&[cold], &common::boundaries()).unwrap();
    assert!(Policy::compile(&matrix, &PolicyOptions::new(SAFE, 0)).is_err(), "cold alone makes no policy");
}

/// Section 8: the report claims that tiers are checked; its validator does not.
#[test]
fn a_commitment_dearer_than_none_is_refused() {
    let text = include_str!("../prices/tr119-2025-12-21.json").replacen("0.704", "1.704", 1);
    let error = PriceBook::from_json(&text).unwrap_err().to_string();
    assert!(error.contains("reserved_1y at 1.704 $/h is dearer than on_demand at 1.006 $/h"), "{error}");
}

/// Section 11.1: 32,768 prompt tokens of a model of 1.24 billion weights in 11.4 ms are 7 PFLOP/s: a cached prefix, not a prefill.
#[test]
fn a_prompt_that_was_cached_is_faster_than_the_device() {
    let prompt = |tokens: usize, ns: u64| {
        let shape = Shape { batch: 1, new_tokens: tokens, context: 0 };
        let calls = (0..5).map(move |block| Observation::new(SAFE, Phase::Prefill, shape, ns).with_boundary("safe").with_block(block));
        ScenarioMatrix::build(&calls.collect::<Vec<_>>(), &common::boundaries()).unwrap()
    };
    // 0.7 GB of 4-bit weights; 432 GB/s and 195 TFLOP/s, more than the card has by any of the reports.
    let known = |_: &BackendId| Some((LeastWork::new(700_000_000, 2_480_000_000), Ceilings::bandwidth(432e9)?.with_operations(195e12)?));
    let error = prompt(32_768, 11_400_000).check_roofline(known).unwrap_err();
    assert!(matches!(&error, MatrixError::FasterThanRoofline { cell, .. } if cell.contains("prefill/b1/n32768")), "{error}");
    assert_eq!(prompt(512, 8_400_000).check_roofline(known), Ok(()), "the short one is possible");
}

/// Section 11.2: "do not use M/D/1" rests on assuming that four slots serve four times as much; what was measured did not change.
#[test]
fn queueing_fails_by_slots_that_nobody_measured() {
    // 858 ms a request; measured p99 of 1.946 s at 0.5 requests/s and 3.423 s at 1.
    let service = Service::new(0.858, 0.0, 0.858).unwrap();
    let upper = |slots, per_s| 0.858 + wait_upper(slots, &Arrivals::new(per_s, 1.0).unwrap(), &service, 0.99).unwrap();
    for (per_s, measured) in [(0.5, 1.946), (1.0, 3.423)] {
        assert!(upper(1, per_s) >= measured, "{} s is no upper bound of {measured} s", upper(1, per_s));
    }
    assert!(upper(4, 1.0) < 3.423, "with slots that are only named it is none: {}", upper(4, 1.0));
    assert_eq!(wait_upper(1, &Arrivals::new(2.0, 1.0).unwrap(), &service, 0.99), None, "above 1.17 requests/s there is no bound at all");
}

/// Section 11.3: the serial fraction is printed in the opposite sense of the one it is used in.
#[test]
fn contention_has_one_sense() {
    let (printed, textbook) = (0.150, 0.850);
    let one_way = contention_efficiency(printed, 8).unwrap() * 8.0;
    let other_way = contention_efficiency(textbook, 8).unwrap() * 8.0;
    // vLLM, 1B: 149 tokens/s alone and 559 with 8 streams, 3.75 times as many.
    assert!((one_way - 3.90).abs() < 0.01 && (other_way - 1.15).abs() < 0.01);
}

/// Section 11.6: records labelled FP16 were quantised, and a value scaled by 13.8 was reported as measured.
#[test]
fn another_dtype_is_another_model_and_what_is_scaled_says_so() {
    let dtype = |name: &str| MeasurementBoundary::call(StackInfo::new().with(Layer::Model, "dtype", name));
    assert_eq!(dtype("f16").comparable(&dtype("q4_0")).unwrap_err().fields[0].field, "model.dtype");
    let beyond = router().predict(&SAFE, &Workload::new(1, 1000, 1)).unwrap();
    assert_eq!(beyond.prefill.basis, Basis::Scaled);
    let between = router().predict(&SAFE, &Workload::new(1, 200, 9)).unwrap();
    assert_eq!((between.prefill.basis, between.total.basis), (Basis::Interpolated, Basis::Interpolated));
}

/// Section 3.1: failing backends recorded placeholder latencies of 0.3 ms.
#[test]
fn a_failure_has_no_time() {
    let failed = Observation::new(BackendId::new("safe"), Phase::Prefill, Shape { batch: 1, new_tokens: 32, context: 0 }, 300_000)
        .with_boundary("safe")
        .with_outcome(phase_core::Outcome::Failed(phase_core::ErrorKind::Unavailable));
    let matrix = ScenarioMatrix::build(&[failed], &BTreeMap::from([("safe".to_owned(), boundary_of("safe"))])).unwrap();
    assert_eq!((matrix.cells()[0].time, matrix.cells()[0].failures), (None, 1));
    let zero = Observation::new(SAFE, Phase::Prefill, Shape { batch: 1, new_tokens: 32, context: 0 }, 0).with_boundary("safe");
    assert!(matches!(ScenarioMatrix::build(&[zero], &common::boundaries()), Err(MatrixError::ZeroDuration { .. })));
}
