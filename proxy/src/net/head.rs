//! One whole HTTP/1 request head: what hyper does not check of it, and how its body is framed.
//!
//! It is no parser: names, values and the target are parsed by hyper afterwards.

use memchr::memchr;

/// Request line and headers of one request, in bytes (Envoy `max_request_headers_kb`).
pub(crate) const MAX_HEAD: usize = 60 * 1024;
/// Header lines of one request (Envoy `max_headers_count`).
pub(crate) const MAX_HEADERS: usize = 100;

/// Why a request head is refused. The answer to each stands in `http::reply`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Another version than HTTP/1.1.
    Version,
    /// Malformed request line, header line or `Content-Length`.
    Codec,
    /// `Content-Length` beside `Transfer-Encoding`.
    LengthAndChunked,
    /// A `Transfer-Encoding` other than `chunked`.
    TransferEncoding,
    /// A control character in a value.
    Characters,
    /// More than [`MAX_HEADERS`] lines.
    TooManyHeaders,
    /// More than [`MAX_HEAD`] bytes.
    TooLarge,
    /// Two Hosts, or one that no authority can look like.
    Authority,
    /// The target has a fragment.
    Fragment,
    /// `CONNECT`: no route takes it.
    Connect,
    /// The head did not end in time.
    Timeout,
}

/// How a request's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes; none is zero.
    Length(u64),
    Chunked,
}

/// Checks a whole head and says how its body is framed.
///
/// # Errors
/// Why it is refused.
pub(super) fn check(head: &[u8]) -> Result<Framing, Violation> {
    let mut rest = head;
    check_request_line(next_line(&mut rest))?;
    let (mut count, mut hosts) = (0, 0);
    let mut length: Option<u64> = None;
    let (mut encodings, mut chunked) = (0_usize, false);
    while !rest.is_empty() {
        let line = next_line(&mut rest);
        if line.is_empty() {
            continue;
        }
        count += 1;
        if count > MAX_HEADERS {
            return Err(Violation::TooManyHeaders);
        }
        let colon = memchr(b':', line).ok_or(Violation::Codec)?;
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default();
        if name.is_empty() || has(name, |byte| byte <= b' ') {
            return Err(Violation::Codec);
        }
        if has(value, |byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
            return Err(Violation::Characters);
        }
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
            if hosts > 1 || !is_authority(value) {
                return Err(Violation::Authority);
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if length.is_some() {
                return Err(Violation::Codec);
            }
            length = Some(content_length(value).ok_or(Violation::Codec)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            encodings += 1;
            chunked = value.eq_ignore_ascii_case(b"chunked");
            if encodings > 1 || value.split(|byte| *byte == b',').any(|part| part.trim_ascii().is_empty()) {
                return Err(Violation::Codec);
            }
        }
    }
    match (length, encodings) {
        (Some(_), 1..) => Err(Violation::LengthAndChunked),
        (None, 1..) if !chunked => Err(Violation::TransferEncoding),
        (None, 1..) => Ok(Framing::Chunked),
        (length, 0) => Ok(Framing::Length(length.unwrap_or(0))),
    }
}

/// Takes the next line off, without its end.
fn next_line<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let (line, behind) = match memchr(b'\n', rest) {
        Some(end) => (rest.get(..end).unwrap_or_default(), rest.get(end + 1..).unwrap_or_default()),
        None => (*rest, &[][..]),
    };
    *rest = behind;
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Whether any byte is `bad`. All of them are looked at, many at a time: almost never is one.
fn has(bytes: &[u8], bad: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(false, |found, byte| found | bad(*byte))
}

fn check_request_line(line: &[u8]) -> Result<(), Violation> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), version, None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Violation::Codec);
    };
    if !METHODS.contains(&method) {
        return Err(Violation::Codec);
    }
    match version {
        Some(b"HTTP/1.1") => {}
        // HTTP/0.9 names none.
        None | Some([b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']) => {
            return Err(Violation::Version);
        }
        Some(_) => return Err(Violation::Codec),
    }
    if method == b"CONNECT" {
        return Err(Violation::Connect);
    }
    if target.is_empty() || has(target, |byte| byte <= b' ' || byte == 0x7f) {
        return Err(Violation::Codec);
    }
    if target.contains(&b'#') {
        return Err(Violation::Fragment);
    }
    Ok(())
}

