//! One HTTP/1 connection: it serves one request at a time and goes back to the pool at the true end of the response.

use std::{
    cell::RefCell,
    convert::Infallible,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
};

use http::{StatusCode, header};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use outrigger_config::snapshot::Cluster;
use tokio::{sync::oneshot, task::spawn_local};

use super::{
    Payload, PoolError, ResetReason,
    host::{HostPool, connect_error},
    life::{IdleTimer, Life},
};
use crate::upstream::connect::Socket;

/// Dropping it closes the connection at once, whatever is under way.
#[derive(Debug)]
pub(super) struct H1Connection<B> {
    pub(super) life: Rc<Life>,
    sender: http1::SendRequest<B>,
    /// Where it waits until hyper is ready for the next request; its driver looks there.
    settling: Rc<RefCell<Option<H1Connection<B>>>>,
    _open: oneshot::Sender<Infallible>,
}

/// Speaks HTTP/1 on a new socket and drives it in a task of its own.
pub(super) async fn establish<B: Payload>(
    pool: &Rc<HostPool<B>>,
    socket: Socket,
    id: u64,
    config: &Cluster,
) -> Result<H1Connection<B>, PoolError> {
    let local_address = socket.local_address().map_err(connect_error)?;
    let life = Rc::new(Life::new(id, local_address, socket.meter(), config));
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        .handshake(TokioIo::new(socket))
        .await
        .map_err(|error| connect_error(std::io::Error::other(error)))?;
    let settling = Rc::default();
    let (open, closed) = oneshot::channel();
    pool.opened();
    spawn_local(drive(pool.clone(), connection, closed, life.clone(), Rc::clone(&settling)));
    // hyper takes no request before the driver has run once.
    sender.ready().await.map_err(|error| connect_error(std::io::Error::other(error)))?;
    Ok(H1Connection { life, sender, settling, _open: open })
}

/// Envoy's limits on the headers of a response.
pub(super) const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 80 * 1024;

async fn drive<B: Payload>(
    pool: Rc<HostPool<B>>,
    connection: http1::Connection<TokioIo<Socket>, B>,
    mut closed: oneshot::Receiver<Infallible>,
    life: Rc<Life>,
    settling: Rc<RefCell<Option<H1Connection<B>>>>,
) {
    let stats = &pool.cluster.stats;
    {
        let mut connection = pin!(connection);
        let mut idle = IdleTimer::new(&life);
        std::future::poll_fn(|cx| {
            if Pin::new(&mut closed).poll(cx).is_ready() {
                life.ended_here.set(true);
                return Poll::Ready(());
            }
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                let answered = life.meter.received() > 0;
                life.failure.set(result.err().map(|error| ResetReason::of_h1(&error, answered)));
                return Poll::Ready(());
            }
            let settled = settling.borrow_mut().take_if(|connection| connection.sender.is_ready());
            if let Some(connection) = settled {
                pool.put_idle(connection);
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
    drop(settling.take());
    if life.ended_here.get() {
        stats.upstream_cx_destroy_local.inc();
    } else {
        stats.upstream_cx_destroy_remote.inc();
    }
    pool.closed(life.id);
}

impl<B: Payload> H1Connection<B> {
    /// A new connection takes its first request before hyper has asked for one.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready() || self.life.served.get() == 0 && !self.sender.is_closed()
    }

    pub(super) fn sender(&mut self) -> &mut http1::SendRequest<B> {
        &mut self.sender
    }

    /// The response is complete: back to the pool, as soon as hyper is ready for another request.
    pub(super) fn settle(self, pool: &Rc<HostPool<B>>) {
        self.life.leave();
        if self.sender.is_ready() {
            pool.put_idle(self);
        } else if !self.sender.is_closed() {
            let settling = self.settling.clone();
            settling.replace(Some(self));
        }
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
