//! OTLP/HTTP: POST of protobuf or JSON, over HTTP/1.1 and HTTP/2. Every refusal is a `google.rpc.Status` in the
//! encoding of the request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::{Body, Incoming};

use super::reply::Reply;
use super::{Intake, body};
use crate::signal::Signal;
use crate::status::{Code, Refusal};

/// A client that is told "too large" may be in the middle of its body; this much of the rest is read.
const DISCARD_BYTES: usize = 128 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// An HTTP listener: the intake and the path of each signal.
#[derive(Debug)]
pub struct Door {
    /// What it takes in.
    pub intake: Intake,
    /// By [`Signal::index`].
    pub paths: [String; 3],
}

/// Answers one request.
pub async fn handle(door: Arc<Door>, request: Request<Incoming>) -> Response<Reply> {
    let version = request.version();
    let format = Format::of(request.headers());
    let encoding = format.unwrap_or(Format::Json);
    let (parts, mut body) = request.into_parts();
    let refusal = match export(&door, &parts, format, &mut body).await {
        Ok(()) => return success(encoding),
        Err(refusal) => refusal,
    };
    door.intake.count_refusal(&refusal);
    let mut response = refused(&refusal, encoding);
    // A connection with half a body on it is not for reuse, and closing it too early loses the answer.
    if version < Version::HTTP_2
        && !body.is_end_stream()
        && !body::discard(&mut body, DISCARD_BYTES, DISCARD_TIME).await
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn export(
    door: &Door,
    parts: &http::request::Parts,
    format: Option<Format>,
    body: &mut Incoming,
) -> Result<(), Refusal> {
    let intake = &door.intake;
    let path = parts.uri.path();
    let signal = Signal::ALL.into_iter().zip(&door.paths).find(|(_, known)| known.as_str() == path);
    let Some((signal, _)) = signal else {
        return Err(Refusal::new(Code::NotFound, StatusCode::NOT_FOUND, format!("no such path: {path}")));
    };
    if parts.method != Method::POST {
        return Err(Refusal::new(Code::Unimplemented, StatusCode::METHOD_NOT_ALLOWED, "OTLP is POST"));
    }
    intake.route(signal)?;
    let Some(format) = format else {
        let message = "Content-Type must be application/x-protobuf or application/json";
        return Err(Refusal::new(Code::InvalidArgument, StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    };
    let gzip = gzipped(&parts.headers)?;
    let mut charge = intake.budget.open();
    let declared = body.size_hint().exact();
    let mut payload =
        body::read(body, intake.max_request, declared, &mut charge, intake.read_timeout).await?;
    if gzip {
        (payload, charge) = body::inflate(payload, intake.max_request, charge).await?;
    }
    if format == Format::Json {
        (payload, charge) = body::from_json(signal, payload, charge).await?;
    }
    intake.accept(signal, payload, charge, None).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Protobuf,
    Json,
}

impl Format {
    /// Parameters and letter case do not matter.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let media = value.split(';').next().unwrap_or_default().trim();
        match media.to_ascii_lowercase().as_str() {
            "application/x-protobuf" => Some(Self::Protobuf),
            "application/json" => Some(Self::Json),
            _ => None,
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        })
    }
}

fn gzipped(headers: &HeaderMap) -> Result<bool, Refusal> {
    let value = headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes).unwrap_or_default();
    match value.to_ascii_lowercase().as_slice() {
        b"" | b"identity" => Ok(false),
        b"gzip" => Ok(true),
        other => {
            let message =
                format!("Content-Encoding {} is not supported; gzip is", String::from_utf8_lossy(other));
            Err(Refusal::new(Code::InvalidArgument, StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
        }
    }
}

/// An empty response message: everything was taken.
fn success(format: Format) -> Response<Reply> {
    let mut response = Response::new(match format {
        Format::Protobuf => Reply::default(),
        Format::Json => Reply::new(Bytes::from_static(b"{}")),
    });
    response.headers_mut().insert(header::CONTENT_TYPE, format.content_type());
    response
}

fn refused(refusal: &Refusal, format: Format) -> Response<Reply> {
    let mut response = Response::new(Reply::new(match format {
        Format::Protobuf => refusal.protobuf(),
        Format::Json => refusal.json(),
    }));
    *response.status_mut() = refusal.http;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, format.content_type());
    if let Some(delay) = refusal.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(delay.as_secs_f64().ceil() as u64));
    }
    match refusal.http {
        StatusCode::METHOD_NOT_ALLOWED => {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        _ => {}
    }
    response
}
