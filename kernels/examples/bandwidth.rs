//! Prints the memory bandwidth that [`matvec`] reaches next to what plain reading reaches, and the speed of [`attention`].
//!
//! `cargo run --release -p phase-kernels --example bandwidth [threads [rounds [word]]]`, where only cases that contain the word are run. The cases take turns, and a case shows
//! the lower quartile of the times of its calls, because the machine may be shared. Calls walk through 512 MiB of weights,
//! so that no cache helps.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]
#![expect(clippy::disallowed_methods, reason = "a bench reads the real clock and its arguments")]

use std::env::args;
use std::hint::black_box;
use std::time::Instant;

use half::{bf16, f16};
use phase_kernels::{AttentionShape, Element, Matrix, Team, attention, matvec, widen};

const BYTES: usize = 512 << 20;
/// Read between two cases, to leave nothing of the last one in a cache.
const CACHE: usize = 64 << 20;
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;

struct Bench {
    team: Team,
    f32s: Vec<f32>,
    f16s: Vec<f16>,
    bf16s: Vec<bf16>,
    /// Where the next call reads, in bytes.
    at: usize,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Bf16,
    F16,
    F32,
}

#[derive(Clone, Copy, Debug)]
enum Case {
    /// Each thread reads from so many places of its part at once.
    Read {
        places: usize,
    },
    Widen,
    Matvec {
        n: usize,
        k: usize,
        m: usize,
        kind: Kind,
    },
    Attention {
        query_len: usize,
        start: usize,
        kind: Kind,
    },
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads = args().nth(1).map_or_else(std::thread::available_parallelism, |n| n.parse().map_err(std::io::Error::other))?;
    let rounds: usize = args().nth(2).map_or(Ok(5), |rounds| rounds.parse())?;
    let f32s: Vec<f32> = (0..BYTES / 4).map(|i| (i % 251) as f32 * 0.01 - 1.0).collect();
    let mut bench = Bench {
        team: Team::new(threads)?,
        f16s: f32s.iter().map(|&x| f16::from_f32(x)).collect(),
        bf16s: f32s.iter().map(|&x| bf16::from_f32(x)).collect(),
        f32s,
        at: 0,
    };
    let kinds = [Kind::F32, Kind::F16, Kind::Bf16];
    let mut cases = vec![Case::Read { places: 1 }, Case::Read { places: 4 }, Case::Widen];
    for (n, k) in [(49_152, 576), (1_536, 576), (576, 576), (576, 1_536)] {
        cases.extend(kinds.map(|kind| Case::Matvec { n, k, m: 1, kind }));
    }
    for m in [2, 4, 8] {
        cases.extend(kinds.map(|kind| Case::Matvec { n: 1_536, k: 576, m, kind }));
    }
    for (query_len, start) in [(1, 128), (1, 512), (1, 2_048), (4, 512), (128, 0), (512, 0), (2_048, 0)] {
        cases.extend(kinds.map(|kind| Case::Attention { query_len, start, kind }));
    }

    if let Some(word) = args().nth(3) {
        cases.retain(|case| format!("{case:?}").contains(&word));
    }
    let mut times = vec![Vec::new(); cases.len()];
    for _ in 0..rounds {
        for (case, times) in cases.iter().zip(&mut times) {
            bench.run(Case::Read { places: 4 }, CACHE, &mut Vec::new());
            bench.run(*case, CACHE, times);
        }
    }
    println!("{threads} threads, {rounds} rounds, lower quartile");
    for (case, times) in cases.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let time = times[times.len() / 4];
        let (bytes, flops) = case.work();
        println!("{:<62} {:>9.1} us {:>6.1} GB/s {:>6.1} GFLOP/s", format!("{case:?}"), time * 1e6, bytes / time / 1e9, flops / time / 1e9);
    }
    Ok(())
}

impl Case {
    /// Bytes read (and written, where that is the point), and floating-point operations, of one call.
    fn work(self) -> (f64, f64) {
        let (bytes, flops) = match self {
            Self::Read { .. } => (1_536 * 576 * 4, 0),
            Self::Widen => (1_536 * 576 * 6, 0),
            Self::Matvec { n, k, m, kind } => (n * k * kind.bytes(), 2 * n * k * m),
            Self::Attention { query_len, start, kind } => {
                let pairs = start * query_len + query_len * (query_len + 1) / 2;
                (2 * (start + query_len) * KV_HEADS * HEAD_DIM * kind.bytes(), 4 * pairs * HEADS * HEAD_DIM)
            }
        };
        (bytes as f64, flops as f64)
    }
}

