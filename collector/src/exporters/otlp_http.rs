//! OTLP/HTTP out: POST of protobuf or JSON.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;

use super::client::{self, Pool, USER_AGENT};
use super::failure::retry_after;
use super::{Delivered, Failure};
use crate::signal::Signal;
use crate::{config, status};

/// An HTTP destination.
#[derive(Debug)]
pub struct OtlpHttp {
    pool: Pool,
    targets: [Option<Uri>; 3],
    headers: HeaderMap,
    gzip: bool,
    json: bool,
    timeout: Duration,
}

impl OtlpHttp {
    pub(super) fn new(settings: &config::OtlpHttp) -> Self {
        let mut headers = settings.headers.clone();
        let content_type = if settings.json { "application/json" } else { "application/x-protobuf" };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if settings.gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Self {
            pool: client::pool(false, settings.timeout),
            targets: settings.endpoints.clone(),
            headers,
            gzip: settings.gzip,
            json: settings.json,
            timeout: settings.timeout,
        }
    }

    pub(super) async fn prepare(&self, signal: Signal, payload: Bytes) -> Result<Bytes, Failure> {
        let body = if self.json { Bytes::from(super::to_json(signal, payload).await?) } else { payload };
        if self.gzip { client::gzip(body).await } else { Ok(body) }
    }

    pub(super) async fn send(&self, batch: &super::Request) -> Result<Delivered, Failure> {
        let target = self.targets.get(batch.signal.index()).cloned().flatten();
        let target = target.ok_or_else(|| Failure::refused("no endpoint for this signal"))?;
        let mut request = Request::new(Full::new(batch.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target;
        *request.headers_mut() = self.headers.clone();
        let answer = client::exchange(&self.pool, request, self.timeout).await?;
        let status = answer.head.status();
        if status.is_success() {
            let (rejected, message) = self.partial_success(&answer.body);
            return Ok(Delivered { rejected, message });
        }
        let headers = answer.head.headers();
        let after = headers.get(header::RETRY_AFTER).and_then(|value| retry_after(value, SystemTime::now()));
        let message = match self.json {
            true => String::from_utf8_lossy(answer.body.get(..200).unwrap_or(&answer.body)).into_owned(),
            false => status::status_message(&answer.body).unwrap_or_default(),
        };
        Err(Failure::from_http(status, &message, after))
    }

    fn partial_success(&self, body: &[u8]) -> (u64, String) {
        if !self.json {
            return status::partial_success(body).unwrap_or_default();
        }
        let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let partial = answer.get("partialSuccess");
        let fields = partial.and_then(serde_json::Value::as_object).into_iter().flatten();
        let (mut rejected, mut message) = (0, String::new());
        for (name, value) in fields {
            let text = value.as_str().unwrap_or_default();
            match name.as_str() {
                "errorMessage" => message = text.to_owned(),
                name if name.starts_with("rejected") => {
                    rejected = value.as_u64().or_else(|| text.parse().ok()).unwrap_or(0);
                }
                _ => {}
            }
        }
        (rejected, message)
    }
}
