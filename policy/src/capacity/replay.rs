//! Replay of a trace through `k` workers: exact for the trace that was seen, silent about others.

use crate::stats::{Ordered, real_size};
use serde::Serialize;
use std::{cmp::Reverse, collections::BinaryHeap};

/// One request of a replay.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Job {
    /// When it arrives, in seconds.
    pub at_s: f64,
    /// How long a worker is busy with it, in seconds.
    pub service_s: f64,
    /// How long after its start its first token comes, in seconds.
    pub first_token_s: f64,
}

impl Job {
    /// A job; `None` unless all are finite, none is negative, and the first token comes within the service.
    pub fn new(at_s: f64, service_s: f64, first_token_s: f64) -> Option<Self> {
        let sane = at_s.is_finite() && service_s.is_finite() && 0.0 <= first_token_s && first_token_s <= service_s;
        sane.then_some(Self { at_s, service_s, first_token_s })
    }
}

/// What a replay shows. A percentile that takes more requests than there were is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Replay {
    /// Workers.
    pub workers: u32,
    /// Requests.
    pub requests: usize,
    /// Mean wait, in seconds.
    pub mean_wait_s: f64,
    /// The percentile asked for, of arrival to first token, in seconds.
    pub ttft_s: Option<f64>,
    /// The percentile asked for, of arrival to end, in seconds.
    pub total_s: Option<f64>,
    /// Longest time from arrival to end, in seconds.
    pub longest_s: f64,
    /// Work over what the workers could have done until the last request ended.
    pub utilisation: f64,
    /// Work that arrived over what the workers could have done while it arrived: at 1 and above the queue grows, and the
    /// percentiles only say how long the trace was.
    pub offered: f64,
}

impl Replay {
    /// Whether the workers could not keep up.
    pub fn is_overloaded(&self) -> bool {
        self.offered >= 1.0
    }
}

/// Lets `jobs` pass through `workers`, first come first served, and takes the `p`-quantiles. `None` without workers or
/// jobs, for jobs out of order, or for a `p` outside of 0..1. Longer service never shortens a wait, so that upper
/// bounds of service give upper bounds here.
pub fn replay(jobs: &[Job], workers: u32, p: f64) -> Option<Replay> {
    let ordered = jobs.windows(2).all(|w| w[0].at_s <= w[1].at_s);
    if workers == 0 || jobs.is_empty() || !ordered || !(p > 0.0 && p < 1.0) {
        return None;
    }
    // Times are not negative once the start is taken off, so that their bits sort like the numbers.
    let start = jobs[0].at_s;
    let mut free: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
    let (mut first_tokens, mut totals, mut wait_sum, mut work, mut end) =
        (Vec::with_capacity(jobs.len()), Vec::with_capacity(jobs.len()), 0.0, 0.0, 0.0_f64);
    for job in jobs {
        let at = job.at_s - start;
        let begins = if free.len() < workers as usize { at } else { free.pop().map_or(at, |Reverse(bits)| f64::from_bits(bits).max(at)) };
        let ends = begins + job.service_s;
        free.push(Reverse(ends.to_bits()));
        let wait = begins - at;
        wait_sum += wait;
        work += job.service_s;
        end = end.max(ends);
        first_tokens.push(wait + job.first_token_s);
        totals.push(wait + job.service_s);
    }
    let (first_tokens, totals) = (Ordered::new(first_tokens)?, Ordered::new(totals)?);
    let k = f64::from(workers);
    let last = jobs[jobs.len() - 1].at_s - start;
    Some(Replay {
        workers,
        requests: jobs.len(),
        mean_wait_s: wait_sum / real_size(jobs.len()),
        ttft_s: first_tokens.quantile(p),
        total_s: totals.quantile(p),
        longest_s: totals.max(),
        utilisation: if end > 0.0 { work / (k * end) } else { 0.0 },
        offered: if last > 0.0 { work / (k * last) } else { 0.0 },
    })
}

