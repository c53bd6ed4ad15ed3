//! One HTTP/1 connection: it serves one request at a time and goes back to the pool at the true end of the response.

use std::{cell::RefCell, convert::Infallible, pin::Pin, rc::Rc, sync::Arc, task::Poll};

use http::{StatusCode, header};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::{
    Payload, PoolError, ResetReason,
    life::{IdleTimer, Life},
};
use crate::upstream::{ClusterState, connect::Socket};

/// Dropping it closes the connection at once, whatever is under way.
#[derive(Debug)]
pub(super) struct H1Connection<B> {
    pub(super) life: Rc<Life>,
    sender: http1::SendRequest<B>,
    /// Where it waits until hyper is ready for the next request; its driver looks there.
    settling: Rc<RefCell<Option<H1Connection<B>>>>,
    _open: oneshot::Sender<Infallible>,
}

/// Runs a connection; dropped, it ends it.
#[derive(Debug)]
pub(super) struct Driver<B: Payload> {
    pub(super) life: Rc<Life>,
    connection: http1::Connection<TokioIo<Socket>, B>,
    cluster: Arc<ClusterState>,
    closed: oneshot::Receiver<Infallible>,
    idle: IdleTimer,
    settling: Rc<RefCell<Option<H1Connection<B>>>>,
}

/// Speaks HTTP/1 on a new socket. hyper takes no request before the driver has run once.
pub(super) async fn handshake<B: Payload>(
    cluster: &Arc<ClusterState>,
    socket: Socket,
    life: Rc<Life>,
) -> Result<(H1Connection<B>, Driver<B>), PoolError> {
    // hyper's own limit is `MAX_HEADERS`, too, and cheaper than a number that is set.
    let (sender, connection) = http1::Builder::new()
        .max_header_size(MAX_HEADER_BYTES)
        .handshake(TokioIo::new(socket))
        .await
        .map_err(PoolError::connect)?;
    let settling = Rc::default();
    let (open, closed) = oneshot::channel();
    let driver = Driver {
        connection,
        cluster: Arc::clone(cluster),
        closed,
        idle: IdleTimer::new(&life),
        settling: Rc::clone(&settling),
        life: Rc::clone(&life),
    };
    Ok((H1Connection { life, sender, settling, _open: open }, driver))
}

/// Envoy's limits on the headers of a response.
pub(super) const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 80 * 1024;

impl<B: Payload> Driver<B> {
    /// Runs the connection until it can go back to the pool; `None` once it has ended.
    pub(super) async fn settled(&mut self) -> Option<H1Connection<B>> {
        std::future::poll_fn(|cx| {
            if Pin::new(&mut self.closed).poll(cx).is_ready() {
                self.life.ended_here.set(true);
                return Poll::Ready(None);
            }
            if let Poll::Ready(result) = Pin::new(&mut self.connection).poll(cx) {
                let answered = self.life.meter.received() > 0;
                self.life.failure.set(result.err().map(|error| ResetReason::of_h1(&error, answered)));
                return Poll::Ready(None);
            }
            let settled = self.settling.borrow_mut().take_if(|connection| connection.sender.is_ready());
            if settled.is_some() {
                return Poll::Ready(settled);
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

impl<B: Payload> Drop for Driver<B> {
    fn drop(&mut self) {
        // What waits there holds the place itself, and would never be dropped.
        drop(self.settling.take());
    }
}

impl<B: Payload> H1Connection<B> {
    /// A new connection takes its first request before hyper has asked for one.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready() || self.life.served.get() == 0 && !self.sender.is_closed()
    }

    pub(super) fn sender(&mut self) -> &mut http1::SendRequest<B> {
        &mut self.sender
    }

    /// Waits until hyper takes the first request.
    pub(super) async fn ready(&mut self) -> Result<(), PoolError> {
        self.sender.ready().await.map_err(PoolError::connect)
    }

    /// The response is complete. Comes back if it is ready for another request; else its driver has it, until hyper is.
    pub(super) fn settle(self) -> Option<Self> {
        self.life.leave();
        if self.sender.is_ready() {
            return Some(self);
        }
        if !self.sender.is_closed() {
            let settling = self.settling.clone();
            settling.replace(Some(self));
        }
        None
    }
}

/// What hyper lets pass although a response's framing must not be ambiguous: Envoy calls these protocol errors.
pub(super) fn is_malformed(response: &http::Response<Incoming>) -> bool {
    let headers = response.headers();
    let lengths = headers.get_all(header::CONTENT_LENGTH).iter().count();
    let encoded = headers.contains_key(header::TRANSFER_ENCODING);
    let has_body =
        encoded || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    lengths > 1 || lengths == 1 && encoded || response.status() == StatusCode::NO_CONTENT && has_body
}
