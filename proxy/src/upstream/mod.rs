//! What lives beside the snapshot: health, limits, counters and connections of clusters and endpoints.
//!
//! The control thread owns [`Upstreams`]; workers reach a [`ClusterState`] through the [`Published`] configuration and
//! own their [`Balancers`] and [`pool::Pools`]. State is carried from one snapshot to the next by cluster name and
//! endpoint address, so a reload forgets neither an ejection nor a connection.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::HeaderValue;
use outrigger_config::snapshot::{
    Cluster, ClusterId, Credentials, InboundTls, Listener, Snapshot, TrustDomains,
};
use tokio::{sync::Notify, time::Instant};

use crate::net::tls::{FIRST_WORD, Inbound, Secrets};

pub mod balance;
mod breaker;
mod cluster;
mod connect;
mod dns;
mod host;
mod original;
mod outlier;
pub mod pool;
pub mod stats;
mod tcp;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use balance::{Balancers, Group, HostSet};
pub use breaker::{Breaker, ConnectionPermit, Overflow, PendingPermit, RequestPermit, Resource, RetryPermit};
pub use cluster::ClusterState;
pub(crate) use connect::transport_failure;
#[cfg(test)]
pub(crate) use dns::Server as NameServer;
pub(crate) use dns::{Lookup, NameServers};
pub use host::{Host, HostId, LocalEnd};
pub use original::{Original, Originals};
pub use outlier::{Ejection, EjectionReport, Outcome, Reason};
pub use pool::{Lease, PoolError, Pools, ResetReason, ResponseBody, SendError, Sent, Wire};
pub use stats::{ClusterStats, HostStats};
pub use tcp::{DialError, TcpConnection};

/// The cluster states of the process, by name. Belongs to the control thread.
#[derive(Debug, Default)]
pub struct Upstreams {
    clusters: Mutex<HashMap<Arc<str>, Known>>,
    wake: Arc<Notify>,
    names: Mutex<dns::Names>,
    secrets: Arc<Secrets>,
    /// There are new names to look up.
    due: Notify,
    /// A name was looked up.
    learned: Notify,
}

/// A cluster with what the configuration says of it; its state knows the addresses of names too.
#[derive(Debug)]
struct Known {
    described: Arc<Cluster>,
    state: Arc<ClusterState>,
}

impl Upstreams {
    /// No cluster yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// No cluster yet; connections are secured by these.
    pub(crate) fn with(secrets: Arc<Secrets>) -> Self {
        Self { secrets, ..Self::default() }
    }

    /// Joins a snapshot to the state of its clusters. Clusters that it does not name are forgotten here; requests
    /// under way still hold them.
    pub fn publish(&self, snapshot: Arc<Snapshot>) -> Arc<Published> {
        let now = Instant::now();
        let mut known = self.known();
        let mut names = self.names();
        names.keep(dns::names_of(&snapshot));
        let mut next = HashMap::with_capacity(snapshot.clusters.len());
        let clusters = snapshot
            .clusters
            .iter()
            .map(|described| {
                let state = match known.remove(&described.name) {
                    // The same object says the same, and its names are followed as they are looked up.
                    Some(old) if Arc::ptr_eq(&old.described, described) => old.state,
                    Some(Known { state, .. }) => {
                        state.update(&dns::resolved(described, &names), now);
                        state
                    }
                    None => {
                        let config = dns::resolved(described, &names);
                        Arc::new(ClusterState::new(config, self.wake.clone(), self.secrets.clone(), now))
                    }
                };
                let known = Known { described: Arc::clone(described), state: Arc::clone(&state) };
                next.insert(described.name.clone(), known);
                state
            })
            .collect();
        for gone in known.values() {
            gone.state.retire();
        }
        *known = next;
        self.wake.notify_one();
        let inbound = snapshot.listeners.iter().map(|listener| self.doors(listener)).collect();
        let own_address = Some(&*snapshot.node.address).filter(|address| !address.is_empty());
        let own_address = own_address.and_then(|address| HeaderValue::from_str(address).ok());
        Arc::new(Published { snapshot, clusters, inbound, own_address })
    }

    fn doors(&self, listener: &Listener) -> Doors {
        let apart = listener.captured().map(|captured| &captured.tls).into_iter().flatten();
        let detection = listener.captured().and_then(|captured| captured.detection);
        let first_word = detection.unwrap_or(FIRST_WORD);
        Doors {
            all: self.inbound(&listener.tls, first_word),
            apart: apart.map(|(port, tls)| (*port, self.inbound(tls, first_word))).collect(),
        }
    }

