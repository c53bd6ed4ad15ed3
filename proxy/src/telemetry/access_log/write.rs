//! Values as bytes of a line: what is formatted for every request, without the machinery of `fmt`.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    time::{SystemTime, UNIX_EPOCH},
};

/// A start time, `2023-11-14T22:13:20.123Z`; `-` for one that no calendar has.
#[derive(Debug, Clone, Copy)]
pub(in crate::telemetry) struct StartTime {
    text: [u8; LENGTH],
    length: usize,
}

const LENGTH: usize = "2023-11-14T22:13:20.123Z".len();
/// Where the milliseconds stand.
const MILLIS: usize = 20;

/// Formats start times; within a second only the milliseconds change.
#[derive(Debug, Default)]
pub(in crate::telemetry) struct Clock {
    second: u64,
    last: Option<StartTime>,
}

impl Clock {
    pub(in crate::telemetry) fn text(&mut self, time: SystemTime) -> StartTime {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut start = match self.last {
            Some(last) if self.second == since.as_secs() => last,
            _ => {
                let fresh = StartTime::new(time);
                (self.second, self.last) = (since.as_secs(), Some(fresh));
                fresh
            }
        };
        start.set_millis(since.subsec_millis());
        start
    }
}

impl StartTime {
    fn new(time: SystemTime) -> Self {
        let written = jiff::Timestamp::try_from(time).ok().map(|time| format!("{time:.3}"));
        match written.and_then(|text| text.as_bytes().try_into().ok()) {
            Some(text) => Self { text, length: LENGTH },
            None => Self { text: [b'-'; LENGTH], length: 1 },
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a digit each")]
    fn set_millis(&mut self, millis: u32) {
        let digits = [millis / 100, millis / 10 % 10, millis % 10].map(|digit| b'0' + digit as u8);
        if let Some(place) = self.text.get_mut(MILLIS..MILLIS + digits.len()) {
            place.copy_from_slice(&digits);
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.text.get(..self.length).unwrap_or_default()
    }
}

pub(in crate::telemetry) fn number(number: u64, line: &mut Vec<u8>) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

pub(in crate::telemetry) fn ip(ip: IpAddr, line: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => {
            for (at, octet) in ip.octets().into_iter().enumerate() {
                if at > 0 {
                    line.push(b'.');
                }
                number(octet.into(), line);
            }
        }
        // A vector takes every write.
        IpAddr::V6(ip) => drop(write!(line, "{ip}")),
    }
}

pub(in crate::telemetry) fn address(address: SocketAddr, line: &mut Vec<u8>) {
    match address {
        SocketAddr::V4(address) => {
            ip(IpAddr::V4(*address.ip()), line);
            line.push(b':');
            number(address.port().into(), line);
        }
        SocketAddr::V6(address) => drop(write!(line, "{address}")),
    }
}

/// Printable ASCII stays; quotes, backslashes and all other bytes become `\"`, `\\` and `\xHH`.
pub(super) fn escape_text(bytes: &[u8], line: &mut Vec<u8>) {
    if all_plain(bytes) {
        return line.extend_from_slice(bytes);
    }
    for byte in bytes {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', *byte]),
            byte if is_plain(*byte) => line.push(*byte),
            _ => line.extend_from_slice(&[b'\\', b'x', hex(byte >> 4), hex(byte & 15)]),
        }
    }
}

/// Without an early end: so the compiler looks at many bytes at a time.
fn all_plain(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |plain, byte| plain & is_plain(*byte))
}

fn is_plain(byte: u8) -> bool {
    (0x20..=0x7e).contains(&byte) & (byte != b'"') & (byte != b'\\')
}

/// The inside of a JSON string: control characters are escaped, and bytes that are no UTF-8 become U+FFFD.
pub(super) fn escape_json(bytes: &[u8], line: &mut Vec<u8>) {
    if all_plain(bytes) {
        return line.extend_from_slice(bytes);
    }
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => line.extend_from_slice(b"\\\""),
                '\\' => line.extend_from_slice(b"\\\\"),
                // C0, DEL and C1: a terminal must not obey what a client sent.
                c if c.is_control() => {
                    let code = c as u32;
                    let low = (code & 0xff) as u8;
                    line.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(low >> 4), hex(low & 15)]);
                }
                c => line.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            line.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        0..=9 => b'0' + digit,
        _ => b'a' + (digit - 10),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn start_times_are_those_of_the_calendar() {
        let mut clock = Clock::default();
        let mut text = |millis| {
            let text = clock.text(UNIX_EPOCH + Duration::from_millis(millis));
            String::from_utf8(text.as_bytes().to_vec()).unwrap()
        };
        assert_eq!(text(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(text(1_700_000_000_999), "2023-11-14T22:13:20.999Z");
        assert_eq!(text(1_700_000_001_000), "2023-11-14T22:13:21.000Z");
        assert_eq!(text(1_709_210_096_007), "2024-02-29T12:34:56.007Z");
        assert_eq!(text(7), "1970-01-01T00:00:00.007Z");
    }

    #[test]
    fn addresses_are_written_as_the_standard_library_does() {
        for text in ["127.0.0.1:80", "255.0.10.1:65535", "[::1]:1", "[2001:db8::7]:443"] {
            let mut line = Vec::new();
            address(text.parse().unwrap(), &mut line);
            assert_eq!(line, text.as_bytes());
        }
    }
}
