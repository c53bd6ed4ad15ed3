//! The one place that turns a [`Failure`] into an answer: status, body, flag and details as Envoy has them.

use std::borrow::Cow;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};

use outrigger_config::snapshot::DirectResponse;

use super::headers::{GRPC_MESSAGE, GRPC_STATUS, X_ENVOY_OVERLOADED};
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
    pub(crate) flag: Option<Flag>,
    pub(crate) details: Details,
    pub(crate) overloaded: bool,
    /// The HTTP/1 connection ends with it.
    pub(crate) close: bool,
}

impl Reply {
    fn new(status: StatusCode, body: &'static str, details: &'static str) -> Self {
        Self {
            status,
            body: Bytes::from_static(body.as_bytes()),
            flag: None,
            details: Details::fixed(details),
            overloaded: false,
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
    pub(crate) fn direct(response: &DirectResponse) -> Self {
        Self { body: response.body.clone(), ..Self::new(response.status, "", "direct_response") }
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

    /// The headers, in Envoy's order, but for `date` and `server`; the status and the body change for gRPC.
    pub(crate) fn head(&self, grpc: bool) -> (StatusCode, HeaderMap, Bytes) {
        let mut headers = HeaderMap::new();
        if self.overloaded {
            headers.insert(X_ENVOY_OVERLOADED, HeaderValue::from_static("true"));
        }
        if grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(GRPC_STATUS, HeaderValue::from_static(grpc_status(self.status)));
            if let Some(message) = text_value(&self.body).filter(|message| !message.is_empty()) {
                headers.insert(GRPC_MESSAGE, message);
            }
            return (StatusCode::OK, headers, Bytes::new());
        }
        if !self.body.is_empty() {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        (self.status, headers, self.body.clone())
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
fn grpc_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    }
}

/// Our bodies are plain text without `%`, so that they need no escaping as a grpc-message.
fn text_value(text: &[u8]) -> Option<HeaderValue> {
    HeaderValue::from_bytes(text).ok()
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
        let (status, headers, body) = Reply::to(&Failure::Overflow, false).head(false);
        let names: Vec<_> = headers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["x-envoy-overloaded", "content-length", "content-type"]);
        assert_eq!((status.as_u16(), headers[CONTENT_LENGTH].to_str().unwrap()), (503, "81"));
        assert_eq!(body.len(), 81);
        assert!(Reply::to(&Failure::NoRoute, false).head(false).1.is_empty());
    }

    #[test]
    fn grpc_gets_its_status_in_headers_of_a_200() {
        let (status, headers, body) = Reply::to(&Failure::NoHealthyUpstream, false).head(true);
        assert_eq!((status.as_u16(), body.len()), (200, 0));
        assert_eq!(headers[GRPC_STATUS], "14");
        assert_eq!(headers[GRPC_MESSAGE], "no healthy upstream");
        assert_eq!(headers[CONTENT_TYPE], "application/grpc");
        let (_, headers, _) = Reply::to(&Failure::NoRoute, false).head(true);
        assert_eq!(headers[GRPC_STATUS], "12");
        assert!(!headers.contains_key(GRPC_MESSAGE));
        let (_, headers, _) = Reply::to(&Failure::MissingHost, false).head(true);
        assert_eq!(headers[GRPC_STATUS], "13");
    }
}
