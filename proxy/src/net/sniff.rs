//! Tells HTTP/2 with prior knowledge from HTTP/1 on one listener, by the client's first bytes.

use std::{io, time::Duration};

use bytes::BytesMut;
use http::Version;
use tokio::{io::AsyncReadExt, time::timeout};

use super::tls::Stream;

/// RFC 9113 3.4.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// From the first byte to the decision.
const LIMIT: Duration = Duration::from_secs(5);
const ROOM: usize = 1024;

/// Reads until the protocol is clear; `idle` limits the wait for the first byte. What was read comes back with the
/// protocol. `None`: the client sent nothing, closed too early, or took too long.
///
/// # Errors
/// Those of the socket.
pub(crate) async fn sniff(stream: &mut Stream, idle: Duration) -> io::Result<Option<(Version, BytesMut)>> {
    let mut read = BytesMut::with_capacity(ROOM);
    let Ok(first) = timeout(idle, stream.read_buf(&mut read)).await else { return Ok(None) };
    if first? == 0 {
        return Ok(None);
    }
    let decide = async {
        loop {
            if let Some(version) = decided(&read) {
                return io::Result::Ok(Some(version));
            }
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(None);
            }
        }
    };
    let version = timeout(LIMIT, decide).await.unwrap_or(Ok(None))?;
    Ok(version.map(|version| (version, read)))
}

/// `None` while the bytes are a beginning of the preface only.
fn decided(read: &[u8]) -> Option<Version> {
    if read.starts_with(PREFACE) {
        return Some(Version::HTTP_2);
    }
    (!PREFACE.starts_with(read)).then_some(Version::HTTP_11)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_preface_is_http2() {
        for length in 0..PREFACE.len() {
            assert_eq!(decided(&PREFACE[..length]), None, "{length}");
        }
        assert_eq!(decided(PREFACE), Some(Version::HTTP_2));
        assert_eq!(decided(b"PRI * HTTP/2.0\r\nHost: a"), Some(Version::HTTP_11));
        assert_eq!(decided(b"POST / HTTP/1.1"), Some(Version::HTTP_11));
        assert_eq!(decided(b"G"), Some(Version::HTTP_11));
    }
}
