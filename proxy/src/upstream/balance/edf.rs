//! Earliest deadline first: a schedule in which a host of weight w comes w times as often as one of weight 1.
//!
//! Envoy's `EdfScheduler`: the next deadline of a host is its last one plus load / weight, both taken anew each time;
//! equal deadlines go in order of (re)insertion. Time is whole numbers, so that deadlines that are equal stay equal:
//! 1:2:3 is 212012 for ever.

use std::{cmp::Ordering, collections::BinaryHeap};

#[derive(Debug)]
pub(super) struct Edf {
    queue: BinaryHeap<Entry>,
    now: u128,
    inserted: u64,
}

#[derive(Debug)]
struct Entry {
    deadline: u128,
    order: u64,
    host: usize,
}

impl Edf {
    /// `share` of a host is its weight and its load; both are 1 or more.
    pub(super) fn new(hosts: usize, share: impl Fn(usize) -> Share) -> Self {
        let mut edf = Self { queue: BinaryHeap::with_capacity(hosts), now: 0, inserted: 0 };
        for host in 0..hosts {
            edf.insert(host, share(host));
        }
        edf
    }

    /// Index of the next host; 0 for a schedule without hosts.
    pub(super) fn pick(&mut self, share: impl Fn(usize) -> Share) -> usize {
        let Some(entry) = self.queue.pop() else { return 0 };
        self.now = entry.deadline;
        self.insert(entry.host, share(entry.host));
        entry.host
    }

    fn insert(&mut self, host: usize, share: Share) {
        let deadline = self.now + UNIT * u128::from(share.load) / u128::from(share.weight.max(1));
        self.queue.push(Entry { deadline, order: self.inserted, host });
        self.inserted += 1;
    }
}

/// How often a host comes: in proportion to weight / load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) weight: u64,
    pub(super) load: u64,
}

/// The least common multiple of 1 to 40: weights up to that divide it.
const UNIT: u128 = 5_342_931_457_063_200;

/// The heap is a max-heap: the greatest entry is the earliest.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.cmp(&self.deadline).then_with(|| other.order.cmp(&self.order))
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
