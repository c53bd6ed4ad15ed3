//! The other end: what takes requests out of a queue and delivers them.
//!
//! `sender` drives any of them: it forms batches, sends several at once, and tries again for as long as it takes.

mod client;
mod debug;
mod failure;
mod file;
mod otlp_grpc;
mod otlp_http;
mod retry;
mod sender;

use bytes::{Bytes, BytesMut};

use crate::config::{self, ExporterKind};
use crate::offload::{self, Interrupted};
use crate::otlp;
use crate::queue::Queued;
use crate::signal::Signal;
pub use failure::{Delivered, Failure};
pub use retry::Backoff;
pub use sender::{Sender, Stop};

/// One destination.
#[derive(Debug)]
pub enum Exporter {
    /// OTLP/gRPC.
    OtlpGrpc(otlp_grpc::OtlpGrpc),
    /// OTLP/HTTP.
    OtlpHttp(otlp_http::OtlpHttp),
    /// JSON lines.
    File(file::File),
    /// The log.
    Debug(debug::Debug),
    /// Nowhere.
    Nop,
}

/// Requests of one signal joined into one, made ready once and sent as often as it takes.
#[derive(Debug)]
pub struct Request {
    /// What it carries.
    pub signal: Signal,
    /// How many items.
    pub items: u64,
    /// The body as this exporter sends it.
    pub body: Bytes,
}

impl Exporter {
    /// Makes an exporter from its settings; nothing is opened or connected yet.
    pub fn new(settings: &config::Exporter) -> Self {
        match &settings.kind {
            ExporterKind::OtlpGrpc(settings) => Self::OtlpGrpc(otlp_grpc::OtlpGrpc::new(settings)),
            ExporterKind::OtlpHttp(settings) => Self::OtlpHttp(otlp_http::OtlpHttp::new(settings)),
            ExporterKind::File { path } => Self::File(file::File::new(path.clone())),
            ExporterKind::Debug { detailed } => {
                Self::Debug(debug::Debug { name: settings.name.clone(), detailed: *detailed })
            }
            ExporterKind::Nop => Self::Nop,
        }
    }

    /// Encodes a payload the way this exporter sends it.
    pub async fn prepare(&self, signal: Signal, items: u64, payload: Bytes) -> Result<Request, Failure> {
        let body = match self {
            Self::OtlpGrpc(exporter) => exporter.prepare(payload).await?,
            Self::OtlpHttp(exporter) => exporter.prepare(signal, payload).await?,
            Self::File(_) => file::File::prepare(signal, payload).await?,
            Self::Debug(exporter) => exporter.prepare(signal, payload).await?,
            Self::Nop => payload,
        };
        Ok(Request { signal, items, body })
    }

    /// One attempt.
    pub async fn send(&self, request: &Request) -> Result<Delivered, Failure> {
        match self {
            Self::OtlpGrpc(exporter) => exporter.send(request).await,
            Self::OtlpHttp(exporter) => exporter.send(request).await,
            Self::File(exporter) => exporter.send(request).await,
            Self::Debug(exporter) => Ok(exporter.send(request)),
            Self::Nop => Ok(Delivered::default()),
        }
    }
}

/// Renders a payload as one line of OTLP/JSON.
async fn to_json(signal: Signal, payload: Bytes) -> Result<Vec<u8>, Failure> {
    let length = payload.len();
    let json = offload::run(length, move || otlp::to_json(signal, &payload)).await.map_err(interrupted)?;
    json.map_err(|error| Failure::refused(error.to_string()))
}

fn interrupted(error: Interrupted) -> Failure {
    Failure::passing(error.to_string())
}

/// Joins requests: an export request is one repeated field, so joining is putting bytes one after the other.
fn join(frames: &[Queued]) -> Bytes {
    match frames {
        [only] => only.frame.payload.clone(),
        several => {
            let total = several.iter().map(|queued| queued.frame.payload.len()).sum();
            let mut joined = BytesMut::with_capacity(total);
            for queued in several {
                joined.extend_from_slice(&queued.frame.payload);
            }
            joined.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::offload::tests::{LARGE, moved};

    #[test]
    fn large_requests_are_rendered_off_the_event_loop() {
        let http = config::OtlpHttp {
            endpoints: [const { None }; 3],
            headers: http::HeaderMap::new(),
            gzip: false,
            timeout: Duration::from_secs(1),
            json: true,
        };
        let exporters = [
            Exporter::OtlpHttp(otlp_http::OtlpHttp::new(&http)),
            Exporter::File(file::File::new("unused".into())),
            Exporter::Debug(debug::Debug { name: "debug".to_owned(), detailed: true }),
        ];
        for exporter in exporters {
            for (size, large) in [(2, false), (LARGE, true)] {
                // Empty `ResourceSpans`.
                let payload = Bytes::from([0x0a, 0].repeat(size / 2));
                let (moved, request) = moved(exporter.prepare(Signal::Traces, 0, payload));
                assert!(request.unwrap().body.starts_with(b"{\"resourceSpans\":[{}"), "{exporter:?}");
                assert_eq!(moved, large, "{exporter:?}");
            }
        }
    }
}
