//! Load balancing: which host takes a request. Each algorithm is Envoy's, to the bit where it hashes.
//!
//! Tables (ring, Maglev) belong to the [`HostSet`] and are shared by the workers; schedules (round robin, weighted least
//! request) belong to each worker. Nothing here does IO, and only a schedule of hosts that warm up asks for the time.

mod edf;
mod host_set;
mod least_request;
mod maglev;
mod priority;
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

pub use self::host_set::{Group, HostSet};
use self::{edf::Share, host_set::Priority, maglev::Maglev, ring_hash::Ring, round_robin::RoundRobin};
use super::{ClusterState, Host};

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
    fn new<'h>(
        cluster: &Cluster,
        hosts: &[Arc<Host>],
        table: &dyn Fn() -> Vec<(&'h str, f64)>,
        used: bool,
    ) -> Self {
        match cluster.balancer {
            Balancer::RoundRobin => Self::RoundRobin(Weights::of(hosts, cluster.warmup)),
            Balancer::LeastRequest => Self::LeastRequest(Weights::of(hosts, cluster.warmup)),
            Balancer::Random => Self::Random,
            Balancer::RingHash { minimum_ring_size, maximum_ring_size } => {
                let (minimum, maximum) = (minimum_ring_size, maximum_ring_size);
                let made = OnceLock::new();
                let table = table();
                if used || Ring::size(&table, minimum, maximum) > LARGEST_ON_WORKER as f64 {
                    made.get_or_init(|| Ring::new(&table, minimum, maximum));
                }
                Self::Ring { made, minimum, maximum }
            }
            Balancer::Maglev { table_size } => Self::Maglev(Maglev::new(&table(), table_size)),
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

/// Keys of hosts, and their weights as parts of the whole.
fn shares<'k>(hosts: impl Iterator<Item = (&'k str, u32)>) -> Vec<(&'k str, f64)> {
    let mut shares: Vec<_> = hosts.map(|(key, weight)| (key, f64::from(weight))).collect();
    let total: f64 = shares.iter().map(|(_, weight)| weight).sum();
    shares.iter_mut().for_each(|(_, weight)| *weight /= total);
    shares
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
        let (group, host) = self.choose(cluster, &set, hash, avoid, rng)?;
        if group.panic {
            cluster.stats.lb_healthy_panic.inc();
        }
        Some(host)
    }

    /// The choice without its statistics, with the group of the host: what `explain` asks, whose requests are none.
    #[inline]
    pub(crate) fn choose<'s>(
        &self,
        cluster: &Arc<ClusterState>,
        set: &'s HostSet,
        hash: Option<u64>,
        avoid: &[Arc<Host>],
        rng: &mut SmallRng,
    ) -> Option<(&'s Group, Arc<Host>)> {
        let lone = set.groups.first()?;
        let is_table = lone.picker.is_table();
        let hash = if is_table { hash.unwrap_or_else(|| rng.next_u64()) } else { 0 };
        let mut re_picks = 0;
        for attempt in 0..PROBES {
            let (number, group) = match &set.spread {
                None => (0, lone),
                Some(spread) => {
                    let draw = if is_table { hash } else { rng.next_u64() };
                    let number = self.group(cluster, set, spread, draw, rng)?;
                    (number, set.groups.get(number)?)
                }
            };
            if group.candidates.is_empty() {
                return None;
            }
            let host = group.candidates.get(self.index(cluster, set, number, group, (hash, attempt), rng))?;
            // A table is replaced a moment after the ejection: until then an ejected host is passed over.
            if !group.panic && host.is_ejected() {
                continue;
            }
            if re_picks == RE_PICKS || !avoid.iter().any(|other| other.id() == host.id()) {
                return Some((group, host.clone()));
            }
            re_picks += 1;
        }
        None
    }

    /// The priority by the draw, for which tables take the hash, and its locality in turn (Envoy).
    fn group(
        &self,
        cluster: &Arc<ClusterState>,
        set: &HostSet,
        spread: &[Priority],
        draw: u64,
        rng: &mut SmallRng,
    ) -> Option<usize> {
        let point = draw % 100 + 1;
        let number = spread.iter().position(|priority| point <= u64::from(priority.last))?;
        let priority = spread.get(number)?;
        if priority.shares.is_empty() {
            return Some(priority.group);
        }
        let share = |i: usize| Share { weight: priority.shares.get(i).copied().unwrap_or(0), load: 1 };
        let slot = Slot { number: LOCALITIES + number, hosts: priority.shares.len(), version: set.version };
        Some(priority.group + self.scheduled(cluster, slot, true, rng, share))
    }

    fn index(
        &self,
        cluster: &Arc<ClusterState>,
        set: &HostSet,
        number: usize,
        group: &Group,
        (hash, attempt): (u64, u64),
        rng: &mut SmallRng,
    ) -> usize {
        let hosts = &*group.candidates;
        let slot = Slot { number, hosts: hosts.len(), version: set.version };
        match &group.picker {
            Picker::Ring { made, minimum, maximum } => {
                made.get_or_init(|| Ring::new(&group.table(), *minimum, *maximum)).pick(hash, attempt)
            }
            Picker::Maglev(maglev) => maglev.pick(hash, attempt),
            Picker::Random => random::pick(hosts.len(), rng),
            Picker::LeastRequest(Weights::Equal) => {
                least_request::pick(hosts.len(), rng, |i| active(hosts, i))
            }
            Picker::LeastRequest(weights) => {
                let share = |i| Share { weight: weights.weight(hosts.get(i)), load: active(hosts, i) + 1 };
                self.scheduled(cluster, slot, true, rng, share)
            }
            Picker::RoundRobin(weights) => {
                let weighted = !matches!(weights, Weights::Equal);
                let share = |i| Share { weight: weights.weight(hosts.get(i)), load: 1 };
                self.scheduled(cluster, slot, weighted, rng, share)
            }
        }
    }

    fn scheduled(
        &self,
        cluster: &Arc<ClusterState>,
        slot: Slot,
        weighted: bool,
        rng: &mut SmallRng,
        share: impl Fn(usize) -> Share,
    ) -> usize {
        let key = cluster.id() | (slot.number as u64) << SLOT_BITS;
        let mut schedules = self.schedules.borrow_mut();
        let current = schedules.get(&key).is_some_and(|schedule| schedule.version == slot.version);
        if !current {
            // A new host set is rare: a good time to forget the clusters that are gone.
            schedules.retain(|_, schedule| schedule.cluster.strong_count() > 0);
            let order = RoundRobin::new(slot.hosts, weighted, rng.next_u64(), &share);
            let cluster = Arc::downgrade(cluster);
            schedules.insert(key, Schedule { cluster, version: slot.version, order });
        }
        schedules.get_mut(&key).map_or(0, |schedule| schedule.order.pick(share))
    }
}

/// Which schedule of a cluster: that of a group by its number, or from [`LOCALITIES`] on that of a priority.
#[derive(Debug, Clone, Copy)]
struct Slot {
    number: usize,
    hosts: usize,
    version: u64,
}

const LOCALITIES: usize = 1 << 15;

/// Ids of clusters count from 0, and never come so far.
const SLOT_BITS: u32 = 48;

/// Re-picks where a picked host is to be avoided.
const RE_PICKS: u32 = 5;

/// Picks in all, ejected hosts of an old table included.
const PROBES: u64 = 64;

fn active(hosts: &[Arc<Host>], index: usize) -> u64 {
    hosts.get(index).map_or(0, |host| host.active())
}

#[cfg(test)]
mod locality_tests;
#[cfg(test)]
mod tests;
