//! Cells: what is grouped, what is kept apart, what is refused.

mod common;

use common::{FAST, SAFE, boundaries, boundary, boundary_of, decode, observations, prefill};
use phase_core::{Energy, ErrorKind, Includes, Joules, NoData, Outcome, Phase, Regime, Shape, Span};
use phase_policy::{Cell, MatrixError, Observation, RegimeClass, ScenarioMatrix};

fn build(observations: &[Observation]) -> Result<ScenarioMatrix, MatrixError> {
    ScenarioMatrix::build(observations, &boundaries())
}

#[test]
fn nothing_is_refused_as_nothing() {
    assert_eq!(build(&[]), Err(MatrixError::Empty));
}

#[test]
fn one_sample_has_a_median_and_no_interval() {
    let matrix = build(&[prefill(&SAFE, 1, 32, 0)]).unwrap();
    let time = matrix.cells()[0].time.unwrap();
    assert_eq!((time.median_ns, time.min_ns, time.max_ns), (3_200_000.0, 3_200_000, 3_200_000));
    assert_eq!((time.interval, time.p95_ns, time.device_median_ns), (None, None, None));
}

#[test]
fn regimes_never_mix() {
    let regimes = [Regime::Cold, Regime::Warmup(1), Regime::Warmup(2), Regime::Steady];
    let seen: Vec<_> = regimes.iter().map(|r| prefill(&SAFE, 1, 32, 0).with_regime(*r)).collect();
    let matrix = build(&seen).unwrap();
    let counts: Vec<_> = matrix.cells().iter().map(|c| (c.key.regime, c.n)).collect();
    assert_eq!(counts, [(RegimeClass::Cold, 1), (RegimeClass::Warmup, 2), (RegimeClass::Steady, 1)]);
}

#[test]
fn a_failure_is_counted_and_never_timed() {
    let mut failed = prefill(&SAFE, 1, 32, 0).with_outcome(Outcome::Failed(ErrorKind::OutOfMemory));
    failed.duration_ns = 0;
    let cancelled = prefill(&SAFE, 1, 32, 0).with_outcome(Outcome::Cancelled);
    let matrix = build(&[failed.clone(), cancelled, prefill(&SAFE, 1, 32, 1)]).unwrap();
    let cell = &matrix.cells()[0];
    assert_eq!((cell.n, cell.failures, cell.cancelled, cell.time.unwrap().min_ns), (1, 1, 1, 3_232_000));
    let only_failures = build(&[failed]).unwrap();
    assert_eq!((only_failures.cells()[0].n, only_failures.cells()[0].time), (0, None));
}

#[test]
fn decode_steps_share_a_cell_by_octave_and_prompts_do_not() {
    let seen = [
        decode(&SAFE, 1, 128, 0),
        decode(&SAFE, 1, 255, 0),
        decode(&SAFE, 1, 256, 0),
        prefill(&SAFE, 1, 128, 0),
        prefill(&SAFE, 1, 129, 0),
    ];
    let matrix = build(&seen).unwrap();
    let ids: Vec<_> = matrix.cells().iter().map(|c| c.key.id()).collect();
    assert_eq!(
        ids,
        [
            "safe/default/prefill/b1/n128/c0/steady",
            "safe/default/prefill/b1/n129/c0/steady",
            "safe/default/decode/b1/n1/c128/steady",
            "safe/default/decode/b1/n1/c256/steady"
        ]
    );
    let contexts = matrix.cells()[2].contexts.unwrap();
    assert_eq!((contexts.min, contexts.median, contexts.max), (128, 128, 255));
}

#[test]
fn blocks_give_the_interval_and_many_calls_the_p95() {
    let seen: Vec<_> = (0..120).map(|i| prefill(&SAFE, 1, 32, i % 6).with_device_ns(u64::from(i))).collect();
    let cell = build(&seen).unwrap().cells()[0].clone();
    let time = cell.time.unwrap();
    let interval = time.interval.unwrap();
    assert_eq!((cell.n, cell.blocks.len(), time.device_median_ns), (120, 6, Some(59.5)));
    assert!(interval.confidence > 0.95 && interval.low <= time.median_ns && time.median_ns <= interval.high);
    assert_eq!(time.p95_ns, Some(3_264_000.0));
    let few_blocks: Vec<_> = (0..120).map(|i| prefill(&SAFE, 1, 32, i % 2)).collect();
    assert_eq!(build(&few_blocks).unwrap().cells()[0].time.unwrap().p95_ns, None);
}

