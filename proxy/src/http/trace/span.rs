//! What both formats speak of: this hop's span, its caller's, and their ids in hex.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::telemetry::SpanContext;

/// This hop's span with what its headers look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) span: SpanContext,
    /// The trace id came, and goes on, as 16 digits.
    pub(super) short: bool,
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
        short: bool,
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

pub(super) fn insert(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}
