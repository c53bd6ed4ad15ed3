//! Where telemetry is sent by OTLP.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, uri::PathAndQuery};

use super::{ClientTls, ClusterId};

/// A receiver of one signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Provider of the mesh configuration, or the environment variable: for messages.
    pub name: Arc<str>,
    /// Host name or address.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
    /// TLS with it, where no cluster says how; such a receiver has none.
    pub tls: Option<Arc<ClientTls>>,
    /// The service of the registry with this host and port: it is reached as requests are, through its cluster. `None`
    /// is looked up by DNS.
    pub cluster: Option<ClusterId>,
    /// How requests are put.
    pub protocol: OtlpProtocol,
    /// Added to each request.
    pub headers: HeaderMap,
    /// For one export, its retries included.
    pub timeout: Duration,
    /// Compress by gzip.
    pub gzip: bool,
    /// `service.name` follows the semantic conventions of OpenTelemetry, not Istio's `app.namespace`.
    pub semantic_service_name: bool,
}

/// The two transports of OTLP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// gRPC; the method follows from the signal.
    Grpc,
    /// POST of binary protobuf.
    Http {
        /// Of this signal: `/v1/traces` or what the user says.
        path: PathAndQuery,
    },
}

/// What the environment says about telemetry (`OTEL_*`); a mesh configuration that says something else wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TelemetryDefaults {
    /// Receiver of spans.
    pub traces: Option<Destination>,
    /// Receiver of access logs as log records.
    pub logs: Option<Destination>,
    /// Receiver of metrics.
    pub metrics: Option<Destination>,
    /// `OTEL_PROPAGATORS`
    pub propagation: Option<super::Propagation>,
    /// `OTEL_TRACES_SAMPLER` and its argument, in hundredths of a percent.
    pub sampling: Option<u16>,
    /// The sampler is none of `parentbased_*`: the caller's flag does not count.
    pub ignore_parent: bool,
}
