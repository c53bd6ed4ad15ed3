//! What hyper does not check of an HTTP/1 request head, checked on the raw bytes ahead of it.
//!
//! hyper drops a `Content-Length` beside a `Transfer-Encoding`, cuts a fragment and accepts any Host, all before a
//! service can see it. So every head of a connection is looked at here first: an incomplete head is held back, a bad
//! one never reaches hyper. Bodies are only skipped, by the framing that the head declared. It is no HTTP parser:
//! names, values and the target are parsed by hyper afterwards.

/// Request line and headers of one request, in bytes (Envoy `max_request_headers_kb`).
pub(crate) const MAX_HEAD: usize = 60 * 1024;
/// Header lines of one request (Envoy `max_headers_count`).
pub(crate) const MAX_HEADERS: usize = 100;
/// A longer chunk size line is refused by hyper as well.
const MAX_CHUNK_LINE: usize = 16 * 1024;

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

/// What may pass of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All of them.
    All,
    /// The first `n`; behind them stands an incomplete head, to be shown again with what follows it.
    Hold(usize),
    /// The first `n`; the head behind them is refused, and nothing after it counts.
    Refuse(usize, Violation),
}

/// Follows the requests of one connection.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: State,
    /// Bytes of the incomplete head that were searched for its end already.
    searched: usize,
    heads: u64,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Head,
    Sized(u64),
    ChunkLine {
        size: u64,
        seen: usize,
        in_size: bool,
    },
    /// Bytes left, the line end behind the data among them.
    ChunkData(u64),
    /// Length of the current trailer line.
    Trailer(usize),
    /// hyper will refuse the body; whatever follows is its business.
    Broken,
}

impl Gate {
    /// Heads that passed.
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }

    /// Judges the next bytes of the connection.
    pub(crate) fn admit(&mut self, data: &[u8]) -> Verdict {
        let mut at = 0;
        while let Some(rest) = data.get(at..).filter(|rest| !rest.is_empty()) {
            match &mut self.state {
                State::Head => match self.admit_head(rest) {
                    Ok(Some(length)) => at += length,
                    Ok(None) => return Verdict::Hold(at),
                    Err(violation) => return Verdict::Refuse(at, violation),
                },
                State::Broken => return Verdict::All,
                _ => at += self.skip_body(rest),
            }
        }
        Verdict::All
    }

    /// Length of the head at the beginning of `data`, or `None` while it is incomplete.
    fn admit_head(&mut self, data: &[u8]) -> Result<Option<usize>, Violation> {
        let blank = data.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if blank == data.len() && blank <= 2 {
            // A blank line ahead of a request (RFC 9112 2.2); it goes with the head that follows.
            return Ok(None);
        }
        let Some(end) = head_end(data, self.searched.max(blank)) else {
            if data.len() > MAX_HEAD || blank > 2 {
                return Err(if blank > 2 { Violation::Codec } else { Violation::TooLarge });
            }
            self.searched = data.len().saturating_sub(3);
            return Ok(None);
        };
        self.searched = 0;
        if end - blank > MAX_HEAD {
            return Err(Violation::TooLarge);
        }
        self.state = framing(data.get(blank..end).unwrap_or_default())?;
        self.heads += 1;
        Ok(Some(end))
    }

    /// Bytes that belong to the body; may end it.
    fn skip_body(&mut self, data: &[u8]) -> usize {
        match &mut self.state {
            State::Head | State::Broken => data.len(),
            State::Sized(left) => {
                let taken = take(left, data);
                if *left == 0 {
                    self.state = State::Head;
                }
                taken
            }
            State::ChunkData(left) => {
                let taken = take(left, data);
                if *left == 0 {
                    self.state = State::ChunkLine { size: 0, seen: 0, in_size: true };
                }
                taken
            }
            State::ChunkLine { size, seen, in_size } => {
                let Some(byte) = data.first() else { return 0 };
                *seen += 1;
                if *seen > MAX_CHUNK_LINE {
                    self.state = State::Broken;
                    return 1;
                }
                match (byte, char::from(*byte).to_digit(16)) {
                    (b'\n', _) => {
                        self.state = match *size {
                            0 => State::Trailer(0),
                            size => size.checked_add(2).map_or(State::Broken, State::ChunkData),
                        };
                    }
                    (_, Some(digit)) if *in_size => match size.checked_mul(16) {
                        Some(high) => *size = high | u64::from(digit),
                        None => self.state = State::Broken,
                    },
                    _ => *in_size = false,
                }
                1
            }
            State::Trailer(length) => {
                let Some(byte) = data.first() else { return 0 };
                match byte {
                    b'\n' if *length == 0 => self.state = State::Head,
                    b'\n' => *length = 0,
                    b'\r' => {}
                    _ => *length += 1,
                }
                1
            }
        }
    }
}

fn take(left: &mut u64, data: &[u8]) -> usize {
    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
    *left -= taken as u64;
    taken
}

