//! Envoy's command operators (`%REQ(:authority)%`): header values and access log lines, parsed once at load time.
//!
//! Parsing only: what an operator yields for a request is the business of the proxy. An operator that the proxy
//! does not know is an error here, so that a log line never shows a hole that nobody expected.

use std::fmt;

use http::HeaderName;

/// A compiled format string: literals and operators in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    text: Box<str>,
    parts: Box<[Part]>,
}

/// One piece of a [`Format`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text as it stands.
    Literal(Box<str>),
    /// A value of the request.
    Operator {
        /// Which value.
        operator: Operator,
        /// At most this many bytes of it (`%REQ(x):20%`).
        max_length: Option<usize>,
    },
}

/// The values a format can name (Envoy access log command operators).
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is Envoy's operator of the same name")]
pub enum Operator {
    /// `%REQ(name?alternative)%`; pseudo headers by their names.
    Request(RequestField, Option<RequestField>),
    /// `%RESP(name?alternative)%`
    Response(HeaderName, Option<HeaderName>),
    /// `%TRAILER(name)%`
    Trailer(HeaderName),
    StartTime,
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    ConnectionTerminationDetails,
    UpstreamTransportFailureReason,
    BytesReceived,
    BytesSent,
    Duration,
    UpstreamHost,
    UpstreamCluster,
    UpstreamLocalAddress,
    UpstreamRequestAttemptCount,
    DownstreamLocalAddress,
    DownstreamLocalPort,
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    RequestedServerName,
    DownstreamPeerUriSan,
    DownstreamPeerSubject,
    DownstreamPeerFingerprint256,
    DownstreamLocalUriSan,
    RouteName,
    VirtualClusterName,
    Hostname,
    GrpcStatusNumber,
    TraceId,
}

/// What `%REQ(...)%` reads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the pseudo header of the same name")]
pub enum RequestField {
    Method,
    Path,
    Authority,
    Scheme,
    Header(HeaderName),
}

impl Format {
    /// Parses a format string. `%%` is a literal percent sign.
    ///
    /// # Errors
    /// [`FormatError`] names the operator that is unknown or not closed.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            let (body, after) = split_operator(after)?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal).into()));
            }
            parts.push(operator(body)?);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Ok(Self { text: text.into(), parts: parts.into() })
    }

    /// The pieces in order.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Without a newline at its end: the body of a log record is no line.
    pub(crate) fn without_newline(&self) -> Self {
        let Some(text) = self.text.strip_suffix('\n') else { return self.clone() };
        let mut parts = self.parts.to_vec();
        if let Some(Part::Literal(last)) = parts.pop() {
            let rest = last.strip_suffix('\n').unwrap_or(&last);
            parts.extend((!rest.is_empty()).then(|| Part::Literal(rest.into())));
        }
        Self { text: text.into(), parts: parts.into() }
    }

    /// The text, where no operator stands in it.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }
}

/// As it was written.
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a format string cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A `%` without its partner.
    #[error("an operator is not closed by `%`; write `%%` for a percent sign")]
    Unterminated,
    /// No such operator.
    #[error("unknown operator `%{0}%`")]
    Unknown(String),
    /// The operator's argument cannot be used.
    #[error("`{0}` is not a header name")]
    HeaderName(String),
}

/// Splits `REQ(a):5% rest` behind the closing percent sign; parentheses may hold one.
fn split_operator(text: &str) -> Result<(&str, &str), FormatError> {
    let mut depth = 0_u32;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '%' if depth == 0 => {
                let (body, rest) = text.split_at(at);
                return Ok((body, rest.get(1..).unwrap_or_default()));
            }
            _ => {}
        }
    }
    Err(FormatError::Unterminated)
}

