//! The one place that turns a [`Failure`] into an answer: status, body, flag and details as Envoy has them.

use std::{borrow::Cow, io::Write as _};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION},
};

use outrigger_config::snapshot::AbortStatus;

use super::headers::{GRPC_MESSAGE, GRPC_STATUS, X_ENVOY_OVERLOADED, remove};
use crate::{
    net::head::Violation,
    telemetry::{Details, Flag},
    upstream::pool::ResetReason,
};

/// Why a request was not answered by an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Refused by the gate on its raw bytes.
    Refused(Violation),
    /// HTTP/1.1 without Host, or HTTP/2 without authority.
    MissingHost,
    /// Two Hosts, junk, or two that differ.
    InvalidAuthority,
    /// The target `*`.
    AsteriskPath,
    /// The path cannot be normalised.
    BadPath,
    /// Another upgrade than the ignored h2c.
    UpgradeFailed,
    /// HTTP/2 only: the stream is reset without an answer.
    ResetStream,
    /// There is no memory for it.
    Overloaded,
    /// There was no memory for the rest of the request.
    Starved,
    /// The route injects it.
    Fault(AbortStatus),
    /// No route takes it.
    NoRoute,
    /// The destination does not exist.
    NoCluster,
    /// No endpoint to pick.
    NoHealthyUpstream,
    /// A circuit breaker is open.
    Overflow,
    /// The connection was not established; why, as the log says it.
    Connect(Cow<'static, str>),
    /// The connection was not established in time.
    ConnectTimeout,
    /// The exchange ended before the response headers.
    Upstream(ResetReason),
    /// The route's time is over.
    RouteTimeout,
    /// The last try's time is over.
    TryTimeout,
    /// The request body could not be read: its framing is broken.
    RequestBody,
    /// The client left in the middle of its body: there is nobody to answer.
    ClientLeft,
}

/// An answer of ours.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    /// What a gRPC client is told, where that does not follow from `status`.
    pub(crate) grpc_status: Option<u32>,
    pub(crate) flag: Option<Flag>,
    pub(crate) details: Details,
    pub(crate) overloaded: bool,
    /// Another place to ask.
    pub(crate) location: Option<HeaderValue>,
    /// The HTTP/1 connection ends with it.
    pub(crate) close: bool,
}

impl Reply {
    fn new(status: StatusCode, body: &'static str, details: &'static str) -> Self {
        Self {
            status,
            body: Bytes::from_static(body.as_bytes()),
            grpc_status: None,
            flag: None,
            details: Details::fixed(details),
            overloaded: false,
            location: None,
            close: false,
        }
    }

    fn flag(mut self, flag: Flag) -> Self {
        self.flag = Some(flag);
        self
    }

    fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// The configured answer of a route.
    pub(crate) fn direct(status: StatusCode, body: Bytes) -> Self {
        Self { body, ..Self::new(status, "", "direct_response") }
    }

