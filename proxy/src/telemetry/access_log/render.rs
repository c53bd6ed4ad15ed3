//! One record to one line.

use std::{io::Write, net::SocketAddr};

use http::Version;
use outrigger_config::format::Operator;

use super::{
    Encoding, End, Source, Step, Steps, Value,
    write::{self, StartTime, escape_json, escape_text},
};
use crate::telemetry::{Flags, Record, milliseconds};

/// What an operator yields.
pub(super) enum Shown<'a> {
    /// `-` in text, `null` in JSON.
    Missing,
    Number(u64),
    /// Bytes that a client, an upstream or the configuration chose.
    Bytes(&'a [u8]),
    Address(SocketAddr),
    Ip(std::net::IpAddr),
    Time(StartTime),
    Flags(Flags),
    Trace(u128),
}

impl Encoding {
    /// Appends the line of a record that ended at `end`.
    pub(super) fn render(&self, record: &Record, end: &End, line: &mut Vec<u8>) {
        match self {
            Self::Text(steps) => steps.text(record, end, line, Escape::Text),
            Self::Json(fields) => {
                line.push(b'{');
                for (at, field) in fields.iter().enumerate() {
                    line.extend_from_slice(if at == 0 { b"\"" } else { b",\"" });
                    escape_json(field.key.as_bytes(), line);
                    line.extend_from_slice(b"\":");
                    field.steps.json(record, end, line);
                }
                line.extend_from_slice(b"}\n");
            }
        }
    }

    /// The body of a log record: whoever shows it has to escape it.
    pub(super) fn render_body(&self, record: &Record, end: &End, line: &mut Vec<u8>) {
        match self {
            Self::Text(steps) => steps.plain(record, end, line),
            Self::Json(_) => self.render(record, end, line),
        }
    }
}

impl Steps {
    /// Appends the values as they are.
    pub(in crate::telemetry) fn plain(&self, record: &Record, end: &End, line: &mut Vec<u8>) {
        self.text(record, end, line, Escape::None);
    }

    /// What a format yields that is a lone operator.
    pub(super) fn lone<'r>(&'r self, record: &'r Record, end: &End) -> Option<Shown<'r>> {
        match &*self.0 {
            [Step::Value { value, .. }] => Some(value.show(record, end)),
            _ => None,
        }
    }

    fn text(&self, record: &Record, end: &End, line: &mut Vec<u8>, escape: Escape) {
        for step in &self.0 {
            match step {
                Step::Literal(text) => match escape {
                    // The operator's own, and it ends the line.
                    Escape::Text | Escape::None => line.extend_from_slice(text.as_bytes()),
                    Escape::Json => escape_json(text.as_bytes(), line),
                },
                Step::Value { value, max_length } => match value.show(record, end) {
                    Shown::Missing => line.push(b'-'),
                    Shown::Bytes(bytes) => escape.write(cut(bytes, *max_length), line),
                    shown => shown.write(line),
                },
            }
        }
    }

    /// A lone operator keeps its type: numbers stay numbers, what is missing is null.
    fn json(&self, record: &Record, end: &End, line: &mut Vec<u8>) {
        match self.lone(record, end) {
            Some(Shown::Missing) => return line.extend_from_slice(b"null"),
            Some(Shown::Number(number)) => return write::number(number, line),
            _ => {}
        }
        line.push(b'"');
        self.text(record, end, line, Escape::Json);
        line.push(b'"');
    }
}

impl Value {
    fn show<'r>(&'r self, record: &'r Record, end: &End) -> Shown<'r> {
        match self {
            Self::FirstOf(first, second) => [Some(*first), *second]
                .into_iter()
                .flatten()
                .find_map(|source| source.read(record))
                .map_or(Shown::Missing, Shown::Bytes),
            Self::Hostname(name) => text(Some(name)),
            Self::Operator(operator) => operate(operator, record, end),
        }
    }
}

impl Source {
    fn read(self, record: &Record) -> Option<&[u8]> {
        match self {
            Self::Method => record.method.as_ref().map(|method| method.as_str().as_bytes()),
            Self::Path => record.path.as_ref().map(|path| path.as_str().as_bytes()),
            Self::Authority => record.authority.as_ref().map(http::HeaderValue::as_bytes),
            Self::Scheme => record.method.as_ref().map(|_| record.scheme().as_bytes()),
            Self::Header(slot) => record.captured.get(slot).map(http::HeaderValue::as_bytes),
        }
    }
}

