//! The life of one client connection: sniffed, served by hyper, closed when idle for too long or when the proxy
//! drains.
//!
//! A drain is announced first, and so is the end of a single listener: HTTP/1 answers say `Connection: close`, HTTP/2
//! gets GOAWAY. Idle HTTP/1 connections are closed only at the closing phase, since hyper closes them at once and a
//! request may be on its way.

use std::{
    io,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use http::{Request, Version};
use hyper::{body::Incoming, rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, sleep_until},
};

use super::{client::ConnInfo, http1, service::contained};
use crate::{
    drain::Phase,
    net::{batched::Batched, head::MAX_HEAD, listen::Accepted, sniff::sniff, socket::Socket, tls::Taken},
    worker::Worker,
};

const STREAMS: u32 = 100;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that a client reset before they were accepted.
const PENDING_RESETS: usize = 20;
/// Streams that we reset because of what the client sent.
const LOCAL_RESETS: usize = 200;
/// How long a new connection may take to its first byte while the proxy closes: its client did not know.
const FIRST_BYTE: Duration = Duration::from_millis(100);
/// An HTTP/2 client that does not answer a PING is gone.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves one connection to its end.
pub(crate) async fn serve(accepted: Accepted, worker: Rc<Worker>) {
    let peer = accepted.peer;
    if let Err(error) = serve_io(accepted, worker).await {
        // The client went away or spoke nonsense: nobody's alarm.
        tracing::debug!(%peer, %error, "connection ended");
    }
}

async fn serve_io(accepted: Accepted, worker: Rc<Worker>) -> Result<(), Box<dyn std::error::Error>> {
    let Accepted { stream, peer, destination, listener, live: _live } = accepted;
    let stream = TcpStream::from_std(stream)?;
    let local = destination.map_or_else(|| stream.local_addr(), Ok)?;
    let mut drain = worker.drain().clone();
    let closing = async {
        drain.reached(Phase::Closing).await;
        sleep(FIRST_BYTE).await;
    };
    let begin = async {
        let mut taken = match worker.inbound(&listener, local.port()) {
            None => Taken::plain(stream),
            // Boxed, since few connections are taken so, and a handshake is large.
            Some(inbound) => match Box::pin(worker.take(stream, &inbound, &listener, false)).await? {
                Some(taken) => taken,
                None => return Ok(None),
            },
        };
        let sniffed = sniff(&mut taken.stream, worker.settings().idle_timeout).await?;
        io::Result::Ok(sniffed.map(|sniffed| (taken, sniffed)))
    };
    let begun = tokio::select! {
        biased;
        begun = begin => begun?,
        () = closing => None,
    };
    let Some((Taken { stream, secured, .. }, (version, bytes))) = begun else { return Ok(()) };
    if secured.as_ref().is_some_and(|secured| !secured.agrees_to(version)) {
        return Err("the client speaks another protocol than it has agreed to".into());
    }
    let socket = Socket::new(stream, bytes, version == Version::HTTP_11);
    let ends = (peer, local);
    let conn = Rc::new(ConnInfo::new(ends, destination.is_some(), listener, secured, socket.view()));
    if version == Version::HTTP_2 {
        // Boxed, since it is large, and the other kind of connection is small when it waits.
        Box::pin(serve_http2(socket, conn, worker)).await
    } else {
        http1::serve(socket, conn, worker).await
    }
    .map_err(Into::into)
}

async fn serve_http2(socket: Socket, conn: Rc<ConnInfo>, worker: Rc<Worker>) -> hyper::Result<()> {
    let service = service_fn(|request: Request<Incoming>| {
        let (parts, incoming) = request.into_parts();
        // hyper moves it several times on its way into a task.
        Box::pin(contained(Rc::clone(&worker), Rc::clone(&conn), Box::new(parts), incoming))
    });
    let connection = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .adaptive_window(false)
        .max_header_list_size(MAX_HEAD as u32)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(Batched::new(socket)), service);
    let mut connection = pin!(connection);
    let mut drain = worker.drain().clone();
    let leave = async {
        tokio::select! {
            () = drain.reached(Phase::Announced) => {}
            () = conn.lost(&worker) => {}
            () = conn.dismissed() => {}
        }
    };
    drive(connection.as_mut(), http2::Connection::graceful_shutdown, leave, &conn, &worker).await
}

/// Polls a connection to its end; shuts it down gracefully once it was idle for too long or is to `leave`.
async fn drive<C>(
    mut connection: Pin<&mut C>,
    shut_down: impl Fn(Pin<&mut C>),
    leave: impl Future<Output = ()>,
    conn: &ConnInfo,
    worker: &Worker,
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut leaving = pin!(leave);
    let limit = worker.settings().idle_timeout;
    let mut idle = pin!(sleep_until(Instant::now() + limit));
    let mut stays = true;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended,
            () = &mut leaving, if stays => {
                stays = false;
                shut_down(connection.as_mut());
            }
            () = &mut idle, if stays => match conn.idle_deadline(limit) {
                Some(deadline) => idle.as_mut().reset(deadline),
                None => {
                    stays = false;
                    shut_down(connection.as_mut());
                }
            },
        }
    }
}

/// Runs hyper's stream tasks on this thread.
#[derive(Debug, Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