/// The fewest workers, up to `most`, with which the replay keeps both objectives and is not overloaded. `None` when `most`
/// do not, or when the trace has too few requests for the percentile.
pub fn workers_by_replay(jobs: &[Job], p: f64, ttft_s: Option<f64>, total_s: Option<f64>, most: u32) -> Option<Replay> {
    let meets = |r: &Replay| {
        let within = |got: Option<f64>, most: Option<f64>| most.is_none_or(|most| got.is_some_and(|got| got <= most));
        within(r.ttft_s, ttft_s) && within(r.total_s, total_s) && !r.is_overloaded()
    };
    // More workers never lengthen a wait, so that the answer is found by halving.
    let mut best = replay(jobs, most, p).filter(meets)?;
    let mut low = 1;
    while low < best.workers {
        let middle = low.midpoint(best.workers);
        match replay(jobs, middle, p).filter(meets) {
            Some(fewer) => best = fewer,
            None => low = middle + 1,
        }
    }
    Some(best)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the expected values are exact")]
mod tests {
    use super::*;
    use proptest::{prelude::*, test_runner::TestRng};

    fn job(at: f64, service: f64) -> Job {
        Job::new(at, service, service / 2.0).unwrap()
    }

    #[test]
    fn a_small_case_by_hand() {
        // One worker: waits 0, 1, 2. Two workers: the third waits for the first to end.
        let jobs = [job(0.0, 2.0), job(1.0, 2.0), job(2.0, 2.0)];
        let one = replay(&jobs, 1, 0.5).unwrap();
        assert_eq!((one.mean_wait_s, one.longest_s, one.utilisation, one.is_overloaded()), (1.0, 4.0, 1.0, true));
        assert_eq!((one.ttft_s, one.total_s), (None, None), "three requests know no percentile");
        assert_eq!(replay(&jobs, 2, 0.5).unwrap().mean_wait_s, 0.0);
    }

    #[test]
    fn nonsense_is_not_replayed() {
        let jobs = [job(1.0, 1.0), job(0.0, 1.0)];
        assert_eq!(replay(&jobs, 1, 0.5), None, "out of order");
        assert_eq!([replay(&[], 1, 0.5), replay(&jobs[..1], 0, 0.5), replay(&jobs[..1], 1, 1.0)], [None; 3]);
        let jobs = [Job::new(f64::NAN, 1.0, 0.0), Job::new(0.0, -1.0, 0.0), Job::new(0.0, 1.0, 2.0), Job::new(0.0, f64::INFINITY, 0.0)];
        assert_eq!(jobs, [None; 4]);
    }

    /// Poisson arrivals of rate `per_s`, service of exactly 1 s.
    fn poisson(per_s: f64, n: usize) -> Vec<Job> {
        let mut rng = TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
        let mut at = 0.0;
        let mut next = || {
            at -= (1.0 - f64::from(rng.next_u32()) / (f64::from(u32::MAX) + 1.0)).ln() / per_s;
            job(at, 1.0)
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn a_queue_with_a_known_answer_is_met() {
        // M/D/1 at half load: the mean wait is rho E[S] / (2 (1 - rho)) = 0.5.
        let r = replay(&poisson(0.5, 200_000), 1, 0.99).unwrap();
        assert!((r.mean_wait_s - 0.5).abs() < 0.02, "{r:?}");
        assert!((r.utilisation - 0.5).abs() < 0.01);
    }

    #[test]
    fn the_conservative_bound_promises_no_more_than_the_replay_keeps() {
        use super::super::{Arrivals, Service, wait_upper};
        for k in [1, 2, 4, 8] {
            for rho in [0.5, 0.8] {
                let per_s = rho * f64::from(k);
                let r = replay(&poisson(per_s, 100_000), k, 0.99).unwrap();
                let bound = wait_upper(k, &Arrivals::new(per_s, 1.0).unwrap(), &Service::new(1.0, 0.0, 1.0).unwrap(), 0.99).unwrap();
                assert!(r.total_s.unwrap() <= 1.0 + bound, "k {k} rho {rho}: {r:?} {bound}");
            }
        }
    }

    #[test]
    fn the_fewest_workers_are_found() {
        let jobs = poisson(3.0, 5_000);
        let best = workers_by_replay(&jobs, 0.95, None, Some(2.0), 64).unwrap();
        assert!(best.total_s.unwrap() <= 2.0);
        let fewer = replay(&jobs, best.workers - 1, 0.95).unwrap();
        assert!(fewer.is_overloaded() || fewer.total_s.unwrap() > 2.0);
        assert_eq!(workers_by_replay(&jobs, 0.95, None, Some(0.5), 64), None, "the service alone takes longer");
        assert_eq!(workers_by_replay(&jobs[..400], 0.99, None, Some(9.0), 64), None, "400 requests know no p99");
    }

    proptest! {
        #[test]
        fn longer_service_and_fewer_workers_never_help(
            gaps in prop::collection::vec((0.0..2.0_f64, 0.0..3.0_f64), 1..60), k in 1..5_u32, longer in 0.0..1.0_f64,
        ) {
            let mut at = 0.0;
            let jobs: Vec<_> = gaps.iter().map(|(gap, service)| { at += gap; job(at, *service) }).collect();
            let slower: Vec<_> = jobs.iter().map(|j| job(j.at_s, j.service_s + longer)).collect();
            let [base, slow, more] = [replay(&jobs, k, 0.5), replay(&slower, k, 0.5), replay(&jobs, k + 1, 0.5)].map(Option::unwrap);
            prop_assert!(base.mean_wait_s <= slow.mean_wait_s + 1e-9);
            prop_assert!(more.mean_wait_s <= base.mean_wait_s + 1e-9 && more.longest_s <= base.longest_s + 1e-9);
        }
    }
}
