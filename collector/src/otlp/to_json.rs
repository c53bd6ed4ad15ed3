//! Protobuf to OTLP/JSON, for the sinks that people read. Unknown fields are left out: JSON has no place for them.
//!
//! It expects what `walk` has let through; on anything else it answers with the same error.

use base64::Engine;

use super::schema::{Field, Kind, Message, Shape, request};
use super::walk::wire_type;
use super::wire::{Problem, Reader, WireType, unzigzag};
use crate::signal::Signal;

/// Renders an export request as one line of OTLP/JSON.
pub fn to_json(signal: Signal, payload: &[u8]) -> Result<Vec<u8>, Problem> {
    let mut out = Vec::with_capacity(payload.len() * 2);
    message(request(signal), payload, &mut out)?;
    Ok(out)
}

/// One occurrence of a known field.
#[derive(Clone, Copy)]
struct Occurrence<'a> {
    field: &'static Field,
    wire: WireType,
    bytes: &'a [u8],
}

fn message(schema: &'static Message, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Problem> {
    let mut found = occurrences(schema, bytes)?;
    if let Some(last) = found.iter().rev().find(|seen| schema.oneof.contains(&seen.field.number)) {
        let last = last.field.number;
        found.retain(|seen| seen.field.number == last || !schema.oneof.contains(&seen.field.number));
    }
    // Stable: the elements of a list keep their order.
    found.sort_by_key(|seen| seen.field.number);
    out.push(b'{');
    let mut first = true;
    for same in found.chunk_by(|one, other| one.field.number == other.field.number) {
        let Some(last) = same.last() else { continue };
        let field = last.field;
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        out.push(b'"');
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(b"\":");
        match (field.shape, field.kind) {
            (Shape::Repeated, _) => list(same, out)?,
            // Protobuf merges a message that occurs twice, and merging is concatenation.
            (_, Kind::Message(inner)) if same.len() > 1 => {
                let merged: Vec<u8> = same.iter().flat_map(|seen| seen.bytes.iter().copied()).collect();
                message(inner, &merged, out)?;
            }
            (_, kind) => value(kind, &mut Reader::new(last.bytes), out)?,
        }
    }
    out.push(b'}');
    Ok(())
}

fn occurrences<'a>(schema: &'static Message, bytes: &'a [u8]) -> Result<Vec<Occurrence<'a>>, Problem> {
    let mut reader = Reader::new(bytes);
    let mut found = Vec::new();
    while !reader.is_empty() {
        let (number, wire) = reader.tag()?;
        let Some(field) = schema.field(number) else {
            reader.skip(number, wire, super::MAX_DEPTH)?;
            continue;
        };
        let bytes = match wire {
            WireType::Length => reader.length_delimited()?,
            WireType::Fixed64 => reader.take(8)?,
            WireType::Fixed32 => reader.take(4)?,
            WireType::Varint => {
                let start = reader;
                reader.varint()?;
                let mut start = start;
                start.take(start.remaining() - reader.remaining())?
            }
            WireType::Group | WireType::EndGroup => return Err(Problem::Mismatch),
        };
        found.push(Occurrence { field, wire, bytes });
    }
    Ok(found)
}

fn list(same: &[Occurrence<'_>], out: &mut Vec<u8>) -> Result<(), Problem> {
    out.push(b'[');
    let mut first = true;
    for seen in same {
        let kind = seen.field.kind;
        if seen.wire == wire_type(kind) {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            value(kind, &mut Reader::new(seen.bytes), out)?;
            continue;
        }
        let mut packed = Reader::new(seen.bytes);
        while !packed.is_empty() {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            value(kind, &mut packed, out)?;
        }
    }
    out.push(b']');
    Ok(())
}

/// One value; a length-delimited one is everything that the reader holds.
fn value(kind: Kind, reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Problem> {
    match kind {
        Kind::Bool => {
            let text: &[u8] = if reader.varint()? == 0 { b"false" } else { b"true" };
            out.extend_from_slice(text);
        }
        Kind::Int32 => plain(out, reader.varint()? as i32),
        Kind::Uint32 => plain(out, reader.varint()? as u32),
        Kind::Sint32 => plain(out, unzigzag(reader.varint()?)),
        Kind::Fixed32 => plain(out, reader.fixed32()?),
        Kind::Int64 => quoted(out, reader.varint()? as i64),
        Kind::Uint64 => quoted(out, reader.varint()?),
        Kind::Fixed64 => quoted(out, reader.fixed64()?),
        Kind::Sfixed64 => quoted(out, reader.fixed64()? as i64),
        Kind::Double => double(out, f64::from_bits(reader.fixed64()?)),
        Kind::Text => {
            let text = rest(reader)?;
            let text = simdutf8::basic::from_utf8(text).map_err(|_| Problem::Utf8)?;
            out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
        }
        Kind::Bytes => quoted(out, base64::engine::general_purpose::STANDARD.encode(rest(reader)?)),
        Kind::Id(_) => {
            out.push(b'"');
            for byte in rest(reader)? {
                for digit in [byte >> 4, byte & 15] {
                    out.extend(char::from_digit(u32::from(digit), 16).map(|digit| digit as u8));
                }
            }
            out.push(b'"');
        }
        Kind::Message(schema) => message(schema, rest(reader)?, out)?,
    }
    Ok(())
}

fn rest<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Problem> {
    reader.take(reader.remaining())
}

fn plain(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    out.extend_from_slice(value.to_string().as_bytes());
}

fn quoted(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    out.extend_from_slice(format!("\"{value}\"").as_bytes());
}

fn double(out: &mut Vec<u8>, value: f64) {
    let text = match value {
        value if value.is_nan() => "\"NaN\"".to_owned(),
        f64::INFINITY => "\"Infinity\"".to_owned(),
        f64::NEG_INFINITY => "\"-Infinity\"".to_owned(),
        value => serde_json::Value::from(value).to_string(),
    };
    out.extend_from_slice(text.as_bytes());
}
