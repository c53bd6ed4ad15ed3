//! HTTP/1.1: bytes made beforehand, and as little reading as shows that the answer is the right one.

use std::rc::Rc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

use super::{SESSIONS, Tally};
use crate::{
    Outcome,
    backend::ANSWER,
    door::{Door, Stream},
    intent::{HOST, SESSION},
};

/// One request for each session.
#[derive(Debug)]
pub(crate) struct Requests(Vec<Vec<u8>>);

impl Requests {
    pub(crate) fn new() -> Rc<Self> {
        let request = |session| {
            format!(
                "GET /v1/things/42 HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: bench-load\r\naccept: */*\r\n\
                 {SESSION}: session-{session:04}\r\n\r\n"
            )
        };
        Rc::new(Self((0..SESSIONS).map(|session| request(session).into_bytes()).collect()))
    }

    pub(crate) fn of(&self, number: usize) -> &[u8] {
        self.0.get(number % SESSIONS).map_or(&[], Vec::as_slice)
    }
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(door: &Door) -> Outcome<Self> {
        Ok(Self { stream: door.open().await?, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a request, and reads and checks its answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Outcome<()> {
        self.stream.write_all(request).await?;
        // TLS may hold what the system did not take.
        self.stream.flush().await?;
        self.buffer.clear();
        let head = loop {
            self.read().await?;
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let text = self.buffer.get(..head).unwrap_or_default();
        if !text.starts_with(b"HTTP/1.1 200") || content_length(text) != Some(ANSWER) {
            return Err(format!("not the right answer: {:?}", String::from_utf8_lossy(&self.buffer)).into());
        }
        while self.buffer.len() < head + ANSWER {
            self.read().await?;
        }
        if self.buffer.len() > head + ANSWER { Err("more than the answer".into()) } else { Ok(()) }
    }

    async fn read(&mut self) -> Outcome<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err("the connection ended before the answer".into()),
            _ => Ok(()),
        }
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let value = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        name.eq_ignore_ascii_case(b"content-length:").then_some(value)
    });
    std::str::from_utf8(value?).ok()?.trim().parse().ok()
}

/// Connections that stay open; one that fails is opened again.
pub(crate) fn keep_alive(door: &Door, connections: usize, tally: &Rc<Tally>, tasks: &mut JoinSet<()>) {
    let requests = Requests::new();
    for number in 0..connections {
        let (door, tally, requests) = (door.clone(), Rc::clone(tally), Rc::clone(&requests));
        tasks.spawn_local(async move {
            let mut open = None;
            for number in (number..).step_by(connections) {
                if !tally.begin() {
                    break;
                }
                let outcome = async {
                    let mut connection = match open.take() {
                        Some(connection) => connection,
                        None => Connection::open(&door).await?,
                    };
                    connection.exchange(requests.of(number)).await?;
                    Ok(connection)
                };
                open = tally.count(outcome.await);
            }
        });
    }
}

/// A connection for each request, closed by the client.
pub(crate) fn churn(door: &Door, connections: usize, tally: &Rc<Tally>, tasks: &mut JoinSet<()>) {
    let requests = Requests::new();
    for number in 0..connections {
        let (door, tally, requests) = (door.clone(), Rc::clone(tally), Rc::clone(&requests));
        tasks.spawn_local(async move {
            for number in (number..).step_by(connections) {
                if !tally.begin() {
                    break;
                }
                let outcome = async { Connection::open(&door).await?.exchange(requests.of(number)).await };
                tally.count(outcome.await);
            }
        });
    }
}
