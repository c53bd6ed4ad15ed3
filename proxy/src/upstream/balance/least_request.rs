//! `LEAST_REQUEST` with equal weights: two random hosts, with replacement, and the one with fewer active requests.
//!
//! With unequal weights Envoy uses the schedule of [`super::edf`] with weight / (active + 1) instead.

use rand::rngs::SmallRng;

use super::random;

pub(super) fn pick(hosts: usize, rng: &mut SmallRng, active: impl Fn(usize) -> u64) -> usize {
    let first = random::pick(hosts, rng);
    let second = random::pick(hosts, rng);
    if active(second) < active(first) { second } else { first }
}
