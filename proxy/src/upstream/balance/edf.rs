//! Earliest deadline first: a schedule in which a host of weight w comes w times as often as one of weight 1.
//!
//! Envoy's `EdfScheduler`: the next deadline of a host is its last one plus 1 / weight, the weight taken anew each time;
//! equal deadlines go in order of (re)insertion.

use std::{cmp::Ordering, collections::BinaryHeap};

#[derive(Debug)]
pub(super) struct Edf {
    queue: BinaryHeap<Entry>,
    now: f64,
    inserted: u64,
}

#[derive(Debug)]
struct Entry {
    deadline: f64,
    order: u64,
    host: usize,
}

impl Edf {
    pub(super) fn new(hosts: usize, weight: impl Fn(usize) -> f64) -> Self {
        let mut edf = Self { queue: BinaryHeap::with_capacity(hosts), now: 0.0, inserted: 0 };
        for host in 0..hosts {
            edf.insert(host, weight(host));
        }
        edf
    }

    /// Index of the next host; 0 for a schedule without hosts.
    pub(super) fn pick(&mut self, weight: impl Fn(usize) -> f64) -> usize {
        let Some(entry) = self.queue.pop() else { return 0 };
        self.now = entry.deadline;
        self.insert(entry.host, weight(entry.host));
        entry.host
    }

    fn insert(&mut self, host: usize, weight: f64) {
        self.queue.push(Entry { deadline: self.now + 1.0 / weight, order: self.inserted, host });
        self.inserted += 1;
    }
}

/// The heap is a max-heap: the greatest entry is the earliest.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then_with(|| other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