    /// The answer to a failure; `retried` is whether it was not the first try.
    pub(crate) fn to(failure: &Failure, retried: bool) -> Self {
        use StatusCode as S;
        match failure {
            Failure::Refused(violation) => refusal(*violation),
            Failure::MissingHost => Self::new(S::BAD_REQUEST, "", "missing_host_header").closing(),
            Failure::InvalidAuthority => refusal(Violation::Authority),
            Failure::AsteriskPath => Self::new(S::NOT_FOUND, "", "absolute_path_rejected"),
            Failure::BadPath => Self::new(S::BAD_REQUEST, "", "path_normalization_failed").closing(),
            Failure::UpgradeFailed => Self::new(S::FORBIDDEN, "", "upgrade_failed").closing(),
            // Never sent: the stream is reset.
            Failure::ResetStream => Self::new(S::BAD_REQUEST, "", "http2.too_many_headers")
                .flag(Flag::DownstreamProtocolError)
                .closing(),
            Failure::Overloaded | Failure::Starved => {
                Self::new(S::SERVICE_UNAVAILABLE, "envoy overloaded", "overload")
                    .flag(Flag::OverloadManager)
                    .closing()
            }
            Failure::Fault(status) => {
                let (status, grpc_status) = match *status {
                    AbortStatus::Http(status) => (status, None),
                    AbortStatus::Grpc(status) => (S::OK, Some(status)),
                };
                let reply = Self::new(status, "fault filter abort", "fault_filter_abort");
                Self { grpc_status, ..reply }.flag(Flag::FaultInjected)
            }
            Failure::NoRoute => Self::new(S::NOT_FOUND, "", "route_not_found").flag(Flag::NoRouteFound),
            Failure::NoCluster => {
                Self::new(S::SERVICE_UNAVAILABLE, "", "cluster_not_found").flag(Flag::NoClusterFound)
            }
            Failure::NoHealthyUpstream => {
                Self::new(S::SERVICE_UNAVAILABLE, "no healthy upstream", "no_healthy_upstream")
                    .flag(Flag::NoHealthyUpstream)
            }
            Failure::Overflow => Self {
                overloaded: true,
                ..before_headers(S::SERVICE_UNAVAILABLE, "overflow", None, retried)
                    .flag(Flag::UpstreamOverflow)
            },
            Failure::Connect(why) => {
                before_headers(S::SERVICE_UNAVAILABLE, "remote connection failure", Some(why), retried)
                    .flag(Flag::UpstreamConnectionFailure)
            }
            Failure::ConnectTimeout => {
                before_headers(S::SERVICE_UNAVAILABLE, "connection timeout", None, retried)
                    .flag(Flag::UpstreamConnectionFailure)
            }
            Failure::Upstream(reset) => {
                let status = match reset {
                    ResetReason::ProtocolError => S::BAD_GATEWAY,
                    _ => S::SERVICE_UNAVAILABLE,
                };
                before_headers(status, &reset.to_string(), None, retried).flag(reset_flag(*reset))
            }
            Failure::RouteTimeout => {
                Self::new(S::GATEWAY_TIMEOUT, "upstream request timeout", "response_timeout")
                    .flag(Flag::UpstreamRequestTimeout)
            }
            Failure::TryTimeout => {
                Self::new(S::GATEWAY_TIMEOUT, "upstream request timeout", "upstream_per_try_timeout")
                    .flag(Flag::UpstreamRequestTimeout)
            }
            // A client that left is never answered.
            Failure::RequestBody | Failure::ClientLeft => refusal(Violation::Codec),
        }
    }

    /// The headers that come first, in Envoy's order. A route's operations follow, then [`finish`](Self::finish).
    pub(crate) fn begin(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.overloaded {
            headers.insert(X_ENVOY_OVERLOADED, HeaderValue::from_static("true"));
        }
        if let Some(location) = &self.location {
            headers.insert(LOCATION, location.clone());
        }
        headers
    }

    /// What the body needs, but for `date` and `server` all there is; the status and the body change for gRPC.
    pub(crate) fn finish(&self, headers: &mut HeaderMap, grpc: bool) -> (StatusCode, Bytes) {
        if grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            let code = self.grpc_status.unwrap_or_else(|| grpc_status(self.status));
            headers.insert(GRPC_STATUS, code.into());
            if let Some(message) = grpc_message(&self.body).filter(|message| !message.is_empty()) {
                headers.insert(GRPC_MESSAGE, message);
            }
            remove(headers, &[CONTENT_LENGTH]);
            return (StatusCode::OK, Bytes::new());
        }
        if self.body.is_empty() || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            // RFC 9110 forbids the body of these, which Envoy sends all the same.
            remove(headers, &[CONTENT_LENGTH, CONTENT_TYPE]);
            return (self.status, Bytes::new());
        }
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain"));
        (self.status, self.body.clone())
    }
}

/// The flag of an exchange that its upstream ended.
pub(crate) fn reset_flag(reason: ResetReason) -> Flag {
    match reason {
        ResetReason::ConnectionTermination => Flag::UpstreamConnectionTermination,
        ResetReason::ProtocolError => Flag::UpstreamProtocolError,
        ResetReason::RemoteReset | ResetReason::RemoteRefusedStream => Flag::UpstreamRemoteReset,
        ResetReason::LocalReset => Flag::LocalReset,
    }
}

