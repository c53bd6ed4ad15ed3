//! One HTTP/2 connection: shared by as many requests as the peer and the configuration allow.

use std::{cell::Cell, pin::pin, rc::Rc, task::Poll};

use hyper::{client::conn::http2, rt::Executor};
use hyper_util::rt::{TokioIo, TokioTimer};
use outrigger_config::snapshot::Cluster;
use tokio::task::spawn_local;

use super::{
    Payload, PoolError, ResetReason,
    host::{HostPool, connect_error},
    life::{IdleTimer, Life},
};
use crate::upstream::connect::Socket;

/// Dropping the last handle ends the connection once its streams have ended.
#[derive(Debug)]
pub(super) struct H2Connection<B> {
    pub(super) life: Rc<Life>,
    sender: http2::SendRequest<B>,
    /// The peer's limit; `None` until its settings have come.
    peer_streams: Rc<Cell<Option<usize>>>,
}

/// Speaks HTTP/2 on a new socket and drives it in a task of its own.
pub(super) async fn establish<B: Payload>(
    pool: &Rc<HostPool<B>>,
    socket: Socket,
    id: u64,
    config: &Cluster,
) -> Result<Rc<H2Connection<B>>, PoolError> {
    let local_address = socket.local_address().map_err(connect_error)?;
    let life = Rc::new(Life::new(id, local_address, socket.meter(), config));
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .handshake(TokioIo::new(socket))
        .await
        .map_err(|error| connect_error(std::io::Error::other(error)))?;
    let peer_streams = Rc::default();
    pool.opened();
    spawn_local(drive(pool.clone(), connection, life.clone(), Rc::clone(&peer_streams)));
    Ok(Rc::new(H2Connection { life, sender, peer_streams }))
}

const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
const MAX_HEADER_LIST: u32 = 60 * 1024;

/// Ends when the connection takes no more requests; streams under way live on in hyper's own task.
async fn drive<B: Payload>(
    pool: Rc<HostPool<B>>,
    connection: http2::Connection<TokioIo<Socket>, B, LocalExecutor>,
    life: Rc<Life>,
    peer_streams: Rc<Cell<Option<usize>>>,
) {
    let stats = &pool.cluster.stats;
    {
        let mut connection = pin!(connection);
        let mut idle = IdleTimer::new(&life);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                life.failure.set(result.err().map(|error| ResetReason::of_h2(&error)));
                return Poll::Ready(());
            }
            if peer_streams.get().is_some() || life.meter.poll_first(cx).is_ready() {
                let known = peer_streams.replace(Some(connection.current_max_send_streams()));
                if known.is_none() {
                    pool.serve_waiting();
                }
            }
            if idle.poll(&life, cx).is_ready() {
                stats.upstream_cx_idle_timeout.inc();
                life.ended_here.set(true);
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
        pool.forget(life.id);
    }
    if life.ended_here.get() {
        stats.upstream_cx_destroy_local.inc();
    } else {
        stats.upstream_cx_destroy_remote.inc();
    }
    pool.closed(life.id);
}

impl<B: Payload> H2Connection<B> {
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether one more stream fits in what the peer and the configuration allow. Until the peer's settings have come,
    /// that is one: more could wait on this connection while another is free.
    pub(super) fn has_room(&self, most: u32) -> bool {
        let peer = self.peer_streams.get().map_or(1, |peer| u32::try_from(peer).unwrap_or(u32::MAX));
        self.life.active.get() < most.min(peer)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.peer_streams.get().is_some()
    }

    pub(super) fn sender(&self) -> http2::SendRequest<B> {
        self.sender.clone()
    }
}

/// Runs hyper's stream tasks on this thread.
#[derive(Debug, Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}
