//! The immutable types that a request looks up in: everything here was decided at config time.
//!
//! They are shaped like xDS (listener, route configuration, cluster, endpoint assignment), so that an xDS client can
//! fill them as the Istio compiler does. No Istio YAML type appears here, and nothing that changes while traffic
//! flows: health, ejection, connections and counters live in the proxy, keyed by cluster name and endpoint address.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::SocketAddr,
    num::NonZeroU32,
    ops::Index,
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use regex::Regex;

use crate::format::Format;

/// One whole configuration. Published by swapping an `Arc`; a request keeps the one it started with.
#[derive(Debug)]
pub struct Snapshot {
    /// Hash of the source documents: equal text, equal version.
    pub version: Version,
    /// The proxy this configuration was compiled for.
    pub node: Node,
    /// Where to listen, in order of the documents.
    pub listeners: Box<[Listener]>,
    /// Route configurations, by [`RouteTableId`].
    pub route_tables: Box<[RouteTable]>,
    /// Clusters, by [`ClusterId`]; shared with the run-time state that outlives this snapshot.
    pub clusters: Box<[Arc<Cluster>]>,
    /// Trace propagation and sampling.
    pub tracing: Tracing,
    /// Access log, or `None` where it is off (Istio's default).
    pub access_log: Option<AccessLog>,
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

/// Index of a [`RouteTable`] in its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteTableId(pub u32);

/// Index of a [`Cluster`] in its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterId(pub u32);

/// Where a route, cluster or listener was written: file, line and resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Kind, namespace and name: `VirtualService observability/otlp-collector`.
    pub resource: Arc<str>,
    /// Path as it was given on the command line.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{})", self.resource, self.file, self.line)
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
}

/// Which way the traffic of a listener flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Into the workload; the reporter of its metrics is `destination`.
    Inbound,
    /// Out of the workload; the reporter is `source`.
    Outbound,
}

/// One address to listen on.
#[derive(Debug)]
pub struct Listener {
    /// Envoy's style: `127.0.0.1_4317`.
    pub name: Arc<str>,
    /// Address and port to bind.
    pub bind: SocketAddr,
    /// Inbound or outbound.
    pub direction: Direction,
    /// Routes of its requests.
    pub routes: RouteTableId,
    /// The `Sidecar` entry.
    pub origin: Origin,
}

/// The routes of one port: Envoy's route configuration.
#[derive(Debug)]
pub struct RouteTable {
    /// Port number as text, as Istio names it.
    pub name: Arc<str>,
    /// From a host to an index of `virtual_hosts`.
    pub hosts: HostMap,
    /// Virtual hosts; the last resort (`allow_any` or `block_all`) is one of them, with the domain `*`.
    pub virtual_hosts: Box<[VirtualHost]>,
}

/// Finds the virtual host of an authority, in Envoy's order: exact, longest suffix wildcard (`*.x`), longest prefix
/// wildcard (`x.*`), `*`.
#[derive(Debug, Default)]
pub struct HostMap {
    /// Lower-case names without port.
    pub exact: HashMap<Box<str>, u32>,
    /// `.example.com` for `*.example.com`, longest first.
    pub suffixes: Vec<(Box<str>, u32)>,
    /// `example.` for `example.*`, longest first.
    pub prefixes: Vec<(Box<str>, u32)>,
    /// The virtual host with the domain `*`.
    pub any: Option<u32>,
}

/// A set of domains and the routes of their requests, first match wins.
#[derive(Debug)]
pub struct VirtualHost {
    /// `host:port`, as Istio names it; `allow_any` or `block_all` for the last resort.
    pub name: Arc<str>,
    /// In Istio's order.
    pub routes: Box<[Route]>,
    /// The `VirtualService`, or the service itself where none applies.
    pub origin: Origin,
}

/// What is to happen with the requests that match.
#[derive(Debug)]
pub struct Route {
    /// Name for the access log: `<route>.<match>`, or `default`.
    pub name: Arc<str>,
    /// When this route applies.
    pub when: RouteMatch,
    /// What it does.
    pub action: Action,
    /// Operations on the request, after the destination's own.
    pub request_headers: HeaderOps,
    /// Operations on the response, after the destination's own.
    pub response_headers: HeaderOps,
    /// The match block or rule.
    pub origin: Origin,
}

/// All conditions hold, or the route does not apply.
#[derive(Debug, Clone)]
pub struct RouteMatch {
    /// Path without query.
    pub path: PathMatch,
    /// Header conditions, pseudo headers (method, scheme, authority) among them.
    pub headers: Box<[HeaderMatch]>,
    /// Query parameter conditions.
    pub query: Box<[QueryMatch]>,
}

