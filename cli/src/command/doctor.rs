//! `phase doctor`: what is here, and how to get what is missing.

use crate::{
    argument,
    cuda::Cuda,
    exit::{Failure, say},
    setting::Setting,
};
use phase_core::{Fact, Layer, StackInfo};
use phase_energy::{Availability, sources};
use serde_json::json;
use std::fmt::Write;

pub(crate) fn run(setting: &Setting, arguments: &argument::Doctor) -> Result<(), Failure> {
    let machine = phase_core::machine();
    let backends: Vec<_> = setting.registry.iter().map(|b| (b.arm(), b.probe_dyn())).collect();
    let sources = sources();
    let cuda = Cuda::probe(setting.ort_library.as_deref());
    if arguments.json {
        let runtimes: Vec<_> = backends
            .iter()
            .map(|(id, found)| match found {
                Ok(stack) => json!({ "backend": id, "available": true, "facts": facts(stack, Layer::Runtime) }),
                Err(e) => json!({ "backend": id, "available": false, "reason": e.to_string() }),
            })
            .collect();
        let energy: Vec<_> = sources
            .iter()
            .map(|s| match &s.availability {
                Availability::Available { detail } => json!({ "source": s.name, "available": true, "detail": detail }),
                Availability::Unavailable { reason } => json!({ "source": s.name, "available": false, "reason": reason }),
                other => json!({ "source": s.name, "available": false, "reason": format!("{other:?}") }),
            })
            .collect();
        let all = json!({ "machine": facts(&machine, Layer::Machine), "runtimes": runtimes, "cuda": cuda.json(), "energy": energy, "cache": setting.cache });
        say(&all.to_string())?;
    } else {
        let mut text = String::from("Machine\n");
        list(&mut text, &machine, Layer::Machine);
        text.push_str("\nRuntimes\n");
        for (id, found) in &backends {
            match found {
                Ok(stack) => {
                    let _ = writeln!(text, "  {id:<12} ready");
                    list(&mut text, stack, Layer::Runtime);
                }
                Err(e) => {
                    let _ = writeln!(text, "  {id:<12} missing\n    {e}");
                }
            }
        }
        let _ = write!(text, "\nCUDA\n{cuda}");
        text.push_str("\nEnergy sources\n");
        for source in &sources {
            let _ = match &source.availability {
                Availability::Available { detail } => writeln!(text, "  {:<12} ready: {detail}", source.name),
                Availability::Unavailable { reason } => writeln!(text, "  {:<12} missing: {reason}", source.name),
                other => writeln!(text, "  {:<12} {other:?}", source.name),
            };
        }
        let _ = writeln!(text, "\nDerived files are kept in {}", setting.cache.display());
        say(&text)?;
    }
    // A machine without a GPU is a fine one to run on the processor.
    let path = setting.device.path();
    let wanted: Vec<_> = backends.iter().filter(|(arm, _)| arm.backend.as_str().ends_with(path)).collect();
    match wanted.iter().filter(|(_, found)| found.is_err()).count() {
        0 if wanted.is_empty() => Err(Failure::Environment(format!("this program has no backend on {path}"))),
        0 => Ok(()),
        n => Err(Failure::Environment(format!("{n} of {} runtimes on {path} can't be used here; above it says why", wanted.len()))),
    }
}

fn facts(stack: &StackInfo, layer: Layer) -> serde_json::Value {
    let map: serde_json::Map<_, _> = stack
        .iter()
        .filter(|(l, _, _)| *l == layer)
        .map(|(_, key, fact)| {
            let value = match fact {
                Fact::Known(v) => json!(v),
                Fact::Unknown(why) => json!({ "unknown": why }),
            };
            (key.to_owned(), value)
        })
        .collect();
    serde_json::Value::Object(map)
}

fn list(text: &mut String, stack: &StackInfo, layer: Layer) {
    for (_, key, fact) in stack.iter().filter(|(l, _, _)| *l == layer) {
        let _ = writeln!(text, "    {key:<20} {fact}");
    }
}
