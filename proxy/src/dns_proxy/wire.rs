//! Messages as bytes, as far as they are looked into without being parsed: what is passed on stays as it came.

use std::io;

use tokio::{io::AsyncReadExt, net::TcpStream};

/// Bytes before the question.
const HEADER: usize = 12;
/// Codes of a name server that has nothing to say: SERVFAIL, NOTIMP, REFUSED. The next one may.
const FAILURES: [u8; 3] = [2, 4, 5];

/// Behind its length, as DNS over TCP has it.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), message].concat()
}

/// The next message of a connection.
pub(super) async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// The same message with another id.
pub(super) fn with_id(message: &[u8], id: [u8; 2]) -> Vec<u8> {
    id.iter().chain(message.iter().skip(2)).copied().collect()
}

/// Its id; zero if it has none.
pub(super) fn id_of(message: &[u8]) -> [u8; 2] {
    message.first_chunk().copied().unwrap_or_default()
}

/// True for the answer to `sent`: its id, and its question in either case of letters.
pub(super) fn belongs(answer: &[u8], sent: &[u8]) -> bool {
    let Some(end) = end_of_question(sent) else { return false };
    let question = |message: &[u8]| message.get(HEADER..end).map(<[u8]>::to_ascii_lowercase);
    // A server that cannot read the question leaves it out.
    let same = answer.len() == HEADER || question(answer) == question(sent);
    is_answer(answer) && id_of(answer) == id_of(sent) && same
}

/// True for an answer, and not a question.
pub(super) fn is_answer(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & 0x80 != 0)
}

/// True for an answer that says no more than that the server failed.
pub(super) fn is_failure(answer: &[u8]) -> bool {
    answer.get(3).is_some_and(|flags| FAILURES.contains(&(flags & 0x0f)))
}

/// Labels up to the empty one, type and class.
fn end_of_question(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some(at + 1 + 4),
            length => at += 1 + length,
        }
    }
}
