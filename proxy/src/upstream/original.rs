//! Hosts of clusters that go where the client was going (Envoy's `ORIGINAL_DST`): each worker makes one for a destination
//! when it is asked for, keeps it while it is used, and drops what was not for a while. They are in no host set.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    ptr,
    sync::{Arc, Weak},
    time::Duration,
};

use outrigger_config::snapshot::{Cluster, Endpoint, Locality, Source};
use tokio::time::Instant;

use super::{ClusterState, Host, LocalEnd};

/// A host that was not asked for so long is dropped, and its idle connections with it.
const UNUSED: Duration = Duration::from_secs(60);
/// Time between two looks for such hosts.
const INTERVAL: Duration = Duration::from_secs(5);
/// Clients choose destinations: of more hosts than these, half are dropped, those first that were unused for longest.
const MAX_HOSTS: usize = 1024;

/// What is known of a captured connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Original {
    /// Where it was going.
    pub destination: SocketAddr,
    /// Who it came from.
    pub client: IpAddr,
}

/// The hosts of one worker.
#[derive(Debug)]
pub struct Originals(RefCell<Known>);

#[derive(Debug)]
struct Known {
    hosts: HashMap<Key, Entry>,
    swept: Instant,
}

/// Cluster, destination, and the client if its address is ours too: a connection serves one.
type Key = (u64, SocketAddr, Option<IpAddr>);

#[derive(Debug)]
struct Entry {
    host: Arc<Host>,
    cluster: Weak<ClusterState>,
    /// By which description of the cluster it was made.
    described: Weak<Cluster>,
    used: Instant,
}

impl Default for Originals {
    fn default() -> Self {
        Self(RefCell::new(Known { hosts: HashMap::new(), swept: Instant::now() }))
    }
}

impl Originals {
    /// The host of a destination, and whether others were dropped for it: they are marked as removed.
    pub fn host(&self, cluster: &Arc<ClusterState>, original: Original) -> (Arc<Host>, bool) {
        let now = Instant::now();
        let config = cluster.description();
        let local = local_end(config.source, original);
        let client = matches!(local, LocalEnd::Client(_)).then_some(original.client);
        let key = (cluster.id(), original.destination, client);
        let known = &mut *self.0.borrow_mut();
        if let Some(entry) = known.hosts.get_mut(&key) {
            entry.used = now;
            if !ptr::eq(entry.described.as_ptr(), Arc::as_ptr(&config)) {
                let endpoint = endpoint(&config, original.destination);
                let security = cluster.security(&endpoint);
                let replaced = !entry.host.is_described(&endpoint, security.as_ref());
                if replaced {
                    entry.host = Arc::new(entry.host.described(endpoint, security));
                }
                entry.described = Arc::downgrade(&config);
                return (Arc::clone(&entry.host), replaced);
            }
            return (Arc::clone(&entry.host), false);
        }
        let dropped = known.make_room(now);
        let endpoint = endpoint(&config, original.destination);
        let security = cluster.security(&endpoint);
        let host = Arc::new(Host::reached_from(endpoint, security, local));
        let (cluster, described) = (Arc::downgrade(cluster), Arc::downgrade(&config));
        known.hosts.insert(key, Entry { host: Arc::clone(&host), cluster, described, used: now });
        (host, dropped)
    }

    /// Drops the hosts of clusters that have left the configuration.
    pub(crate) fn forget_retired(&self) {
        self.0
            .borrow_mut()
            .keep(|entry| entry.cluster.upgrade().is_some_and(|cluster| !cluster.is_retired()));
    }
}

impl Known {
    fn make_room(&mut self, now: Instant) -> bool {
        let before = self.hosts.len();
        if now >= self.swept + INTERVAL {
            self.swept = now;
            self.keep(|entry| now < entry.used + UNUSED);
        }
        if self.hosts.len() >= MAX_HOSTS {
            let mut used: Vec<_> = self.hosts.values().map(|entry| entry.used).collect();
            used.sort_unstable();
            let middle = used.get(used.len() / 2).copied().unwrap_or(now);
            self.keep(|entry| entry.used > middle);
        }
        self.hosts.len() < before
    }

    fn keep(&mut self, stays: impl Fn(&Entry) -> bool) {
        self.hosts.retain(|_, entry| {
            let stays = stays(entry);
            if !stays {
                entry.host.remove();
            }
            stays
        });
    }
}

fn local_end(source: Source, original: Original) -> LocalEnd {
    match source {
        Source::Client => LocalEnd::Client(original.client),
        Source::System | Source::Inbound => LocalEnd::of(source, original.destination.ip()),
    }
}

/// As the documents describe it, if they do.
fn endpoint(config: &Cluster, destination: SocketAddr) -> Arc<Endpoint> {
    let known = config.endpoints.iter().find(|endpoint| endpoint.address == destination);
    known.map(Arc::clone).unwrap_or_else(|| {
        Arc::new(Endpoint {
            address: destination,
            key: destination.to_string().into(),
            hostname: "".into(),
            weight: 1,
            labels: Default::default(),
            mutual: false,
            locality: Locality::default(),
            priority: 0,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::testing::{ClusterBuilder, state};

    fn to(number: u16) -> Original {
        let destination = SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 80));
        Original { destination, client: [10, 9, 9, 9].into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_destination_keeps_its_host_while_it_is_asked_for() {
        let (originals, cluster) = (Originals::default(), state(ClusterBuilder::new(0)));
        let (first, _) = originals.host(&cluster, to(1));
        for _ in 0..10 {
            tokio::time::advance(UNUSED / 2).await;
            let (again, dropped) = originals.host(&cluster, to(1));
            assert!(again.id() == first.id() && !dropped);
        }
        tokio::time::advance(UNUSED).await;
        let (_, dropped) = originals.host(&cluster, to(2));
        assert!(dropped && first.is_removed());
        assert_ne!(originals.host(&cluster, to(1)).0.id(), first.id());
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_are_bounded_and_the_longest_unused_go_first() {
        let (originals, cluster) = (Originals::default(), state(ClusterBuilder::new(0)));
        let mut hosts = Vec::new();
        for number in 0..=MAX_HOSTS as u16 {
            tokio::time::advance(Duration::from_millis(1)).await;
            hosts.push(originals.host(&cluster, to(number)).0);
            assert!(originals.0.borrow().hosts.len() <= MAX_HOSTS);
        }
        let removed = hosts.iter().filter(|host| host.is_removed()).count();
        assert_eq!(removed, MAX_HOSTS / 2 + 1);
        assert!(hosts[..removed].iter().all(|host| host.is_removed()), "the first ones");
    }

    #[test]
    fn our_end_is_bound_as_the_cluster_says() {
        let v6 =
            Original { destination: "[fd00::1]:80".parse().unwrap(), client: "fd00::9".parse().unwrap() };
        assert_eq!(local_end(Source::System, to(1)), LocalEnd::Any);
        assert_eq!(local_end(Source::Inbound, to(1)), LocalEnd::Own("127.0.0.6".parse().unwrap()));
        assert_eq!(local_end(Source::Inbound, v6), LocalEnd::Own("::6".parse().unwrap()));
        assert_eq!(local_end(Source::Client, v6), LocalEnd::Client(v6.client));
    }
}