#[test]
fn impossible_observations_name_their_cell() {
    let mut zero = prefill(&SAFE, 1, 32, 7);
    zero.duration_ns = 0;
    let error = build(&[zero]).unwrap_err();
    assert_eq!(error.to_string(), "cell safe/default/prefill/b1/n32/c0/steady: a successful call took 0 ns (block 7)");
    let two = Observation::new(SAFE, Phase::Decode, Shape { batch: 1, new_tokens: 2, context: 8 }, 1).with_boundary("safe");
    assert!(matches!(build(&[two]), Err(MatrixError::Shape { .. })));
    assert!(matches!(build(&[prefill(&SAFE, 0, 32, 0)]), Err(MatrixError::Shape { .. })));
    let nowhere = prefill(&SAFE, 1, 32, 0).with_boundary("gone");
    assert!(matches!(build(&[nowhere]), Err(MatrixError::UnknownBoundary { boundary, .. }) if boundary == "gone"));
}

#[test]
fn boundaries_that_may_not_be_compared_are_refused_by_field() {
    let mut all = boundaries();
    all.insert("safe 2".to_owned(), boundary_of("safe 2"));
    all.insert("greedy".to_owned(), boundary(&FAST).with_region(Span::Call, Includes::COMPUTE | Includes::SAMPLE));
    let other_runtime = [prefill(&SAFE, 1, 32, 0), decode(&SAFE, 1, 32, 0).with_boundary("safe 2")];
    let error = ScenarioMatrix::build(&other_runtime, &all).unwrap_err();
    assert_eq!(error.differing_fields(), ["runtime.library"]);
    let other_region = [prefill(&SAFE, 1, 32, 0), prefill(&FAST, 1, 32, 0).with_boundary("greedy")];
    assert_eq!(ScenarioMatrix::build(&other_region, &all).unwrap_err().differing_fields(), ["includes"]);
    // A request spans more than a call by definition: it stands beside the calls and is not compared with them.
    let request = Observation::new(FAST, Phase::Request, Shape { batch: 1, new_tokens: 4, context: 8 }, 9).with_boundary("greedy");
    assert!(ScenarioMatrix::build(&[prefill(&SAFE, 1, 32, 0), prefill(&FAST, 1, 32, 0), request], &all).is_ok());
    // Another mode of a backend may have another runtime.
    let mode = [prefill(&SAFE, 1, 32, 0), prefill(&SAFE, 1, 32, 0).with_boundary("safe 2").with_mode("graph")];
    assert_eq!(ScenarioMatrix::build(&mode, &all).unwrap().cells().len(), 2);
}

#[test]
fn an_unknown_fact_forbids_ranking_but_not_measuring() {
    let hidden = |library: &str| {
        let stack = boundary_of(library).stack.with_unknown(phase_core::Layer::Machine, "driver", "no access");
        phase_core::MeasurementBoundary::call(stack)
    };
    let all = [("safe".to_owned(), hidden("safe")), ("fast".to_owned(), hidden("fast"))].into();
    assert!(ScenarioMatrix::build(&[prefill(&SAFE, 1, 32, 0), prefill(&SAFE, 1, 32, 1)], &all).is_ok());
    let error = ScenarioMatrix::build(&[prefill(&SAFE, 1, 32, 0), prefill(&FAST, 1, 32, 0)], &all).unwrap_err();
    assert_eq!(error.differing_fields(), ["machine.driver"]);
}

