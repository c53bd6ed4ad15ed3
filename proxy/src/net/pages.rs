//! The small server behind pages, those of the sidecar and those of the webhook: HTTP/1, as many connections as are
//! sensible, and no wait without an end. Traffic is the business of the workers.
//!
//! Where all places are taken, a new connection ends an old one ([`redundant`]): whoever opens many and says nothing keeps
//! neither a probe nor a review waiting.

use std::{
    cmp::Reverse,
    collections::HashMap,
    convert::Infallible,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::response::Response;
use http::{Request, request::Parts};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::complaint::Complaint;

/// Wait after a failed accept.
const PAUSE: Duration = Duration::from_millis(50);

/// Where pages are asked for.
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    /// `None` is plain text.
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) limits: Limits,
    /// Nothing more is accepted then, and connections end with their next answer.
    pub(crate) stop: CancellationToken,
}

/// What a listener grants its clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at a time, at least one.
    pub(crate) connections: usize,
    /// For a handshake, from the end of one answer to the end of the next request's head, and for the last answer of a
    /// connection.
    pub(crate) patience: Duration,
    /// After that a connection ends with its next answer, so that slow readers do not keep all places.
    pub(crate) life: Duration,
}

/// A connection that has a place.
#[derive(Debug)]
struct Guest {
    from: IpAddr,
    /// A request is being answered. Who then takes its time to read a long answer is not busy.
    busy: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Door {
    /// Answers by `page`, which is told who asks, until told to stop, and then until the open requests are answered, or
    /// [`Limits::patience`] is over.
    pub(crate) async fn serve<P, F>(self, page: P)
    where
        P: Fn(SocketAddr, Parts, Incoming) -> F + Clone + Send + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let Self { listener, tls, limits, stop } = self;
        let connections = TaskTracker::new();
        let accept = async {
            // In the order of their coming.
            let mut guests: Vec<Guest> = Vec::new();
            let mut complaint = Complaint::default();
            loop {
                let (stream, peer) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        if let Some(held_back) = complaint.due() {
                            tracing::warn!(%error, held_back, "accept failed on a listener of our own pages");
                        }
                        sleep(PAUSE).await;
                        continue;
                    }
                };
                guests.retain(|guest| !guest.task.is_finished());
                if guests.len() >= limits.connections
                    && let Some(at) = redundant(&guests)
                {
                    guests.remove(at).task.abort();
                }
                let busy = Arc::<AtomicBool>::default();
                let (tls, stop, page, answering) =
                    (tls.clone(), stop.clone(), page.clone(), Arc::clone(&busy));
                let task = connections.spawn(async move {
                    let page = move |parts, body| page(peer, parts, body);
                    let Some(acceptor) = tls else {
                        return converse(stream, limits, &stop, &answering, page).await;
                    };
                    let secured = tokio::select! {
                        secured = timeout(limits.patience, acceptor.accept(stream)) => secured,
                        () = stop.cancelled() => return,
                    };
                    if let Ok(Ok(stream)) = secured {
                        converse(stream, limits, &stop, &answering, page).await;
                    }
                });
                let from = peer.ip().to_canonical();
                guests.push(Guest { from, busy, task: task.abort_handle() });
            }
        };
        tokio::select! {
            () = accept => {}
            () = stop.cancelled() => {}
        }
        drop(listener);
        connections.close();
        let _ = timeout(limits.patience, connections.wait()).await;
    }
}

/// Who has to go for another: of the address with the most connections the oldest that is not being answered, or else
/// the oldest. A few connections are nobody's fault: who has no more than one place of [`FAIR`] has as many as any other.
fn redundant(guests: &[Guest]) -> Option<usize> {
    let mut shares: HashMap<IpAddr, usize> = HashMap::new();
    for guest in guests {
        *shares.entry(guest.from).or_default() += 1;
    }
    let fair = guests.len() / FAIR;
    let excess = |guest: &Guest| shares.get(&guest.from).map_or(0, |share| share.saturating_sub(fair));
    let ranked = guests.iter().enumerate();
    // The first of those that are equal.
    let goes = ranked.min_by_key(|(_, guest)| (Reverse(excess(guest)), guest.busy.load(Relaxed)));
    goes.map(|(at, _)| at)
}

/// One of so many places is no large share.
const FAIR: usize = 8;

