//! What a receiver's answer means: taken, refused for good, or worth another try (OTLP specification, both transports).

use std::time::Duration;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, StatusCode, header::RETRY_AFTER};

use crate::telemetry::wire::{Value, fields};

/// Both paddings are seen in `-bin` metadata.
const BINARY: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Of a message, for the log.
const LONGEST_WHY: usize = 200;

/// The outcome of one try.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Taken, but for some items that were refused for good.
    Delivered { rejected: u64, why: String },
    /// Another try may succeed.
    Again { after: Option<Duration>, why: String },
    /// No other try would.
    Refused(String),
}

impl Verdict {
    pub(super) fn again(why: impl Into<String>) -> Self {
        Self::Again { after: None, why: why.into() }
    }
}

/// OTLP/HTTP.
pub(super) fn of_http(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Verdict {
    if status.is_success() {
        return partial_success(body);
    }
    let why = format!("HTTP status {}", status.as_u16());
    match status.as_u16() {
        429 | 502 | 503 | 504 => Verdict::Again { after: retry_after(headers), why },
        _ => Verdict::Refused(why),
    }
}

/// OTLP/gRPC. An answer that is trailers only has its status in the headers.
pub(super) fn of_grpc(status: StatusCode, headers: &HeaderMap, trailers: &HeaderMap, body: &[u8]) -> Verdict {
    let field = |name: &str| trailers.get(name).or_else(|| headers.get(name));
    let Some(code) = grpc_code(trailers).or_else(|| grpc_code(headers)) else {
        let why = format!("HTTP status {} without grpc-status", status.as_u16());
        // gRPC's own table for answers of proxies.
        return match status.as_u16() {
            200 | 429 | 502..=504 => Verdict::again(why),
            _ => Verdict::Refused(why),
        };
    };
    if code == 0 {
        return partial_success(body.get(5..).unwrap_or_default());
    }
    let message = field("grpc-message").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let why = shortened(&format!("gRPC status {code} {}", message.unwrap_or_default()));
    let details = field("grpc-status-details-bin").and_then(|value| BINARY.decode(value).ok());
    let after = details.as_deref().and_then(retry_delay);
    match code {
        1 | 4 | 10 | 11 | 14 | 15 => Verdict::Again { after, why },
        // Exhausted for a moment only if it says for how long.
        8 if after.is_some() => Verdict::Again { after, why },
        _ => Verdict::Refused(why),
    }
}

pub(super) fn grpc_code(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// `Export*ServiceResponse`: field 1 holds what was rejected (1) and why (2).
fn partial_success(body: &[u8]) -> Verdict {
    let (mut rejected, mut why) = (0, String::new());
    for (_, value) in fields(body).filter(|(field, _)| *field == 1) {
        let Value::Bytes(partial) = value else { continue };
        for inner in fields(partial) {
            match inner {
                (1, Value::Number(count)) => rejected = count,
                (2, Value::Bytes(text)) => why = shortened(&String::from_utf8_lossy(text)),
                _ => {}
            }
        }
    }
    Verdict::Delivered { rejected, why }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    Some(Duration::from_secs(headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?))
}

/// `google.rpc.RetryInfo.retry_delay` within the details (3) of a `google.rpc.Status`.
fn retry_delay(status: &[u8]) -> Option<Duration> {
    let details = fields(status).filter(|(field, _)| *field == 3);
    details.filter_map(|(_, value)| delay_of(value)).next()
}

fn delay_of(any: Value<'_>) -> Option<Duration> {
    let Value::Bytes(any) = any else { return None };
    let bytes = |data, wanted| {
        fields(data).find_map(|(field, value)| match value {
            Value::Bytes(bytes) if field == wanted => Some(bytes),
            _ => None,
        })
    };
    if !bytes(any, 1)?.ends_with(b"google.rpc.RetryInfo") {
        return None;
    }
    let delay = bytes(bytes(any, 2)?, 1)?;
    let number = |wanted| {
        fields(delay).find_map(|(field, value)| match value {
            Value::Number(number) if field == wanted => Some(number),
            _ => None,
        })
    };
    let nanos = u32::try_from(number(2).unwrap_or(0)).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(number(1).unwrap_or(0).min(3600), nanos))
}

fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_WHY).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::telemetry::wire;

    fn trailers(code: &str, details: &[u8]) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_str(code).unwrap());
        if !details.is_empty() {
            trailers
                .insert("grpc-status-details-bin", HeaderValue::from_str(&BINARY.encode(details)).unwrap());
        }
        trailers
    }

    fn retry_info(millis: u32) -> Vec<u8> {
        let mut status = Vec::new();
        wire::message(3, &mut status, |any| {
            wire::text(1, "type.googleapis.com/google.rpc.RetryInfo", any);
            wire::message(2, any, |info| {
                wire::message(1, info, |delay| wire::uint(2, u64::from(millis) * 1_000_000, delay));
            });
        });
        status
    }

    fn grpc(code: &str, details: &[u8]) -> Verdict {
        of_grpc(StatusCode::OK, &HeaderMap::new(), &trailers(code, details), &[])
    }

    #[test]
    fn only_passing_failures_are_tried_again() {
        for code in ["1", "4", "10", "11", "14", "15"] {
            assert!(matches!(grpc(code, &[]), Verdict::Again { after: None, .. }), "{code}");
        }
        for code in ["2", "3", "5", "7", "8", "12", "13", "16"] {
            assert!(matches!(grpc(code, &[]), Verdict::Refused(_)), "{code}");
        }
        for (status, again) in
            [(429, true), (502, true), (503, true), (504, true), (400, false), (404, false), (500, false)]
        {
            let verdict = of_http(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), &[]);
            assert_eq!(matches!(verdict, Verdict::Again { .. }), again, "{status}");
        }
    }

    #[test]
    fn the_receiver_says_when_to_come_back() {
        let wait = |verdict| match verdict {
            Verdict::Again { after, .. } => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(grpc("14", &retry_info(250))), Some(Duration::from_millis(250)));
        assert_eq!(wait(grpc("8", &retry_info(250))), Some(Duration::from_millis(250)));
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("2"))]);
        let verdict = of_http(StatusCode::SERVICE_UNAVAILABLE, &headers, &[]);
        assert_eq!(wait(verdict), Some(Duration::from_secs(2)));
    }

    #[test]
    fn what_a_receiver_rejects_of_a_batch_is_told() {
        let mut body = Vec::new();
        wire::message(1, &mut body, |partial| {
            wire::uint(1, 3, partial);
            wire::text(2, "too old", partial);
        });
        let expected = Verdict::Delivered { rejected: 3, why: "too old".to_owned() };
        assert_eq!(of_http(StatusCode::OK, &HeaderMap::new(), &body), expected);
        let framed = [&[0, 0, 0, 0, 13][..], &body].concat();
        assert_eq!(of_grpc(StatusCode::OK, &HeaderMap::new(), &trailers("0", &[]), &framed), expected);
        let whole = Verdict::Delivered { rejected: 0, why: String::new() };
        assert_eq!(of_http(StatusCode::OK, &HeaderMap::new(), b"rubbish"), whole);
    }

    #[test]
    fn an_answer_without_grpc_status_came_from_a_proxy() {
        let of = |status| {
            of_grpc(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), &HeaderMap::new(), &[])
        };
        assert!(matches!(of(503), Verdict::Again { .. }));
        assert!(matches!(of(404), Verdict::Refused(_)));
    }
}