impl Kind {
    fn bytes(self) -> usize {
        if matches!(self, Self::F32) { 4 } else { 2 }
    }
}

impl Bench {
    /// Calls the case over `bytes` of the data, at least once.
    fn run(&mut self, case: Case, bytes: usize, times: &mut Vec<f64>) {
        let mut done = 0.0;
        while done < bytes as f64 {
            times.push(match case {
                Case::Read { places: 4 } => self.read::<4>(),
                Case::Read { .. } => self.read::<1>(),
                Case::Widen => self.widen(),
                Case::Matvec { n, k, m, kind } => self.matvec(n, k, m, kind),
                Case::Attention { query_len, start, kind: Kind::Bf16 } => self.attention(query_len, start, |bench| &bench.bf16s),
                Case::Attention { query_len, start, kind: Kind::F16 } => self.attention(query_len, start, |bench| &bench.f16s),
                Case::Attention { query_len, start, kind: Kind::F32 } => self.attention(query_len, start, |bench| &bench.f32s),
            });
            // A prompt's attention reads little and takes long.
            done += case.work().0.max(case.work().1 / 16.0);
        }
    }

    /// The elements of the next call, as a range of elements of `size` bytes.
    fn next(&mut self, len: usize, size: usize) -> std::ops::Range<usize> {
        if self.at + len * size > BYTES / 4 * size {
            self.at = 0;
        }
        let first = self.at / size;
        self.at += len * size;
        first..first + len
    }

    fn read<const PLACES: usize>(&mut self) -> f64 {
        let range = self.next(1_536 * 576, 4);
        let data = &self.f32s[range];
        let part = data.len() / self.team.threads();
        let start = Instant::now();
        self.team.run(self.team.threads(), |task| {
            let data = data[task * part..(task + 1) * part].as_chunks::<16>().0;
            let len = data.len() / PLACES;
            let mut sums = [[0_u32; 16]; PLACES];
            for i in 0..len {
                for (place, sums) in sums.iter_mut().enumerate() {
                    for (sum, x) in sums.iter_mut().zip(&data[place * len + i]) {
                        *sum ^= x.to_bits();
                    }
                }
            }
            black_box(sums);
        });
        start.elapsed().as_secs_f64()
    }

    fn widen(&mut self) -> f64 {
        let range = self.next(1_536 * 576, 2);
        let mut wide = vec![1.0; range.len()];
        let start = Instant::now();
        widen(&self.team, Matrix::F16(&self.f16s[range]), &mut wide);
        let time = start.elapsed().as_secs_f64();
        black_box(wide);
        time
    }

    fn matvec(&mut self, n: usize, k: usize, m: usize, kind: Kind) -> f64 {
        let range = self.next(n * k, kind.bytes());
        let w = match kind {
            Kind::Bf16 => Matrix::Bf16(&self.bf16s[range]),
            Kind::F16 => Matrix::F16(&self.f16s[range]),
            Kind::F32 => Matrix::F32(&self.f32s[range]),
        };
        let (x, mut y) = (vec![0.5; m * k], vec![1.0; m * n]);
        let start = Instant::now();
        matvec(&self.team, w, n, k, &x, m, None, &mut y);
        let time = start.elapsed().as_secs_f64();
        black_box(y);
        time
    }

    fn attention<E: Element>(&mut self, query_len: usize, start: usize, data: fn(&Self) -> &Vec<E>) -> f64 {
        let shape = AttentionShape {
            batch: 1,
            query_len,
            heads: HEADS,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            capacity: start + query_len,
            start,
            window: None,
        };
        let range = self.next(2 * shape.cache_len(), size_of::<E>());
        let (k, v) = data(self)[range].split_at(shape.cache_len());
        let q = vec![0.5; shape.queries().len()];
        let mut out = vec![1.0; q.len()];
        let start = Instant::now();
        attention(&self.team, &q, k, v, &mut out, &shape, 0.125);
        let time = start.elapsed().as_secs_f64();
        black_box(out);
        time
    }
}
