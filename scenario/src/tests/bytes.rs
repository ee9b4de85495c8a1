//! Run directories of any bytes: an answer that names a file, and no panic.

use super::*;
use crate::{
    dir::digests,
    files::{json_text, list},
};
use proptest::prelude::*;
use std::{fs, sync::LazyLock};

static MADE: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    stage.complete(Stage2::small(), dir.path());
    list(dir.path()).unwrap().into_iter().map(|name| (name.clone(), fs::read(dir.path().join(name)).unwrap())).collect()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_run_directory_of_any_bytes(
        file in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..4),
        renew in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let file = file.index(MADE.len());
        for (number, (name, bytes)) in MADE.iter().enumerate() {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut bytes = bytes.clone();
            for (at, value, kind) in edits.iter().filter(|_| number == file) {
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
            fs::write(path, bytes).unwrap();
        }
        let same = fs::read(dir.path().join(&MADE[file].0)).unwrap() == MADE[file].1;
        if renew && MADE[file].0 != "digests.json" {
            // Digests that fit, as a careless or malicious tool would write them: the content itself must still be judged.
            let of = |name: &str| fs::read(dir.path().join(name)).unwrap();
            let original = |name: &str| &MADE.iter().find(|(n, _)| n == name).unwrap().1;
            let manifest: serde_json::Value = serde_json::from_slice(original("manifest.json")).unwrap();
            let lines = of("events.jsonl").iter().filter(|b| **b == b'\n').count();
            let seal = digests(dir.path(), manifest["run_id"].as_str().unwrap(), lines as u64).unwrap();
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
