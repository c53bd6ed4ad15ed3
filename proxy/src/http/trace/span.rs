//! What both formats speak of: this hop's span, its caller's, and their ids in hex.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::telemetry::SpanContext;

/// This hop's span with what its headers look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) span: SpanContext,
    /// It came, and goes on, in one header.
    pub(super) single_b3: bool,
}

/// What the headers say about the caller.
pub(super) enum Parent {
    /// Nothing usable: a new trace, with the caller's decision if it stated one.
    None {
        sampled: Option<bool>,
    },
    Span {
        trace_id: u128,
        span_id: u64,
        sampled: Option<bool>,
    },
    /// Not readable: no span, headers pass unchanged.
    Unreadable,
}

/// Exactly `length` hex digits.
pub(super) fn parse(digits: &[u8], length: usize) -> Option<u128> {
    if digits.len() != length {
        return None;
    }
    digits.iter().try_fold(0, |id, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(id << 4 | u128::from(digit))
    })
}

/// Lower 64 bits.
#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
pub(super) fn low(id: u128) -> u64 {
    id as u64
}

/// Text of a header, put together without `fmt`: every request that goes on carries several.
#[derive(Debug)]
pub(super) struct Text {
    bytes: [u8; Self::ROOM],
    length: usize,
}

impl Text {
    /// A single B3 header with its parent.
    const ROOM: usize = 68;

    pub(super) fn new() -> Self {
        Self { bytes: [0; Self::ROOM], length: 0 }
    }

    pub(super) fn put(mut self, text: &[u8]) -> Self {
        let end = self.length + text.len();
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(text);
            self.length = end;
        }
        self
    }

    pub(super) fn hex64(self, id: u64) -> Self {
        self.put(&hex(id))
    }

    #[expect(clippy::cast_possible_truncation, reason = "both halves")]
    pub(super) fn hex128(self, id: u128) -> Self {
        self.put(&hex((id >> 64) as u64)).put(&hex(id as u64))
    }

    pub(super) fn insert(&self, headers: &mut HeaderMap, name: HeaderName) {
        if let Ok(mut value) = HeaderValue::from_bytes(self.bytes.get(..self.length).unwrap_or_default()) {
            // No request has it again: HTTP/2 need not make room for it in its table.
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
}

fn hex(id: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (at, digit) in digits.iter_mut().enumerate() {
        let nibble = (id >> (60 - 4 * at) & 15) as u8;
        *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    }
    digits
}
