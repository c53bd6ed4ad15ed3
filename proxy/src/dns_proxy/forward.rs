//! Questions that are not ours: passed on as they came to the name servers of the machine, one after the other, and the
//! answer passed back as it came.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use super::{
    Transport,
    answer::Question,
    wire::{belongs, framed, id_of, is_failure, read_framed, with_id},
};
use crate::net::complaint::Complaint;

/// Questions under way at once, each with a socket of its own; further ones fail.
pub(super) const MOST: usize = 200;
/// As many name servers as glibc takes.
const SERVERS: usize = 3;
/// For all of them, each a like part. A resolver waits 5 s, and asks again.
const PATIENCE: Duration = Duration::from_millis(4500);
/// A datagram that is longer is asked for again by TCP.
const LONGEST: usize = 4096;

/// Asks name servers.
#[derive(Debug)]
pub(super) struct Forwarder {
    pub(super) servers: Vec<SocketAddr>,
    places: Semaphore,
    complaint: Mutex<Complaint>,
    pub(super) requests: AtomicU64,
    pub(super) failures: AtomicU64,
}

impl Forwarder {
    pub(super) fn new(mut servers: Vec<SocketAddr>) -> Self {
        servers.truncate(SERVERS);
        Self {
            servers,
            places: Semaphore::new(MOST),
            complaint: Mutex::default(),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// The first good answer; one that says no more than that the server failed only if there is no better.
    pub(super) async fn ask(&self, question: &Question) -> Option<Vec<u8>> {
        self.requests.fetch_add(1, Relaxed);
        let answer = self.in_turn(question).await;
        if answer.is_none() {
            self.failures.fetch_add(1, Relaxed);
        }
        answer
    }

    async fn in_turn(&self, question: &Question) -> Option<Vec<u8>> {
        let Ok(_place) = self.places.try_acquire() else {
            self.complain(format_args!("{MOST} others wait for name servers"));
            return None;
        };
        if self.servers.is_empty() {
            self.complain(format_args!("there are no name servers"));
        }
        let share = PATIENCE / u32::try_from(self.servers.len()).unwrap_or(u32::MAX).max(1);
        let mut failed = None;
        for server in &self.servers {
            let asked = async {
                match question.over() {
                    Transport::Udp => over_udp(*server, question).await,
                    Transport::Tcp => over_tcp(*server, question).await,
                }
            };
            match timeout(share, asked).await {
                Ok(Ok(answer)) if !is_failure(&answer) => return Some(answer),
                Ok(Ok(answer)) => failed = Some(answer),
                Ok(Err(error)) => self.complain(format_args!("the name server {server}: {error}")),
                Err(_) => self.complain(format_args!("the name server {server} does not answer")),
            }
        }
        failed
    }

    fn complain(&self, why: std::fmt::Arguments<'_>) {
        if let Some(held_back) = self.complaint.lock().unwrap_or_else(PoisonError::into_inner).due() {
            tracing::warn!(why = %why, held_back, "a question for an address cannot be passed on");
        }
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
    // The system cuts what is longer, and does not say so.
    let mut answer = vec![0; LONGEST + 1];
    loop {
        let length = socket.recv(&mut answer).await?;
        if let Some(answer) = answer.get(..length).filter(|answer| belongs(answer, &sent)) {
            return Ok(match length > question.longest().min(LONGEST) {
                true => question.too_long(),
                false => with_id(answer, id_of(question.bytes())),
            });
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
