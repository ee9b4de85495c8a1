//! Running average power limit counters, as Linux shows them under `powercap` (Intel, and AMD through the same driver).

use std::{fs, io, path::Path};

/// The readable top-level zones under `sysfs`, or why there are none.
pub(crate) fn probe(sysfs: &Path) -> Result<String, String> {
    let folder = sysfs.join("class/powercap");
    let entries = fs::read_dir(&folder).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            format!("{} does not exist: the kernel offers no powercap (usual in virtual machines)", folder.display())
        }
        _ => format!("{}: {e}", folder.display()),
    })?;
    let mut zones: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|e| e.path())
        .filter(|path| path.file_name().is_some_and(|n| is_package(&n.to_string_lossy())))
        // The platform's zone has the packages' energy in its own.
        .filter(|path| fs::read_to_string(path.join("name")).map_or(true, |name| name.trim() != "psys"))
        .collect();
    zones.sort();
    if zones.is_empty() {
        return Err(format!("{} holds no intel-rapl zone", folder.display()));
    }
    let read: Vec<_> = zones.iter().map(|zone| read_zone(zone)).collect();
    let names: Vec<_> = read.iter().filter_map(|zone| zone.as_deref().ok()).collect();
    match read.iter().find_map(|zone| zone.as_ref().err()) {
        Some(why) if names.is_empty() => Err(why.clone()),
        Some(why) => Ok(format!("zones {}; unreadable: {why}", names.join(", "))),
        None => Ok(format!("zones {}", names.join(", "))),
    }
}

/// Top-level zones only (`intel-rapl:0`): a sub-zone's energy is part of its package's.
fn is_package(name: &str) -> bool {
    name.strip_prefix("intel-rapl:").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn read_zone(zone: &Path) -> Result<String, String> {
    let counter = zone.join("energy_uj");
    let text = fs::read_to_string(&counter).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{}: permission denied (Linux lets only root read it; grant read access to sample it)", counter.display())
        }
        _ => format!("{}: {e}", counter.display()),
    })?;
    text.trim().parse::<u64>().map_err(|_| format!("{}: `{}` is not a number of microjoules", counter.display(), text.trim()))?;
    let name = fs::read_to_string(zone.join("name")).map_err(|e| format!("{}: {e}", zone.join("name").display()))?;
    Ok(name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(zones: &[(&str, &str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("class/powercap")).unwrap();
        for (zone, name, energy) in zones {
            let zone = root.path().join("class/powercap").join(zone);
            fs::create_dir_all(&zone).unwrap();
            fs::write(zone.join("name"), format!("{name}\n")).unwrap();
            fs::write(zone.join("energy_uj"), format!("{energy}\n")).unwrap();
        }
        root
    }

    #[test]
    fn packages_are_listed_and_sub_zones_are_not_counted_twice() {
        let root = machine(&[
            ("intel-rapl:1", "package-1", "7"),
            ("intel-rapl:0", "package-0", "9"),
            ("intel-rapl:0:0", "core", "3"),
            ("intel-rapl:2", "psys", "99"),
        ]);
        assert_eq!(probe(root.path()), Ok("zones package-0, package-1".to_owned()));
    }

    #[test]
    fn an_empty_folder_and_a_broken_counter_say_so() {
        assert!(probe(machine(&[]).path()).unwrap_err().contains("no intel-rapl zone"));
        assert!(probe(machine(&[("intel-rapl:0", "package-0", "n/a")]).path()).unwrap_err().contains("not a number of microjoules"));
    }

    #[test]
    fn one_unreadable_zone_is_named_beside_the_readable_ones() {
        let root = machine(&[("intel-rapl:0", "package-0", "9"), ("intel-rapl:1", "package-1", "x")]);
        let found = probe(root.path()).unwrap();
        assert!(found.starts_with("zones package-0; unreadable:") && found.contains("intel-rapl:1"), "{found}");
    }
}
