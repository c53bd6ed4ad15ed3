//! Where requests come in and what is to happen with them: listeners, route tables and routes.

use std::{collections::HashMap, net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use regex::Regex;

use super::{cluster::ClusterId, origin::Origin};
use crate::format::Format;

/// Index of a [`RouteTable`] in its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteTableId(pub u32);

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
    /// `.example.com` for `*.example.com`.
    pub suffixes: Affixes,
    /// `example.` for `example.*`.
    pub prefixes: Affixes,
    /// The virtual host with the domain `*`.
    pub any: Option<u32>,
}

/// The fixed parts of wildcards. One look at a table for each length that occurs: many wildcards cost what few do.
#[derive(Debug, Default)]
pub struct Affixes {
    /// Virtual hosts by the whole part.
    pub by_text: HashMap<Box<str>, u32>,
    /// Bytes of the parts, each number once, the greatest first.
    pub lengths: Vec<usize>,
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
    /// What spans are called (Istio's decorator): `host:port/path*`; `None` for the last resort.
    pub operation: Option<HeaderValue>,
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