fn before_headers(status: StatusCode, reason: &str, transport: Option<&str>, retried: bool) -> Reply {
    let latest = if retried { "retried and the latest reset reason" } else { "reset reason" };
    let body = format!("upstream connect error or disconnect/reset before headers. {latest}: {reason}");
    let bar = if transport.is_some() { "|" } else { "" };
    let transport = transport.unwrap_or_default();
    let details = format!("upstream_reset_before_response_started{{{reason}{bar}{transport}}}");
    Reply { body: body.into(), details: details.into(), ..Reply::new(status, "", "") }
}

fn refusal(violation: Violation) -> Reply {
    use StatusCode as S;
    let (status, details) = match violation {
        Violation::Version => (S::UPGRADE_REQUIRED, "low_version"),
        Violation::Codec => (S::BAD_REQUEST, "http1.codec_error"),
        Violation::LengthAndChunked => (S::BAD_REQUEST, "http1.content_length_and_chunked_not_allowed"),
        Violation::TransferEncoding => (S::NOT_IMPLEMENTED, "http1.invalid_transfer_encoding"),
        Violation::Characters => (S::BAD_REQUEST, "http1.invalid_characters"),
        Violation::TooManyHeaders => (S::REQUEST_HEADER_FIELDS_TOO_LARGE, "http1.too_many_headers"),
        Violation::TooLarge => (S::REQUEST_HEADER_FIELDS_TOO_LARGE, "http1.headers_too_large"),
        Violation::Authority => (S::BAD_REQUEST, "http.invalid_authority"),
        Violation::Timeout => {
            return Reply::new(S::REQUEST_TIMEOUT, "", "request_header_timeout").closing();
        }
        Violation::Fragment => {
            return Reply::new(S::BAD_REQUEST, "", "path_normalization_failed").closing();
        }
        Violation::Connect => return Reply::to(&Failure::NoRoute, false).closing(),
    };
    let body = status.canonical_reason().unwrap_or_default();
    Reply::new(status, body, details).flag(Flag::DownstreamProtocolError).closing()
}

