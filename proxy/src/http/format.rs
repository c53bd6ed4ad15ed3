//! Evaluates header values with Envoy's operators (`%REQ(x)%`). The access log has its own renderer: there a missing
//! value is `-`, here it is empty.

use std::io::Write as _;

use http::{HeaderMap, HeaderValue, Version};
use outrigger_config::format::{Format, Operator, Part, RequestField};

use crate::telemetry::Record;

/// What a value may name besides the headers that are being changed.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) record: &'a Record,
    /// The request's headers, while those of the response are changed.
    pub(crate) request: Option<&'a HeaderMap>,
}

/// The value, or `None` if it is empty or no header can carry it.
pub(crate) fn evaluate(format: &Format, facts: &Facts<'_>, changing: &HeaderMap) -> Option<HeaderValue> {
    if let Some(text) = format.literal() {
        return HeaderValue::from_str(text).ok().filter(|value| !value.is_empty());
    }
    let mut value = Vec::new();
    for part in format.parts() {
        match part {
            Part::Literal(text) => value.extend_from_slice(text.as_bytes()),
            Part::Operator { operator, max_length } => {
                let from = value.len();
                write_operator(operator, facts, changing, &mut value);
                if let Some(max) = max_length {
                    value.truncate(from.saturating_add(*max).min(value.len()));
                }
            }
        }
    }
    HeaderValue::from_bytes(&value).ok().filter(|value| !value.is_empty())
}

fn write_operator(operator: &Operator, facts: &Facts<'_>, changing: &HeaderMap, out: &mut Vec<u8>) {
    let record = facts.record;
    // Writing to a vector cannot fail.
    let mut text = |text: &str| out.extend_from_slice(text.as_bytes());
    match operator {
        Operator::Request(first, second) => {
            let headers = facts.request.unwrap_or(changing);
            let found = request_field(first, record, headers)
                .or_else(|| second.as_ref().and_then(|field| request_field(field, record, headers)));
            out.extend_from_slice(found.unwrap_or_default());
        }
        Operator::Response(first, second) => {
            // While the request is changed there is no response yet.
            let headers = facts.request.is_some().then_some(changing);
            let found = headers.and_then(|headers| {
                headers.get(first).or_else(|| second.as_ref().and_then(|name| headers.get(name)))
            });
            out.extend_from_slice(found.map(HeaderValue::as_bytes).unwrap_or_default());
        }
        Operator::StartTime => {
            if let Ok(time) = jiff::Timestamp::try_from(record.started) {
                let _ = write!(out, "{time:.3}");
            }
        }
        Operator::Protocol => text(match record.version {
            Some(Version::HTTP_2) => "HTTP/2",
            Some(_) => "HTTP/1.1",
            None => "",
        }),
        Operator::ResponseCode => drop(write!(out, "{}", record.status)),
        Operator::ResponseCodeDetails => text(record.details.as_ref().map_or("", |details| details.as_str())),
        Operator::ResponseFlags => drop(write!(out, "{}", record.flags)),
        Operator::UpstreamTransportFailureReason => text(record.transport_failure.as_deref().unwrap_or("")),
        Operator::BytesReceived => drop(write!(out, "{}", record.body_received)),
        Operator::BytesSent => drop(write!(out, "{}", record.body_sent)),
        Operator::Duration => drop(write!(out, "{}", record.began.elapsed().as_millis())),
        Operator::UpstreamHost => text(record.endpoint.as_ref().map_or("", |endpoint| &endpoint.key)),
        Operator::UpstreamCluster => text(record.cluster.as_ref().map_or("", |cluster| &cluster.name)),
        Operator::UpstreamLocalAddress => {
            if let Some(address) = record.upstream_local {
                let _ = write!(out, "{address}");
            }
        }
        Operator::UpstreamRequestAttemptCount => drop(write!(out, "{}", record.attempts)),
        Operator::DownstreamLocalAddress => {
            if let Some(address) = record.downstream_local {
                let _ = write!(out, "{address}");
            }
        }
        Operator::DownstreamLocalPort => {
            if let Some(address) = record.downstream_local {
                let _ = write!(out, "{}", address.port());
            }
        }
        Operator::DownstreamRemoteAddress => {
            if let Some(address) = record.downstream_remote {
                let _ = write!(out, "{address}");
            }
        }
        Operator::DownstreamRemoteAddressWithoutPort => {
            if let Some(address) = record.downstream_remote {
                let _ = write!(out, "{}", address.ip());
            }
        }
        Operator::RouteName => text(record.route.as_deref().unwrap_or("")),
        Operator::GrpcStatusNumber => {
            if let Some(status) = record.grpc_status {
                let _ = write!(out, "{status}");
            }
        }
        Operator::TraceId => {
            if let Some(span) = &record.span {
                let _ = write!(out, "{:032x}", span.trace_id);
            }
        }
        Operator::RequestedServerName => text(record.requested_server_name().unwrap_or("")),
        Operator::DownstreamPeerUriSan => {
            text(record.client().and_then(|client| client.uri.as_deref()).unwrap_or(""));
        }
        Operator::DownstreamPeerSubject => text(record.client().map_or("", |client| &client.subject)),
        Operator::DownstreamPeerFingerprint256 => text(record.client().map_or("", |client| &client.hash)),
        Operator::DownstreamLocalUriSan => text(record.reached().map_or("", |uri| uri)),
        // Not known while headers are written.
        Operator::Trailer(_)
        | Operator::ConnectionTerminationDetails
        | Operator::VirtualClusterName
        | Operator::Hostname => {}
    }
}

fn request_field<'a>(field: &RequestField, record: &'a Record, headers: &'a HeaderMap) -> Option<&'a [u8]> {
    match field {
        RequestField::Method => record.method.as_ref().map(|method| method.as_str().as_bytes()),
        RequestField::Path => record.path.as_ref().map(|path| path.as_str().as_bytes()),
        RequestField::Authority => record.authority.as_ref().map(HeaderValue::as_bytes),
        RequestField::Scheme => Some(record.scheme().as_bytes()),
        RequestField::Header(name) => headers.get(name).map(HeaderValue::as_bytes),
    }
}
