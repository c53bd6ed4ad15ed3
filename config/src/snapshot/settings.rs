//! What the whole proxy tells of requests beside forwarding them: traces and access logs, by direction.

use std::sync::Arc;

use http::HeaderName;

use super::destination::Destination;
use crate::format::Format;

/// What is told of the requests of one direction (Istio `Telemetry`, mode CLIENT or SERVER).
#[derive(Debug, Clone)]
pub struct Observation {
    /// Trace propagation, sampling and where spans go.
    pub tracing: Tracing,
    /// Every log that takes the requests; none is Istio's default.
    pub access_logs: Box<[AccessLog]>,
}

impl Observation {
    /// No traces, no logs.
    #[must_use]
    pub fn off() -> Self {
        Self {
            tracing: Tracing { propagation: Propagation::Off, ..Tracing::default() },
            access_logs: Box::default(),
        }
    }
}

/// Istio `pathNormalization`: what a path becomes before it is matched and forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathNormalization {
    /// Paths stay as they came.
    None,
    /// Unreserved characters are decoded, dot segments resolved, backslashes turned (Istio's default).
    #[default]
    Base,
    /// And then several slashes become one.
    MergeSlashes,
    /// Before all that, encoded slashes and backslashes are decoded.
    DecodeAndMergeSlashes,
}

/// Settings for traces.
#[derive(Debug, Clone)]
pub struct Tracing {
    /// Headers that carry the context; with `Off` trace headers pass as they came.
    pub propagation: Propagation,
    /// Share of new traces that are sampled, in hundredths of a percent (0-10000). Istio's default is 100 (1 %).
    pub sampling: u16,
    /// The decision stands in `x-request-id`, and an earlier hop's is read there (Istio
    /// `useRequestIdForTraceSampling`). Without it every trace is decided as sampled, unless its parent says otherwise.
    pub by_request_id: bool,
    /// The caller's sampling flag counts (OpenTelemetry `parentbased_*`, and every tracer of Envoy).
    pub parent_based: bool,
    /// Where sampled spans are reported; `None` is nowhere, the context is passed on all the same.
    pub report: Option<Arc<Destination>>,
    /// Tags of the user's own.
    pub custom_tags: Box<[CustomTag]>,
    /// `istio.canonical_service` and its like (Istio `enableIstioTags`).
    pub istio_tags: bool,
    /// The path in `http.url` is cut behind so many bytes (Envoy `max_path_tag_length`).
    pub max_path_length: usize,
}

impl Default for Tracing {
    /// Istio's 1 %, propagated as B3 and W3C so that either kind of application keeps its context; not reported.
    fn default() -> Self {
        Self {
            propagation: Propagation::B3AndW3c,
            sampling: 100,
            by_request_id: true,
            parent_based: true,
            report: None,
            custom_tags: Box::default(),
            istio_tags: true,
            max_path_length: 256,
        }
    }
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

/// One tag of spans (Istio `customTags`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomTag {
    /// Its key.
    pub name: Arc<str>,
    /// Its value.
    pub value: TagValue,
}

/// Where the value of a tag comes from; a tag without a value is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagValue {
    /// As written.
    Literal(Arc<str>),
    /// An environment variable of the proxy.
    Environment {
        /// Its name.
        name: Arc<str>,
        /// In its place.
        default: Option<Arc<str>>,
    },
    /// A request header.
    Header {
        /// Its name.
        name: HeaderName,
        /// In its place.
        default: Option<Arc<str>>,
    },
    /// Access log operators.
    Format(Format),
}

/// One log of requests.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// Where it goes.
    pub to: LogSink,
    /// What a line looks like; the body of a log record.
    pub encoding: LogEncoding,
}

/// Where a log goes.
#[derive(Debug, Clone)]
pub enum LogSink {
    /// `/dev/stdout`, `/dev/stderr` or a file to append to.
    File(Arc<str>),
    /// Log records by OTLP (Istio `envoyOtelAls`).
    Otlp {
        /// The receiver.
        to: Arc<Destination>,
        /// Envoy's attribute `log_name` of the resource.
        log_name: Arc<str>,
        /// Attributes of each record, in order of their keys.
        attributes: Box<[(Arc<str>, Format)]>,
    },
}

/// Istio `accessLogEncoding` with its format.
#[derive(Debug, Clone)]
pub enum LogEncoding {
    /// One line of text, its newline included.
    Text(Format),
    /// One JSON object: key and value, in order of the keys.
    Json(Box<[(Arc<str>, Format)]>),
}