/// Condition on the path, the query string excluded.
#[derive(Debug, Clone)]
pub enum PathMatch {
    /// Plain string prefix: `/api` matches `/apiv2`. `/` or empty matches all.
    Prefix {
        /// As written.
        value: Box<str>,
        /// ASCII case is ignored.
        ignore_case: bool,
    },
    /// The whole path.
    Exact {
        /// As written.
        value: Box<str>,
        /// ASCII case is ignored.
        ignore_case: bool,
    },
    /// Matches the whole path; anchored when compiled.
    Regex(Regex),
}

/// Which header a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderKey {
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
    /// `:authority`, as the client sent it, port included
    Authority,
    /// `:path`, query string included
    Path,
    /// A header by its lower-case name
    Name(HeaderName),
}

/// Condition on one header.
#[derive(Debug, Clone)]
pub struct HeaderMatch {
    /// Where to look.
    pub key: HeaderKey,
    /// What to find there. Several lines of one header are tried one by one.
    pub value: ValueMatch,
    /// `withoutHeaders`: the condition must not hold; an absent header counts as the empty string, except for
    /// [`ValueMatch::Present`].
    pub invert: bool,
}

/// Condition on one query parameter: its first value, not decoded.
#[derive(Debug, Clone)]
pub struct QueryMatch {
    /// Case-sensitive name, not decoded.
    pub key: Box<str>,
    /// What to find there.
    pub value: ValueMatch,
}

/// Istio's `StringMatch`, compiled.
#[derive(Debug, Clone)]
pub enum ValueMatch {
    /// `{}` or the regex `*`.
    Present,
    /// Equal, case included.
    Exact(Box<str>),
    /// Begins with.
    Prefix(Box<str>),
    /// Matches the whole value; anchored when compiled.
    Regex(Regex),
}

/// What a route does with a request.
#[derive(Debug)]
pub enum Action {
    /// Send it to one of the clusters.
    Forward(Box<Forward>),
    /// Answer it here, with an empty body.
    Direct {
        /// Status of the answer.
        status: http::StatusCode,
    },
}

/// Where and how to forward.
#[derive(Debug)]
pub struct Forward {
    /// At least one; weights are positive.
    pub clusters: Box<[WeightedCluster]>,
    /// Sum of the weights.
    pub total_weight: u64,
    /// Replaces the authority, from a `host` or `:authority` header operation.
    pub authority: Option<HeaderValue>,
    /// From the end of the request to the end of the response headers, all tries together.
    pub timeout: Option<Duration>,
    /// `None`: a failed try is final.
    pub retry: Option<RetryPolicy>,
    /// All policies combine into one key (Envoy's `hash_policy` list).
    pub hash: Box<[HashPolicy]>,
}

/// One destination of a route with its share.
#[derive(Debug)]
pub struct WeightedCluster {
    /// The cluster, if there is one.
    pub cluster: ClusterRef,
    /// Share of [`Forward::total_weight`]; 1 for a lone destination.
    pub weight: u32,
    /// Operations on the request, before the route's own.
    pub request_headers: HeaderOps,
    /// Operations on the response, before the route's own.
    pub response_headers: HeaderOps,
}

/// A destination: a dangling one loads, and answers 503 NC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterRef {
    /// Exists in this snapshot.
    Known(ClusterId),
    /// The subset, host or port is unknown; the name it would have.
    Missing(Arc<str>),
}

/// Istio `headers.request` or `headers.response`: removals first, then `set`, then `add`, each in order of the names.
#[derive(Debug, Clone, Default)]
pub struct HeaderOps {
    /// Names to remove.
    pub remove: Box<[HeaderName]>,
    /// Overwrite or add.
    pub set: Box<[(HeaderName, Format)]>,
    /// Append a line.
    pub add: Box<[(HeaderName, Format)]>,
}

/// Istio `VirtualService.http.retries`, or the mesh default (2 attempts).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Retries, not tries. Never zero.
    pub attempts: NonZeroU32,
    /// What is worth another try.
    pub on: RetryOn,
    /// Deadline of one try.
    pub per_try_timeout: Option<Duration>,
    /// The delay before retry N is uniform in [0, min(2^(N-1) base, 10 base)).
    pub backoff: Duration,
    /// Hosts tried before are avoided, with at most 5 re-picks.
    pub avoid_previous_hosts: bool,
}

