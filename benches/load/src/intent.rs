//! What every proxy is asked to do; `istio` and `envoy` say it in their languages.
//!
//! The service and its limits are those of `examples/seed`.

use std::{net::SocketAddr, path::PathBuf};

use crate::identity::Identities;

/// The service that is called.
pub(crate) const HOST: &str = "bench.default.svc.cluster.local";
/// Where sessions stay.
pub(crate) const SESSION: &str = "x-session-id";
/// `connectionPool.tcp.maxConnections`.
pub(crate) const MAX_CONNECTIONS: u32 = 100;
/// `connectionPool.http.http1MaxPendingRequests`.
pub(crate) const MAX_PENDING: u32 = 1024;
/// `connectionPool.http.http2MaxRequests`.
pub(crate) const MAX_REQUESTS: u32 = 1024;
/// Endpoints of each filler service.
pub(crate) const FILLER_ENDPOINTS: usize = 5;

/// One intent.
#[derive(Debug, Clone)]
pub(crate) struct Intent {
    /// Where the proxy listens for HTTP/1.1.
    pub(crate) h1_port: u16,
    /// Where the proxy listens for HTTP/2.
    pub(crate) h2_port: u16,
    /// Two endpoints of v1, then those of v2.
    pub(crate) h1: Vec<SocketAddr>,
    /// The same for HTTP/2.
    pub(crate) h2: Vec<SocketAddr>,
    /// Where spans go, by OTLP over gRPC.
    pub(crate) sink: SocketAddr,
    /// Percentage of requests that are traced.
    pub(crate) sampling: u8,
    /// `maxRequestsPerConnection`.
    pub(crate) max_requests_per_connection: Option<u32>,
    /// Mutual TLS on both sides.
    pub(crate) mtls: Option<Mtls>,
    /// Services beside the one that is called; no request goes to them.
    pub(crate) filler: usize,
    /// The access log.
    pub(crate) log: PathBuf,
}

/// A sidecar ends mutual TLS for its workload and begins it for others, and no listener of one does both. So a request
/// comes in by an inbound listener, whose workload is the outbound listener, and leaves by that one: what the sidecars of
/// a client and of its server do, in one proxy.
#[derive(Debug, Clone)]
pub(crate) struct Mtls {
    /// Where the proxy takes HTTP/1.1 by mutual TLS.
    pub(crate) h1_port: u16,
    /// The same for HTTP/2.
    pub(crate) h2_port: u16,
    pub(crate) identities: Identities,
}

/// Version of the endpoint at this index.
pub(crate) fn version(index: usize) -> &'static str {
    if index < 2 { "v1" } else { "v2" }
}

/// Name of a filler service.
pub(crate) fn filler_host(number: usize) -> String {
    format!("filler-{number}.default.svc.cluster.local")
}

/// Address of an endpoint of a filler service: nothing is there, and nobody asks.
pub(crate) fn filler_address(number: usize, endpoint: usize) -> String {
    format!("127.1.{}.{}", number / 40, 1 + (number % 40) * FILLER_ENDPOINTS + endpoint)
}
