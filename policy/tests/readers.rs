//! Readers of files that somebody else wrote: whatever the bytes, an answer and no panic.

mod common;

use phase_core::{Arm, ArtefactForm, BackendId, Mode, Phase, Shape};
use phase_policy::{
    Ceilings, CompileEvidence, IdleCurve, IdleSample, LeastWork, MatrixError, Observation, Policy, PolicyOptions, Router, ScenarioMatrix,
    Sealed, Slo, Workload,
    capacity::{Mix, Trace},
    constants::Constants,
    cost::PriceBook,
};
use proptest::prelude::*;
use std::sync::LazyLock;

/// With a mix and idle curves, so that every part of the document is damaged.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let samples: Vec<IdleSample> = serde_json::from_str(&IDLE).expect("sound samples");
    let options =
        PolicyOptions::new(common::SAFE, 1_760_000_000).with_runs(["run-1"]).with_mix(Mix::parse("128x64:1").expect("sound samples"));
    let curves = IdleCurve::fit(&samples, &options.constants).expect("sound samples");
    let matrix = common::matrix(&[common::SAFE, common::FAST, common::BULK]);
    Policy::compile(&matrix, &options.with_idle_curves(curves)).expect("sound samples").to_json()
});
/// The samples of an idle file.
static IDLE: LazyLock<String> = LazyLock::new(|| {
    let shape = Shape { batch: 1, new_tokens: 1, context: 32 };
    let call = |pass: u32, ms: u64| {
        let ns = 4_000_000 + 5_000 * ms + u64::from(pass);
        IdleSample::new(common::FAST, Phase::Decode, shape, ms * 1_000_000, ns).with_boundary("fast").with_block(pass)
    };
    let samples: Vec<_> = (0..5).flat_map(|pass| [0, 100, 1_000].map(|ms| call(pass, ms))).collect();
    serde_json::to_string(&samples).expect("sound samples")
});
const PRICES: &str = include_str!("../prices/tr119-2025-12-21.json");
const TRACE: &str = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,230,1317,API log\n";
const PLAIN: &str = "arrival_s,prompt_tokens,new_tokens,batch\n0,128,64,1\n0.5,256,32,4\n1e1,16,0,1\n";
const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 23:59:59.9951690,396,109\n2023-11-17 00:00:00,879,55\n";
const RECORDS: [(ArtefactForm, &[u8]); 8] = [
    (ArtefactForm::OrtProfile, include_bytes!("data/ort-1.32-profile.json")),
    (ArtefactForm::OrtSourceModel, include_bytes!("data/ort-1.32-source.onnx")),
    (ArtefactForm::OrtOptimisedModel, include_bytes!("data/ort-1.32-optimised.onnx")),
    (ArtefactForm::CudaGraphs, br#"{"schema":"phase.cuda-graph/1","phase":"decode","batch":1,"nodes":{"kernel":9},"replays":3}"#),
    (ArtefactForm::CubeclCompilations, include_bytes!("data/cubecl-0.11-compilations.jsonl")),
    (ArtefactForm::CubeclDecisions, include_bytes!("data/cubecl-0.11-decisions.jsonl")),
    (ArtefactForm::CubeclTunings, include_bytes!("data/cubecl-0.11-tunings.jsonl")),
    (ArtefactForm::BurnFusionLog, include_bytes!("data/burn-0.22-fusion.log")),
];

static MATRIX: LazyLock<ScenarioMatrix> = LazyLock::new(|| common::matrix(&[common::SAFE]));

/// Some edits of a text's bytes: replaced, removed, doubled, cut off.
fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..5_u8), 1..6)
}

fn edited(original: &[u8], edits: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for (at, value, kind) in edits.iter().filter(|_| !original.is_empty()) {
        if bytes.is_empty() {
            break;
        }
        let at = at.index(bytes.len());
        match kind {
            0 => bytes[at] = *value,
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, *value),
            3 => bytes.truncate(at),
            _ => {
                let part = bytes[at..].to_vec();
                bytes.extend(part.into_iter().take(64));
            }
        }
    }
    bytes
}

