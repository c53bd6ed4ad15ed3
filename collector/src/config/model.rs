//! The configuration after reading: typed, complete, every default filled in and every name resolved.

use std::path::PathBuf;
use std::time::Duration;

use crate::signal::Signal;

/// Everything a collector needs to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who listens.
    pub receivers: Vec<Receiver>,
    /// Who sends; pipelines name them by position.
    pub exporters: Vec<Exporter>,
    /// What goes where.
    pub pipelines: Vec<Pipeline>,
    /// The most bytes of requests held at once, over all connections and queues.
    pub memory_limit: usize,
    /// Where `/metrics` is served.
    pub metrics: String,
    /// Where `/health/live` and `/health/ready` are served.
    pub health: String,
    /// The least severe level that is logged.
    pub log_level: tracing::Level,
    /// How to stop.
    pub shutdown: Shutdown,
}

/// An `otlp` receiver.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Its name in the configuration.
    pub name: String,
    /// OTLP/gRPC, if configured.
    pub grpc: Option<Grpc>,
    /// OTLP/HTTP, if configured.
    pub http: Option<Http>,
}

/// An OTLP/gRPC listener.
#[derive(Clone, Debug)]
pub struct Grpc {
    /// Where to bind.
    pub endpoint: String,
    /// The largest request after decompression, in bytes.
    pub max_request: usize,
    /// Limits on connections.
    pub connection: Connection,
}

/// An OTLP/HTTP listener.
#[derive(Clone, Debug)]
pub struct Http {
    /// Where to bind.
    pub endpoint: String,
    /// The largest request after decompression, in bytes.
    pub max_request: usize,
    /// The path of each signal, by [`Signal::index`].
    pub paths: [String; 3],
    /// Limits on connections.
    pub connection: Connection,
}

/// Limits that both kinds of listener have.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Connections at once; more wait in the kernel.
    pub max_connections: usize,
    /// HTTP/2 streams at once on one connection.
    pub max_streams: u32,
    /// To receive the headers of an HTTP/1 request.
    pub header_timeout: Duration,
    /// To receive the body of a request.
    pub read_timeout: Duration,
    /// Quiet time before an HTTP/2 ping.
    pub ping_interval: Duration,
    /// How long to wait for the answer to it.
    pub ping_timeout: Duration,
    /// After this a connection is asked to go, so that clients spread again.
    pub max_age: Option<Duration>,
    /// And this much later it is closed.
    pub max_age_grace: Duration,
}

/// An exporter with its queue.
#[derive(Clone, Debug)]
pub struct Exporter {
    /// Its name in the configuration.
    pub name: String,
    /// What it is.
    pub kind: ExporterKind,
    /// The queue before it.
    pub queue: Queue,
    /// How it tries again.
    pub retry: Retry,
}

/// The kinds of exporter.
#[derive(Clone, Debug)]
pub enum ExporterKind {
    /// OTLP/gRPC.
    OtlpGrpc(OtlpGrpc),
    /// OTLP/HTTP.
    OtlpHttp(OtlpHttp),
    /// One OTLP/JSON request per line.
    File {
        /// The file, created if need be and appended to.
        path: PathBuf,
    },
    /// A log line per batch.
    Debug {
        /// Also print the content.
        detailed: bool,
    },
    /// Nothing at all.
    Nop,
}

/// Settings of `otlp_grpc`.
#[derive(Clone, Debug)]
pub struct OtlpGrpc {
    /// `http://host:port`.
    pub endpoint: http::Uri,
    /// Sent with every request.
    pub headers: http::HeaderMap,
    /// Compress with gzip.
    pub gzip: bool,
    /// Per attempt.
    pub timeout: Duration,
}

/// Settings of `otlp_http`.
#[derive(Clone, Debug)]
pub struct OtlpHttp {
    /// The full address of each signal, by [`Signal::index`]; `None` where the signal cannot be sent.
    pub endpoints: [Option<http::Uri>; 3],
    /// Sent with every request.
    pub headers: http::HeaderMap,
    /// Compress with gzip.
    pub gzip: bool,
    /// Per attempt.
    pub timeout: Duration,
    /// JSON instead of protobuf.
    pub json: bool,
}

/// A bounded queue.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Requests held at most, those being sent included.
    pub max_requests: usize,
    /// Bytes held at most.
    pub max_bytes: usize,
    /// How long a sender waits for room before it is refused.
    pub block_for: Duration,
    /// Requests sent at the same time.
    pub consumers: usize,
    /// Joining requests before sending.
    pub batch: Option<Batch>,
}

/// When a batch is ready.
#[derive(Clone, Debug)]
pub struct Batch {
    /// At this many items.
    pub min_items: u64,
    /// Never more items than this, unless one request alone is larger; zero is no limit.
    pub max_items: u64,
    /// Or after this long.
    pub flush_timeout: Duration,
}

/// The pace of retries. There is no last one.
#[derive(Clone, Debug)]
pub struct Retry {
    /// The first pause.
    pub initial: Duration,
    /// The longest pause.
    pub max: Duration,
    /// From one pause to the next.
    pub multiplier: f64,
    /// Up to this share more or less, by chance.
    pub jitter: f64,
}

/// One pipeline: what its receivers accept goes to all of its exporters.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// What it carries.
    pub signal: Signal,
    /// Positions in [`Config::receivers`].
    pub receivers: Vec<usize>,
    /// Positions in [`Config::exporters`].
    pub exporters: Vec<usize>,
}

/// How a collector stops.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// Unready, but still serving: time for load balancers to notice.
    pub delay: Duration,
    /// For requests in flight to finish.
    pub in_flight: Duration,
    /// For the queues to empty.
    pub flush: Duration,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_streams: 1024,
            header_timeout: Duration::from_secs(60),
            read_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(2 * 3600),
            ping_timeout: Duration::from_secs(20),
            max_age: None,
            max_age_grace: Duration::from_secs(30),
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            max_requests: 1000,
            max_bytes: 256 << 20,
            block_for: Duration::from_secs(1),
            consumers: 10,
            batch: None,
        }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self { min_items: 8192, max_items: 0, flush_timeout: Duration::from_millis(200) }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            max: Duration::from_secs(5),
            multiplier: 1.5,
            jitter: 0.5,
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { delay: Duration::ZERO, in_flight: Duration::from_secs(10), flush: Duration::from_secs(30) }
    }
}