#[test]
fn reads_back_and_refuses_an_edit_that_contradicts_itself() {
    let mut matrix = build(&observations(&[SAFE, FAST])).unwrap();
    let key = matrix.cells()[0].key.clone();
    matrix.set_energy(&key, Energy::Measured { joules: Joules(0.1), low: Joules(0.05), high: Joules(0.3) }).unwrap();
    let json = serde_json::to_string(&matrix).unwrap();
    assert_eq!(serde_json::from_str::<ScenarioMatrix>(&json).unwrap(), matrix);
    for (from, to) in [
        (r#""n":1,"median_ns":"#, r#""n":2,"median_ns":"#),
        (r#""median_ns":"#, r#""median_ns":-"#),
        (r#""low":0.05"#, r#""low":0.5"#),
        (r#""confidence":0.9"#, r#""confidence":1.9"#),
        (r#""boundary":"safe""#, r#""boundary":"gone""#),
        (r#""context":32"#, r#""context":33"#),
    ] {
        let edited = json.replacen(from, to, 1);
        assert_ne!(edited, json, "{from} is not there");
        serde_json::from_str::<ScenarioMatrix>(&edited).unwrap_err();
    }
}

#[test]
fn energy_is_no_data_until_told_and_never_nonsense() {
    let mut matrix = build(&[prefill(&SAFE, 1, 32, 0)]).unwrap();
    let key = matrix.cells()[0].key.clone();
    assert_eq!(matrix.cells()[0].energy, Energy::NoData { reason: NoData::NotRecorded });
    for (low, joules, high) in [(-1.0, 1.0, 2.0), (2.0, 1.0, 3.0), (0.0, f64::NAN, 3.0), (0.0, 1.0, f64::INFINITY)] {
        let energy = Energy::Measured { joules: Joules(joules), low: Joules(low), high: Joules(high) };
        assert!(matches!(matrix.set_energy(&key, energy), Err(MatrixError::Inconsistent { .. })));
    }
    let other = build(&[prefill(&FAST, 1, 32, 0)]).unwrap().cells()[0].key.clone();
    assert!(matches!(matrix.set_energy(&other, Energy::NoData { reason: NoData::NoSource }), Err(MatrixError::NoCell { .. })));
}

#[test]
fn a_row_has_every_column_and_no_zero_for_the_unknown() {
    let mut failed = prefill(&SAFE, 1, 32, 0).with_outcome(Outcome::Failed(ErrorKind::Other));
    failed.duration_ns = 0;
    let row = build(&[failed]).unwrap().cells()[0].csv_row();
    let field = |name: &str| row[Cell::CSV_COLUMNS.iter().position(|c| *c == name).unwrap()].as_str();
    assert_eq!((field("n"), field("failures"), field("median_ns"), field("low_ns")), ("0", "1", "", ""));
    assert_eq!((field("energy_status"), field("energy_j"), field("energy_no_data_reason")), ("no_data", "", "not_recorded"));
}

/// `n` calls in one block that take `first` times as long before `until`.
fn series(block: u32, n: u32, until: u32, first: u64) -> Vec<Observation> {
    let call = |i: u32| {
        let mut call = prefill(&SAFE, 1, 32, block);
        let wobble = u64::from(i * 7919 % 101) * 300;
        call.duration_ns = if i < until { first } else { 1 } * 3_000_000 + wobble;
        call
    };
    (0..n).map(call).collect()
}

#[test]
fn slow_calls_in_a_row_are_one_observation_of_the_tail() {
    // 5 blocks of 100 calls; a tenth of them is slow, one by one or in pairs.
    let seen = |slow: fn(u32) -> bool| -> Vec<Observation> {
        let call = |block, i| {
            let mut call = prefill(&SAFE, 1, 32, block);
            call.duration_ns = 1_000_000 + u64::from(i * 7919 % 101) * 100 + if slow(i) { 500_000 } else { 0 };
            call
        };
        (0..5).flat_map(|block| (0..100).map(move |i| call(block, i))).collect()
    };
    let bound = |seen: &[Observation]| {
        let matrix = build(seen).unwrap();
        let plain = ScenarioMatrix::build_as_if_independent(seen, &boundaries()).unwrap();
        [matrix, plain].map(|m| m.cells().iter().find(|c| c.key.regime == RegimeClass::Steady).unwrap().time.unwrap().p99_upper_ns)
    };
    let [spread, spread_plain] = bound(&seen(|i| i % 10 == 3));
    assert_eq!((spread, spread.is_some()), (spread_plain, true));
    let [in_a_row, plain] = bound(&seen(|i| [3, 4].contains(&(i % 20))));
    assert_eq!((in_a_row, plain.is_some()), (None, true));
}

#[test]
fn calls_before_the_steady_state_go_to_the_warm_up_cell() {
    let seen: Vec<_> = (0..3).flat_map(|block| series(block, 100, 20, 3)).collect();
    let matrix = build(&seen).unwrap();
    let [warm, steady] = [RegimeClass::Warmup, RegimeClass::Steady].map(|r| matrix.cells().iter().find(|c| c.key.regime == r).unwrap());
    assert_eq!((warm.n, steady.n), (60, 240));
    assert_eq!((warm.time.unwrap().min_ns > 8_000_000, steady.time.unwrap().max_ns < 4_000_000), (true, true));
    assert_eq!(steady.steady.map(|s| (s.warmup, s.judged(), s.is_unsteady())), Some((3, 3, false)));
    assert_eq!(warm.steady, None);
}

#[test]
fn a_growing_context_is_no_change_of_state() {
    // Five generations of 100 steps whose time grows by a quarter with their context.
    let step = |i: usize| {
        let mut call = decode(&SAFE, 1, 128 + i % 100, 0);
        call.duration_ns = 4_000_000 + 10_000 * (i % 100) as u64 + (i * 7919 % 101) as u64 * 200;
        call
    };
    let matrix = build(&(0..500).map(step).collect::<Vec<_>>()).unwrap();
    assert_eq!(matrix.cells().len(), 1);
    assert_eq!(matrix.cells()[0].steady.map(|s| (s.flat, s.judged())), Some((1, 1)));
}