/// Decimal digits without leading zeros: others are read in two ways.
fn content_length(value: &[u8]) -> Option<u64> {
    let plain = value == b"0" || value.first().is_some_and(|digit| matches!(digit, b'1'..=b'9'));
    if !plain || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// `host`, `host:port` or `[v6]:port` by their characters (RFC 3986 3.2); empty as Envoy has it.
pub(crate) fn is_authority(value: &[u8]) -> bool {
    let (host, port) = match value {
        [b'[', rest @ ..] => {
            let Some(close) = rest.iter().position(|byte| *byte == b']') else { return false };
            let (inside, after) = rest.split_at(close);
            if inside.is_empty() || !inside.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
            {
                return false;
            }
            (&b""[..], after.get(1..).unwrap_or_default())
        }
        _ => value.split_at(memchr(b':', value).unwrap_or(value.len())),
    };
    let host_is_name = host.iter().all(|byte| is_name_byte(*byte));
    let port_is_number = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    host_is_name && port_is_number
}

/// RFC 3986 3.2.2. (As a pattern it is a lookup in a bit set, not a search.)
fn is_name_byte(byte: u8) -> bool {
    matches!(
        byte,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9'
            | b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
            | b'%'
    )
}

/// The methods that Envoy's HTTP/1 codec knows; case matters.
const METHODS: [&[u8]; 34] = [
    b"GET",
    b"POST",
    b"PUT",
    b"HEAD",
    b"DELETE",
    b"OPTIONS",
    b"PATCH",
    b"CONNECT",
    b"TRACE",
    b"ACL",
    b"BIND",
    b"CHECKOUT",
    b"COPY",
    b"LINK",
    b"LOCK",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MOVE",
    b"M-SEARCH",
    b"NOTIFY",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"SOURCE",
    b"SUBSCRIBE",
    b"UNBIND",
    b"UNLINK",
    b"UNLOCK",
    b"UNSUBSCRIBE",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(head: &str) -> Violation {
        check(head.as_bytes()).expect_err(head)
    }

    fn with(headers: &str) -> String {
        format!("POST /x HTTP/1.1\r\nHost: a\r\n{headers}\r\n")
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let chunked_and_length = with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n");
        assert_eq!(refused(&chunked_and_length), Violation::LengthAndChunked);
        let length_last = with("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n");
        assert_eq!(refused(&length_last), Violation::LengthAndChunked);
        assert_eq!(refused(&with("Transfer-Encoding: gzip, chunked\r\n")), Violation::TransferEncoding);
        assert_eq!(refused(&with("Transfer-Encoding: xchunked\r\n")), Violation::TransferEncoding);
        assert_eq!(refused(&with("Transfer-Encoding: ,chunked\r\n")), Violation::Codec);
        let twice = with("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n");
        assert_eq!(refused(&twice), Violation::Codec);
        for length in ["3\r\nContent-Length: 3", "+5", "5,5", "", "003", "0x3", "99999999999999999999"] {
            assert_eq!(
                refused(&with(&format!("Content-Length: {length}\r\n"))),
                Violation::Codec,
                "{length}"
            );
        }
    }

    #[test]
    fn a_host_that_is_twice_or_junk_is_refused() {
        assert_eq!(refused(&with("Host: a\r\n")), Violation::Authority);
        for host in ["a b/c@d", "a/b", "a@b", "[::1", "a:80x", "a:123456", "a?b"] {
            assert_eq!(
                refused(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")),
                Violation::Authority,
                "{host}"
            );
        }
        for host in ["a", "", "a:80", "[::1]:80", "10.0.0.1", "A_b.c:1"] {
            assert_eq!(
                check(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()),
                Ok(Framing::Length(0)),
                "{host}"
            );
        }
    }

    #[test]
    fn request_lines_are_judged_as_envoy_does() {
        let line = |line: &str| refused(&format!("{line}\r\nHost: a\r\n\r\n"));
        assert_eq!(line("GET / HTTP/1.0"), Violation::Version);
        assert_eq!(line("GET / HTTP/2.0"), Violation::Version);
        assert_eq!(line("GET /"), Violation::Version);
        assert_eq!(line("get / HTTP/1.1"), Violation::Codec);
        assert_eq!(line("BREW / HTTP/1.1"), Violation::Codec);
        assert_eq!(line("GET  / HTTP/1.1"), Violation::Codec);
        assert_eq!(line("CONNECT a:1 HTTP/1.1"), Violation::Connect);
        assert_eq!(line("GET /admin#x HTTP/1.1"), Violation::Fragment);
    }

    #[test]
    fn header_lines_are_bounded_and_well_formed() {
        let lines = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: 1\r\n".repeat(count));
        assert_eq!(check(lines(99).as_bytes()), Ok(Framing::Length(0)));
        assert_eq!(refused(&lines(100)), Violation::TooManyHeaders);
        assert_eq!(refused(&with("x : 1\r\n")), Violation::Codec);
        assert_eq!(refused(&with(": 1\r\n")), Violation::Codec);
        assert_eq!(refused(&with("x: 1\r\n folded\r\n")), Violation::Codec);
        assert_eq!(refused(&with("x: a\0b\r\n")), Violation::Characters);
        assert_eq!(refused(&with("x: a\rb\r\n")), Violation::Characters);
    }
}
