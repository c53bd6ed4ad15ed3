//! Trace context: read from the client's headers, decided upon, and written for the upstream. Its formats, B3 (Envoy
//! Zipkin tracer) and W3C (Envoy OpenTelemetry tracer), have a file and a rule for the parent's sampling flag each.
//!
//! Spans are not built here, but in `telemetry`. A malformed, huge or repeated header is never an error: at worst there is no span, and
//! the headers pass as they came.

mod b3;
pub(crate) mod operation;
mod span;
mod w3c;

use http::{HeaderMap, HeaderName};
use outrigger_config::snapshot::{Propagation, Tracing};
use rand::{RngExt, rngs::SmallRng};

pub(crate) use self::span::Trace;
use self::span::{Parent, low};
use super::request_id::{self, TraceReason, X_REQUEST_ID};
use crate::telemetry::SpanContext;

const X_CLIENT_TRACE_ID: HeaderName = HeaderName::from_static("x-client-trace-id");

/// Decides about sampling, notes it in `x-request-id`, and opens this hop's span. `None`: tracing is off, or the
/// caller's context cannot be read.
pub(crate) fn begin(tracing: &Tracing, headers: &mut HeaderMap, rng: &mut SmallRng) -> Option<Trace> {
    if tracing.propagation == Propagation::Off {
        return None;
    }
    let local = !tracing.by_request_id || decide(tracing.sampling, headers);
    let (parent, single_b3) = match tracing.propagation {
        Propagation::Off => return None,
        Propagation::B3 => b3::read(headers),
        Propagation::B3AndW3c => match b3::read(headers) {
            // Ids without a decision take that of a traceparent, and a decision without ids does not hide one. Both
            // only if they came in several headers; a bad traceparent is ignored.
            (Parent::Span { trace_id, span_id, sampled: None }, false) => {
                let sampled = match w3c::read(headers) {
                    Parent::Span { sampled, .. } => sampled,
                    _ => None,
                };
                (Parent::Span { trace_id, span_id, sampled }, false)
            }
            (none @ Parent::None { .. }, false) => match w3c::read(headers) {
                parent @ Parent::Span { .. } => (parent, false),
                _ => (none, false),
            },
            found => found,
        },
        Propagation::W3c => (w3c::read(headers), false),
    };
    let stated = |sampled: Option<bool>| sampled.filter(|_| tracing.parent_based);
    let trace = match parent {
        Parent::Unreadable => return None,
        Parent::None { sampled } => {
            let trace_id = nonzero(rng);
            let span_id =
                if tracing.propagation == Propagation::W3c { nonzero64(rng) } else { low(trace_id) };
            let sampled = stated(sampled).unwrap_or(local);
            Trace { span: SpanContext { trace_id, span_id, parent_id: None, sampled }, single_b3 }
        }
        Parent::Span { trace_id, span_id, sampled } => {
            let sampled = match (stated(sampled), tracing.propagation) {
                (Some(sampled), Propagation::W3c) => sampled && local,
                (sampled, _) => sampled.unwrap_or(local),
            };
            let span = SpanContext { trace_id, span_id: nonzero64(rng), parent_id: Some(span_id), sampled };
            Trace { span, single_b3 }
        }
    };
    Some(trace)
}

impl Trace {
    /// The same for a copy of the request, which nobody is to report.
    pub(crate) fn unsampled(self) -> Self {
        Self { span: SpanContext { sampled: false, ..self.span }, ..self }
    }

    /// Writes the context for the upstream.
    pub(crate) fn inject(&self, propagation: Propagation, headers: &mut HeaderMap) {
        match propagation {
            Propagation::Off => {}
            Propagation::B3 => b3::write(self, headers),
            Propagation::B3AndW3c => {
                b3::write(self, headers);
                w3c::write_parent(&self.span, headers);
            }
            Propagation::W3c => {
                w3c::write_state(&self.span, headers);
                w3c::write_parent(&self.span, headers);
            }
        }
    }
}

/// Envoy `mutateTracingRequestHeader`: the nibble of an earlier hop, a client's wish, then the share.
fn decide(sampling: u16, headers: &mut HeaderMap) -> bool {
    let Some(id) = headers.get(&X_REQUEST_ID) else { return false };
    let Some((reason, draw)) = request_id::read(id) else { return false };
    if reason == TraceReason::Traced {
        return true;
    }
    let (nibble, sampled) = match draw < sampling {
        _ if headers.contains_key(&X_CLIENT_TRACE_ID) => (b'b', true),
        true => (b'9', true),
        false => (b'4', false),
    };
    if let Some(id) = request_id::with_nibble(id, nibble) {
        headers.insert(X_REQUEST_ID, id);
    }
    sampled
}

fn nonzero(rng: &mut SmallRng) -> u128 {
    rng.random::<u128>().max(1)
}

fn nonzero64(rng: &mut SmallRng) -> u64 {
    rng.random::<u64>().max(1)
}

#[cfg(test)]
mod tests;