fn operate<'r>(operator: &Operator, record: &'r Record, end: &End) -> Shown<'r> {
    let address = |address: Option<SocketAddr>| address.map_or(Shown::Missing, Shown::Address);
    match operator {
        Operator::StartTime => Shown::Time(end.started),
        Operator::Protocol => text(record.version.and_then(protocol)),
        Operator::ResponseCode => Shown::Number(record.status.into()),
        Operator::ResponseCodeDetails => text(record.details.as_ref().map(|details| details.as_str())),
        Operator::ResponseFlags => Shown::Flags(record.flags),
        Operator::UpstreamTransportFailureReason => text(record.transport_failure.as_deref()),
        Operator::BytesReceived => Shown::Number(record.body_received),
        Operator::BytesSent => Shown::Number(record.body_sent),
        Operator::Duration => Shown::Number(milliseconds(end.took)),
        Operator::UpstreamHost => text(record.endpoint.as_ref().map(|endpoint| &*endpoint.key)),
        Operator::UpstreamCluster => text(record.cluster.as_ref().map(|cluster| &*cluster.name)),
        Operator::UpstreamLocalAddress => address(record.upstream_local),
        Operator::UpstreamRequestAttemptCount => Shown::Number(record.attempts.into()),
        Operator::DownstreamLocalAddress => address(record.downstream_local),
        Operator::DownstreamLocalPort => {
            record.downstream_local.map_or(Shown::Missing, |local| Shown::Number(local.port().into()))
        }
        Operator::DownstreamRemoteAddress => address(record.downstream_remote),
        Operator::DownstreamRemoteAddressWithoutPort => {
            record.downstream_remote.map_or(Shown::Missing, |remote| Shown::Ip(remote.ip()))
        }
        Operator::RouteName => text(record.route.as_deref()),
        Operator::GrpcStatusNumber => match record.grpc_status {
            Some(code) => Shown::Number(code.into()),
            None => Shown::Missing,
        },
        Operator::TraceId => record.span.map_or(Shown::Missing, |span| Shown::Trace(span.trace_id)),
        Operator::RequestedServerName => {
            text(record.requested_server_name())
        }
        Operator::DownstreamPeerUriSan => text(record.client().and_then(|client| client.uri.as_deref())),
        Operator::DownstreamPeerSubject => text(record.client().map(|client| &*client.subject)),
        Operator::DownstreamPeerFingerprint256 => text(record.client().map(|client| &*client.hash)),
        Operator::DownstreamLocalUriSan => text(record.reached().map(|uri| &**uri)),
        // No connection is ended for a reason of its own, and there are no virtual clusters: these are never there.
        Operator::ConnectionTerminationDetails
        | Operator::VirtualClusterName
        // Resolved when the plan was made.
        | Operator::Hostname
        | Operator::Request(..)
        | Operator::Response(..)
        | Operator::Trailer(..) => Shown::Missing,
    }
}

fn text(text: Option<&str>) -> Shown<'_> {
    match text {
        Some(text) if !text.is_empty() => Shown::Bytes(text.as_bytes()),
        _ => Shown::Missing,
    }
}

impl Shown<'_> {
    /// Values that need no escaping in any encoding.
    fn write(self, line: &mut Vec<u8>) {
        match self {
            Self::Missing => line.push(b'-'),
            Self::Bytes(bytes) => line.extend_from_slice(bytes),
            Self::Number(number) => write::number(number, line),
            Self::Address(address) => write::address(address, line),
            Self::Ip(ip) => write::ip(ip, line),
            Self::Time(time) => line.extend_from_slice(time.as_bytes()),
            // A vector takes every write.
            Self::Flags(flags) if flags.is_empty() => line.push(b'-'),
            Self::Flags(flags) => drop(write!(line, "{flags}")),
            Self::Trace(id) => drop(write!(line, "{id:032x}")),
        }
    }
}

fn protocol(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("HTTP/1.0"),
        Version::HTTP_11 => Some("HTTP/1.1"),
        Version::HTTP_2 => Some("HTTP/2"),
        _ => None,
    }
}

fn cut(bytes: &[u8], max_length: Option<usize>) -> &[u8] {
    max_length.and_then(|length| bytes.get(..length)).unwrap_or(bytes)
}

/// How the bytes of a value are made harmless.
#[derive(Clone, Copy)]
enum Escape {
    Text,
    Json,
    None,
}

impl Escape {
    fn write(self, bytes: &[u8], line: &mut Vec<u8>) {
        match self {
            Self::Text => escape_text(bytes, line),
            Self::Json => escape_json(bytes, line),
            Self::None => line.extend_from_slice(bytes),
        }
    }
}
