//! Load balancing: which host takes a request. Each algorithm is Envoy's, to the bit where it hashes.
//!
//! Tables (ring, Maglev) belong to the [`HostSet`] and are shared by the workers; schedules (round robin, weighted least
//! request) belong to each worker. Nothing here does IO, and only a schedule of hosts that warm up asks for the time.

mod edf;
mod least_request;
mod maglev;
mod random;
mod ring_hash;
mod round_robin;

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, OnceLock, Weak},
};

use outrigger_config::snapshot::{Balancer, Cluster, Warmup};
use rand::{Rng, rngs::SmallRng};

use self::{edf::Share, maglev::Maglev, ring_hash::Ring, round_robin::RoundRobin};
use super::{ClusterState, Host};

/// The hosts of a cluster between two changes of health or membership.
#[derive(Debug)]
pub struct HostSet {
    /// All hosts, in order of the configuration.
    pub all: Arc<[Arc<Host>]>,
    /// Those that take requests: the healthy ones, or all in panic.
    pub candidates: Arc<[Arc<Host>]>,
    /// How many are healthy.
    pub healthy: usize,
    /// Too few are healthy: all are used.
    pub panic: bool,
    pub(super) version: u64,
    pub(super) picker: Picker,
}

/// The balancing policy with what it prepares once for all workers.
#[derive(Debug)]
pub(super) enum Picker {
    RoundRobin(Weights),
    LeastRequest(Weights),
    Random,
    /// Made when the first request needs it: a mesh has many clusters that nobody asks.
    Ring {
        made: OnceLock<Ring>,
        minimum: u64,
        maximum: u64,
    },
    Maglev(Maglev),
}

/// What a schedule goes by.
#[derive(Debug, Clone, Copy)]
pub(super) enum Weights {
    Equal,
    Unequal,
    /// Some hosts were new when the set was made. As in Envoy it stays so until the next set, since by then equal
    /// weights are shares that are equal.
    Warming(Warmup),
}

/// A larger ring is never left to a worker, whose other requests would wait for a millisecond and more.
const LARGEST_ON_WORKER: u64 = 8 * 1024;

impl Picker {
    /// `used` says that requests came before, and more will.
    pub(super) fn new(cluster: &Cluster, hosts: &[Arc<Host>], used: bool) -> Self {
        match cluster.balancer {
            Balancer::RoundRobin => Self::RoundRobin(Weights::of(hosts, cluster.warmup)),
            Balancer::LeastRequest => Self::LeastRequest(Weights::of(hosts, cluster.warmup)),
            Balancer::Random => Self::Random,
            Balancer::RingHash { minimum_ring_size, maximum_ring_size } => {
                let (minimum, maximum) = (minimum_ring_size, maximum_ring_size);
                let made = OnceLock::new();
                if used || Ring::size(&weights(hosts), minimum, maximum) > LARGEST_ON_WORKER as f64 {
                    made.get_or_init(|| Ring::new(&weights(hosts), minimum, maximum));
                }
                Self::Ring { made, minimum, maximum }
            }
            Balancer::Maglev { table_size } => Self::Maglev(Maglev::new(&weights(hosts), table_size)),
        }
    }

    /// Whether building it is worth another thread.
    pub(super) fn is_table(&self) -> bool {
        matches!(self, Self::Ring { .. } | Self::Maglev(_))
    }

    /// Whether requests have asked for it, as far as that can be told.
    pub(super) fn is_used(&self) -> bool {
        matches!(self, Self::Ring { made, .. } if made.get().is_some())
    }
}

impl Weights {
    fn of(hosts: &[Arc<Host>], warmup: Option<Warmup>) -> Self {
        let unequal = hosts.windows(2).any(|pair| match pair {
            [a, b] => a.endpoint.weight != b.endpoint.weight,
            _ => false,
        });
        match warmup {
            Some(warmup) if hosts.iter().any(|host| host.added().elapsed() < warmup.window) => {
                Self::Warming(warmup)
            }
            _ if unequal => Self::Unequal,
            _ => Self::Equal,
        }
    }

    /// The weight of a host, in a unit of its own for each kind.
    fn weight(self, host: Option<&Arc<Host>>) -> u64 {
        let Some(host) = host else { return 1 };
        let weight = u64::from(host.endpoint.weight);
        match self {
            Self::Equal | Self::Unequal => weight,
            Self::Warming(warmup) => {
                let share = warmup.share(host.added().elapsed());
                weight * (FULL * share) as u64
            }
        }
    }
}

