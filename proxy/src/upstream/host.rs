//! One endpoint of one cluster at run time: its counters and its health. Both outlive a reload.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use outrigger_config::snapshot::{Endpoint, Source};
use tokio::time::Instant;

use super::{
    HostStats,
    outlier::{EjectionReport, Health},
};
use crate::net::tls::Security;

/// Identity of an endpoint within its cluster, for as long as the process lives: pools and retries are keyed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(u64);

impl HostId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }
}

/// An endpoint as one snapshot describes it, with the state it shares with its earlier descriptions.
#[derive(Debug)]
pub struct Host {
    /// Address, weight and labels.
    pub endpoint: Arc<Endpoint>,
    local: LocalEnd,
    /// How connections to it are secured; `None` is plain text.
    security: Option<Arc<Security>>,
    /// It is described anew, and connections are secured in another way.
    replaced: AtomicBool,
    state: Arc<HostState>,
}

/// What our end of connections to a host is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalEnd {
    /// Whatever the system chooses.
    Any,
    /// An address of this machine.
    Own(IpAddr),
    /// The address of a client, which takes a privilege (`CAP_NET_ADMIN`).
    Client(IpAddr),
}

/// Where Istio binds connections to the workload, so that its rules let them pass.
const INBOUND: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(127, 0, 0, 6), Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6));

impl LocalEnd {
    /// Of connections that have no client to stand for.
    pub(super) fn of(source: Source, to: IpAddr) -> Self {
        match (source, to) {
            (Source::System | Source::Client, _) => Self::Any,
            (Source::Inbound, IpAddr::V4(_)) => Self::Own(INBOUND.0.into()),
            (Source::Inbound, IpAddr::V6(_)) => Self::Own(INBOUND.1.into()),
        }
    }
}

#[derive(Debug)]
struct HostState {
    id: HostId,
    stats: HostStats,
    health: Health,
    removed: AtomicBool,
    added: Instant,
}

impl Host {
    pub(super) fn new(endpoint: Arc<Endpoint>, security: Option<Arc<Security>>, source: Source) -> Self {
        let local = LocalEnd::of(source, endpoint.address.ip());
        Self::reached_from(endpoint, security, local)
    }

    /// One whose connections begin at `local`.
    pub(super) fn reached_from(
        endpoint: Arc<Endpoint>,
        security: Option<Arc<Security>>,
        local: LocalEnd,
    ) -> Self {
        let state = HostState {
            id: HostId::next(),
            stats: HostStats::default(),
            health: Health::default(),
            removed: AtomicBool::new(false),
            added: Instant::now(),
        };
        Self { endpoint, local, security, replaced: AtomicBool::new(false), state: Arc::new(state) }
    }

    /// The same host under a new description. Connections that are secured in another way are no longer to be used.
    pub(super) fn described(&self, endpoint: Arc<Endpoint>, security: Option<Arc<Security>>) -> Self {
        self.replaced.store(self.security != security, Relaxed);
        let state = self.state.clone();
        Self { endpoint, local: self.local, security, replaced: AtomicBool::new(false), state }
    }

    /// Whether this says the same.
    pub(super) fn is_described(&self, endpoint: &Arc<Endpoint>, security: Option<&Arc<Security>>) -> bool {
        self.endpoint == *endpoint && self.security.as_ref() == security
    }

    /// How connections to it are secured; `None` is plain text.
    pub(crate) fn security(&self) -> Option<&Arc<Security>> {
        self.security.as_ref()
    }

    /// Identity: the same cluster name and address, whatever the weight and labels.
    pub fn id(&self) -> HostId {
        self.state.id
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    pub(super) fn local_end(&self) -> LocalEnd {
        self.local
    }

    /// Since when the cluster has it; an ejection is no new beginning.
    pub(super) fn added(&self) -> Instant {
        self.state.added
    }

    /// Its counters.
    pub fn stats(&self) -> &HostStats {
        &self.state.stats
    }

    /// Active requests of all workers, the load that `LEAST_REQUEST` compares.
    pub fn active(&self) -> u64 {
        self.state.stats.rq_active.get()
    }

    /// Whether it is ejected now (Envoy `/failed_outlier_check`).
    pub fn is_ejected(&self) -> bool {
        self.state.health.is_ejected()
    }

    /// Why, since when and until when it is ejected, and how often it was.
    pub fn ejection(&self) -> EjectionReport {
        self.state.health.report()
    }

    pub(super) fn health(&self) -> &Health {
        &self.state.health
    }

    /// A request has one of its connections.
    pub(crate) fn connected(&self) {
        self.state.health.connected();
    }

    /// Whether no snapshot names it any more, or not so: its idle connections are to be closed.
    pub fn is_removed(&self) -> bool {
        self.replaced.load(Relaxed) || self.state.removed.load(Relaxed)
    }

    pub(super) fn remove(&self) {
        self.state.removed.store(true, Relaxed);
    }
}
