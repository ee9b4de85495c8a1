//! Prints the memory bandwidth that [`matvec`](phase_kernels::matvec) reaches next to what plain reading reaches.
//!
//! `cargo run --release -p phase-kernels --example bandwidth [threads]`. Shapes and element types are interleaved over
//! several rounds and the best round is kept, because the machine may be shared. Each product is repeated over enough
//! distinct weights that no cache helps.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]
#![expect(clippy::disallowed_methods, reason = "a bench reads the real clock and its arguments")]

use std::hint::black_box;
use std::time::Instant;

use half::{bf16, f16};
use phase_kernels::{Matrix, Team, matvec, widen};

const BYTES: usize = 512 << 20;
const ROUNDS: usize = 7;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads = match std::env::args().nth(1) {
        Some(threads) => threads.parse()?,
        None => std::thread::available_parallelism()?,
    };
    let team = Team::new(threads)?;
    let f32s: Vec<f32> = (0..BYTES / 4).map(|i| (i % 251) as f32 * 0.01 - 1.0).collect();
    let f16s: Vec<f16> = f32s.iter().map(|&x| f16::from_f32(x)).collect();
    let bf16s: Vec<bf16> = f32s.iter().map(|&x| bf16::from_f32(x)).collect();
    let f16s = &f16s[..];
    let bf16s = &bf16s[..];

    let shapes = [(49_152, 576, 1), (1_536, 576, 1), (576, 576, 1), (576, 1_536, 1), (1_536, 576, 2), (1_536, 576, 4), (1_536, 576, 8)];
    let mut best = vec![0.0_f64; 2 + shapes.len() * 3];
    for _ in 0..ROUNDS {
        let mut row = 0;
        let mut record = |rate: f64| {
            best[row] = rate.max(best[row]);
            row += 1;
        };
        record(read(&team, &f32s));
        record(widen_rate(&team, f16s));
        for (n, k, m) in shapes {
            record(rate(&team, n, k, m, f32s.len(), 4, |at| Matrix::F32(&f32s[at])));
            record(rate(&team, n, k, m, f16s.len(), 2, |at| Matrix::F16(&f16s[at])));
            record(rate(&team, n, k, m, bf16s.len(), 2, |at| Matrix::Bf16(&bf16s[at])));
        }
    }
    println!("{threads} threads; GB/s of weights, best of {ROUNDS}");
    println!("read {:.1}, widen f16 {:.1} (read + written)", best[0], best[1]);
    println!("{:>8} {:>8} {:>4} {:>8} {:>8} {:>8}", "n", "k", "m", "f32", "f16", "bf16");
    for ((n, k, m), rates) in shapes.into_iter().zip(best[2..].chunks(3)) {
        println!("{n:>8} {k:>8} {m:>4} {:>8.1} {:>8.1} {:>8.1}", rates[0], rates[1], rates[2]);
    }
    Ok(())
}

fn read(team: &Team, data: &[f32]) -> f64 {
    let part = data.len() / team.threads();
    let start = Instant::now();
    team.run(team.threads(), |task| {
        let mut sums = [0.0_f32; 64];
        for chunk in data[task * part..(task + 1) * part].as_chunks::<64>().0 {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += x;
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

fn rate<'a>(
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