    /// Who has no identity offers none: that is plain text where it is allowed.
    fn inbound(&self, tls: &InboundTls, first_word: Duration) -> Option<Inbound> {
        let mesh = |domains: &TrustDomains| Credentials::mesh(domains.clone());
        let (secret, plaintext) = match tls {
            InboundTls::Strict(domains) => (self.secrets.of(&mesh(domains)), false),
            InboundTls::Permissive(domains) if self.secrets.has_identity() => {
                (self.secrets.of(&mesh(domains)), true)
            }
            InboundTls::Permissive(_) | InboundTls::Off => return None,
            InboundTls::Own(tls) => (self.secrets.of_server(tls), false),
        };
        Some(Inbound { secret, plaintext, first_word })
    }

    /// A cluster of no configuration, which nobody sweeps: for what has no outlier detection.
    pub(crate) fn alone(&self, config: Cluster) -> Arc<ClusterState> {
        let secrets = Arc::clone(&self.secrets);
        Arc::new(ClusterState::new(Arc::new(config), Arc::default(), secrets, Instant::now()))
    }

    /// The cluster of this name, if the configuration has it.
    pub fn cluster(&self, name: &str) -> Option<Arc<ClusterState>> {
        self.known().get(name).map(|known| Arc::clone(&known.state))
    }

    /// All clusters in order of their names, for `/clusters` and `/metrics`.
    pub fn clusters(&self) -> Vec<Arc<ClusterState>> {
        let mut clusters: Vec<_> = self.known().values().map(|known| Arc::clone(&known.state)).collect();
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        clusters
    }

    /// Sweeps each cluster whose tick has come: ejected endpoints return only then.
    pub fn sweep(&self, now: Instant) {
        for cluster in self.clusters() {
            cluster.sweep(now);
        }
    }

    /// When the next sweep is due.
    pub fn next_sweep(&self) -> Option<Instant> {
        self.known().values().filter_map(|known| known.state.next_sweep()).min()
    }

    /// Builds the hash tables that wait for it after a health change.
    pub fn refresh(&self) {
        for cluster in self.clusters() {
            cluster.refresh();
        }
    }

    /// Sweeps at each tick and refreshes tables as health changes: the control thread's part, without end.
    pub async fn maintain(&self) -> Infallible {
        loop {
            let tick = self.next_sweep();
            let sleep = async {
                match tick {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => self.sweep(Instant::now()),
                () = self.wake.notified() => self.refresh(),
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever needs both locks the clusters first.
    fn names(&self) -> MutexGuard<'_, dns::Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A snapshot with the run-time state of its clusters: what workers read.
#[derive(Debug)]
pub struct Published {
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    clusters: Box<[Arc<ClusterState>]>,
    /// Of each listener of the snapshot.
    inbound: Box<[Doors]>,
    /// The node's, as headers have it.
    own_address: Option<HeaderValue>,
}

/// How a listener takes connections; `None` is bytes as they come.
#[derive(Debug)]
struct Doors {
    all: Option<Inbound>,
    /// To ports that have a rule of their own.
    apart: Box<[(u16, Option<Inbound>)]>,
}

impl Published {
    /// Whether the snapshot has a listener of this name.
    pub(crate) fn has_listener(&self, listener: &str) -> bool {
        self.snapshot.listeners.iter().any(|known| &*known.name == listener)
    }

    /// Why a port serves nobody: its certificates were never loaded, and it takes no plain text.
    pub(crate) fn closed_port(&self) -> Option<Arc<str>> {
        let all = self.inbound.iter().flat_map(|doors| {
            let apart = doors.apart.iter().map(|(_, inbound)| inbound);
            apart.chain([&doors.all]).flatten()
        });
        all.filter(|inbound| !inbound.plaintext).find_map(|inbound| inbound.secret.unusable())
    }

    /// The address of the pod, if anything says it.
    pub(crate) fn own_address(&self) -> Option<&HeaderValue> {
        self.own_address.as_ref()
    }

    /// How connections to a port are taken at a listener of this snapshot.
    pub(crate) fn inbound(&self, listener: &str, port: u16) -> Option<&Inbound> {
        let at = self.snapshot.listeners.iter().position(|known| &*known.name == listener)?;
        let doors = self.inbound.get(at)?;
        let apart = doors.apart.iter().find(|(number, _)| *number == port);
        apart.map_or(&doors.all, |(_, inbound)| inbound).as_ref()
    }

    /// The state of a cluster of this snapshot.
    #[expect(clippy::indexing_slicing, reason = "ids are made by the compiler of this very snapshot")]
    pub fn cluster(&self, id: ClusterId) -> &Arc<ClusterState> {
        &self.clusters[id.0 as usize]
    }
}