/// The unit of weights while hosts warm up.
const FULL: f64 = 1_000_000.0;

fn weights(hosts: &[Arc<Host>]) -> Vec<(&str, u32)> {
    hosts.iter().map(|host| (&*host.endpoint.key, host.endpoint.weight)).collect()
}

/// The schedules of one worker.
#[derive(Debug, Default)]
pub struct Balancers {
    schedules: RefCell<HashMap<u64, Schedule>>,
}

#[derive(Debug)]
struct Schedule {
    cluster: Weak<ClusterState>,
    version: u64,
    order: RoundRobin,
}

impl Balancers {
    /// No schedule yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Picks a host, or none where no host takes requests (flag UH).
    ///
    /// `hash` is the request's key for ring hash and Maglev; without one a random number takes its place. Hosts in
    /// `avoid` are picked again up to 5 times; the sixth host is taken whatever it is (Istio's
    /// `host_selection_retry_max_attempts`).
    pub fn pick(
        &self,
        cluster: &Arc<ClusterState>,
        hash: Option<u64>,
        avoid: &[Arc<Host>],
        rng: &mut SmallRng,
    ) -> Option<Arc<Host>> {
        let set = cluster.hosts();
        if set.candidates.is_empty() {
            return None;
        }
        if set.panic {
            cluster.stats.lb_healthy_panic.inc();
        }
        let hash = if set.picker.is_table() { hash.unwrap_or_else(|| rng.next_u64()) } else { 0 };
        let mut re_picks = 0;
        for attempt in 0..PROBES {
            let host = set.candidates.get(self.index(cluster, &set, hash, attempt, rng))?;
            // A table is replaced a moment after the ejection: until then an ejected host is passed over.
            if !set.panic && host.is_ejected() {
                continue;
            }
            if re_picks == RE_PICKS || !avoid.iter().any(|other| other.id() == host.id()) {
                return Some(host.clone());
            }
            re_picks += 1;
        }
        None
    }

    fn index(
        &self,
        cluster: &Arc<ClusterState>,
        set: &HostSet,
        hash: u64,
        attempt: u64,
        rng: &mut SmallRng,
    ) -> usize {
        let hosts = &*set.candidates;
        match &set.picker {
            Picker::Ring { made, minimum, maximum } => {
                made.get_or_init(|| Ring::new(&weights(hosts), *minimum, *maximum)).pick(hash, attempt)
            }
            Picker::Maglev(maglev) => maglev.pick(hash, attempt),
            Picker::Random => random::pick(hosts.len(), rng),
            Picker::LeastRequest(Weights::Equal) => {
                least_request::pick(hosts.len(), rng, |i| active(hosts, i))
            }
            Picker::LeastRequest(weights) => {
                let share = |i| Share { weight: weights.weight(hosts.get(i)), load: active(hosts, i) + 1 };
                self.scheduled(cluster, set, true, rng, share)
            }
            Picker::RoundRobin(weights) => {
                let weighted = !matches!(weights, Weights::Equal);
                let share = |i| Share { weight: weights.weight(hosts.get(i)), load: 1 };
                self.scheduled(cluster, set, weighted, rng, share)
            }
        }
    }

    fn scheduled(
        &self,
        cluster: &Arc<ClusterState>,
        set: &HostSet,
        weighted: bool,
        rng: &mut SmallRng,
        share: impl Fn(usize) -> Share,
    ) -> usize {
        let mut schedules = self.schedules.borrow_mut();
        let current = schedules.get(&cluster.id()).is_some_and(|schedule| schedule.version == set.version);
        if !current {
            // A new host set is rare: a good time to forget the clusters that are gone.
            schedules.retain(|_, schedule| schedule.cluster.strong_count() > 0);
            let order = RoundRobin::new(set.candidates.len(), weighted, rng.next_u64(), &share);
            let cluster = (cluster.id(), Arc::downgrade(cluster));
            schedules.insert(cluster.0, Schedule { cluster: cluster.1, version: set.version, order });
        }
        schedules.get_mut(&cluster.id()).map_or(0, |schedule| schedule.order.pick(share))
    }
}

/// Re-picks where a picked host is to be avoided.
const RE_PICKS: u32 = 5;

/// Picks in all, ejected hosts of an old table included.
const PROBES: u64 = 64;

fn active(hosts: &[Arc<Host>], index: usize) -> u64 {
    hosts.get(index).map_or(0, |host| host.active())
}

#[cfg(test)]
mod tests;
