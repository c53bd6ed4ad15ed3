//! Finds the request heads in the raw bytes of an HTTP/1 connection, and has each checked before hyper sees it.
//!
//! hyper drops a `Content-Length` beside a `Transfer-Encoding`, cuts a fragment and accepts any Host, all before a
//! service can see it. So every head of a connection is looked at here first: an incomplete head is held back, a bad
//! one never reaches hyper. Bodies are only skipped, by the framing that the head declared.

use memchr::memchr;

use super::head::{Framing, MAX_HEAD, Violation, check};

/// A longer chunk size line is refused by hyper as well.
const MAX_CHUNK_LINE: usize = 16 * 1024;

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

    /// Whether the next byte begins a head: every body so far was whole.
    pub(crate) fn is_between_requests(&self) -> bool {
        matches!(self.state, State::Head)
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
        self.state = match check(data.get(blank..end).unwrap_or_default())? {
            Framing::Length(0) => State::Head,
            Framing::Length(length) => State::Sized(length),
            Framing::Chunked => State::ChunkLine { size: 0, seen: 0, in_size: true },
        };
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
        at += memchr(b'\n', data.get(at..)?)? + 1;
        match data.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

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
    fn a_head_has_a_greatest_size() {
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
