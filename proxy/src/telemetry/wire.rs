//! Protobuf's wire format, as far as OTLP needs it: fields are appended to a buffer, nested messages in place.
//!
//! Spans and log records are encoded by the worker that saw the request end, once, straight into the bytes that leave
//! the process (docs/adr/0005). A message type with owned strings in between would cost some fifty allocations a span.

use std::time::{SystemTime, UNIX_EPOCH};

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;
const FIXED32: u32 = 5;

/// Appends a base-128 number.
#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
pub(crate) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn key(field: u32, kind: u32, out: &mut Vec<u8>) {
    varint(u64::from(field << 3 | kind), out);
}

/// `uint32`, `uint64`, `bool` and enums; a zero is the default and not written.
pub(crate) fn uint(field: u32, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        key(field, VARINT, out);
        varint(value, out);
    }
}

/// `fixed64` and `sfixed64`.
pub(crate) fn fixed64(field: u32, value: u64, out: &mut Vec<u8>) {
    key(field, FIXED64, out);
    out.extend_from_slice(&value.to_le_bytes());
}

/// `double`
pub(crate) fn double(field: u32, value: f64, out: &mut Vec<u8>) {
    fixed64(field, value.to_bits(), out);
}

/// `fixed32`
pub(crate) fn fixed32(field: u32, value: u32, out: &mut Vec<u8>) {
    key(field, FIXED32, out);
    out.extend_from_slice(&value.to_le_bytes());
}

/// `bytes`, and messages that are encoded already.
pub(crate) fn bytes(field: u32, value: &[u8], out: &mut Vec<u8>) {
    key(field, LENGTH, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// `string`
pub(crate) fn text(field: u32, value: &str, out: &mut Vec<u8>) {
    bytes(field, value.as_bytes(), out);
}

/// `string` from bytes of a stranger: what is no UTF-8 becomes U+FFFD.
pub(crate) fn lossy(field: u32, value: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(value) {
        Ok(value) => text(field, value, out),
        Err(_) => text(field, &String::from_utf8_lossy(value), out),
    }
}

/// A nested message, whose length is known only when it is written.
#[expect(clippy::cast_possible_truncation, reason = "a byte each")]
pub(crate) fn message(field: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    key(field, LENGTH, out);
    let at = out.len();
    // Room for the length of a short message, which most are.
    out.push(0);
    write(out);
    let length = out.len() - at - 1;
    if length < 0x80 {
        if let Some(place) = out.get_mut(at) {
            *place = length as u8;
        }
        return;
    }
    let mut prefix = Vec::with_capacity(10);
    varint(length as u64, &mut prefix);
    out.splice(at..=at, prefix);
}

/// `AnyValue` within a `KeyValue`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Any<'a> {
    Text(&'a str),
    /// Bytes of a stranger.
    Lossy(&'a [u8]),
    Int(i64),
}

/// One attribute: `KeyValue` in `field`.
pub(crate) fn attribute(field: u32, name: &str, value: Any<'_>, out: &mut Vec<u8>) {
    message(field, out, |out| {
        text(1, name, out);
        message(2, out, |out| match value {
            Any::Text(value) => text(1, value, out),
            Any::Lossy(value) => lossy(1, value, out),
            Any::Int(value) => {
                key(3, VARINT, out);
                varint(value.cast_unsigned(), out);
            }
        });
    });
}

/// A point in time as OTLP has it: since the epoch.
pub(crate) fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Bytes that a field of this length takes with its prefix, where the field's number is below 16.
pub(crate) fn framed(length: usize) -> usize {
    let bits = usize::BITS - (length | 1).leading_zeros();
    1 + bits.div_ceil(7) as usize + length
}

/// One field of a message that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, up to the first that cannot be read.
pub(crate) fn fields(mut data: &[u8]) -> impl Iterator<Item = (u32, Value<'_>)> {
    std::iter::from_fn(move || {
        let key = read_varint(&mut data)?;
        let field = u32::try_from(key >> 3).ok()?;
        let value = match u32::try_from(key & 7).ok()? {
            VARINT => Value::Number(read_varint(&mut data)?),
            LENGTH => {
                let length = usize::try_from(read_varint(&mut data)?).ok()?;
                Value::Bytes(data.split_off(..length)?)
            }
            FIXED64 => Value::Bytes(data.split_off(..8)?),
            FIXED32 => Value::Bytes(data.split_off(..4)?),
            _ => return None,
        };
        Some((field, value))
    })
}

fn read_varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *data.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 70_000] {
            let long = vec![b'x'; length];
            let mut out = Vec::new();
            uint(1, 300, &mut out);
            uint(2, 0, &mut out);
            message(3, &mut out, |out| bytes(9, &long, out));
            fixed64(4, 7, &mut out);
            fixed32(5, 8, &mut out);
            let read: Vec<_> = fields(&out).collect();
            let Value::Bytes(inner) = read[1].1 else { panic!("{read:?}") };
            assert_eq!(fields(inner).collect::<Vec<_>>(), [(9, Value::Bytes(&long))], "{length}");
            assert_eq!(read[0], (1, Value::Number(300)));
            assert_eq!(read[2], (4, Value::Bytes(&7_u64.to_le_bytes())));
            assert_eq!(read[3], (5, Value::Bytes(&8_u32.to_le_bytes())));
            assert_eq!(read.len(), 4);
            let mut field = Vec::new();
            bytes(2, &long, &mut field);
            assert_eq!(field.len(), framed(length), "{length}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_not_break_a_string() {
        let mut out = Vec::new();
        lossy(1, b"a\xffb", &mut out);
        assert_eq!(fields(&out).next(), Some((1, Value::Bytes("a\u{fffd}b".as_bytes()))));
    }

    #[test]
    fn a_cut_message_ends_the_fields() {
        let mut out = Vec::new();
        bytes(1, b"abc", &mut out);
        for cut in 0..out.len() {
            assert_eq!(fields(&out[..cut]).count(), 0, "{cut}");
        }
        assert_eq!(fields(&[0xff; 11]).count(), 0);
    }
}
