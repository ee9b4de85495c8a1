//! Writes a random checkpoint: `cargo run --release -p phase-model --example random -- NAME FOLDER [SEED] [f32|f16|bf16]`.

use std::{error::Error, path::Path};

use phase_model::random::{self, Shape};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, folder, options @ ..] = arguments.as_slice() else {
        return Err("usage: random NAME FOLDER [SEED] [f32|f16|bf16]".into());
    };
    let shape = Shape::named(name).ok_or_else(|| format!("unknown shape `{name}`: one of {}", random::NAMES.join(", ")))?;
    let seed = options.first().map_or(Ok(0), |text| text.parse())?;
    let dtype = options.get(1).map_or(Ok(phase_core::DType::F32), |text| text.parse())?;
    random::write(Path::new(folder), &shape, seed, dtype)?;
    Ok(())
}
