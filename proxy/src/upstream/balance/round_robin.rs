//! The order in which a worker goes round the hosts: plainly where weights are equal, else by earliest deadline first.

use super::edf::{Edf, Share};

#[derive(Debug)]
pub(super) enum RoundRobin {
    /// Next number of all; the host is the remainder.
    Plain {
        next: u64,
        hosts: u64,
    },
    Weighted(Edf),
}

impl RoundRobin {
    /// Starts at a random place, so that many proxies do not march in step.
    pub(super) fn new(hosts: usize, weighted: bool, start: u64, share: impl Fn(usize) -> Share) -> Self {
        let hosts_in_all = hosts as u64;
        if !weighted {
            return Self::Plain { next: start, hosts: hosts_in_all.max(1) };
        }
        let mut order = Edf::new(hosts, &share);
        for _ in 0..start % hosts_in_all.max(1) {
            order.pick(&share);
        }
        Self::Weighted(order)
    }

    pub(super) fn pick(&mut self, share: impl Fn(usize) -> Share) -> usize {
        match self {
            Self::Plain { next, hosts } => {
                let index = *next % *hosts;
                *next = next.wrapping_add(1);
                index as usize
            }
            Self::Weighted(order) => order.pick(share),
        }
    }
}
