//! The life of an HTTP/1 connection: served by hyper while requests come, parked without it while none do.
//!
//! hyper's state with its buffers is ten times the size of a connection that only waits. It is dropped once the
//! connection has been idle for a moment, and made anew when bytes come: hyper keeps nothing from one request to the
//! next. It cannot be asked whether it is idle: the [socket's view](crate::net::socket::SocketView::is_quiet) tells what
//! it did last.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    sync::OnceLock,
    task::Poll,
    time::Duration,
};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until};

use super::{client::ConnInfo, service::contained};
use crate::{
    drain::Phase,
    net::{head::MAX_HEAD, socket::Socket},
    worker::Worker,
};

/// Holds a whole head and a little more.
const READ_BUFFER: usize = MAX_HEAD + 4096;
/// A connection without a request is parked after this time. A busy one never is, and looks at its clock this often.
const PARK_AFTER: Duration = Duration::from_millis(100);

/// Distance of the moments at which connections look at their clocks.
const GRID: Duration = Duration::from_millis(100);

/// Serves a connection to its end.
pub(super) async fn serve(mut socket: Socket, conn: Rc<ConnInfo>, worker: Rc<Worker>) -> hyper::Result<()> {
    // A drain was announced by `Connection: close` on answers.
    let mut drain = worker.drain().clone();
    let mut leaving = pin!(drain.reached(Phase::Closing));
    let limit = worker.settings().idle_timeout;
    let mut tick = pin!(sleep_until(on_grid(Instant::now() + PARK_AFTER.min(limit))));
    let mut stays = true;
    loop {
        let service = service_fn(|request: Request<Incoming>| {
            let (parts, incoming) = request.into_parts();
            contained(Rc::clone(&worker), Rc::clone(&conn), Box::new(parts), incoming)
        });
        let mut served = Box::new(
            http1::Builder::new()
                // hyper's would close idle connections as well: the socket's gate has one that does not.
                .header_read_timeout(None)
                // `max_headers` is hyper's own number unless it is set, and cheaper then: nothing is zeroed for each head.
                .max_buf_size(READ_BUFFER)
                .serve_connection(TokioIo::new(socket), service),
        );
        if !stays {
            Pin::new(&mut *served).graceful_shutdown();
        }
        loop {
            tokio::select! {
                biased;
                ended = &mut *served => return ended,
                () = &mut leaving, if stays => {
                    stays = false;
                    Pin::new(&mut *served).graceful_shutdown();
                }
                () = &mut tick, if stays => {
                    if conn.idle_deadline(limit).is_none() {
                        stays = false;
                        Pin::new(&mut *served).graceful_shutdown();
                        continue;
                    }
                    if let Some(next) = conn.idle_deadline(PARK_AFTER.min(limit)) {
                        tick.as_mut().reset(on_grid(next));
                        continue;
                    }
                    // What the socket has seen is to be of now.
                    conn.socket().forget();
                    let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut *served).poll(cx))).await;
                    if let Poll::Ready(ended) = polled {
                        return ended;
                    }
                    if conn.is_idle() && conn.socket().is_quiet() {
                        break;
                    }
                    tick.as_mut().reset(on_grid(Instant::now() + PARK_AFTER));
                }
            }
        }
        let parts = served.into_parts();
        if !parts.read_buf.is_empty() {
            // Never in a quiet connection; whose bytes they are must not be guessed.
            return Ok(());
        }
        socket = parts.io.into_inner();
        tick.as_mut().reset(conn.idle_deadline(limit).unwrap_or_else(Instant::now));
        let _parked = worker.park();
        tokio::select! {
            biased;
            () = socket.readable() => tick.as_mut().reset(on_grid(Instant::now() + PARK_AFTER)),
            () = &mut leaving => stays = false,
            () = &mut tick => stays = false,
        }
    }
}

/// The next of the moments at which all connections look at their clocks: one wake-up of the thread serves them all.
fn on_grid(deadline: Instant) -> Instant {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let first = *FIRST.get_or_init(Instant::now);
    let cells = deadline.saturating_duration_since(first).as_nanos().div_ceil(GRID.as_nanos());
    u32::try_from(cells).map_or(deadline, |cells| first + GRID * cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_look_at_their_clocks_together_and_never_early() {
        let first = on_grid(Instant::now());
        for ms in 1..=GRID.as_millis() as u64 {
            let deadline = first + Duration::from_millis(ms);
            assert_eq!(on_grid(deadline), first + GRID, "{ms}");
            assert!(on_grid(deadline) >= deadline);
        }
    }
}
