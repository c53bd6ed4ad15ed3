//! What every proxy is asked to do; `istio` and `envoy` say it in their languages.
//!
//! The service and its limits are those of `examples/seed`.

use std::{net::SocketAddr, path::PathBuf};

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
    /// Services beside the one that is called; no request goes to them.
    pub(crate) filler: usize,
    /// The access log.
    pub(crate) log: PathBuf,
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
