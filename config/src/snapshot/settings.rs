//! What the whole proxy does beside forwarding: traces and the access log.

use std::sync::Arc;

use crate::format::Format;

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
