//! One HTTP/2 connection: shared by as many requests as the peer and the configuration allow.

use std::{cell::Cell, pin::Pin, rc::Rc, sync::Arc, task::Poll};

use hyper::{client::conn::http2, rt::Executor};
use hyper_util::rt::{TokioIo, TokioTimer};
use outrigger_config::snapshot::Http2Keepalive;
use tokio::task::spawn_local;

use super::{
    Payload, PoolError, ResetReason,
    life::{IdleTimer, Life},
};
use crate::{
    net::batched::Batched,
    upstream::{ClusterState, connect::Socket},
};

/// Dropping the last handle ends the connection once its streams have ended.
#[derive(Debug)]
pub(super) struct H2Connection<B> {
    pub(super) life: Rc<Life>,
    sender: http2::SendRequest<B>,
    /// The peer's limit; `None` until its settings have come.
    peer_streams: Rc<Cell<Option<usize>>>,
}

/// Runs a connection until it takes no more requests; streams under way live on in hyper's own task.
#[derive(Debug)]
pub(super) struct Driver<B: Payload> {
    pub(super) life: Rc<Life>,
    connection: http2::Connection<TokioIo<Batched<Socket>>, B, LocalExecutor>,
    cluster: Arc<ClusterState>,
    idle: IdleTimer,
    peer_streams: Rc<Cell<Option<usize>>>,
}

/// Speaks HTTP/2 on a new socket.
pub(super) async fn handshake<B: Payload>(
    cluster: &Arc<ClusterState>,
    socket: Socket,
    life: Rc<Life>,
    keepalive: Option<Http2Keepalive>,
) -> Result<(Rc<H2Connection<B>>, Driver<B>), PoolError> {
    let mut builder = http2::Builder::new(LocalExecutor);
    if let Some(pings) = keepalive {
        builder
            .keep_alive_interval(pings.interval)
            .keep_alive_timeout(pings.timeout)
            .keep_alive_while_idle(true);
    }
    let (sender, connection) = builder
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .handshake(TokioIo::new(Batched::new(socket)))
        .await
        .map_err(PoolError::connect)?;
    let peer_streams = Rc::default();
    let driver = Driver {
        connection,
        cluster: Arc::clone(cluster),
        idle: IdleTimer::new(&life),
        peer_streams: Rc::clone(&peer_streams),
        life: Rc::clone(&life),
    };
    Ok((Rc::new(H2Connection { life, sender, peer_streams }), driver))
}

const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
const MAX_HEADER_LIST: u32 = 60 * 1024;

impl<B: Payload> Driver<B> {
    /// Runs the connection until the peer's settings have come, which may make room; `None` once it has ended.
    pub(super) async fn settled(&mut self) -> Option<()> {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = Pin::new(&mut self.connection).poll(cx) {
                let silent = result.as_ref().is_err_and(hyper::Error::is_timeout);
                if silent {
                    self.cluster.stats.http2_keepalive_timeout.inc();
                }
                let failure = result.err().map(|error| ResetReason::of_h2(&error));
                // After GOAWAY the end is ours, as that of garbage and of silence is.
                self.life.ended_here.set(silent || failure != Some(ResetReason::ConnectionTermination));
                self.life.failure.set(failure);
                return Poll::Ready(None);
            }
            if self.peer_streams.get().is_some() || self.life.meter.poll_first(cx).is_ready() {
                let known = self.peer_streams.replace(Some(self.connection.current_max_send_streams()));
                if known.is_none() {
                    return Poll::Ready(Some(()));
                }
            }
            if self.idle.poll(&self.life, cx).is_ready() {
                self.cluster.stats.upstream_cx_idle_timeout.inc();
                self.life.ended_here.set(true);
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }
}

impl<B: Payload> H2Connection<B> {
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether one more stream fits in what the peer and the configuration allow.
    pub(super) fn has_room(&self, most: u32) -> bool {
        let peer = self.peer_streams.get().map_or(0, |peer| u32::try_from(peer).unwrap_or(u32::MAX));
        self.life.active.get() < most.min(peer)
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
