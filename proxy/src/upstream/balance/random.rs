//! `RANDOM`: every host alike; weights are ignored, as in Envoy.

use rand::{RngExt, rngs::SmallRng};

pub(super) fn pick(hosts: usize, rng: &mut SmallRng) -> usize {
    rng.random_range(0..hosts.max(1))
}
