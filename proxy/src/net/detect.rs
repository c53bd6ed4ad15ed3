//! Tells requests from other bytes where the port says nothing: HTTP/1 by its request line, HTTP/2 by its preface, what is
//! within TLS that ends here by the protocols that its hello offers (Istio's filter chains match so). Which version it is then is told once more by who serves it ([`sniff`](super::sniff)).

use std::{cell::RefCell, io, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use super::{
    peek::{Seen, peek},
    sniff::PREFACE,
    tls::{Hello, RECORD, read_hello},
};

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP, of whatever version.
    Requests,
    /// Anything else.
    Bytes,
    /// Nothing in time, or too little to tell.
    Unclear,
    /// It closed without a word.
    Nothing,
}

/// Which TLS ends here, and is looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsEnded {
    /// None: it passes as bytes.
    No,
    /// That of sidecars (PERMISSIVE).
    OfMesh,
    /// Whoever speaks it (STRICT).
    All,
}

/// Looks until it is clear, for `limit` at most.
///
/// # Errors
/// Those of the socket.
pub(crate) async fn detect(
    stream: &TcpStream,
    limit: Duration,
    ended: TlsEnded,
    space: &RefCell<Vec<u8>>,
) -> io::Result<Spoken> {
    let seen = match timeout(limit, peek(stream, space, |bytes| spoken(bytes, ended))).await {
        Ok(seen) => seen?,
        Err(_) => return Ok(Spoken::Unclear),
    };
    Ok(match seen {
        Seen::Found(spoken) => spoken,
        Seen::Unfinished { empty: true } => Spoken::Nothing,
        Seen::Unfinished { empty: false } => Spoken::Bytes,
    })
}

/// A longer word is no method.
const LONGEST_METHOD: usize = 32;

/// `None` while the bytes may become one or the other.
fn spoken(bytes: &[u8], ended: TlsEnded) -> Option<Spoken> {
    if ended != TlsEnded::No && bytes.first() == Some(&RECORD) {
        return match read_hello(bytes) {
            Hello::Partial => None,
            Hello::Tls(asked) if asked.requests && (asked.mutual || ended == TlsEnded::All) => {
                Some(Spoken::Requests)
            }
            Hello::Tls(_) | Hello::Other => Some(Spoken::Bytes),
        };
    }
    if bytes.starts_with(PREFACE) {
        return Some(Spoken::Requests);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let method = bytes.iter().position(|byte| !is_token(byte));
    let Some(method) = method else {
        return (bytes.len() > LONGEST_METHOD).then_some(Spoken::Bytes);
    };
    let (method, rest) = bytes.split_at(method);
    if method.is_empty() || method.len() > LONGEST_METHOD || !rest.starts_with(b" ") {
        return Some(Spoken::Bytes);
    }
    // A target has no control characters, and no space.
    let line = rest.iter().position(|byte| *byte == b'\n');
    let Some(line) = line else {
        let printable = |byte: &u8| *byte >= b' ' && *byte != 0x7f || *byte == b'\r';
        return (!rest.iter().all(printable)).then_some(Spoken::Bytes);
    };
    let line = rest.get(1..line).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    let is_http = version.len() < line.len() && version.starts_with(b"HTTP/1.");
    Some(if is_http { Spoken::Requests } else { Spoken::Bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_or_the_preface_makes_requests() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Spoken::Requests)),
            (b"POST /a?b=c HTTP/1.0\n", Some(Spoken::Requests)),
            (b"X-OWN /a b HTTP/1.1\r\nHost: x", Some(Spoken::Requests)),
            (PREFACE, Some(Spoken::Requests)),
            (b"", None),
            (b"G", None),
            (b"GET /half", None),
            (b"GET / HTTP/1.1\r", None),
            (b"PRI * HTTP/2.0\r\n\r\n", None),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Some(Spoken::Bytes)),
            (b"GET / HTTP/2.0\r\n", Some(Spoken::Bytes)),
            (b"GET HTTP/1.1\r\n", Some(Spoken::Bytes)),
            (b"EHLO there\r\n", Some(Spoken::Bytes)),
            (b"QUIT\r\n", Some(Spoken::Bytes)),
            (b"\x16\x03\x01", Some(Spoken::Bytes)),
            (b"\r\n", Some(Spoken::Bytes)),
            (b" GET / HTTP/1.1\r\n", Some(Spoken::Bytes)),
            (b"SELECT \x00\x01", Some(Spoken::Bytes)),
            (&[b'a'; 40], Some(Spoken::Bytes)),
        ] {
            assert_eq!(spoken(bytes, TlsEnded::No), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_request_is_told_whatever_its_pieces() {
        let request = b"DELETE /a/long/path?with=query HTTP/1.1\r\n";
        for length in 0..request.len() {
            assert_eq!(spoken(&request[..length], TlsEnded::No), None, "{length}");
        }
        assert_eq!(spoken(request, TlsEnded::No), Some(Spoken::Requests));
    }
}