/// Where the head ends: behind an empty line. The first `from` bytes hold no end.
fn head_end(data: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += data.get(at..)?.iter().position(|byte| *byte == b'\n')? + 1;
        match data.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

/// Checks a whole head and says how its body is framed.
fn framing(head: &[u8]) -> Result<State, Violation> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    check_request_line(lines.next().unwrap_or_default())?;
    let (mut count, mut hosts) = (0, 0);
    let mut length: Option<u64> = None;
    let (mut encodings, mut chunked) = (0_usize, false);
    for line in lines.filter(|line| !line.is_empty()) {
        count += 1;
        if count > MAX_HEADERS {
            return Err(Violation::TooManyHeaders);
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Violation::Codec)?;
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default();
        if name.is_empty() || name.iter().any(|byte| *byte <= b' ') {
            return Err(Violation::Codec);
        }
        if value.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
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
        (None, 1..) => Ok(State::ChunkLine { size: 0, seen: 0, in_size: true }),
        (Some(length @ 1..), 0) => Ok(State::Sized(length)),
        (_, 0) => Ok(State::Head),
    }
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
    if target.is_empty() || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
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
        _ => value.split_at(value.iter().position(|byte| *byte == b':').unwrap_or(value.len())),
    };
    let host_is_name =
        host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(byte));
    let port_is_number = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    host_is_name && port_is_number
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

    fn judge(data: &[u8]) -> Verdict {
        Gate::default().admit(data)
    }

    fn refused(head: &str) -> Violation {
        match judge(head.as_bytes()) {
            Verdict::Refuse(0, violation) => violation,
            other => panic!("{head:?}: {other:?}"),
        }
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
                judge(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()),
                Verdict::All,
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
        assert_eq!(judge(lines(99).as_bytes()), Verdict::All);
        assert_eq!(refused(&lines(100)), Violation::TooManyHeaders);
        assert_eq!(refused(&with("x : 1\r\n")), Violation::Codec);
        assert_eq!(refused(&with(": 1\r\n")), Violation::Codec);
        assert_eq!(refused(&with("x: 1\r\n folded\r\n")), Violation::Codec);
        assert_eq!(refused(&with("x: a\0b\r\n")), Violation::Characters);
        assert_eq!(refused(&with("x: a\rb\r\n")), Violation::Characters);
        let size = |size: usize| {
            let head = "GET / HTTP/1.1\r\nHost: a\r\nx: ";
            format!("{head}{}\r\n\r\n", "y".repeat(size - head.len() - 4))
        };
        assert_eq!(judge(size(MAX_HEAD).as_bytes()), Verdict::All);
        assert_eq!(refused(&size(MAX_HEAD + 1)), Violation::TooLarge);
        assert_eq!(refused(&"x".repeat(MAX_HEAD + 1)), Violation::TooLarge);
    }

    #[test]
    fn an_incomplete_head_is_held_back() {
        let head = with("x: 1\r\n");
        for cut in 1..head.len() {
            assert_eq!(judge(&head.as_bytes()[..cut]), Verdict::Hold(0), "{cut}");
        }
        let mut gate = Gate::default();
        let mut verdict = Verdict::Hold(0);
        for cut in 1..=head.len() {
            verdict = gate.admit(&head.as_bytes()[..cut]);
        }
        assert_eq!((verdict, gate.heads()), (Verdict::All, 1));
    }

    #[test]
    fn every_head_of_a_connection_is_judged_whatever_its_body() {
        let bad = "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
        for body in [
            "Content-Length: 5\r\n\r\nhello",
            "Content-Length: 0\r\n\r\n",
            "\r\n",
            "Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nt: x\r\n\r\n",
            "Transfer-Encoding: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
        ] {
            let first = format!("POST /x HTTP/1.1\r\nHost: a\r\n{body}");
            let all = format!("{first}{bad}");
            assert_eq!(judge(all.as_bytes()), Verdict::Refuse(first.len(), Violation::Authority), "{body}");
            // The same, cut anywhere.
            for cut in 1..all.len() {
                let (mut gate, mut held, mut found) = (Gate::default(), Vec::new(), None);
                for part in [&all.as_bytes()[..cut], &all.as_bytes()[cut..]] {
                    held.extend_from_slice(part);
                    match gate.admit(&held) {
                        Verdict::All => held.clear(),
                        Verdict::Hold(passed) => drop(held.drain(..passed)),
                        Verdict::Refuse(_, violation) => {
                            found = Some(violation);
                            break;
                        }
                    }
                }
                assert_eq!(found, Some(Violation::Authority), "{body} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_blank_line_ahead_of_a_request_is_allowed_once() {
        assert_eq!(judge(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Verdict::All);
        assert_eq!(judge(b"\r\n"), Verdict::Hold(0));
        assert_eq!(judge(b"\r\n\r\n\r\n"), Verdict::Refuse(0, Violation::Codec));
    }
}
