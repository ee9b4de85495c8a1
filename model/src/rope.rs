//! Rotary embedding tables, rounded where transformers rounds: frequencies and angles in `f32`.

use std::ops::Range;

use crate::{ModelConfig, ModelError, Rope, RopeScaling};

/// Cosines and sines of the rotary embedding, each row-major `[positions, head_dim / 2]`.
///
/// Element `i` of a head is rotated with element `i + head_dim / 2`:
/// `(a, b) -> (a * cos - b * sin, b * cos + a * sin)`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RopeTables {
    /// Cosines.
    pub cos: Vec<f32>,
    /// Sines.
    pub sin: Vec<f32>,
    /// Number of rows.
    pub positions: usize,
    /// Elements per row: `head_dim / 2`.
    pub half: usize,
}

/// Tables for a range of positions; `None` for a model with learned positions.
///
/// # Errors
/// [`ModelError::Position`] when the range goes beyond the model's context.
///
/// ```
/// # use phase_model::{Architecture, Checkpoint, ModelError, random, rope_tables};
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("tiny");
/// # random::write(&path, &random::Shape::tiny(Architecture::Llama), 7, phase_core::DType::F32)?;
/// let checkpoint = Checkpoint::open(&path)?;
/// let tables = rope_tables(checkpoint.config(), 0..4)?.expect("Llama rotates");
/// assert_eq!(tables.cos.len(), 4 * checkpoint.config().head_dim / 2);
/// assert_eq!((tables.cos[0], tables.sin[0]), (1.0, 0.0));
/// # Ok::<(), ModelError>(())
/// ```
pub fn rope_tables(config: &ModelConfig, positions: Range<usize>) -> Result<Option<RopeTables>, ModelError> {
    let Some(rope) = config.rope() else { return Ok(None) };
    if positions.end > config.max_context {
        return Err(ModelError::Position { position: positions.end - 1, max: config.max_context });
    }
    let frequencies = inverse_frequencies(rope, config.head_dim);
    let len = positions.len() * frequencies.len();
    let (mut cos, mut sin) = (Vec::with_capacity(len), Vec::with_capacity(len));
    for position in positions.clone() {
        for frequency in &frequencies {
            let (s, c) = f64::from(position_as_f32(position) * frequency).sin_cos();
            cos.push(round(c));
            sin.push(round(s));
        }
    }
    Ok(Some(RopeTables { cos, sin, positions: positions.len(), half: frequencies.len() }))
}

/// The `head_dim / 2` inverse frequencies, scaling applied: the angle at a position is `position * frequency`.
pub fn inverse_frequencies(rope: &Rope, head_dim: usize) -> Vec<f32> {
    let base = (0..head_dim / 2).map(|i| base_frequency(rope.theta, i, head_dim));
    match &rope.scaling {
        RopeScaling::Default => base.collect(),
        RopeScaling::Linear { factor } => base.map(|f| f / round(*factor)).collect(),
        RopeScaling::Factors(factors) => base.zip(factors).map(|(f, factor)| f / factor).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let original = *original_context as f64;
            base.map(|f| llama3(f, *factor, *low_freq_factor, *high_freq_factor, original)).collect()
        }
    }
}

fn base_frequency(theta: f64, i: usize, head_dim: usize) -> f32 {
    let exponent = round(2.0 * i as f64) / round(head_dim as f64);
    1.0 / round(theta.powf(f64::from(exponent)))
}

fn llama3(frequency: f32, factor: f64, low: f64, high: f64, original: f64) -> f32 {
    let wavelength = round(2.0 * std::f64::consts::PI) / frequency;
    if f64::from(wavelength) < original / high {
        return frequency;
    }
    let scaled = frequency / round(factor);
    if f64::from(wavelength) > original / low {
        return scaled;
    }
    let smooth = (round(original) / wavelength - round(low)) / round(high - low);
    (1.0 - smooth) * frequency / round(factor) + smooth * frequency
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what the reference does")]
fn round(x: f64) -> f32 {
    x as f32
}

#[expect(clippy::cast_precision_loss, reason = "positions are far below 2^24 and the reference converts them too")]
fn position_as_f32(position: usize) -> f32 {
    position as f32
}
