//! The hosts of a cluster between two changes of health or membership, and the groups in which they are balanced.
//!
//! There is one group, unless the endpoints have priorities or their localities have weights. Then a request is given a
//! priority first, by what each can take ([`super::priority`]), and a locality of it after that.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use outrigger_config::snapshot::{Balancer, Cluster, LocalityWeight};

use super::{
    Picker,
    priority::{Level, Load, OVERPROVISIONING, loads},
    shares,
};
use crate::upstream::{ClusterStats, Host};

/// All hosts, and who takes requests now.
#[derive(Debug)]
pub struct HostSet {
    /// All hosts, in order of the configuration.
    pub all: Arc<[Arc<Host>]>,
    /// How many are healthy.
    pub healthy: usize,
    /// The hosts that take requests, by whom they are balanced with.
    pub groups: Box<[Group]>,
    /// How requests come to a group, if there are several.
    pub(super) spread: Option<Box<[Priority]>>,
    pub(in crate::upstream) version: u64,
}

/// Hosts that are balanced with each other.
#[derive(Debug)]
pub struct Group {
    /// Those that take requests: the healthy ones, or all in panic.
    pub candidates: Arc<[Arc<Host>]>,
    /// Too few are healthy: all are used.
    pub panic: bool,
    pub(super) picker: Picker,
    /// What a table gives to each candidate, if that is not by its weight alone.
    shares: Option<Box<[f64]>>,
}

/// The groups of one priority.
#[derive(Debug)]
pub(super) struct Priority {
    /// Its last point of 1 to 100.
    pub(super) last: u32,
    /// Its first group.
    pub(super) group: usize,
    /// What each of its groups gets, in proportion; empty for a single one.
    pub(super) shares: Box<[u64]>,
}

impl HostSet {
    /// Healthy hosts only; in panic all of them. `used` says that requests have asked for the set before.
    pub(in crate::upstream) fn new(
        config: &Cluster,
        all: Arc<[Arc<Host>]>,
        stats: &ClusterStats,
        used: bool,
    ) -> Self {
        static VERSION: AtomicU64 = AtomicU64::new(0);
        let healthy = healthy(&all);
        stats.membership_total.set(all.len() as u64);
        stats.membership_healthy.set(healthy.len() as u64);
        let mut set = Self {
            healthy: healthy.len(),
            groups: Box::default(),
            spread: None,
            version: VERSION.fetch_add(1, Relaxed),
            all,
        };
        let last = set.all.iter().map(|host| host.endpoint.priority).max().unwrap_or(0);
        if last == 0 && config.localities.is_none() {
            let level = [Level { hosts: set.all.len(), healthy: healthy.len() }];
            let panic = loads(&level, config.panic_threshold).iter().any(|load| load.panic);
            let candidates = if panic { set.all.clone() } else { healthy.into() };
            set.groups = [Group::new(config, candidates, panic, None, used)].into();
        } else {
            set.divide(config, last, used);
        }
        set
    }

    /// How many hosts a request may come to now.
    pub(crate) fn takers(&self) -> usize {
        let count = |groups: &[Group]| groups.iter().map(|group| group.candidates.len()).sum::<usize>();
        let Some(spread) = &self.spread else { return count(&self.groups) };
        let ends = spread.iter().skip(1).map(|next| next.group).chain([self.groups.len()]);
        let mut before = 0;
        let takes = spread.iter().zip(ends).filter(|(priority, _)| {
            let takes = priority.last > before;
            before = priority.last;
            takes
        });
        takes.map(|(priority, end)| count(self.groups.get(priority.group..end).unwrap_or_default())).sum()
    }

    /// Whether a change of health is worth another thread.
    pub(in crate::upstream) fn is_table(&self) -> bool {
        self.groups.iter().any(|group| group.picker.is_table())
    }

    /// Whether requests have asked for its tables, as far as that can be told.
    pub(in crate::upstream) fn is_used(&self) -> bool {
        self.groups.iter().any(|group| group.picker.is_used())
    }

