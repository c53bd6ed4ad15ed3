//! A histogram with Istio's bounds for one writer and any reader: no lock, no read-modify-write.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds of the buckets, for milliseconds and bytes alike (Istio's defaults); one more bucket has none.
pub(super) const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// Counts of one worker. Only that worker writes, so that a plain load and store are enough.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// Bits of an `f64`.
    sum: AtomicU64,
}

/// The sum of several histograms at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Merged {
    buckets: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl Histogram {
    pub(super) fn observe(&self, value: f64) {
        let at = BOUNDS.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(at) {
            add(bucket, 1);
        }
        self.sum.store((f64::from_bits(self.sum.load(Relaxed)) + value).to_bits(), Relaxed);
    }
}

/// Adds without a read-modify-write: for cells with a single writer.
pub(super) fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed);
}

impl Merged {
    pub(super) fn merge(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.load(Relaxed);
        }
        self.sum += f64::from_bits(histogram.sum.load(Relaxed));
    }

    /// What came behind an earlier moment of the same histogram.
    pub(super) fn since(&self, before: &Self) -> Self {
        let mut rest = self.clone();
        for (bucket, counted) in rest.buckets.iter_mut().zip(&before.buckets) {
            *bucket = bucket.saturating_sub(*counted);
        }
        rest.sum -= before.sum;
        rest
    }

    pub(super) fn sum(&self) -> f64 {
        self.sum
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Bound and count of each bucket, not cumulative; the last bound is infinite.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        BOUNDS.into_iter().chain([f64::INFINITY]).zip(self.buckets).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_to_it_and_workers_add_up() {
        let (first, second) = (Histogram::default(), Histogram::default());
        first.observe(0.5);
        first.observe(0.6);
        second.observe(4_000_000.0);
        let mut merged = Merged::default();
        merged.merge(&first);
        merged.merge(&second);
        let filled: Vec<_> = merged.buckets().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.5, 1), (1.0, 1), (f64::INFINITY, 1)]);
        assert_eq!((merged.count(), merged.sum()), (3, 4_000_001.1));
    }
}
