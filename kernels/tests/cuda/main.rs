//! Every kernel against plain arithmetic in f64, on a device. Without one the tests say so and pass, unless
//! `PHASE_TEST_CUDA` says that there is one.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure ends the test")]

mod attention;
mod few;
mod large;
mod matvec;
mod rows;
mod small;

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr};
use half::{bf16, f16};

use phase_kernels::cuda::{self, Format, Kernels, Place, Region, Step};

const FORMATS: [Format; 3] = [Format::F32, Format::F16, Format::Bf16];

/// Checks the kernels of each format, where there is a device.
fn each(formats: &[Format], check: impl Fn(&Bench)) {
    for format in formats {
        let Some(bench) = Bench::new(*format) else { return };
        check(&bench);
    }
}

/// A device and the kernels of one format.
struct Bench {
    stream: Arc<CudaStream>,
    kernels: Kernels,
}

/// Memory of the device.
struct Memory(CudaSlice<u8>, Region);

impl Memory {
    const fn region(&self) -> Region {
        self.1
    }
}

impl Bench {
    /// `None`, and a line that says why, where there is no device.
    #[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "whether there is a device is the tester's to say, and to know")]
    fn new(format: Format) -> Option<Self> {
        if let Err(reason) = cuda::driver() {
            assert!(std::env::var_os("PHASE_TEST_CUDA").is_none(), "{reason}");
            println!("skipped: {reason}");
            return None;
        }
        let context = CudaContext::new(0).expect("a device");
        // SAFETY: everything a test does is on one stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().expect("a stream");
        let kernels = Kernels::load(&stream, format).expect("the kernels");
        Some(Self { stream, kernels })
    }

    const fn format(&self) -> Format {
        self.kernels.format()
    }

    fn bytes(&self, bytes: &[u8]) -> Memory {
        let slice = self.stream.clone_htod(bytes).expect("memory");
        let region = Region::new(slice.device_ptr(&self.stream).0, bytes.len());
        Memory(slice, region)
    }

    fn f32s(&self, values: &[f32]) -> Memory {
        self.bytes(&values.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<_>>())
    }

    fn u32s(&self, values: &[u32]) -> Memory {
        self.bytes(&values.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<_>>())
    }

    /// In the kernels' format.
    fn narrow(&self, values: &[f32]) -> Memory {
        let bytes = match self.format() {
            Format::F32 => values.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<_>>(),
            Format::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_ne_bytes()).collect(),
            Format::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_ne_bytes()).collect(),
        };
        self.bytes(&bytes)
    }

    /// Bytes that are NaN in every format: what is not written is seen.
    fn poison(&self, bytes: usize) -> Memory {
        self.bytes(&vec![0xff; bytes])
    }

    /// Memory of zeros, made there.
    fn zeros(&self, bytes: usize) -> Memory {
        let slice = self.stream.alloc_zeros::<u8>(bytes).expect("memory");
        let region = Region::new(slice.device_ptr(&self.stream).0, bytes);
        Memory(slice, region)
    }

    fn step(&self, step: Step) -> Memory {
        let wide = [step.cache, step.tokens_out].into_iter().flat_map(u64::to_ne_bytes);
        let all = wide.chain([step.capacity, step.position, step.index, 0].into_iter().flat_map(u32::to_ne_bytes));
        self.bytes(&all.collect::<Vec<_>>())
    }

    fn read(&self, memory: &Memory) -> Vec<u8> {
        self.stream.clone_dtoh(&memory.0).expect("the kernels to end well")
    }

    fn read_f32s(&self, memory: &Memory) -> Vec<f32> {
        self.read(memory).as_chunks().0.iter().map(|b| f32::from_ne_bytes(*b)).collect()
    }

    fn read_u32s(&self, memory: &Memory) -> Vec<u32> {
        self.read(memory).as_chunks().0.iter().map(|b| u32::from_ne_bytes(*b)).collect()
    }

    fn read_narrow(&self, memory: &Memory) -> Vec<f32> {
        let bytes = self.read(memory);
        match self.format() {
            Format::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_ne_bytes(*b)).collect(),
            Format::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_ne_bytes(*b).to_f32()).collect(),
            Format::Bf16 => bytes.as_chunks().0.iter().map(|b| bf16::from_ne_bytes(*b).to_f32()).collect(),
        }
    }

    /// Numbers in `-1..1` that the format holds exactly.
    fn numbers(&self, seed: u64, len: usize) -> Vec<f32> {
        numbers(seed, len).into_iter().map(|v| round(v, self.format())).collect()
    }
}

/// Numbers in `-1..1`, the same for the same seed everywhere.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f32::from_bits(0x3f80_0000 | (state >> 41) as u32) * 2.0 - 3.0
    };
    (0..len).map(next).collect()
}

fn round(value: f32, format: Format) -> f32 {
    match format {
        Format::F32 => value,
        Format::F16 => f16::from_f32(value).to_f32(),
        Format::Bf16 => bf16::from_f32(value).to_f32(),
    }
}

/// Half a unit in the last place of a format, relative.
const fn epsilon(format: Format) -> f64 {
    match format {
        Format::F32 => 6e-8,
        Format::F16 => 5e-4,
        Format::Bf16 => 4e-3,
    }
}

/// Fails unless the whole is close in the Euclidean sense and no element is far off.
fn assert_near(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let norm = want.iter().map(|w| w * w).sum::<f64>().sqrt().max(1e-30);
    let error = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum::<f64>().sqrt() / norm;
    let most = want.iter().fold(0.0f64, |m, w| m.max(w.abs()));
    let worst = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
    assert!(got.iter().all(|g| g.is_finite()), "{what}: not every element was written");
    assert!(
        error <= tolerance && worst <= 20.0 * tolerance * most,
        "{what}: off by {error:.2e} of the norm, {worst:.2e} at most, allowed {tolerance:.2e}"
    );
}

/// `weights · x + bias` in f64.
fn product(weights: &[f32], x: &[f64], bias: Option<&[f32]>) -> Vec<f64> {
    let rows = weights.chunks_exact(x.len()).enumerate();
    rows.map(|(i, row)| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>() + bias.map_or(0.0, |bias| f64::from(bias[i])))
        .collect()
}

/// RMS norm, or layer norm with a `shift`.
fn normed(x: &[f32], gain: &[f32], shift: Option<&[f32]>, eps: f64) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = if shift.is_some() { x.iter().map(|v| f64::from(*v)).sum::<f64>() / n } else { 0.0 };
    let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (variance + eps).sqrt();
    (0..x.len()).map(|i| (f64::from(x[i]) - mean) * scale * f64::from(gain[i]) + shift.map_or(0.0, |s| f64::from(s[i]))).collect()
}

/// Rotates a head in place.
fn rotated(head: &mut [f64], position: usize, frequencies: &[f32]) {
    let half = head.len() / 2;
    for (i, frequency) in frequencies.iter().enumerate() {
        let (s, c) = f64::from(position as f32 * frequency).sin_cos();
        let (a, b) = (head[i], head[i + half]);
        head[i] = a * c - b * s;
        head[i + half] = b * c + a * s;
    }
}

fn frequencies(head_dim: usize) -> Vec<f32> {
    (0..head_dim / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / head_dim as f32)).collect()
}

/// Where a head's row is in a cache `[layers, 2, batch, kv_heads, capacity, head_dim]`, in elements.
fn cache_at(place: &Place, kv: usize, row: usize, head: usize, position: usize) -> usize {
    ((((place.layer * 2 + kv) * place.batch + row) * place.kv_heads + head) * place.capacity + position) * place.head_dim
}
