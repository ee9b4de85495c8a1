//! The way to a GPU machine and back: a toolkit here, one package to carry, one command there.

mod build;
mod fatbin;
mod job;
mod lazy;
mod pack;
mod parity;
mod plan;
mod profile;
mod run;
mod toolkit;
mod watched;
mod wheels;

pub use build::FEATURES;
pub use toolkit::Toolkit;

use crate::run::Result;
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

pub const HELP: &str = "\
cargo xtask gpu COMMAND

  toolkit        put the CUDA 13.0 toolkit into the cache, and print the environment that builds with it
  build --out DIR
                 build with CUDA, and pack what a bare GPU machine needs into DIR/1, DIR/2 and so on, 48 MiB each
  run --from PACKAGE --out RESULTS [OPTION...]
                 on the GPU machine, as PACKAGE/xtask gpu run: unpack, check digests, prove and measure
      --only LIST       of conformance,parity,matrix,bench,peers,sanitizer,energy,kernels,profile [default: the first five]
      --models LIST     of smollm2,llama-3.2-1b,llama-3.1-8b [default: all; smollm2 on a CPU]
      --backends LIST   of ort,candle,burn [default: all]
      --effort EFFORT   of the matrix on a GPU: full or short [default: full]
      --device DEVICE   cpu, cuda or cuda:N [default: cuda]
      --limit SECONDS   end after this long, with what there is
      --work DIR        where to unpack and to make models [default: PACKAGE/work]
";

pub fn main(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["toolkit"] => toolkit(),
        ["build", options @ ..] => build::build(&path(&mut named(options, &["out"])?, "out")?),
        ["run", options @ ..] => run::run(&run_options(options)?),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(format!("unknown: `cargo xtask gpu {}`\n\n{HELP}", other.join(" "))),
    }
}

/// The environment that builds with CUDA, for a shell to read.
fn toolkit() -> Result<()> {
    let toolkit = Toolkit::obtain()?;
    for (name, value) in toolkit.environment() {
        println!("export {name}='{value}'");
    }
    Ok(())
}

fn run_options(arguments: &[&str]) -> Result<run::Options> {
    let mut given = named(arguments, &["from", "out", "work", "only", "models", "backends", "device", "limit", "effort"])?;
    let from = path(&mut given, "from")?;
    let device = given.remove("device").unwrap_or("cuda").to_owned();
    let index = device.strip_prefix("cuda:").map(str::parse::<u32>);
    if !matches!((device.as_str(), index), ("cpu" | "cuda", None) | (_, Some(Ok(_)))) {
        return Err(format!("--device {device}: cpu, cuda or cuda:N"));
    }
    let limit = given.remove("limit").map_or(Ok(u64::from(u32::MAX)), str::parse).map_err(|e| format!("--limit: {e}"))?;
    let models = if device == "cpu" { &plan::MODELS[..1] } else { &plan::MODELS };
    Ok(run::Options {
        out: path(&mut given, "out")?,
        work: given.remove("work").map_or_else(|| from.join("work"), PathBuf::from),
        only: list(&mut given, "only", &plan::GROUPS, &plan::GROUPS[..5])?,
        models: list(&mut given, "models", &plan::MODELS, models)?,
        backends: list(&mut given, "backends", &BACKENDS, &BACKENDS)?,
        effort: list(&mut given, "effort", &["full", "short"], &["full"])?.concat(),
        device,
        limit: Duration::from_secs(limit),
        from,
    })
}

const BACKENDS: [&str; 3] = ["ort", "candle", "burn"];

/// `--name value` pairs, each name one of `known` and given once.
fn named<'a>(arguments: &[&'a str], known: &[&str]) -> Result<BTreeMap<&'a str, &'a str>> {
    let mut given = BTreeMap::new();
    for pair in arguments.chunks(2) {
        let name = pair[0].strip_prefix("--").filter(|name| known.contains(name));
        let name = name.ok_or_else(|| format!("unknown: `{}`\n\n{HELP}", pair[0]))?;
        let value = pair.get(1).ok_or_else(|| format!("--{name} needs a value"))?;
        if given.insert(name, *value).is_some() {
            return Err(format!("--{name} is given twice"));
        }
    }
    Ok(given)
}

fn path(given: &mut BTreeMap<&str, &str>, name: &str) -> Result<PathBuf> {
    given.remove(name).map(PathBuf::from).ok_or_else(|| format!("--{name} is needed\n\n{HELP}"))
}

fn list(given: &mut BTreeMap<&str, &str>, name: &str, known: &[&str], default: &[&str]) -> Result<Vec<String>> {
    let chosen: Vec<&str> = given.remove(name).map_or_else(|| default.to_vec(), |text| text.split(',').collect());
    match chosen.iter().find(|word| !known.contains(word)) {
        Some(word) => Err(format!("--{name} {word}: of {}", known.join(","))),
        None => Ok(chosen.into_iter().map(str::to_owned).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let options = run_options(&["--from", "p", "--out", "r", "--only", "bench,parity", "--device", "cuda:1", "--limit", "90"]).unwrap();
        assert_eq!(options.work, PathBuf::from("p/work"));
        assert_eq!((options.only, options.device.as_str(), options.limit.as_secs()), (vec!["bench".into(), "parity".into()], "cuda:1", 90));
        assert_eq!(options.models.len(), 3);
        assert_eq!(run_options(&["--from", "p", "--out", "r", "--device", "cpu"]).unwrap().models, ["smollm2"]);
    }

    #[test]
    fn what_can_not_be_meant_is_refused() {
        for (arguments, why) in [
            (vec!["--from", "p"], "--out is needed"),
            (vec!["--from", "p", "--out"], "needs a value"),
            (vec!["--from", "p", "--from", "q", "--out", "r"], "twice"),
            (vec!["--from", "p", "--out", "r", "--only", "speed"], "--only speed"),
            (vec!["--from", "p", "--out", "r", "--device", "cuda:x"], "cuda:N"),
            (vec!["--from", "p", "--out", "r", "--device", "tpu"], "cuda:N"),
            (vec!["--fast", "p"], "unknown: `--fast`"),
        ] {
            let error = run_options(&arguments).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