/// Envoy `Grpc::Utility::httpToGrpcStatus`.
fn grpc_status(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Percent-encoded as Envoy does it: what is not printable ASCII, `%`, and `~`.
fn grpc_message(text: &[u8]) -> Option<HeaderValue> {
    let plain = |byte: &u8| (b' '..b'~').contains(byte) && *byte != b'%';
    if text.iter().all(plain) {
        return HeaderValue::from_bytes(text).ok();
    }
    let mut encoded = Vec::with_capacity(text.len() + 16);
    for byte in text {
        if plain(byte) {
            encoded.push(*byte);
        } else {
            // A vector takes every write.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    HeaderValue::from_maybe_shared(Bytes::from(encoded)).ok()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::upstream::transport_failure;

    fn shown(failure: &Failure, retried: bool) -> (u16, String, Option<&'static str>, String) {
        let reply = Reply::to(failure, retried);
        let flag = reply.flag.map(Flag::as_str);
        (
            reply.status.as_u16(),
            String::from_utf8(reply.body.to_vec()).unwrap(),
            flag,
            reply.details.as_str().to_owned(),
        )
    }

    fn head(reply: &Reply, grpc: bool) -> (StatusCode, HeaderMap, Bytes) {
        let mut headers = reply.begin();
        let (status, body) = reply.finish(&mut headers, grpc);
        (status, headers, body)
    }

    #[test]
    fn failures_before_the_headers_name_their_reason() {
        let refused = Failure::Connect(transport_failure(&io::ErrorKind::ConnectionRefused.into()));
        let r = "upstream connect error or disconnect/reset before headers. ";
        assert_eq!(
            shown(&refused, false),
            (
                503,
                format!("{r}reset reason: remote connection failure"),
                Some("UF"),
                "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:\
                 _Connection_refused}"
                    .to_owned()
            )
        );
        assert_eq!(
            shown(&refused, true).1,
            format!("{r}retried and the latest reset reason: remote connection failure")
        );
        let expected = [
            (Failure::Upstream(ResetReason::ConnectionTermination), 503, "UC", "connection termination"),
            (Failure::Upstream(ResetReason::ProtocolError), 502, "UPE", "protocol error"),
            (Failure::Upstream(ResetReason::RemoteReset), 503, "UR", "remote reset"),
            (Failure::Upstream(ResetReason::RemoteRefusedStream), 503, "UR", "remote refused stream reset"),
            (Failure::ConnectTimeout, 503, "UF", "connection timeout"),
            (Failure::Overflow, 503, "UO", "overflow"),
        ];
        for (failure, status, flag, reason) in expected {
            let details = format!("upstream_reset_before_response_started{{{}}}", reason.replace(' ', "_"));
            let body = format!("{r}reset reason: {reason}");
            assert_eq!(shown(&failure, false), (status, body, Some(flag), details));
        }
    }

    #[test]
    fn a_body_comes_with_length_and_type_first() {
        let (status, headers, body) = head(&Reply::to(&Failure::Overflow, false), false);
        let names: Vec<_> = headers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["x-envoy-overloaded", "content-length", "content-type"]);
        assert_eq!((status.as_u16(), headers[CONTENT_LENGTH].to_str().unwrap()), (503, "81"));
        assert_eq!(body.len(), 81);
        assert!(head(&Reply::to(&Failure::NoRoute, false), false).1.is_empty());
    }

    #[test]
    fn grpc_gets_its_status_in_headers_of_a_200() {
        let (status, headers, body) = head(&Reply::to(&Failure::NoHealthyUpstream, false), true);
        assert_eq!((status.as_u16(), body.len()), (200, 0));
        assert_eq!(headers[GRPC_STATUS], "14");
        assert_eq!(headers[GRPC_MESSAGE], "no healthy upstream");
        assert_eq!(headers[CONTENT_TYPE], "application/grpc");
        let (_, headers, _) = head(&Reply::to(&Failure::NoRoute, false), true);
        assert_eq!(headers[GRPC_STATUS], "12");
        assert!(!headers.contains_key(GRPC_MESSAGE));
        let (_, headers, _) = head(&Reply::to(&Failure::MissingHost, false), true);
        assert_eq!(headers[GRPC_STATUS], "13");
        let (_, headers, _) = head(&Reply::to(&Failure::Fault(AbortStatus::Grpc(5)), false), true);
        assert_eq!(
            (&headers[GRPC_STATUS], &headers[GRPC_MESSAGE]),
            (&"5".parse().unwrap(), &"fault filter abort".parse().unwrap())
        );
    }

    #[test]
    fn an_abort_with_a_status_that_has_no_body_has_none() {
        for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
            let (_, headers, body) =
                head(&Reply::to(&Failure::Fault(AbortStatus::Http(status)), false), false);
            assert!(headers.is_empty() && body.is_empty(), "{status}");
        }
    }

    #[test]
    fn a_grpc_message_is_percent_encoded() {
        let message = |body: &'static str| {
            let reply = Reply::direct(StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(body.as_bytes()));
            head(&reply, true).1[GRPC_MESSAGE].clone()
        };
        assert_eq!(message("a%b~c\u{e9}\nd"), "a%25b%7Ec%C3%A9%0Ad");
        assert_eq!(message("plain text"), "plain text");
    }

    #[test]
    fn header_operations_keep_the_type_of_a_body_but_not_its_length() {
        let operated = |body: &'static str| {
            let reply = Reply::direct(StatusCode::OK, Bytes::from_static(body.as_bytes()));
            let mut headers = reply.begin();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("9"));
            headers.insert("x-a", HeaderValue::from_static("1"));
            let _ = reply.finish(&mut headers, false);
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
        };
        let lines: Vec<String> = operated("{}");
        assert_eq!(lines, ["content-type: application/json", "content-length: 2", "x-a: 1"]);
        let lines: Vec<String> = operated("");
        assert_eq!(lines, ["x-a: 1"], "an empty answer has neither");
    }
}
