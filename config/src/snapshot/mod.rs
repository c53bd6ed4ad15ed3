//! The immutable types that a request looks up in: everything here was decided at config time.
//!
//! They are shaped like xDS (listener, route configuration, cluster, endpoint assignment), so that an xDS client can
//! fill them as the Istio compiler does. No Istio YAML type appears here, and nothing that changes while traffic
//! flows: health, ejection, connections and counters live in the proxy, keyed by cluster name and endpoint address.

mod action;
mod capture;
mod cluster;
mod destination;
mod filter;
mod locality;
mod names;
mod origin;
mod route;
mod settings;
mod tcp;
mod tls;

use std::{collections::BTreeMap, fmt, ops::Index, sync::Arc};

pub use action::{
    Action, ClusterRef, CookieAttribute, DirectResponse, Forward, HashCookie, HashPolicy, HeaderOps, Mirror,
    PathRewrite, Redirect, RedirectScheme, RetryOn, RetryPolicy, WeightedCluster,
};
pub use capture::{Captured, Chain, Interception, InvalidInterception, Silent};
pub use cluster::{
    Balancer, Cluster, ClusterId, Discovery, Dns, Endpoint, Http2Keepalive, Keepalive, Limits,
    LocalityWeight, NamedEndpoint, Outlier, Protocol, RetryBudget, Service, Source, Target, Warmup,
};
pub use destination::{Destination, OtlpProtocol, TelemetryDefaults};
pub use filter::{AbortStatus, Cors, Fault, FaultAbort, FaultDelay, Share};
pub use locality::Locality;
pub use names::{Addresses, HostNames};
pub use origin::Origin;
pub use route::{
    Affixes, Carried, Direction, HeaderKey, HeaderMatch, HostMap, Listener, PathMatch, QueryMatch, Route,
    RouteMatch, RouteTable, RouteTableId, ValueMatch, VirtualHost,
};
pub(crate) use route::{anchored, written};
pub use settings::{
    AccessLog, CustomTag, LogEncoding, LogSink, Observation, PathNormalization, Propagation, TagValue,
    Tracing,
};
pub use tcp::{InvalidSubnet, Subnet, TcpCluster, TcpDestination, TcpRoute, TcpRoutes};
pub use tls::{
    CipherSuite, ClientCertificates, ClientTls, Credentials, Identity, InboundTls, KeyFiles, ServerName,
    ServerTls, TlsVersion, Trust, TrustDomains, UpstreamTls,
};

/// One whole configuration. Published by swapping an `Arc`; a request keeps the one it started with.
#[derive(Debug)]
pub struct Snapshot {
    /// Hash of the source documents: equal text, equal version.
    pub version: Version,
    /// The proxy this configuration was compiled for.
    pub node: Node,
    /// Where to listen, in order of the documents; shared with the next snapshot if nothing but endpoints changes.
    pub listeners: Arc<[Listener]>,
    /// Route configurations, by [`RouteTableId`]; shared like the listeners.
    pub route_tables: Arc<[RouteTable]>,
    /// Clusters, by [`ClusterId`]. Each is shared with the run-time state that outlives this snapshot, and with the next
    /// snapshot if it does not change.
    pub clusters: Box<[Arc<Cluster>]>,
    /// What the proxy answers by DNS; shared like the listeners.
    pub host_names: Arc<HostNames>,
    /// Traces and access logs of requests that leave (Istio's mode CLIENT).
    pub outbound: Observation,
    /// Those of requests that come in (SERVER).
    pub inbound: Observation,
    /// How paths are normalised before anything is matched.
    pub paths: PathNormalization,
    /// Where metrics are pushed to, if anywhere.
    pub metrics: Option<Arc<Destination>>,
}

impl Snapshot {
    /// What is told of requests that go this way.
    #[must_use]
    pub fn observation(&self, direction: Direction) -> &Observation {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

impl Index<RouteTableId> for Snapshot {
    type Output = RouteTable;

    #[expect(clippy::indexing_slicing, reason = "ids are made by the compiler of this very snapshot")]
    fn index(&self, id: RouteTableId) -> &RouteTable {
        &self.route_tables[id.0 as usize]
    }
}

impl Index<ClusterId> for Snapshot {
    type Output = Arc<Cluster>;

    #[expect(clippy::indexing_slicing, reason = "ids are made by the compiler of this very snapshot")]
    fn index(&self, id: ClusterId) -> &Arc<Cluster> {
        &self.clusters[id.0 as usize]
    }
}

/// Identifies a configuration by its content (XXH64 of the documents).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Who this proxy is: the pod that it stands beside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Namespace of the pod; also that of documents without one.
    pub namespace: Arc<str>,
    /// Pod name (`POD_NAME`), empty if unknown.
    pub name: Arc<str>,
    /// Pod address (`INSTANCE_IP`), empty if unknown.
    pub address: Arc<str>,
    /// Workload name (`ISTIO_META_WORKLOAD_NAME`), empty if unknown.
    pub workload: Arc<str>,
    /// Cluster id (`ISTIO_META_CLUSTER_ID`), `Kubernetes` by default.
    pub cluster: Arc<str>,
    /// Mesh id (`ISTIO_META_MESH_ID`), empty if unknown.
    pub mesh: Arc<str>,
    /// Labels of the pod.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Where it runs, empty if unknown.
    pub locality: Locality,
    /// The DNS suffix of the cluster's services.
    pub domain: ClusterDomain,
    /// How the pod's traffic comes to it (`ISTIO_META_INTERCEPTION_MODE`).
    pub interception: Interception,
    /// Whether its questions for addresses come to it, too (`ISTIO_META_DNS_CAPTURE`).
    pub dns_capture: bool,
    /// The SPIFFE trust domain of its identity, before that of the mesh settings (`TRUST_DOMAIN`).
    pub trust_domain: Option<Arc<str>>,
}

/// The cluster's domain: services are `name.namespace.svc.DOMAIN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDomain(Arc<str>);

impl ClusterDomain {
    /// Of a domain, or of what Istio calls the DNS domain of a proxy, `namespace.svc.DOMAIN`.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let domain = text.split_once(".svc.").map_or(text, |(_, domain)| domain);
        Self(domain.to_ascii_lowercase().into())
    }

    /// The full host of a service, in lower case.
    #[must_use]
    pub fn host(&self, name: &str, namespace: &str) -> String {
        format!("{name}.{namespace}.svc.{self}").to_ascii_lowercase()
    }

    /// `name` and `namespace` of a host of the cluster.
    #[must_use]
    pub fn parts<'h>(&self, host: &'h str) -> Option<(&'h str, &'h str)> {
        let (service, domain) = host.split_once(".svc.")?;
        let (name, namespace) = service.split_once('.')?;
        let plain = !name.contains('*') && !namespace.contains('.');
        (plain && domain == &*self.0).then_some((name, namespace))
    }
}

impl Default for ClusterDomain {
    /// Kubernetes' own.
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl fmt::Display for ClusterDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Node {
    /// Istio's node id: `sidecar~ip~pod.namespace~namespace.svc.DOMAIN`.
    #[must_use]
    pub fn id(&self) -> String {
        let Self { namespace, address, name, domain, .. } = self;
        format!("sidecar~{address}~{name}.{namespace}~{namespace}.svc.{domain}")
    }
}
