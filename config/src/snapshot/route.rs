//! Where requests come in and which route takes them: listeners, route tables, conditions. What routes do is in
//! `action` and `filter`.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use http::{HeaderName, HeaderValue};
use regex::Regex;

use super::{
    action::{Action, HeaderOps},
    capture::Captured,
    filter::{Cors, Fault},
    origin::Origin,
    tcp::TcpRoutes,
    tls::InboundTls,
};

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
    /// How connections are taken.
    pub tls: InboundTls,
    /// What comes in there.
    pub carried: Carried,
    /// The `Sidecar` entry.
    pub origin: Origin,
}

impl Listener {
    /// The routes of all its requests; `None` if it carries raw connections, or what it carries depends on where a client
    /// was going.
    #[must_use]
    pub fn route_table(&self) -> Option<RouteTableId> {
        match self.carried {
            Carried::Http(table) => Some(table),
            Carried::Tcp(_) | Carried::Captured(_) => None,
        }
    }

    /// The routes of requests on connections to `destination`, which only captured traffic is told apart by.
    #[must_use]
    pub fn requests_to(&self, destination: SocketAddr) -> Option<RouteTableId> {
        match &self.carried {
            Carried::Http(table) => Some(*table),
            Carried::Tcp(_) => None,
            Carried::Captured(captured) => captured.chain(destination).requests(),
        }
    }

    /// The same for raw connections.
    #[must_use]
    pub fn bytes_to(&self, destination: SocketAddr) -> Option<&TcpRoutes> {
        match &self.carried {
            Carried::Http(_) => None,
            Carried::Tcp(routes) => Some(routes),
            Carried::Captured(captured) => captured.chain(destination).bytes(),
        }
    }

    /// How connections to `destination` are taken.
    #[must_use]
    pub fn tls_to(&self, destination: SocketAddr) -> &InboundTls {
        let apart = self.captured().and_then(|captured| captured.tls.get(&destination.port()));
        apart.unwrap_or(&self.tls)
    }

    /// What it carries of captured traffic, if that is what it is for.
    #[must_use]
    pub fn captured(&self) -> Option<&Captured> {
        match &self.carried {
            Carried::Http(_) | Carried::Tcp(_) => None,
            Carried::Captured(captured) => Some(captured),
        }
    }
}

/// What a listener carries.
#[derive(Debug)]
pub enum Carried {
    /// Requests, HTTP/1.1 and HTTP/2.
    Http(RouteTableId),
    /// Raw connections; TLS that the listener does not end passes unopened.
    Tcp(Box<TcpRoutes>),
    /// What was going elsewhere, to be judged by where.
    Captured(Box<Captured>),
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
#[derive(Debug, Clone)]
pub struct VirtualHost {
    /// `host:port`, as Istio names it; `allow_any` or `block_all` for the last resort.
    pub name: Arc<str>,
    /// In Istio's order; shared by the tables that have the host.
    pub routes: Arc<[Route]>,
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
    /// Injected before anything is sent.
    pub fault: Option<Box<Fault>>,
    /// Who may call from a web page of another origin.
    pub cors: Option<Box<Cors>>,
    /// The match block or rule.
    pub origin: Origin,
}

impl Route {
    /// A route for every request that does nothing beside its action.
    #[must_use]
    pub fn always(name: impl Into<Arc<str>>, action: Action, origin: Origin) -> Self {
        Self {
            name: name.into(),
            when: RouteMatch::always(),
            action,
            operation: None,
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            fault: None,
            cors: None,
            origin,
        }
    }
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

impl RouteMatch {
    /// Every request.
    #[must_use]
    pub fn always() -> Self {
        Self { path: PathMatch::all(), headers: Box::default(), query: Box::default() }
    }
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

impl PathMatch {
    /// Every path.
    #[must_use]
    pub fn all() -> Self {
        Self::Prefix { value: "/".into(), ignore_case: false }
    }
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

/// An expression that matches whole values only.
pub(crate) fn anchored(text: &str) -> String {
    format!("^(?:{text})$")
}

/// The expression that was [`anchored`].
pub(crate) fn written(regex: &Regex) -> &str {
    let text = regex.as_str();
    text.strip_prefix("^(?:").and_then(|text| text.strip_suffix(")$")).unwrap_or(text)
}
