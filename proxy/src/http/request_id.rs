//! `x-request-id`: generated where absent, and the trace decision in its version nibble (Envoy
//! `UUIDRequestIDExtension`).

use http::{HeaderMap, HeaderName, HeaderValue};
use rand::{Rng, rngs::SmallRng};

/// The header.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Where the version of a UUID stands.
const NIBBLE: usize = 14;
const LENGTH: usize = 36;

/// The request's id: that of the client, else a new one which is added to the headers. HTTP/2 need not make room for
/// either in its table: no request has it again.
pub(crate) fn ensure(headers: &mut HeaderMap, rng: &mut SmallRng) {
    match headers.get_mut(&X_REQUEST_ID) {
        Some(id) if !id.is_empty() => id.set_sensitive(true),
        _ => drop(headers.insert(X_REQUEST_ID, generate(rng))),
    }
}

/// A random UUIDv4 in lower case.
fn generate(rng: &mut SmallRng) -> HeaderValue {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    let uuid = uuid::Builder::from_random_bytes(bytes).into_uuid();
    let mut text = uuid::Uuid::encode_buffer();
    let text = uuid.hyphenated().encode_lower(&mut text);
    unrepeated(text.as_bytes()).unwrap_or(HeaderValue::from_static(""))
}

fn unrepeated(text: &[u8]) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_bytes(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What the nibble of an incoming id says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TraceReason {
    /// Undecided, or decided against: it is decided anew.
    None,
    /// `9`, `a` or `b`: an earlier hop traces.
    Traced,
}

/// The reason and the number, in [0, 10000), that the sampling percentage is compared with. `None` for an id that is
/// no UUID: such a request is not sampled.
pub(crate) fn read(id: &HeaderValue) -> Option<(TraceReason, u16)> {
    let bytes = id.as_bytes();
    if bytes.len() != LENGTH {
        return None;
    }
    let digits = std::str::from_utf8(bytes.get(..8)?).ok()?;
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let draw = u32::from_str_radix(digits, 16).ok()? % 10_000;
    let reason = match bytes.get(NIBBLE)? {
        b'9' | b'a' | b'b' => TraceReason::Traced,
        _ => TraceReason::None,
    };
    Some((reason, u16::try_from(draw).ok()?))
}

/// The same id with another nibble: `9` sampled, `b` forced by the client, `4` not traced. `None` if it cannot carry
/// one.
pub(crate) fn with_nibble(id: &HeaderValue, nibble: u8) -> Option<HeaderValue> {
    let mut bytes: [u8; LENGTH] = id.as_bytes().try_into().ok()?;
    *bytes.get_mut(NIBBLE)? = nibble;
    unrepeated(&bytes)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn an_absent_or_empty_id_is_generated_and_another_is_kept() {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut headers = HeaderMap::new();
        ensure(&mut headers, &mut rng);
        let first = headers[X_REQUEST_ID].clone();
        let text = first.to_str().unwrap();
        assert_eq!((text.len(), text.as_bytes()[NIBBLE]), (36, b'4'));
        assert!(uuid::Uuid::parse_str(text).is_ok() && text.to_ascii_lowercase() == text);
        ensure(&mut headers, &mut rng);
        assert_eq!(headers[X_REQUEST_ID], first);
        headers.insert(X_REQUEST_ID, HeaderValue::from_static(""));
        ensure(&mut headers, &mut rng);
        assert!(headers[X_REQUEST_ID] != first && !headers[X_REQUEST_ID].is_empty());
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("UPPER-own"));
        ensure(&mut headers, &mut rng);
        assert_eq!(headers[X_REQUEST_ID], "UPPER-own");
    }

    #[test]
    fn the_nibble_and_the_first_digits_decide() {
        let read = |id: &'static str| read(&HeaderValue::from_static(id));
        assert_eq!(read("00000063-0000-4000-8000-000000000000"), Some((TraceReason::None, 99)));
        assert_eq!(read("FFFFFFFF-0000-9000-8000-000000000000"), Some((TraceReason::Traced, 7295)));
        assert_eq!(read("00000000-0000-b000-8000-000000000000"), Some((TraceReason::Traced, 0)));
        // Eight hex digits and 36 characters are enough.
        assert_eq!(read("00000001zzzzzzzzzzzzzzzzzzzzzzzzzzzz"), Some((TraceReason::None, 1)));
        assert_eq!(read("g0000000-0000-4000-8000-000000000000"), None);
        assert_eq!(read("short"), None);
    }

    #[test]
    fn a_decision_is_written_into_ids_that_can_carry_it() {
        let id = HeaderValue::from_static("00000000-0000-4000-8000-000000000000");
        let sampled = with_nibble(&id, b'9').unwrap();
        assert_eq!(sampled, "00000000-0000-9000-8000-000000000000");
        assert_eq!(with_nibble(&sampled, b'4').unwrap(), id);
        assert_eq!(with_nibble(&HeaderValue::from_static("own"), b'9'), None);
    }
}
