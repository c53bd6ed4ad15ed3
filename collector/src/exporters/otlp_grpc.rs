//! OTLP/gRPC out: the bytes behind a five-byte prefix, over one HTTP/2 connection.

use std::time::Duration;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;

use super::client::{self, Answer, Pool, USER_AGENT};
use super::{Delivered, Failure};
use crate::config;
use crate::signal::Signal;
use crate::status;

/// Both paddings are seen in `-bin` metadata.
const BINARY: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A gRPC destination.
#[derive(Debug)]
pub struct OtlpGrpc {
    pool: Pool,
    targets: [Option<Uri>; 3],
    headers: HeaderMap,
    gzip: bool,
    timeout: Duration,
}

impl OtlpGrpc {
    pub(super) fn new(settings: &config::OtlpGrpc) -> Self {
        let targets = Signal::ALL.map(|signal| {
            let authority = settings.endpoint.authority()?.clone();
            Uri::builder().scheme("http").authority(authority).path_and_query(signal.grpc_path()).build().ok()
        });
        let mut headers = settings.headers.clone();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
        if settings.gzip {
            headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
        }
        // The unit of the header with the widest range of what is left: milliseconds, eight digits.
        let millis = settings.timeout.as_millis().min(99_999_999) as u64;
        if let Ok(value) = HeaderValue::try_from(format!("{millis}m")) {
            headers.insert("grpc-timeout", value);
        }
        let pool = client::pool(true, settings.timeout);
        Self { pool, targets, headers, gzip: settings.gzip, timeout: settings.timeout }
    }

    pub(super) async fn prepare(&self, payload: Bytes) -> Result<Bytes, Failure> {
        let message = if self.gzip { client::gzip(payload).await? } else { payload };
        let length = u32::try_from(message.len()).map_err(|_| Failure::refused("larger than 4 GiB"))?;
        let mut body = BytesMut::with_capacity(message.len() + 5);
        body.put_u8(u8::from(self.gzip));
        body.put_u32(length);
        body.put(message);
        Ok(body.freeze())
    }

    pub(super) async fn send(&self, batch: &super::Request) -> Result<Delivered, Failure> {
        let target = self.targets.get(batch.signal.index()).cloned().flatten();
        let target = target.ok_or_else(|| Failure::refused("no endpoint for this signal"))?;
        let mut request = Request::new(Full::new(batch.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target;
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        read(&client::exchange(&self.pool, request, self.timeout).await?)
    }
}

fn read(answer: &Answer) -> Result<Delivered, Failure> {
    // A refusal may be trailers only: then they came as headers.
    let field = |name: &str| answer.trailers.get(name).or_else(|| answer.head.headers().get(name));
    let code =
        field("grpc-status").and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u32>().ok());
    let details =
        field("grpc-status-details-bin").and_then(|value| BINARY.decode(value).ok()).unwrap_or_default();
    let message = || {
        let plain = field("grpc-message").and_then(|value| value.to_str().ok()).map(str::to_owned);
        plain.or_else(|| status::status_message(&details)).unwrap_or_default()
    };
    match code {
        Some(0) => {
            let response = answer.body.get(5..).unwrap_or_default();
            let (rejected, message) = status::partial_success(response).unwrap_or_default();
            Ok(Delivered { rejected, message })
        }
        Some(code) => Err(Failure::from_grpc(code, &message(), status::retry_delay(&details))),
        None => Err(without_status(answer.head.status())),
    }
}

/// No gRPC status at all: a proxy answered. gRPC's own table for that.
fn without_status(status: StatusCode) -> Failure {
    match status.as_u16() {
        200 => Failure::passing("the answer has no grpc-status"),
        429 | 502 | 503 | 504 => Failure::from_grpc(14, &format!("HTTP status {status}"), None),
        404 => Failure::from_grpc(12, "HTTP status 404", None),
        _ => Failure::from_grpc(2, &format!("HTTP status {status}"), None),
    }
}