/// Serves one connection. How it ends is the client's business.
async fn converse<P, F>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    limits: Limits,
    stop: &CancellationToken,
    busy: &AtomicBool,
    page: P,
) where
    P: Fn(Parts, Incoming) -> F,
    F: Future<Output = Response>,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (parts, body) = request.into_parts();
        let answer = page(parts, body);
        async {
            busy.store(true, Relaxed);
            let answer = answer.await;
            busy.store(false, Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.patience)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = sleep(limits.life) => {}
        () = stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(limits.patience, connection).await;
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpSocket, TcpStream},
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    const GET_AND_STAY: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    async fn page(_: SocketAddr, _: Parts, _: Incoming) -> Response {
        Response::new("here".into())
    }

    async fn start(limits: Limits) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = Door { listener, tls: None, limits, stop: CancellationToken::new() };
        tokio::spawn(door.serve(page));
        address
    }

    async fn rest(client: &mut TcpStream) -> String {
        let mut text = String::new();
        timeout(Duration::from_secs(10), client.read_to_string(&mut text)).await.expect("in time").unwrap();
        text
    }

    /// Asks, and reads one answer.
    async fn ask(client: &mut TcpStream) -> std::io::Result<()> {
        client.write_all(GET_AND_STAY).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nhere") {
            let byte = timeout(Duration::from_secs(10), client.read_u8()).await.expect("in time")?;
            answer.push(byte);
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_client_that_does_not_finish_a_head_is_closed() {
        let limits = Limits { connections: 9, patience: Duration::from_millis(50), life: LONG };
        let address = start(limits).await;
        for bytes in [&b""[..], b"GET / HT"] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(bytes).await.unwrap();
            assert!(!rest(&mut client).await.contains("200"));
        }
    }

    #[tokio::test]
    async fn a_page_is_answered_while_silent_connections_have_all_places() {
        let address = start(Limits { connections: 4, patience: LONG, life: LONG }).await;
        let mut silent = Vec::new();
        for _ in 0..6 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(GET).await.unwrap();
        assert!(rest(&mut client).await.ends_with("\r\n\r\nhere"));
        assert_eq!(rest(&mut silent[2]).await, "", "the oldest went");
        ask(&mut silent[5]).await.expect("the youngest stay");
    }

    #[tokio::test]
    async fn whoever_opens_many_connections_ends_none_of_another_address() {
        let address = start(Limits { connections: 4, patience: LONG, life: LONG }).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut client = socket.connect(address).await.unwrap();
        ask(&mut client).await.unwrap();
        let mut many = Vec::new();
        for _ in 0..12 {
            let mut one = TcpStream::connect(address).await.unwrap();
            ask(&mut one).await.unwrap();
            many.push(one);
        }
        ask(&mut client).await.expect("the oldest of all is still there");
    }

    #[tokio::test]
    async fn who_is_being_answered_goes_last() {
        let task = tokio::spawn(std::future::pending::<()>()).abort_handle();
        let guest = |from: [u8; 4], busy| Guest {
            from: from.into(),
            busy: Arc::new(AtomicBool::new(busy)),
            task: task.clone(),
        };
        let (few, many) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let goes = |busy: [bool; 3]| {
            let many = busy.map(|busy| guest(many, busy));
            redundant(&[guest(few, false)].into_iter().chain(many).collect::<Vec<_>>())
        };
        assert_eq!(goes([false, false, false]), Some(1));
        assert_eq!(goes([true, false, false]), Some(2));
        assert_eq!(goes([true, true, true]), Some(1));
        // Two of sixteen are no large share: what they ask for is not cut off for strangers who say nothing.
        let strangers = (0..14).map(|at| guest([10, 0, 1, at], false));
        let asking = [guest(few, true), guest(few, true)];
        assert_eq!(redundant(&asking.into_iter().chain(strangers).collect::<Vec<_>>()), Some(2));
    }

    #[tokio::test]
    async fn a_connection_ends_after_its_life() {
        let limits = Limits { connections: 1, patience: LONG, life: Duration::from_secs(1) };
        let mut client = TcpStream::connect(start(limits).await).await.unwrap();
        client.write_all(GET_AND_STAY).await.unwrap();
        assert!(rest(&mut client).await.ends_with("\r\n\r\nhere"));
    }
}
