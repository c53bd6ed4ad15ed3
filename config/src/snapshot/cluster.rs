//! Where requests can be sent: clusters, their endpoints, and how these are chosen, limited and watched.

use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use super::{locality::Locality, origin::Origin, tls::UpstreamTls};

/// Index of a [`Cluster`] in its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterId(pub u32);

/// A group of endpoints that are balanced, limited and watched together.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// `outbound|port|subset|host`: users see it in logs and metrics, and state is keyed by it.
    pub name: Arc<str>,
    /// The service behind it, for metric labels.
    pub service: Service,
    /// How its endpoints are known.
    pub discovery: Discovery,
    /// In order of the documents (the order counts for ring hash). None where names are looked up: while the proxy runs,
    /// they are made from the targets of [`Dns`].
    pub endpoints: Box<[Arc<Endpoint>]>,
    /// Shares of the localities within their priorities, if they are balanced by it.
    pub localities: Option<Box<[LocalityWeight]>>,
    /// Balancing policy.
    pub balancer: Balancer,
    /// New endpoints get less at first; with [`Balancer::RoundRobin`] and [`Balancer::LeastRequest`] alone.
    pub warmup: Option<Warmup>,
    /// Circuit breakers.
    pub limits: Limits,
    /// Stands in for `max_retries`, if there is one.
    pub retry_budget: Option<RetryBudget>,
    /// Outlier detection, if on.
    pub outlier: Option<Outlier>,
    /// Below this share of healthy endpoints (percent, 0-100) all of them are used; 0 is never.
    pub panic_threshold: u8,
    /// How connections to the endpoints are secured.
    pub tls: UpstreamTls,
    /// What is spoken to the endpoints.
    pub protocol: Protocol,
    /// Where our end of its connections is bound.
    pub source: Source,
    /// Time to establish a connection.
    pub connect_timeout: Duration,
    /// Idle time after which a pooled connection is closed; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// Requests after which a connection is closed.
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// Age after which a connection takes no new request.
    pub max_connection_duration: Option<Duration>,
    /// Streams on one HTTP/2 connection, beyond which another is opened.
    pub max_concurrent_streams: u32,
    /// TCP keepalive of its connections.
    pub keepalive: Option<Keepalive>,
    /// PINGs on its HTTP/2 connections.
    pub http2_keepalive: Option<Http2Keepalive>,
    /// The service, or the subset of the `DestinationRule`.
    pub origin: Origin,
}

impl Cluster {
    /// Whether an endpoint takes Istio's mutual TLS, so that it makes a difference whether that is automatic.
    #[must_use]
    pub fn takes_mutual(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.mutual)
            || matches!(&self.discovery, Discovery::Dns(dns) if dns.targets.iter().any(Target::takes_mutual))
    }
}

/// The service that a cluster belongs to: labels of the metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Full host name; empty for the last resort, of whose requests the host tells it.
    pub host: Arc<str>,
    /// Short name, the metric label `destination_service_name`; `PassthroughCluster` and the like for a last resort.
    pub name: Arc<str>,
    /// Namespace; `unknown` for the last resort.
    pub namespace: Arc<str>,
    /// Service port, 0 for the last resort.
    pub port: u16,
    /// Subset, empty for the whole service.
    pub subset: Arc<str>,
}

/// How the endpoints of a cluster are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// Listed in the documents.
    Static,
    /// Listed, but at least one by a host name that is looked up again and again while the proxy runs.
    Dns(Box<Dns>),
    /// Wherever the client was going, if its traffic was captured. An explicit listener knows no such address: its
    /// requests go to the endpoints that the documents list, if any.
    OriginalDestination,
}

/// The address of our end of a connection to an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    /// As the system chooses.
    #[default]
    System,
    /// 127.0.0.6, or ::6 for IPv6 (Istio): rules of capture let connections from there pass to the workload.
    Inbound,
    /// That of the client, which the workload is to see (`TPROXY`).
    Client,
}

/// Istio `ServiceEntry.resolution: DNS` or `DNS_ROUND_ROBIN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// In order of the documents; each address of a name takes the name's place.
    pub targets: Box<[Target]>,
    /// Only the first address of each answer is used (`DNS_ROUND_ROBIN`, Envoy `LOGICAL_DNS`).
    pub first_only: bool,
    /// The longest wait before a name is looked up again that had no answer (Istio `MeshConfig.dnsRefreshRate`).
    pub refresh: Duration,
}

impl Dns {
    /// The names to look up.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.targets.iter().filter_map(|target| match target {
            Target::Name(endpoint) => Some(&endpoint.name),
            Target::Address(_) => None,
        })
    }
}

/// An endpoint as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// By its address.
    Address(Arc<Endpoint>),
    /// By a name.
    Name(NamedEndpoint),
}

impl Target {
    /// Whether it takes Istio's mutual TLS.
    #[must_use]
    pub fn takes_mutual(&self) -> bool {
        match self {
            Self::Address(endpoint) => endpoint.mutual,
            Self::Name(named) => named.mutual,
        }
    }
}

