//! A record as an OTLP log record (Envoy `open_telemetry` access logger): the line is its body.

use super::{End, Field, render::Shown};
use crate::telemetry::{
    Record,
    wire::{self, Any, attribute},
};

/// OTLP's `SeverityNumber`.
const INFO: u64 = 9;
const ERROR: u64 = 17;

/// Appends all but the attributes.
pub(super) fn encode(record: &Record, body: &[u8], out: &mut Vec<u8>) {
    let time = wire::nanoseconds(record.started);
    wire::fixed64(1, time, out);
    let failed = match record.connection {
        Some(_) => !record.flags.is_empty(),
        None => record.status >= 500 || record.status == 0,
    };
    let (number, name) = if failed { (ERROR, "ERROR") } else { (INFO, "INFO") };
    wire::uint(2, number, out);
    wire::text(3, name, out);
    wire::message(5, out, |out| wire::lossy(1, body, out));
    if let Some(span) = &record.span {
        wire::fixed32(8, span.sampled.into(), out);
        wire::bytes(9, &span.trace_id.to_be_bytes(), out);
        wire::bytes(10, &span.span_id.to_be_bytes(), out);
    }
    wire::fixed64(11, time, out);
}

/// Appends the attributes: a lone operator keeps its type, and what is missing is left out.
pub(super) fn encode_attributes(
    fields: &[Field],
    record: &Record,
    end: &End,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    for Field { key, steps } in fields {
        match steps.lone(record, end) {
            Some(Shown::Missing) => {}
            Some(Shown::Number(number)) => {
                attribute(6, key, Any::Int(i64::try_from(number).unwrap_or(i64::MAX)), out);
            }
            _ => {
                scratch.clear();
                steps.plain(record, end, scratch);
                attribute(6, key, Any::Lossy(scratch), out);
            }
        }
    }
}
