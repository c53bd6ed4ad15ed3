//! OTLP/gRPC, directly on HTTP/2: a unary call is a five-byte prefix and a body, and the body is kept as it is.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::reply::Reply;
use super::{Intake, body};
use crate::signal::Signal;
use crate::status::{Code, Refusal};

const PREFIX: usize = 5;
const CONTENT_TYPE: &str = "application/grpc";

/// Answers one request.
pub async fn handle(intake: Arc<Intake>, request: Request<Incoming>) -> Response<Reply> {
    let content_type =
        request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if !content_type.to_ascii_lowercase().starts_with(CONTENT_TYPE.as_bytes()) {
        return not_grpc(&request);
    }
    match export(&intake, request).await {
        Ok(()) => success(),
        Err(refusal) => {
            intake.count_refusal(&refusal);
            refused(&refusal)
        }
    }
}

async fn export(intake: &Intake, request: Request<Incoming>) -> Result<(), Refusal> {
    let path = request.uri().path();
    let Some(signal) = Signal::ALL.into_iter().find(|signal| signal.grpc_path() == path) else {
        return Err(unimplemented(format!("no method {path}")));
    };
    if request.method() != Method::POST {
        return Err(unimplemented("gRPC is POST".to_owned()));
    }
    intake.route(signal)?;
    let encoding = Encoding::of(request.headers())?;
    let wait = request.headers().get("grpc-timeout").and_then(parse_timeout).map(|limit| limit.mul_f32(0.8));
    let declared = content_length(request.headers());
    let mut charge = intake.budget.open();
    let mut body = request.into_body();
    let limit = intake.max_request.saturating_add(PREFIX);
    let mut message = body::read(&mut body, limit, declared, &mut charge, intake.read_timeout)
        .await
        .map_err(|refusal| match refusal.code {
            Code::ResourceExhausted => Refusal::too_large(intake.max_request),
            _ => refusal,
        })?;
    let compressed = strip_prefix(&mut message, intake.max_request)?;
    let payload = match (compressed, encoding) {
        (false, _) => message,
        (true, Encoding::Gzip) => {
            let (payload, paid) = body::inflate(message, intake.max_request, charge).await?;
            charge = paid;
            payload
        }
        (true, Encoding::Identity) => {
            return Err(framing("the message is marked compressed, but there is no grpc-encoding"));
        }
    };
    intake.accept(signal, payload, charge, wait).await
}

/// Takes the prefix off; what is left is exactly one message. True if it is compressed.
fn strip_prefix(message: &mut Bytes, limit: usize) -> Result<bool, Refusal> {
    if message.len() < PREFIX {
        return Err(framing("no message"));
    }
    let flag = message.get_u8();
    let length = message.get_u32() as usize;
    if length > limit {
        return Err(Refusal::too_large(limit));
    }
    if length != message.len() {
        return Err(framing("a unary call carries one whole message"));
    }
    match flag {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(framing("unknown flags before the message")),
    }
}

#[derive(Clone, Copy)]
enum Encoding {
    Identity,
    Gzip,
}

impl Encoding {
    fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        match headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
            None | Some(b"identity") => Ok(Self::Identity),
            Some(b"gzip") => Ok(Self::Gzip),
            Some(other) => {
                let other = String::from_utf8_lossy(other);
                Err(unimplemented(format!("grpc-encoding {other} is not supported; gzip is")))
            }
        }
    }
}

fn unimplemented(message: String) -> Refusal {
    Refusal::new(Code::Unimplemented, StatusCode::NOT_FOUND, message)
}

fn framing(message: &str) -> Refusal {
    Refusal::malformed(message, "body".to_owned())
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `grpc-timeout`: up to eight digits and a unit.
fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count = Some(digits).filter(|digits| digits.len() <= 8)?.parse::<u64>().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// An empty response message: everything was taken.
fn success() -> Response<Reply> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut response = Response::new(Reply::with_trailers(Bytes::from_static(&[0; PREFIX]), trailers));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

/// A refusal is trailers only. The delay goes in twice: SDKs look in different places.
fn refused(refusal: &Refusal) -> Response<Reply> {
    let mut response = Response::new(Reply::default());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert("grpc-status", HeaderValue::from(refusal.code as i32));
    insert(headers, "grpc-message", percent_encode(&refusal.message));
    insert(headers, "grpc-status-details-bin", STANDARD_NO_PAD.encode(refusal.protobuf()));
    if let Some(info) = refusal.retry_info() {
        insert(headers, "google.rpc.retryinfo-bin", STANDARD_NO_PAD.encode(info));
    }
    if refusal.code == Code::Unimplemented {
        headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity,gzip"));
    }
    response
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Someone speaks plain HTTP to this port.
fn not_grpc(request: &Request<Incoming>) -> Response<Reply> {
    let message =
        format!("this port takes OTLP/gRPC only, not {} {}", request.method(), request.uri().path());
    let refusal = Refusal::new(Code::InvalidArgument, StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    let mut response = Response::new(Reply::new(refusal.json()));
    *response.status_mut() = refusal.http;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        let parse = |text| parse_timeout(&HeaderValue::from_static(text));
        assert_eq!(parse("10S"), Some(Duration::from_secs(10)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for wrong in ["", "S", "1x", "123456789S", "-1S"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_message_is_whole_or_refused() {
        let strip =
            |bytes: &'static [u8]| strip_prefix(&mut Bytes::from_static(bytes), 10).map_err(|r| r.code);
        assert_eq!(strip(&[0, 0, 0, 0, 1, 9]), Ok(false));
        assert_eq!(strip(&[1, 0, 0, 0, 0]), Ok(true));
        assert_eq!(strip(&[0, 0, 0, 0, 2, 9]), Err(Code::InvalidArgument));
        assert_eq!(strip(&[0, 0, 0, 0, 0, 9]), Err(Code::InvalidArgument));
        assert_eq!(strip(&[2, 0, 0, 0, 0]), Err(Code::InvalidArgument));
        assert_eq!(strip(&[0, 0]), Err(Code::InvalidArgument));
        assert_eq!(strip(&[0, 0, 0, 0, 11]), Err(Code::ResourceExhausted));
    }
}