/// The same numbers in a document whose digest is right: what a malicious or careless tool would write.
fn resealed(json: &[u8]) -> Option<String> {
    let mut value: serde_json::Value = serde_json::from_slice(json).ok()?;
    let error = Policy::from_json(&value.to_string()).err()?.to_string();
    let actual = error.split("digest ").nth(1)?.split(',').next()?.to_owned();
    value["digest"] = actual.into();
    Some(value.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_policy_of_any_bytes(edits in edits()) {
        let bytes = edited(POLICY.as_bytes(), &edits);
        let text = String::from_utf8_lossy(&bytes);
        let resealed = resealed(&bytes);
        for text in std::iter::once(text.as_ref()).chain(resealed.as_deref()) {
            match Policy::from_json(text) {
                Ok(policy) => {
                    // What is accepted decides: it may have been edited where nothing depends on it.
                    let router = Router::new(policy);
                    for (batch, prompt, new) in [(1, 128, 64), (4, 512, 1), (usize::MAX, usize::MAX, usize::MAX), (0, 0, 0)] {
                        let _ = router.decide(&Workload::new(batch, prompt, new)).explain().to_string();
                    }
                }
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }

    #[test]
    fn prices_traces_and_mixes_of_any_bytes(edits in edits()) {
        let text = |original: &str| String::from_utf8_lossy(&edited(original.as_bytes(), &edits)).into_owned();
        if let Err(error) = PriceBook::from_json(&text(PRICES)) {
            prop_assert!(!error.to_string().is_empty());
        }
        match Trace::parse(&text(TRACE)) {
            Ok(trace) => prop_assert!(trace.span_s().is_finite() && trace.span_s() >= 0.0),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        match Mix::parse(&text("256x128:80, 4x2048x256:20")) {
            Ok(mix) => prop_assert!((mix.parts().iter().map(|p| p.share).sum::<f64>() - 1.0).abs() < 1e-6),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn raw_records_of_any_bytes(edits in edits(), which in 0..RECORDS.len()) {
        let (form, original) = RECORDS[which];
        let bytes = edited(original, &edits);
        let digest = blake3::hash(&bytes).to_hex();
        let arm = Arm::new(BackendId::new("x"), Mode::Compiled);
        let record = Sealed::new(form, &[], &bytes, digest.as_str()).unwrap();
        match CompileEvidence::read(arm, "b", "r", &[record]) {
            Ok(seen) => prop_assert!(seen.level() <= phase_policy::Level::Executed),
            Err(error) => prop_assert!(error.to_string().contains(form.file_name())),
        }
    }

    #[test]
    fn traces_of_the_other_two_forms_of_any_bytes(edits in edits(), azure in any::<bool>()) {
        let original = if azure { AZURE } else { PLAIN };
        let text = String::from_utf8_lossy(&edited(original.as_bytes(), &edits)).into_owned();
        match Trace::parse(&text) {
            Ok(trace) => {
                prop_assert!(trace.arrivals().windows(2).all(|w| w[0].at_s <= w[1].at_s));
                prop_assert!(trace.arrivals().iter().all(|a| a.at_s.is_finite() && a.workload.prompt_tokens > 0 && a.workload.batch > 0));
                prop_assert!(Mix::of_trace(&trace).is_ok());
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn limits_of_any_bytes(edits in edits()) {
        let text = String::from_utf8_lossy(&edited(b"ttft=500ms, tpot=60us,total=1.5s,p95", &edits)).into_owned();
        match text.parse::<Slo>() {
            Ok(slo) => {
                let limits = [slo.ttft_ns, slo.tpot_ns, slo.total_ns];
                prop_assert!(limits.into_iter().flatten().all(|ns| ns.is_finite() && ns > 0.0), "{:?}", slo);
            }
            Err(error) => {
                let named = format!("`{}`", error.text);
                prop_assert!(error.to_string().starts_with(&named), "{}", error);
            }
        }
    }

    #[test]
    fn idle_samples_of_any_bytes(edits in edits()) {
        let bytes = edited(IDLE.as_bytes(), &edits);
        match serde_json::from_slice::<Vec<IdleSample>>(&bytes) {
            Ok(samples) => match IdleCurve::fit(&samples, &Constants::default()) {
                Ok(curves) => {
                    for curve in curves {
                        prop_assert!(curve.worst >= 1.0 && curve.worst.is_finite() && (0.0..=1.0).contains(&curve.dip));
                        prop_assert!(curve.points.windows(2).all(|w| w[0].fitted_ns <= w[1].fitted_ns));
                    }
                }
                Err(error) => prop_assert!(error.to_string().starts_with("idle times of `")),
            },
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn ceilings_of_any_numbers(bandwidth in any::<f64>(), rate in any::<f64>(), bytes in any::<u64>(), operations in any::<u64>()) {
        let ceilings = Ceilings::bandwidth(bandwidth);
        prop_assert_eq!(ceilings.is_some(), bandwidth.is_finite() && bandwidth > 0.0);
        let Some(ceilings) = ceilings else { return Ok(()) };
        let both = ceilings.with_operations(rate);
        prop_assert_eq!(both.is_some(), rate.is_finite() && rate > 0.0);
        let known = |_: &BackendId| Some((LeastWork::new(bytes, operations), both.unwrap_or(ceilings)));
        if let Err(error) = MATRIX.check_roofline(known) {
            let named = matches!(&error, MatrixError::FasterThanRoofline { cell, .. } if error.to_string().contains(cell.as_str()));
            prop_assert!(named, "{}", error);
        }
    }

    #[test]
    fn an_observation_of_any_numbers(ns in any::<u64>(), batch in any::<usize>(), tokens in any::<usize>(), context in any::<usize>()) {
        let shape = Shape { batch, new_tokens: tokens, context };
        let seen = [Observation::new(common::SAFE, Phase::Prefill, shape, ns).with_boundary("safe")];
        if let Ok(matrix) = ScenarioMatrix::build(&seen, &common::boundaries()) {
            prop_assert!(matrix.cells().iter().all(|c| c.time.is_none_or(|t| t.median_ns > 0.0)));
            let json = serde_json::to_string(&matrix).unwrap();
            prop_assert_eq!(serde_json::from_str::<ScenarioMatrix>(&json).unwrap(), matrix);
        }
    }
}

#[test]
fn times_that_are_no_times_are_refused_with_their_line() {
    let line = |ns: &str| {
        format!(
            r#"{{"backend":"safe","phase":"prefill","shape":{{"batch":1,"new_tokens":32,"context":0}},"regime":"steady","boundary":"safe","block":0,"outcome":"ok","duration_ns":{ns}}}"#
        )
    };
    assert!(serde_json::from_str::<Observation>(&line("1000")).is_ok());
    for wrong in ["-1", "NaN", "1.5", "null", "\"1000\"", "1e400", "99999999999999999999"] {
        assert!(serde_json::from_str::<Observation>(&line(wrong)).is_err(), "{wrong}");
    }
    let zero: Observation = serde_json::from_str(&line("0")).unwrap();
    let error = ScenarioMatrix::build(&[zero], &common::boundaries()).unwrap_err().to_string();
    assert!(error.contains("safe/default/prefill/b1/n32/c0/steady") && error.contains("0 ns"), "{error}");
}

#[test]
fn one_sample_makes_a_cell_without_an_interval_and_no_route() {
    let of = |id: &BackendId, ns| {
        Observation::new(id.clone(), Phase::Prefill, Shape { batch: 1, new_tokens: 32, context: 0 }, ns).with_boundary(id.as_str())
    };
    let matrix = ScenarioMatrix::build(&[of(&common::SAFE, 1000), of(&common::FAST, 10)], &common::boundaries()).unwrap();
    let times: Vec<_> = matrix.cells().iter().map(|c| c.time.unwrap()).collect();
    assert!(times.iter().all(|t| t.interval.is_none() && t.p95_ns.is_none() && t.p99_upper_ns.is_none()));
    let policy = Policy::compile(&matrix, &PolicyOptions::new(common::SAFE, 0)).unwrap();
    assert!(policy.comparisons().iter().all(|c| c.verdict.is_none()));
    assert_eq!(Router::new(policy).decide(&Workload::new(1, 32, 1)).route.backend, &common::SAFE);
    assert!(ScenarioMatrix::build(&[], &common::boundaries()).is_err());
}