/// An endpoint for each address of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedEndpoint {
    /// The host name.
    pub name: Arc<str>,
    /// Port to connect to.
    pub port: u16,
    /// Weight of each address.
    pub weight: u32,
    /// Labels of each address.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Where each address is.
    pub locality: Locality,
    /// Of each address, as of an [`Endpoint`].
    pub priority: u32,
    /// Of each address, as of an [`Endpoint`].
    pub mutual: bool,
}

/// One address that serves a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// `ip:port`, the key of ring hash and Maglev and the `upstream_host` of the log.
    pub key: Arc<str>,
    /// The name that it is an address of; empty where the documents say the address.
    pub hostname: Arc<str>,
    /// Load balancing weight, 1 or more.
    pub weight: u32,
    /// Labels, by which subsets select and metrics name the workload.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Where it runs.
    pub locality: Locality,
    /// 0 is used first; there is no gap between the priorities of a cluster.
    pub priority: u32,
    /// It takes Istio's mutual TLS: it has a sidecar, and no `PeerAuthentication` that is known refuses it.
    pub mutual: bool,
}

/// The share of one locality.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalityWeight {
    /// Of its endpoints.
    pub priority: u32,
    /// Which one.
    pub locality: Locality,
    /// In proportion to the others of the priority.
    pub weight: u32,
}

/// Istio `DestinationRule.trafficPolicy.loadBalancer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balancer {
    /// Weighted, by earliest deadline first.
    RoundRobin,
    /// Two random choices, or earliest deadline first where weights differ (Istio's default).
    LeastRequest,
    /// Uniform; weights are ignored.
    Random,
    /// Envoy `ring_hash` over XXH64.
    RingHash {
        /// At least this many points.
        minimum_ring_size: u64,
        /// At most this many points.
        maximum_ring_size: u64,
    },
    /// Envoy `maglev`.
    Maglev {
        /// Slots, a prime number.
        table_size: u64,
    },
}

/// Istio `loadBalancer.warmup`: while an endpoint is younger than the window its weight is less.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warmup {
    /// How long it lasts.
    pub window: Duration,
    /// The least share of its weight (0-1).
    pub least: f64,
    /// 1 is a straight line; more begins steeper.
    pub aggression: f64,
}

impl Warmup {
    /// The share of its weight that an endpoint of this age gets (Envoy `applySlowStartFactor`).
    #[must_use]
    pub fn share(&self, age: Duration) -> f64 {
        let age = age.max(Duration::from_millis(1)).as_secs_f64() / self.window.as_secs_f64();
        if age >= 1.0 { 1.0 } else { age.powf(1.0 / self.aggression).max(self.least) }
    }
}

/// Circuit breakers of a cluster, shared by the workers. `u32::MAX` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `tcp.maxConnections`
    pub max_connections: u32,
    /// `http.http1MaxPendingRequests`: requests that wait for a connection.
    pub max_pending_requests: u32,
    /// `http.http2MaxRequests`: active requests, HTTP/1 as well.
    pub max_requests: u32,
    /// `http.maxRetries`: retries under way.
    pub max_retries: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: u32::MAX,
            max_pending_requests: u32::MAX,
            max_requests: u32::MAX,
            max_retries: u32::MAX,
        }
    }
}

/// Istio `DestinationRule.trafficPolicy.retryBudget`: how many retries may be under way, by what else is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Share of the active and pending requests (0-100).
    pub percent: f64,
    /// At least so many.
    pub min_concurrency: u32,
}

impl RetryBudget {
    /// The limit while `requests` are active or pending, rounded down as Envoy does.
    #[must_use]
    pub fn limit(&self, requests: u64) -> u32 {
        let share = self.percent / 100.0 * requests as f64;
        (share as u32).max(self.min_concurrency)
    }
}

/// Istio `DestinationRule.trafficPolicy.outlierDetection`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlier {
    /// Consecutive errors that eject; 0 is off.
    pub consecutive_5xx: u32,
    /// Consecutive 502, 503, 504 that eject; 0 is off.
    pub consecutive_gateway: u32,
    /// Connect failures and timeouts are counted apart.
    pub split_local_origin: bool,
    /// Consecutive local failures that eject, where they are counted apart; 0 is off.
    pub consecutive_local_origin: u32,
    /// Sweep: endpoints return and back-off decays only then.
    pub interval: Duration,
    /// First ejection time.
    pub base_ejection_time: Duration,
    /// Share of the endpoints that may be ejected at once (percent, 0-100).
    pub max_ejection_percent: u8,
    /// If set, only these codes are errors.
    pub error_codes: Option<Box<[u16]>>,
}

/// The protocol spoken to endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2 with prior knowledge
    Http2,
    /// Whichever the client spoke (`useClientProtocol`).
    Client,
}

/// TCP keepalive (Istio `connectionPool.tcp.tcpKeepalive`); `None` leaves the system's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Unanswered probes before the connection is dropped.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

/// HTTP/2 PINGs (Istio `connectionPool.http.http2KeepAlive`), with requests under way or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Keepalive {
    /// Silence after which a PING is sent.
    pub interval: Duration,
    /// The connection is given up if nothing comes back for so long.
    pub timeout: Duration,
}
