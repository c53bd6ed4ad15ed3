//! Questions that are not ours: passed on as they came to the name servers of the machine, one after the other, and the
//! answer passed back as it came.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use super::{Transport, answer::Question};

/// Questions under way at once, each with a socket of its own; the pod is told that further ones failed.
pub(super) const MOST: usize = 200;
/// As many name servers as glibc takes.
const SERVERS: usize = 3;
/// For one name server. A resolver waits 5 s, and asks again.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);
/// The answer of a name server that has none to give: the next one may.
const NO_ANSWER: [u8; 3] = [2, 4, 5];

/// Asks name servers.
#[derive(Debug)]
pub(super) struct Forwarder {
    servers: Vec<SocketAddr>,
    places: Semaphore,
    pub(super) requests: AtomicU64,
    pub(super) failures: AtomicU64,
}

impl Forwarder {
    pub(super) fn new(mut servers: Vec<SocketAddr>) -> Self {
        servers.truncate(SERVERS);
        Self {
            servers,
            places: Semaphore::new(MOST),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// The first good answer; one that says no more than that the server failed only if there is no better.
    pub(super) async fn ask(&self, question: &Question, over: Transport) -> Option<Vec<u8>> {
        self.requests.fetch_add(1, Relaxed);
        let mut failed = None;
        if let Ok(_place) = self.places.try_acquire() {
            for server in &self.servers {
                let asked = async {
                    match over {
                        Transport::Udp => over_udp(*server, question).await,
                        Transport::Tcp => over_tcp(*server, question).await,
                    }
                };
                match timeout(PATIENCE, asked).await {
                    Ok(Ok(answer)) if !is_failure(&answer) => return Some(answer),
                    Ok(Ok(answer)) => failed = Some(answer),
                    Ok(Err(error)) => tracing::debug!(%server, %error, "a name server cannot be asked"),
                    Err(_) => tracing::debug!(%server, "a name server does not answer"),
                }
            }
        }
        if failed.is_none() {
            self.failures.fetch_add(1, Relaxed);
        }
        failed
    }
}

/// From a port, and with an id, that nobody can guess.
async fn over_udp(server: SocketAddr, question: &Question) -> io::Result<Vec<u8>> {
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let sent = with_id(question.bytes(), rand::random::<u16>().to_be_bytes());
    socket.send(&sent).await?;
    let mut answer = vec![0; question.longest()];
    loop {
        let length = socket.recv(&mut answer).await?;
        if let Some(answer) = answer.get(..length).filter(|answer| belongs(answer, &sent)) {
            return Ok(with_the_id_of(answer, question));
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &Question) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&framed(question.bytes())).await?;
    let answer = read_framed(&mut stream).await?;
    match belongs(&answer, question.bytes()) {
        true => Ok(answer),
        false => Err(io::Error::other("it answers something else")),
    }
}

/// Behind its length, as DNS over TCP has it.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), message].concat()
}

/// The next message.
pub(super) async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

fn with_id(message: &[u8], id: [u8; 2]) -> Vec<u8> {
    id.iter().chain(message.iter().skip(2)).copied().collect()
}

fn with_the_id_of(answer: &[u8], question: &Question) -> Vec<u8> {
    let id = question.bytes().first_chunk().copied().unwrap_or_default();
    with_id(answer, id)
}

/// True for the answer to `sent`: its id, and its question in either case of letters.
fn belongs(answer: &[u8], sent: &[u8]) -> bool {
    let is_answer = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let question = |message: &[u8]| message.get(HEADER..HEADER + question_length(sent)?).map(<[u8]>::to_vec);
    let same = match (question(answer), question(sent)) {
        (Some(answered), Some(asked)) => answered.eq_ignore_ascii_case(&asked),
        // A server that cannot read the question leaves it out.
        (None, Some(_)) => answer.len() == HEADER,
        _ => false,
    };
    is_answer && answer.first_chunk::<2>() == sent.first_chunk::<2>() && same
}

/// Bytes before the question.
const HEADER: usize = 12;

/// Labels up to the empty one, type and class.
fn question_length(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some(at + 1 + 4 - HEADER),
            length => at += 1 + length,
        }
    }
}

fn is_failure(answer: &[u8]) -> bool {
    answer.get(3).is_some_and(|flags| NO_ANSWER.contains(&(flags & 0x0f)))
}
