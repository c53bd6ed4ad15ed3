//! Captured traffic: what becomes of a connection by the address that its client was going to, before rules of the
//! kernel led it here. How that address is learned is the business of the proxy.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::SocketAddr,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use super::{route::RouteTableId, tcp::TcpRoutes, tls::InboundTls};

/// How the traffic of the pod comes to the proxy (Istio `interceptionMode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Interception {
    /// By the explicit listeners alone.
    #[default]
    None,
    /// Redirected: the client's destination is asked from the system (`SO_ORIGINAL_DST`).
    Redirect,
    /// Passed on unchanged to transparent sockets: the client's destination is the socket's own address.
    Tproxy,
}

impl Interception {
    /// Whether `virtualOutbound` and `virtualInbound` are there.
    #[must_use]
    pub fn is_on(self) -> bool {
        self != Self::None
    }

    /// Istio's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Redirect => "REDIRECT",
            Self::Tproxy => "TPROXY",
        }
    }
}

impl fmt::Display for Interception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no interception mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidInterception;

impl fmt::Display for InvalidInterception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write NONE, REDIRECT or TPROXY")
    }
}

impl std::error::Error for InvalidInterception {}

impl FromStr for Interception {
    type Err = InvalidInterception;

    fn from_str(text: &str) -> Result<Self, InvalidInterception> {
        let modes = [Self::None, Self::Redirect, Self::Tproxy];
        let named = modes.into_iter().find(|mode| mode.as_str().eq_ignore_ascii_case(text));
        named.ok_or(InvalidInterception)
    }
}

/// What a listener of captured traffic carries, as Istio's listeners without a socket: one for an address and port goes
/// before one for the port at any address.
#[derive(Debug)]
pub struct Captured {
    /// By the whole destination: services of bytes have an address of their own.
    pub destinations: HashMap<SocketAddr, Chain>,
    /// By the port alone: requests say whose they are.
    pub ports: HashMap<u16, Chain>,
    /// Of every other destination.
    pub last_resort: Chain,
    /// How long [`Chain::Sniffed`] waits for bytes to tell the protocol by, before they pass unread (Istio
    /// `protocolDetectionTimeout`); `None` is for ever.
    pub detection: Option<Duration>,
    /// How connections to these ports are taken; to all others as the listener says.
    pub tls: BTreeMap<u16, InboundTls>,
}

impl Captured {
    /// What becomes of connections to `destination`.
    #[must_use]
    pub fn chain(&self, destination: SocketAddr) -> &Chain {
        let at_port = || self.ports.get(&destination.port());
        self.destinations.get(&destination).or_else(at_port).unwrap_or(&self.last_resort)
    }
}

/// What is made of the connections of one destination (Envoy's filter chains).
#[derive(Debug, Clone)]
pub enum Chain {
    /// Requests, whatever comes.
    Requests(RouteTableId),
    /// Bytes, passed on unread.
    Bytes(Arc<TcpRoutes>),
    /// The first bytes tell.
    Sniffed {
        /// If it is HTTP/1 or HTTP/2.
        requests: RouteTableId,
        /// If it is anything else.
        bytes: Arc<TcpRoutes>,
        /// If the client says nothing in time.
        silent: Silent,
    },
}

/// What a client is taken for that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silent {
    /// One that will send requests: the port is named so.
    Requests,
    /// One whose server speaks first.
    Bytes,
}

impl Chain {
    /// The routes of its requests.
    #[must_use]
    pub fn requests(&self) -> Option<RouteTableId> {
        match self {
            Self::Requests(table) | Self::Sniffed { requests: table, .. } => Some(*table),
            Self::Bytes(_) => None,
        }
    }

    /// The routes of its raw connections.
    #[must_use]
    pub fn bytes(&self) -> Option<&TcpRoutes> {
        match self {
            Self::Bytes(routes) | Self::Sniffed { bytes: routes, .. } => Some(routes),
            Self::Requests(_) => None,
        }
    }
}
