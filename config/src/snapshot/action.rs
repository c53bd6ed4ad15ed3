//! What a route does with its requests: forward them by a policy, answer them, or send the client elsewhere.

use std::{
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use regex::Regex;

use super::{cluster::ClusterId, filter::Share};
use crate::format::Format;

/// What a route does with a request.
#[derive(Debug)]
pub enum Action {
    /// Send it to one of the clusters.
    Forward(Box<Forward>),
    /// Answer it here.
    Direct(Box<DirectResponse>),
    /// Answer it with another place to ask.
    Redirect(Box<Redirect>),
}

/// Istio `VirtualService.http.directResponse`, or the last resort of a route table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectResponse {
    /// 200 to 600.
    pub status: StatusCode,
    /// At most 1 MiB; it goes out as `text/plain`.
    pub body: Bytes,
}

/// Istio `VirtualService.http.redirect`: the parts of the `location` that are not the request's own.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// Another scheme.
    pub scheme: Option<RedirectScheme>,
    /// Another host. It takes the request's port away.
    pub authority: Option<Box<str>>,
    /// Another port. One that goes without saying (80 of http, 443 of https) was left out when compiling.
    pub port: Option<NonZeroU16>,
    /// Another path. The query string stays, unless the new path has one.
    pub path: Option<PathRewrite>,
}

/// The scheme of a `location`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectScheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

/// Another path, for a redirect or for what goes upstream.
#[derive(Debug, Clone)]
pub enum PathRewrite {
    /// The first `matched` bytes, which the route's prefix took, are replaced.
    Prefix {
        /// Length of the prefix, whichever case the request wrote it in.
        matched: usize,
        /// What stands there instead.
        value: Box<str>,
    },
    /// The whole path is replaced.
    Full(Box<str>),
    /// All matches within the path are replaced (Envoy `regex_rewrite`); the query string is never touched.
    Regex {
        /// Not anchored.
        pattern: Regex,
        /// In the notation of the regex crate: `${1}`, and `$$` for a dollar sign.
        substitution: Box<str>,
    },
}

/// Where and how to forward.
#[derive(Debug)]
pub struct Forward {
    /// At least one; weights are positive.
    pub clusters: Box<[WeightedCluster]>,
    /// Sum of the weights.
    pub total_weight: u64,
    /// Replaces the authority, from `rewrite.authority` or a `host` or `:authority` header operation.
    pub authority: Option<HeaderValue>,
    /// Another path for the upstream (Istio `rewrite`).
    pub rewrite: Option<PathRewrite>,
    /// From the end of the request to the end of the response headers, all tries together.
    pub timeout: Option<Duration>,
    /// `None`: a failed try is final.
    pub retry: Option<RetryPolicy>,
    /// All policies combine into one key (Envoy's `hash_policy` list).
    pub hash: Box<[HashPolicy]>,
    /// Who else gets a copy (Istio `mirror` and `mirrors`).
    pub mirrors: Box<[Mirror]>,
}

impl Forward {
    /// Everything to one cluster, and no policy.
    #[must_use]
    pub fn to(cluster: ClusterRef) -> Self {
        let entry = WeightedCluster {
            cluster,
            weight: 1,
            authority: None,
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
        };
        Self {
            clusters: [entry].into(),
            total_weight: 1,
            authority: None,
            rewrite: None,
            timeout: None,
            retry: None,
            hash: Box::default(),
            mirrors: Box::default(),
        }
    }

    /// The destination that needs no draw, since it is the only one.
    #[must_use]
    pub fn lone(&self) -> Option<&WeightedCluster> {
        match &*self.clusters {
            [only] => Some(only),
            _ => None,
        }
    }
}

/// A copy of some requests; its answer is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// An unknown cluster gets nothing.
    pub cluster: ClusterRef,
    /// How many of the requests.
    pub share: Share,
}

/// One destination of a route with its share.
#[derive(Debug)]
pub struct WeightedCluster {
    /// The cluster, if there is one.
    pub cluster: ClusterRef,
    /// Share of [`Forward::total_weight`]; 1 for a lone destination.
    pub weight: u32,
    /// Replaces the authority, where the destination is one of several; [`Forward::authority`] comes after it.
    pub authority: Option<HeaderValue>,
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
    /// What else a generated cookie says, in order.
    pub attributes: Box<[CookieAttribute]>,
    /// A generated cookie behind its value.
    after_value: Box<str>,
}

impl HashCookie {
    /// In the order of Envoy: `Max-Age`, `Path`, the other attributes, `HttpOnly`.
    #[must_use]
    pub fn new(
        name: Box<str>,
        path: Option<Box<str>>,
        ttl: Option<Duration>,
        attributes: Box<[CookieAttribute]>,
    ) -> Self {
        let mut after_value = String::new();
        if let Some(ttl) = ttl.filter(|ttl| !ttl.is_zero()) {
            after_value += &format!("; Max-Age={}", ttl.as_secs());
        }
        if let Some(path) = &path {
            after_value += &format!("; Path={path}");
        }
        for CookieAttribute { name, value } in &attributes {
            let equals = if value.is_empty() { "" } else { "=" };
            after_value += &format!("; {name}{equals}{value}");
        }
        after_value += "; HttpOnly";
        Self { name, path, ttl, attributes, after_value: after_value.into() }
    }

    /// The line that sets the cookie.
    pub(crate) fn line(&self, value: &str) -> String {
        [&*self.name, "=\"", value, "\"", &*self.after_value].concat()
    }
}

/// One of `httpCookie.attributes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieAttribute {
    /// `SameSite`
    pub name: Box<str>,
    /// `Lax`; empty for an attribute that is a name alone, such as `Secure`.
    pub value: Box<str>,
}