    fn divide(&mut self, config: &Cluster, last: u32, used: bool) {
        let members: Vec<Vec<_>> = (0..=last)
            .map(|priority| {
                self.all.iter().filter(|host| host.endpoint.priority == priority).cloned().collect()
            })
            .collect();
        let level = |hosts: &Vec<_>| Level { hosts: hosts.len(), healthy: healthy(hosts).len() };
        let loads = loads(&members.iter().map(level).collect::<Vec<_>>(), config.panic_threshold);
        let (mut groups, mut spread, mut point) = (Vec::new(), Vec::new(), 0);
        for ((priority, members), load) in (0..).zip(&members).zip(loads) {
            point += load.percent;
            let group = groups.len();
            let localities: Vec<_> =
                config.localities.iter().flatten().filter(|one| one.priority == priority).collect();
            let shares = add_groups(&mut groups, config, members, load, &localities, used);
            spread.push(Priority { last: point, group, shares });
        }
        self.groups = groups.into();
        self.spread = Some(spread.into());
    }
}

impl Group {
    fn new(
        config: &Cluster,
        candidates: Arc<[Arc<Host>]>,
        panic: bool,
        shares: Option<Box<[f64]>>,
        used: bool,
    ) -> Self {
        let picker = Picker::new(config, &candidates, &|| table(&candidates, shares.as_deref()), used);
        Self { picker, candidates, panic, shares }
    }

    /// What a table is made of.
    pub(super) fn table(&self) -> Vec<(&str, f64)> {
        table(&self.candidates, self.shares.as_deref())
    }
}

fn table<'h>(hosts: &'h [Arc<Host>], given: Option<&[f64]>) -> Vec<(&'h str, f64)> {
    let keys = hosts.iter().map(|host| &*host.endpoint.key);
    match given {
        Some(given) => keys.zip(given.iter().copied()).collect(),
        None => shares(keys.zip(hosts.iter().map(|host| host.endpoint.weight))),
    }
}

fn healthy(hosts: &[Arc<Host>]) -> Vec<Arc<Host>> {
    hosts.iter().filter(|host| !host.is_ejected()).cloned().collect()
}

/// Adds the groups of one priority; the answer is the share of each, if there are several.
fn add_groups(
    groups: &mut Vec<Group>,
    config: &Cluster,
    members: &[Arc<Host>],
    load: Load,
    localities: &[&LocalityWeight],
    used: bool,
) -> Box<[u64]> {
    let candidates = if load.panic { members.to_vec() } else { healthy(members) };
    // One table holds all localities.
    if matches!(config.balancer, Balancer::RingHash { .. } | Balancer::Maglev { .. })
        && !localities.is_empty()
    {
        let shares = Some(weighted_shares(&candidates, localities));
        groups.push(Group::new(config, candidates.into(), load.panic, shares, used));
        return Box::default();
    }
    if load.panic || localities.is_empty() {
        groups.push(Group::new(config, candidates.into(), load.panic, None, used));
        return Box::default();
    }
    let mut shares = Vec::new();
    for one in localities {
        let of = |hosts: &[Arc<Host>]| -> Vec<Arc<Host>> {
            hosts.iter().filter(|host| host.endpoint.locality == one.locality).cloned().collect()
        };
        let here = of(&candidates);
        if here.is_empty() {
            continue;
        }
        let available = f64::from(OVERPROVISIONING) / 100.0 * here.len() as f64 / of(members).len() as f64;
        shares.push((f64::from(one.weight) * available.min(1.0) * UNIT) as u64);
        groups.push(Group::new(config, here.into(), false, None, used));
    }
    if shares.len() > 1 { shares.into() } else { Box::default() }
}

/// The unit of the shares of localities.
const UNIT: f64 = 1_000_000.0;

/// The share of each host: that of its locality among those that have hosts, divided by weight.
fn weighted_shares(hosts: &[Arc<Host>], localities: &[&LocalityWeight]) -> Box<[f64]> {
    let here = localities.iter().map(|one| {
        let hosts = hosts.iter().filter(|host| host.endpoint.locality == one.locality);
        (*one, hosts.map(|host| f64::from(host.endpoint.weight)).sum::<f64>())
    });
    let here: Vec<_> = here.filter(|(_, weight)| *weight > 0.0).collect();
    let total: f64 = here.iter().map(|(one, _)| f64::from(one.weight)).sum();
    let share = |host: &Arc<Host>| {
        let own = here.iter().find(|(one, _)| one.locality == host.endpoint.locality);
        own.map_or(0.0, |(one, here)| {
            f64::from(host.endpoint.weight) * (f64::from(one.weight) / total) / here
        })
    };
    hosts.iter().map(share).collect()
}