/// The words of `retryOn` (Envoy `x-envoy-retry-on` and `x-envoy-retry-grpc-on`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is Envoy's word of the same name")]
#[expect(clippy::struct_excessive_bools, reason = "a set of words")]
pub struct RetryOn {
    pub server_error: bool,
    pub gateway_error: bool,
    pub reset: bool,
    pub reset_before_request: bool,
    pub connect_failure: bool,
    pub retriable_4xx: bool,
    pub refused_stream: bool,
    pub envoy_ratelimited: bool,
    pub cancelled: bool,
    pub deadline_exceeded: bool,
    pub internal: bool,
    pub resource_exhausted: bool,
    pub unavailable: bool,
    /// Status codes of `retriable-status-codes`.
    pub statuses: Box<[u16]>,
}

/// One part of the key for ring hash and Maglev (Envoy `RouteAction.HashPolicy`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashPolicy {
    /// All values of a header, sorted.
    Header(HeaderName),
    /// A cookie, made by the proxy when it is absent and has a ttl.
    Cookie(Box<HashCookie>),
    /// The client's address without port.
    SourceIp,
    /// First value of a query parameter, not decoded.
    Query(Box<str>),
}

/// Istio `consistentHash.httpCookie`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashCookie {
    /// Case-sensitive name.
    pub name: Box<str>,
    /// `Path` of a generated cookie.
    pub path: Option<Box<str>>,
    /// `Max-Age` of a generated cookie; zero is a session cookie; `None` never generates one.
    pub ttl: Option<Duration>,
}

/// A group of endpoints that are balanced, limited and watched together.
#[derive(Debug)]
pub struct Cluster {
    /// `outbound|port|subset|host`: users see it in logs and metrics, and state is keyed by it.
    pub name: Arc<str>,
    /// The service behind it, for metric labels.
    pub service: Service,
    /// How its endpoints are known.
    pub discovery: Discovery,
    /// All endpoints, in order of the documents (the order counts for ring hash).
    pub endpoints: Box<[Arc<Endpoint>]>,
    /// Balancing policy.
    pub balancer: Balancer,
    /// Circuit breakers.
    pub limits: Limits,
    /// Outlier detection, if on.
    pub outlier: Option<Outlier>,
    /// Below this share of healthy endpoints (percent, 0-100) all of them are used; 0 is never.
    pub panic_threshold: u8,
    /// What is spoken to the endpoints.
    pub protocol: Protocol,
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
    /// The service, or the subset of the `DestinationRule`.
    pub origin: Origin,
}

/// The service that a cluster belongs to: labels of the metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Full host name; `PassthroughCluster` for the last resort.
    pub host: Arc<str>,
    /// Short name, the metric label `destination_service_name`.
    pub name: Arc<str>,
    /// Namespace; `unknown` for the last resort.
    pub namespace: Arc<str>,
    /// Service port, 0 for the last resort.
    pub port: u16,
    /// Subset, empty for the whole service.
    pub subset: Arc<str>,
}

/// How the endpoints of a cluster are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// Listed in the documents.
    Static,
    /// Wherever the client was going: an explicit listener knows no such address, so there is no endpoint.
    OriginalDestination,
}

/// One address that serves a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// `ip:port`, the key of ring hash and Maglev and the `upstream_host` of the log.
    pub key: Arc<str>,
    /// Load balancing weight, 1 or more.
    pub weight: u32,
    /// Labels, by which subsets select and metrics name the workload.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
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

/// Mesh settings for traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing {
    /// Headers that carry the context; empty when tracing is off: then trace headers pass as they came.
    pub propagation: Propagation,
    /// Share of new traces that are sampled, in hundredths of a percent (0-10000). Istio's default is 100 (1 %).
    pub sampling: u16,
}

/// Which trace headers are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Tracing is off: trace headers pass unchanged.
    Off,
    /// B3, single or multi as it came (Zipkin provider).
    B3,
    /// B3 first, W3C as fallback; both are written (`USE_B3_WITH_W3C_PROPAGATION`).
    B3AndW3c,
    /// W3C trace context (OpenTelemetry provider).
    W3c,
}

/// Where and how requests are logged.
#[derive(Debug)]
pub struct AccessLog {
    /// `/dev/stdout`, `/dev/stderr` or a file to append to.
    pub path: Arc<str>,
    /// What a line looks like.
    pub encoding: LogEncoding,
}

/// Istio `accessLogEncoding` with its format.
#[derive(Debug)]
pub enum LogEncoding {
    /// One line of text, its newline included.
    Text(Format),
    /// One JSON object: key and value, in order of the keys.
    Json(Box<[(Arc<str>, Format)]>),
}
