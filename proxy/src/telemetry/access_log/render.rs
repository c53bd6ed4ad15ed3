//! One record to one line.

use std::{
    io::Write,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use http::Version;
use outrigger_config::format::Operator;

use super::{Encoding, Source, Step, Steps, Value};
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
    Time(SystemTime),
    Flags(Flags),
    Trace(u128),
}

impl Encoding {
    /// Appends the line of a record that ended after `took`.
    pub(super) fn render(&self, record: &Record, took: Duration, line: &mut Vec<u8>) {
        match self {
            Self::Text(steps) => steps.text(record, took, line, Escape::Text),
            Self::Json(fields) => {
                line.push(b'{');
                for (at, field) in fields.iter().enumerate() {
                    line.extend_from_slice(if at == 0 { b"\"" } else { b",\"" });
                    escape_json(field.key.as_bytes(), line);
                    line.extend_from_slice(b"\":");
                    field.steps.json(record, took, line);
                }
                line.extend_from_slice(b"}\n");
            }
        }
    }

    /// The body of a log record: whoever shows it has to escape it.
    pub(super) fn render_body(&self, record: &Record, took: Duration, line: &mut Vec<u8>) {
        match self {
            Self::Text(steps) => steps.plain(record, took, line),
            Self::Json(_) => self.render(record, took, line),
        }
    }
}

impl Steps {
    /// Appends the values as they are.
    pub(in crate::telemetry) fn plain(&self, record: &Record, took: Duration, line: &mut Vec<u8>) {
        self.text(record, took, line, Escape::None);
    }

    /// What a format yields that is a lone operator.
    pub(super) fn lone<'r>(&'r self, record: &'r Record, took: Duration) -> Option<Shown<'r>> {
        match &*self.0 {
            [Step::Value { value, .. }] => Some(value.show(record, took)),
            _ => None,
        }
    }

    fn text(&self, record: &Record, took: Duration, line: &mut Vec<u8>, escape: Escape) {
        for step in &self.0 {
            match step {
                Step::Literal(text) => match escape {
                    // The operator's own, and it ends the line.
                    Escape::Text | Escape::None => line.extend_from_slice(text.as_bytes()),
                    Escape::Json => escape_json(text.as_bytes(), line),
                },
                Step::Value { value, max_length } => match value.show(record, took) {
                    Shown::Missing => line.push(b'-'),
                    Shown::Bytes(bytes) => escape.write(cut(bytes, *max_length), line),
                    shown => shown.write(line),
                },
            }
        }
    }

    /// A lone operator keeps its type: numbers stay numbers, what is missing is null.
    fn json(&self, record: &Record, took: Duration, line: &mut Vec<u8>) {
        match self.lone(record, took) {
            Some(Shown::Missing) => return line.extend_from_slice(b"null"),
            Some(Shown::Number(number)) => return number_to(number, line),
            _ => {}
        }
        line.push(b'"');
        self.text(record, took, line, Escape::Json);
        line.push(b'"');
    }
}

impl Value {
    fn show<'r>(&'r self, record: &'r Record, took: Duration) -> Shown<'r> {
        match self {
            Self::FirstOf(first, second) => [Some(*first), *second]
                .into_iter()
                .flatten()
                .find_map(|source| source.read(record))
                .map_or(Shown::Missing, Shown::Bytes),
            Self::Hostname(name) => text(Some(name)),
            Self::Operator(operator) => operate(operator, record, took),
        }
    }
}

impl Source {
    fn read(self, record: &Record) -> Option<&[u8]> {
        match self {
            Self::Method => record.method.as_ref().map(|method| method.as_str().as_bytes()),
            Self::Path => record.path.as_ref().map(|path| path.as_str().as_bytes()),
            Self::Authority => record.authority.as_ref().map(http::HeaderValue::as_bytes),
            // Listeners speak plain text: no client is on TLS.
            Self::Scheme => record.method.as_ref().map(|_| &b"http"[..]),
            Self::Header(slot) => record.captured.get(slot).map(http::HeaderValue::as_bytes),
        }
    }
}

fn operate<'r>(operator: &Operator, record: &'r Record, took: Duration) -> Shown<'r> {
    let address = |address: Option<SocketAddr>| address.map_or(Shown::Missing, Shown::Address);
    match operator {
        Operator::StartTime => Shown::Time(record.started),
        Operator::Protocol => text(record.version.and_then(protocol)),
        Operator::ResponseCode => Shown::Number(record.status.into()),
        Operator::ResponseCodeDetails => text(record.details.as_ref().map(|details| details.as_str())),
        Operator::ResponseFlags => Shown::Flags(record.flags),
        Operator::UpstreamTransportFailureReason => text(record.transport_failure.as_deref()),
        Operator::BytesReceived => Shown::Number(record.body_received),
        Operator::BytesSent => Shown::Number(record.body_sent),
        Operator::Duration => Shown::Number(milliseconds(took)),
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
        // No TLS, no virtual clusters and no raw connections yet: these are never there.
        Operator::ConnectionTerminationDetails
        | Operator::RequestedServerName
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
        let written = match self {
            Self::Missing => line.write_all(b"-"),
            Self::Bytes(bytes) => line.write_all(bytes),
            Self::Number(number) => return number_to(number, line),
            Self::Address(address) => write!(line, "{address}"),
            Self::Ip(ip) => write!(line, "{ip}"),
            Self::Flags(flags) => write!(line, "{flags}"),
            Self::Trace(id) => write!(line, "{id:032x}"),
            Self::Time(time) => match jiff::Timestamp::try_from(time) {
                Ok(time) => write!(line, "{time:.3}"),
                Err(_) => line.write_all(b"-"),
            },
        };
        debug_assert!(written.is_ok(), "a vector takes every write");
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

fn number_to(number: u64, line: &mut Vec<u8>) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
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

/// Printable ASCII stays; quotes, backslashes and all other bytes become `\"`, `\\` and `\xHH`.
fn escape_text(bytes: &[u8], line: &mut Vec<u8>) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', *byte]),
            0x20..=0x7e => line.push(*byte),
            _ => line.extend_from_slice(&[b'\\', b'x', hex(byte >> 4), hex(byte & 15)]),
        }
    }
}

/// The inside of a JSON string: control characters are escaped, and bytes that are no UTF-8 become U+FFFD.
fn escape_json(bytes: &[u8], line: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => line.extend_from_slice(b"\\\""),
                '\\' => line.extend_from_slice(b"\\\\"),
                // C0, DEL and C1: a terminal must not obey what a client sent.
                c if c.is_control() => {
                    let code = c as u32;
                    let low = (code & 0xff) as u8;
                    line.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(low >> 4), hex(low & 15)]);
                }
                c => line.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            line.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        0..=9 => b'0' + digit,
        _ => b'a' + (digit - 10),
    }
}
