//! Run directories of any bytes: an answer that names a file, and no panic.

use super::*;
use crate::reading::Work;
use crate::{
    dir::digests,
    files::{json_text, list},
};
use proptest::prelude::*;
use std::{fs, sync::LazyLock};

const SETS: [(&str, &str); 4] = [
    ("s0", include_str!("../../sets/s0.toml")),
    ("s1", include_str!("../../sets/s1.toml")),
    ("s2", include_str!("../../sets/s2.toml")),
    ("s3", include_str!("../../sets/s3.toml")),
];

static MADE: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    stage.complete(Stage2::small(), dir.path());
    list(dir.path()).unwrap().into_iter().map(|name| (name.clone(), fs::read(dir.path().join(name)).unwrap())).collect()
});

type Edit = (prop::sample::Index, u8, u8);

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..4)
}

fn edited(original: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for (at, value, kind) in edits {
        if bytes.is_empty() {
            break;
        }
        let at = at.index(bytes.len());
        match kind {
            0 => bytes[at] = *value,
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, *value),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

fn edited_text(original: &str, edits: &[Edit]) -> String {
    String::from_utf8_lossy(&edited(original.as_bytes(), edits)).into_owned()
}

static IDLE: LazyLock<String> = LazyLock::new(|| IdleFile::new(vec![idle::measured(&IdlePlan::short()).unwrap()]).to_json().unwrap());
static CEILINGS: LazyLock<String> = LazyLock::new(|| {
    let rate = |of, high: f64| CeilingRate { what: "a test".to_owned(), of, low: high / 2.0, median: high / 1.5, high, blocks: 5 };
    let read = |working_set_bytes| CeilingKind::Read { working_set_bytes };
    let product = CeilingKind::Product { dtype: phase_core::DType::F32 };
    let rates = vec![rate(read(1 << 20), 9e10), rate(read(1 << 30), 2e10), rate(product, 1e11)];
    Ceilings::new("a test", Some("cpu".to_owned()), rates).unwrap().with_threads(2).to_json().unwrap()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn an_idle_file_of_any_bytes(edits in edits()) {
        match IdleFile::from_json("idle.json", &edited_text(&IDLE, &edits)) {
            Ok(file) => match file.curves(&phase_policy::constants::Constants::default()) {
                Ok(curves) => prop_assert!(curves.iter().all(|c| c.worst >= 1.0 && c.worst.is_finite())),
                Err(error) => prop_assert!(error.to_string().starts_with("idle times of `")),
            },
            Err(error) => prop_assert!(error.to_string().contains("idle.json"), "{}", error),
        }
    }

    #[test]
    fn ceilings_of_any_bytes(edits in edits()) {
        match Ceilings::from_json(&edited_text(&CEILINGS, &edits)) {
            Ok(ceilings) => {
                for bytes in [0.0, 1e6, 1e12] {
                    prop_assert!(ceilings.bytes_per_s_of(bytes).is_none_or(|rate| rate.is_finite() && rate > 0.0));
                }
                prop_assert!(ceilings.flops_per_s_of(phase_core::DType::Bf16) > 0.0);
                prop_assert_eq!(Ceilings::from_json(&ceilings.to_json().unwrap()).unwrap(), ceilings);
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn a_scenario_set_of_any_bytes(edits in edits(), which in 0..SETS.len()) {
        let (name, original) = SETS[which];
        if let Err(error) = ScenarioSet::parse(&edited_text(original, &edits)) {
            prop_assert!(!error.to_string().is_empty(), "{}", name);
        }
    }

    #[test]
    fn a_run_directory_of_any_bytes(
        file in any::<prop::sample::Index>(),
        edits in edits(),
        renew in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let file = file.index(MADE.len());
        for (number, (name, bytes)) in MADE.iter().enumerate() {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, edited(bytes, if number == file { &edits } else { &[] })).unwrap();
        }
        let same = fs::read(dir.path().join(&MADE[file].0)).unwrap() == MADE[file].1;
        if renew && MADE[file].0 != "digests.json" {
            // Digests that fit, as a careless or malicious tool would write them: the content itself must still be judged.
            let of = |name: &str| fs::read(dir.path().join(name)).unwrap();
            let original = |name: &str| &MADE.iter().find(|(n, _)| n == name).unwrap().1;
            let manifest: serde_json::Value = serde_json::from_slice(original("manifest.json")).unwrap();
            let lines = of("events.jsonl").iter().filter(|b| **b == b'\n').count();
            let seal = digests(dir.path(), manifest["run_id"].as_str().unwrap(), lines as u64, None, &mut Work::unwatched()).unwrap();
            fs::write(dir.path().join("digests.json"), json_text(&seal).unwrap()).unwrap();
            if let Err(error) = validate(dir.path()) {
                prop_assert!(!error.to_string().is_empty());
            }
        } else {
            let answer = validate(dir.path());
            prop_assert_eq!(answer.is_ok(), same, "{:?}", answer);
        }
    }
}
