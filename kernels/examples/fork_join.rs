//! Prints what one empty parallel region costs on a [`Team`](phase_kernels::Team) and on rayon, after gaps of idleness.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]
#![expect(clippy::disallowed_methods, reason = "a bench reads the real clock")]

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use phase_kernels::Team;
use rayon::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let team = Team::new(threads)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build()?;
    let tasks = threads.get() * 4;
    // About 20 us of arithmetic in each task, so that a worker which never comes shows up in the time.
    let work = |_: usize| {
        let mut x = 1.0_f32;
        for _ in 0..5_000 {
            x = black_box(x * 1.000_1);
        }
        black_box(x);
    };
    let alone = lower_quartile(2_000, Duration::ZERO, || (0..tasks).for_each(work));
    println!("{threads} threads, {tasks} tasks a region; alone {alone:.1} us, ideal {:.1} us", alone / threads.get() as f64);
    println!("{:>10} {:>12} {:>12} {:>12} {:>12} {:>12}", "gap us", "team", "team empty", "par_iter", "install", "broadcast");
    for gap in [0, 5, 20, 50, 100, 500, 5_000] {
        let pause = Duration::from_micros(gap);
        let rounds = if gap > 1_000 { 100 } else { 2_000 };
        let ours = lower_quartile(rounds, pause, || team.run(tasks, work));
        let empty = lower_quartile(rounds, pause, || {
            team.run(tasks, |task| {
                black_box(task);
            });
        });
        let inside = pool.install(|| lower_quartile(rounds, pause, || (0..tasks).into_par_iter().for_each(work)));
        let outside = lower_quartile(rounds, pause, || pool.install(|| (0..tasks).into_par_iter().for_each(work)));
        let next = AtomicUsize::new(0);
        let broadcast = pool.install(|| {
            lower_quartile(rounds, pause, || {
                next.store(0, Ordering::Relaxed);
                pool.broadcast(|_| {
                    while next.fetch_add(1, Ordering::Relaxed) < tasks {
                        work(0);
                    }
                });
            })
        });
        println!("{gap:>10} {ours:>12.1} {empty:>12.2} {inside:>12.1} {outside:>12.1} {broadcast:>12.1}");
    }
    Ok(())
}

fn lower_quartile(rounds: usize, gap: Duration, mut region: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let idle = Instant::now();
            while idle.elapsed() < gap {
                std::hint::spin_loop();
            }
            let start = Instant::now();
            region();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[rounds / 4]
}
