//! What lives beside the snapshot: health, limits, counters and connections of clusters and endpoints.
//!
//! The control thread owns [`Upstreams`]; workers reach a [`ClusterState`] through the [`Published`] configuration and
//! own their [`Balancers`] and [`pool::Pools`]. State is carried from one snapshot to the next by cluster name and
//! endpoint address, so a reload forgets neither an ejection nor a connection.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use outrigger_config::snapshot::{ClusterId, Snapshot};
use tokio::{sync::Notify, time::Instant};

pub mod balance;
mod breaker;
mod cluster;
mod connect;
mod host;
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
pub use host::{Host, HostId};
pub use outlier::{Ejection, EjectionReport, Outcome, Reason};
pub use pool::{Lease, PoolError, Pools, ResetReason, ResponseBody, SendError, Sent, Wire};
pub use stats::{ClusterStats, HostStats};
pub use tcp::{DialError, TcpConnection};

/// The cluster states of the process, by name. Belongs to the control thread.
#[derive(Debug, Default)]
pub struct Upstreams {
    clusters: Mutex<HashMap<Arc<str>, Arc<ClusterState>>>,
    wake: Arc<Notify>,
}

impl Upstreams {
    /// No cluster yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Joins a snapshot to the state of its clusters. Clusters that it does not name are forgotten here; requests
    /// under way still hold them.
    pub fn publish(&self, snapshot: Arc<Snapshot>) -> Arc<Published> {
        let now = Instant::now();
        let mut known = self.known();
        let mut next = HashMap::with_capacity(snapshot.clusters.len());
        let clusters = snapshot
            .clusters
            .iter()
            .map(|config| {
                let state = match known.remove(&config.name) {
                    Some(state) => {
                        state.update(config, now);
                        state
                    }
                    None => Arc::new(ClusterState::new(config.clone(), self.wake.clone(), now)),
                };
                next.insert(config.name.clone(), state.clone());
                state
            })
            .collect();
        for gone in known.values() {
            gone.retire();
        }
        *known = next;
        self.wake.notify_one();
        Arc::new(Published { snapshot, clusters })
    }

    /// The cluster of this name, if the configuration has it.
    pub fn cluster(&self, name: &str) -> Option<Arc<ClusterState>> {
        self.known().get(name).cloned()
    }

    /// All clusters in order of their names, for `/clusters` and `/metrics`.
    pub fn clusters(&self) -> Vec<Arc<ClusterState>> {
        let mut clusters: Vec<_> = self.known().values().cloned().collect();
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
        self.known().values().filter_map(|cluster| cluster.next_sweep()).min()
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

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<ClusterState>>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A snapshot with the run-time state of its clusters: what workers read.
#[derive(Debug)]
pub struct Published {
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    clusters: Box<[Arc<ClusterState>]>,
}

impl Published {
    /// The state of a cluster of this snapshot.
    #[expect(clippy::indexing_slicing, reason = "ids are made by the compiler of this very snapshot")]
    pub fn cluster(&self, id: ClusterId) -> &Arc<ClusterState> {
        &self.clusters[id.0 as usize]
    }
}
