//! One pass over an export request: is it well formed, and how many items does it carry?
//!
//! It allocates nothing and decodes nothing. What it lets through, any protobuf decoder accepts, so one bad
//! request can never spoil a batch at the backend.

use super::schema::{Field, Kind, Message, Shape, request};
use super::wire::{Problem, Reader, WireType};
use crate::signal::Signal;

/// Messages inside messages, counted from the request: the limit that decoders have.
pub const MAX_DEPTH: usize = 100;

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {offset} in {message}{dot}{field}", dot = if field.is_empty() { "" } else { "." })]
pub struct Malformed {
    problem: Problem,
    offset: usize,
    message: &'static str,
    field: &'static str,
}

impl Malformed {
    /// The field at fault, as `Message.field`.
    pub fn field(&self) -> String {
        match self.field {
            "" => self.message.to_owned(),
            field => format!("{}.{field}", self.message),
        }
    }
}

/// Checks `payload` as an export request of `signal` and returns the number of items in it.
pub fn walk(signal: Signal, payload: &[u8]) -> Result<u64, Malformed> {
    let mut walk = Walk { total: payload.len(), items: 0 };
    walk.message(request(signal), payload, payload.len(), MAX_DEPTH)?;
    Ok(walk.items)
}

struct Walk {
    total: usize,
    items: u64,
}

impl Walk {
    /// `end` is how many bytes of the whole request are left where `bytes` begins.
    fn message(
        &mut self,
        schema: &'static Message,
        bytes: &[u8],
        end: usize,
        left: usize,
    ) -> Result<(), Malformed> {
        self.items += u64::from(schema.item);
        let after = end - bytes.len();
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let at = self.total - after - reader.remaining();
            let malformed = |problem, field| Malformed { problem, offset: at, message: schema.name, field };
            let (number, wire) = reader.tag().map_err(|problem| malformed(problem, ""))?;
            let Some(field) = schema.field(number) else {
                reader.skip(number, wire, left).map_err(|problem| malformed(problem, ""))?;
                continue;
            };
            let malformed = |problem| malformed(problem, field.name);
            if let Kind::Message(inner) = field.kind {
                if wire != WireType::Length {
                    return Err(malformed(Problem::Mismatch));
                }
                let left = left.checked_sub(1).ok_or_else(|| malformed(Problem::Depth))?;
                let body = reader.length_delimited().map_err(malformed)?;
                self.message(inner, body, after + reader.remaining() + body.len(), left)?;
            } else {
                scalar(field, wire, &mut reader).map_err(malformed)?;
            }
        }
        Ok(())
    }
}

fn scalar(field: &Field, wire: WireType, reader: &mut Reader<'_>) -> Result<(), Problem> {
    let expected = wire_type(field.kind);
    if wire == expected {
        return value(field.kind, reader);
    }
    if wire != WireType::Length || field.shape != Shape::Repeated {
        return Err(Problem::Mismatch);
    }
    let mut packed = Reader::new(reader.length_delimited()?);
    while !packed.is_empty() {
        value(field.kind, &mut packed)?;
    }
    Ok(())
}

fn value(kind: Kind, reader: &mut Reader<'_>) -> Result<(), Problem> {
    match kind {
        Kind::Text => {
            let text = reader.length_delimited()?;
            simdutf8::basic::from_utf8(text).map_err(|_| Problem::Utf8).map(drop)
        }
        Kind::Id(length) => match reader.length_delimited()?.len() {
            0 => Ok(()),
            other if other == length => Ok(()),
            _ => Err(Problem::Id),
        },
        kind => match wire_type(kind) {
            WireType::Varint => reader.varint().map(drop),
            WireType::Fixed64 => reader.take(8).map(drop),
            WireType::Fixed32 => reader.take(4).map(drop),
            _ => reader.length_delimited().map(drop),
        },
    }
}

/// The wire type of one value of this kind.
pub(super) fn wire_type(kind: Kind) -> WireType {
    match kind {
        Kind::Bool | Kind::Int32 | Kind::Uint32 | Kind::Sint32 | Kind::Int64 | Kind::Uint64 => {
            WireType::Varint
        }
        Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => WireType::Fixed64,
        Kind::Fixed32 => WireType::Fixed32,
        Kind::Text | Kind::Bytes | Kind::Id(_) | Kind::Message(_) => WireType::Length,
    }
}