fn operator(body: &str) -> Result<Part, FormatError> {
    let unknown = || FormatError::Unknown(body.to_owned());
    let (head, max_length) = match body.rsplit_once(':') {
        Some((head, digits)) if head.ends_with(')') => (head, Some(digits.parse().map_err(|_| unknown())?)),
        _ => (body, None),
    };
    let (name, argument) = match head.split_once('(') {
        Some((name, argument)) => (name, Some(argument.strip_suffix(')').ok_or_else(unknown)?)),
        None => (head, None),
    };
    let operator = match (name, argument) {
        ("REQ", Some(argument)) => {
            let (first, second) = alternatives(argument);
            Operator::Request(request_field(first)?, second.map(request_field).transpose()?)
        }
        ("RESP", Some(argument)) => {
            let (first, second) = alternatives(argument);
            Operator::Response(header_name(first)?, second.map(header_name).transpose()?)
        }
        ("TRAILER", Some(argument)) => Operator::Trailer(header_name(argument)?),
        ("START_TIME", None) => Operator::StartTime,
        ("PROTOCOL", None) => Operator::Protocol,
        ("RESPONSE_CODE", None) => Operator::ResponseCode,
        ("RESPONSE_CODE_DETAILS", None) => Operator::ResponseCodeDetails,
        ("RESPONSE_FLAGS", None) => Operator::ResponseFlags,
        ("CONNECTION_TERMINATION_DETAILS", None) => Operator::ConnectionTerminationDetails,
        ("UPSTREAM_TRANSPORT_FAILURE_REASON", None) => Operator::UpstreamTransportFailureReason,
        ("BYTES_RECEIVED", None) => Operator::BytesReceived,
        ("BYTES_SENT", None) => Operator::BytesSent,
        ("DURATION", None) => Operator::Duration,
        ("UPSTREAM_HOST", None) => Operator::UpstreamHost,
        ("UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW", None) => Operator::UpstreamCluster,
        ("UPSTREAM_LOCAL_ADDRESS", None) => Operator::UpstreamLocalAddress,
        ("UPSTREAM_REQUEST_ATTEMPT_COUNT", None) => Operator::UpstreamRequestAttemptCount,
        ("DOWNSTREAM_LOCAL_ADDRESS", None) => Operator::DownstreamLocalAddress,
        ("DOWNSTREAM_LOCAL_PORT", None) => Operator::DownstreamLocalPort,
        ("DOWNSTREAM_REMOTE_ADDRESS", None) => Operator::DownstreamRemoteAddress,
        ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", None) => Operator::DownstreamRemoteAddressWithoutPort,
        ("REQUESTED_SERVER_NAME", None) => Operator::RequestedServerName,
        ("DOWNSTREAM_PEER_URI_SAN", None) => Operator::DownstreamPeerUriSan,
        ("DOWNSTREAM_PEER_SUBJECT", None) => Operator::DownstreamPeerSubject,
        ("DOWNSTREAM_PEER_FINGERPRINT_256", None) => Operator::DownstreamPeerFingerprint256,
        ("DOWNSTREAM_LOCAL_URI_SAN", None) => Operator::DownstreamLocalUriSan,
        ("ROUTE_NAME", None) => Operator::RouteName,
        ("VIRTUAL_CLUSTER_NAME", None) => Operator::VirtualClusterName,
        ("HOSTNAME", None) => Operator::Hostname,
        ("GRPC_STATUS_NUMBER", None) => Operator::GrpcStatusNumber,
        ("TRACE_ID", None) => Operator::TraceId,
        _ => return Err(unknown()),
    };
    Ok(Part::Operator { operator, max_length })
}

fn alternatives(argument: &str) -> (&str, Option<&str>) {
    match argument.split_once('?') {
        Some((first, second)) => (first, Some(second)),
        None => (argument, None),
    }
}

fn request_field(name: &str) -> Result<RequestField, FormatError> {
    Ok(match name.to_ascii_lowercase().as_str() {
        ":method" => RequestField::Method,
        ":path" => RequestField::Path,
        ":authority" | "host" => RequestField::Authority,
        ":scheme" => RequestField::Scheme,
        _ => RequestField::Header(header_name(name)?),
    })
}

fn header_name(name: &str) -> Result<HeaderName, FormatError> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| FormatError::HeaderName(name.to_owned()))
}

impl fmt::Display for RequestField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => ":method",
            Self::Path => ":path",
            Self::Authority => ":authority",
            Self::Scheme => ":scheme",
            Self::Header(name) => name.as_str(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percent_sign_is_written_twice() {
        assert_eq!(Format::parse("100 %% of").unwrap().literal(), Some("100 % of"));
    }

    #[test]
    fn a_newline_at_the_end_can_be_left_out() {
        let of = |text: &str| Format::parse(text).unwrap();
        for text in ["%PROTOCOL%", "%PROTOCOL% ", "a\n"] {
            assert_eq!(of(&format!("{text}\n")).without_newline(), of(text));
        }
        assert_eq!(of("%PROTOCOL%").without_newline(), of("%PROTOCOL%"));
    }

    #[test]
    fn operators_stand_between_literals_with_alternative_and_length() {
        let format = Format::parse("\"%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):9% %PROTOCOL%\"").unwrap();
        let original = HeaderName::from_static("x-envoy-original-path");
        assert_eq!(
            format.parts(),
            [
                Part::Literal("\"".into()),
                Part::Operator {
                    operator: Operator::Request(RequestField::Header(original), Some(RequestField::Path)),
                    max_length: Some(9),
                },
                Part::Literal(" ".into()),
                Part::Operator { operator: Operator::Protocol, max_length: None },
                Part::Literal("\"".into()),
            ]
        );
    }

    #[test]
    fn unknown_and_unclosed_operators_are_errors() {
        assert_eq!(Format::parse("%PROTOKOL%"), Err(FormatError::Unknown("PROTOKOL".into())));
        assert_eq!(Format::parse("5 % of %%"), Err(FormatError::Unknown(" of ".into())));
        assert_eq!(Format::parse("%REQ(x"), Err(FormatError::Unterminated));
    }
}
