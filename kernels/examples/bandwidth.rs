//! Prints the memory bandwidth that [`matvec`](phase_kernels::matvec) reaches next to what plain reading reaches.
//!
//! `cargo run --release -p phase-kernels --example bandwidth [threads [rounds]]`. Shapes and element types are interleaved over
//! several rounds and the best round is kept, because the machine may be shared. Each product is repeated over enough
//! distinct weights that no cache helps.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]
#![expect(clippy::disallowed_methods, reason = "a bench reads the real clock and its arguments")]

use std::hint::black_box;
use std::time::Instant;

use half::{bf16, f16};
use phase_kernels::{AttentionShape, Element, Matrix, Team, attention, matvec, widen};

const BYTES: usize = 512 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads = match std::env::args().nth(1) {
        Some(threads) => threads.parse()?,
        None => std::thread::available_parallelism()?,
    };
    let rounds: usize = std::env::args().nth(2).map_or(Ok(7), |rounds| rounds.parse())?;
    let team = Team::new(threads)?;
    let f32s: Vec<f32> = (0..BYTES / 4).map(|i| (i % 251) as f32 * 0.01 - 1.0).collect();
    let f16s: Vec<f16> = f32s.iter().map(|&x| f16::from_f32(x)).collect();
    let bf16s: Vec<bf16> = f32s.iter().map(|&x| bf16::from_f32(x)).collect();
    let f16s = &f16s[..];
    let bf16s = &bf16s[..];

    let shapes = [(49_152, 576, 1), (1_536, 576, 1), (576, 576, 1), (576, 1_536, 1), (1_536, 576, 2), (1_536, 576, 4), (1_536, 576, 8)];
    // (query_len, start) of a model with 9 query heads, 3 key-value heads and a head of 64.
    let steps = [(1, 128), (1, 512), (1, 2_048), (128, 0), (512, 0), (2_048, 0), (8, 512)];
    let mut best = vec![0.0_f64; 3 + (shapes.len() + steps.len()) * 3];
    for _ in 0..rounds {
        let mut row = 0;
        let mut record = |rate: f64| {
            best[row] = rate.max(best[row]);
            row += 1;
        };
        record(read::<1>(&team, &f32s));
        record(read::<4>(&team, &f32s));
        record(widen_rate(&team, f16s));
        for (n, k, m) in shapes {
            record(matvec_rate(&team, n, k, m, f32s.len(), 4, |at| Matrix::F32(&f32s[at])));
            record(matvec_rate(&team, n, k, m, f16s.len(), 2, |at| Matrix::F16(&f16s[at])));
            record(matvec_rate(&team, n, k, m, bf16s.len(), 2, |at| Matrix::Bf16(&bf16s[at])));
        }
        for (query_len, start) in steps {
            record(attention_rate(&team, query_len, start, &f32s));
            record(attention_rate(&team, query_len, start, f16s));
            record(attention_rate(&team, query_len, start, bf16s));
        }
    }
    println!("{threads} threads, best of {rounds}");
    println!("GB/s: read {:.1}, read at 4 places {:.1}, widen f16 {:.1} (read + written)", best[0], best[1], best[2]);
    println!("matvec, GB/s of weights\n{:>8} {:>8} {:>4} {:>8} {:>8} {:>8}", "n", "k", "m", "f32", "f16", "bf16");
    let (matvecs, attentions) = best[3..].split_at(shapes.len() * 3);
    for ((n, k, m), rates) in shapes.into_iter().zip(matvecs.chunks(3)) {
        println!("{n:>8} {k:>8} {m:>4} {:>8.1} {:>8.1} {:>8.1}", rates[0], rates[1], rates[2]);
    }
    println!("attention, us a layer\n{:>8} {:>8} {:>8} {:>8} {:>8} {:>8}", "queries", "start", "f32", "f16", "bf16", "GFLOP/s");
    for ((query_len, start), rates) in steps.into_iter().zip(attentions.chunks(3)) {
        let flops = 4.0 * 576.0 * (start * query_len + query_len * (query_len + 1) / 2) as f64;
        let us: Vec<f64> = rates.iter().map(|rate| 1e6 / rate).collect();
        println!("{query_len:>8} {start:>8} {:>8.1} {:>8.1} {:>8.1} {:>8.1}", us[0], us[1], us[2], flops * rates[0] / 1e9);
    }
    Ok(())
}

/// Layers per second, over distinct caches as a model has them.
fn attention_rate<E: Element>(team: &Team, query_len: usize, start: usize, data: &[E]) -> f64 {
    let shape =
        AttentionShape { batch: 1, query_len, heads: 9, kv_heads: 3, head_dim: 64, capacity: start + query_len, start, window: None };
    let q = vec![0.5; shape.queries().len()];
    let mut out = vec![0.0; q.len()];
    let layers = (data.len() / shape.cache_len() / 2).min(if query_len > 8 { 4 } else { 200 });
    let begin = Instant::now();
    for layer in 0..layers {
        let cache = &data[2 * layer * shape.cache_len()..][..2 * shape.cache_len()];
        let (k, v) = cache.split_at(shape.cache_len());
        attention(team, &q, k, v, &mut out, &shape, 0.125);
        black_box(&mut out);
    }
    layers as f64 / begin.elapsed().as_secs_f64()
}

/// Reads all of `data`, each thread from `STREAMS` places of its part at once.
fn read<const STREAMS: usize>(team: &Team, data: &[f32]) -> f64 {
    let part = data.len() / team.threads();
    let start = Instant::now();
    team.run(team.threads(), |task| {
        let data = &data[task * part..(task + 1) * part];
        let mut streams = [data; STREAMS].map(|data| data.as_chunks::<16>().0);
        let len = streams[0].len() / STREAMS;
        for (i, stream) in streams.iter_mut().enumerate() {
            *stream = &stream[i * len..(i + 1) * len];
        }
        let mut sums = [[0_u32; 16]; STREAMS];
        for i in 0..len {
            for (sums, stream) in sums.iter_mut().zip(streams) {
                for (sum, x) in sums.iter_mut().zip(&stream[i]) {
                    *sum ^= x.to_bits();
                }
            }
        }
        black_box(sums);
    });
    size_of_val(data) as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn widen_rate(team: &Team, data: &[f16]) -> f64 {
    const BLOCK: usize = 1_536 * 576;
    let mut wide = vec![0.0; BLOCK];
    let start = Instant::now();
    let mut bytes = 0;
    for block in data.chunks_exact(BLOCK) {
        widen(team, Matrix::from(block), &mut wide);
        bytes += BLOCK * 6;
    }
    black_box(&wide);
    bytes as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn matvec_rate<'a>(
    team: &Team,
    n: usize,
    k: usize,
    m: usize,
    len: usize,
    bytes: usize,
    weights: impl Fn(std::ops::Range<usize>) -> Matrix<'a>,
) -> f64 {
    let x = vec![0.5; m * k];
    let mut y = vec![0.0; m * n];
    let products = len / (n * k);
    let start = Instant::now();
    for i in 0..products {
        matvec(team, weights(i * n * k..(i + 1) * n * k), n, k, &x, m, None, &mut y);
        black_box(&mut y);
    }
    (products * n * k * bytes) as f64 / start.elapsed().as_secs_f64() / 1e9
}
