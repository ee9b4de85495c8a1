//! Counts below fixed edges, without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A histogram over whole units (nanoseconds, tokens). Readers may see a value in the sum before they see it in its bucket; a
/// scrape later they see both.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// Upper edges, inclusive, as Prometheus has them.
    edges: Box<[u64]>,
    /// One more than edges: the last is for what lies above.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    /// Whole units in one unit of the text: 1e9 where nanoseconds are given out as seconds.
    scale: f64,
}

/// A consistent reading: the number is that of the buckets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    /// Values at or below each edge and, last, all of them.
    pub(crate) cumulative: Vec<u64>,
    /// Sum of all values in the unit of the text.
    pub(crate) sum: f64,
}

impl Reading {
    pub(crate) fn count(&self) -> u64 {
        self.cumulative.last().copied().unwrap_or(0)
    }
}

impl Histogram {
    /// Edges in the unit of the text, `scale` whole units in each.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "edges are positive constants far below 2^53")]
    pub(crate) fn new(edges: &[f64], scale: f64) -> Self {
        let edges: Box<[u64]> = edges.iter().map(|e| (e * scale).round() as u64).collect();
        let counts = (0..=edges.len()).map(|_| AtomicU64::new(0)).collect();
        Self { edges, counts, sum: AtomicU64::new(0), scale }
    }

    pub(crate) fn record(&self, value: u64) {
        let bucket = self.edges.partition_point(|edge| *edge < value);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a sum of nanoseconds stays below 2^53 for 104 days of busy time, and loses no more than 1e-16 of itself after"
    )]
    pub(crate) fn read(&self) -> Reading {
        let mut so_far = 0;
        let cumulative = self
            .counts
            .iter()
            .map(|c| {
                so_far += c.load(Relaxed);
                so_far
            })
            .collect();
        Reading { cumulative, sum: self.sum.load(Relaxed) as f64 / self.scale }
    }
}

/// A sum of floating-point numbers that grows without a lock.
#[derive(Debug, Default)]
pub(crate) struct Sum(AtomicU64);

impl Sum {
    pub(crate) fn add(&self, value: f64) {
        let mut seen = self.0.load(Relaxed);
        while let Err(now) = self.0.compare_exchange_weak(seen, (f64::from_bits(seen) + value).to_bits(), Relaxed, Relaxed) {
            seen = now;
        }
    }

    pub(crate) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_belongs_to_its_own_bucket() {
        let h = Histogram::new(&[0.000_05, 0.001, 1.0], 1e9);
        for ns in [0, 50_000, 50_001, 1_000_000, 1_000_000_000, 1_000_000_001, u64::MAX / 2] {
            h.record(ns);
        }
        assert_eq!(h.read().cumulative, [2, 4, 5, 7]);
        assert_eq!(h.read().count(), 7);
    }

    #[test]
    fn threads_lose_nothing() {
        let (h, s) = (Histogram::new(&[1.0], 1.0), Sum::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|i| (h.record(i), s.add(0.5)).0));
            }
        });
        assert_eq!((h.read().count(), h.read().sum.round(), s.get().round()), (4000, 4.0 * 499_500.0, 2000.0));
    }
}
