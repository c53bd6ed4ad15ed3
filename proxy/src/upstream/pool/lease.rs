//! A connection in the hands of one request, from checkout to the end of the response.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use http::{Request, Response, Version};
use hyper::body::Incoming;

use super::{
    Payload, ResetReason, ResponseBody, SendError, h1,
    host::{Connection, HostPool, Slot},
};
use crate::{net::tls::Parties, upstream::RequestPermit};

/// A connection for one request; dropped unused, it goes back to the pool.
#[derive(Debug)]
pub struct Lease<B: Payload> {
    slot: Slot<B>,
    permit: RequestPermit,
}

/// A response whose headers have come.
#[derive(Debug)]
pub struct Sent<B: Payload> {
    /// Status, headers, and the body which holds the connection until its end.
    pub response: Response<ResponseBody<B>>,
    /// Our end of the connection.
    pub local_address: SocketAddr,
}

impl<B: Payload> Lease<B> {
    pub(super) fn new(slot: Slot<B>, permit: RequestPermit) -> Self {
        Self { slot, permit }
    }

    /// Our end of the connection.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.slot.connection().map(|connection| connection.life().local_address)
    }

    /// Who is at the other end, if the connection is secured.
    pub(crate) fn parties(&self) -> Option<Arc<Parties>> {
        self.slot.connection().and_then(|connection| connection.life().parties.clone())
    }

    /// Whether the connection served a request before: it may have been closed by the peer in the meantime.
    pub fn is_reused(&self) -> bool {
        self.slot.connection().is_some_and(|connection| connection.life().served.get() > 1)
    }

    /// Sends the request and waits for the response headers. The version is set to the connection's; HTTP/1 needs a
    /// `Host` header and the path alone as URI, HTTP/2 a URI with scheme and authority.
    ///
    /// Dropping the future cancels the request: an HTTP/1 connection is closed, an HTTP/2 stream reset.
    ///
    /// # Errors
    /// The request comes back if nothing of it was sent; otherwise the reason of the reset.
    pub async fn send(self, request: impl Into<Box<Request<B>>>) -> Result<Box<Sent<B>>, SendError<B>> {
        let mut request = request.into();
        let Some((pool, connection)) = self.slot.take() else {
            return Err(SendError::Unsent(request));
        };
        let local_address = connection.life().local_address;
        let reused = connection.life().served.get() > 1;
        let mut flight = Flight { pool, connection: Some(connection), permit: Some(self.permit) };
        let result = match &mut flight.connection {
            Some(Connection::H1(connection)) => {
                *request.version_mut() = Version::HTTP_11;
                let before = connection.life.meter.received();
                let result = connection.sender().try_send_request(*request).await;
                let answered = connection.life.meter.received() > before;
                match result {
                    Ok(response) if h1::is_malformed(&response) => {
                        connection.life.ended_here.set(true);
                        Err(SendError::Reset(ResetReason::ProtocolError))
                    }
                    Ok(response) => Ok(response),
                    Err(error) => Err(failed(error, |error| ResetReason::of_h1(error, answered))),
                }
            }
            Some(Connection::H2(connection)) => {
                *request.version_mut() = Version::HTTP_2;
                let result = connection.sender().try_send_request(*request).await;
                match result {
                    Ok(response) if response.headers().len() > h1::MAX_HEADERS => {
                        Err(SendError::Reset(ResetReason::ProtocolError))
                    }
                    Ok(response) => Ok(response),
                    Err(error) => Err(failed(error, ResetReason::of_h2)),
                }
            }
            None => Err(SendError::Reset(ResetReason::ConnectionTermination)),
        };
        // Only a connection that was pooled can be stale. One that fails its first request is the endpoint's failure, or
        // the free resend would never end.
        let result = match result {
            Err(SendError::Unsent(_)) if !reused => Err(SendError::Reset(
                flight
                    .connection
                    .as_ref()
                    .map_or(ResetReason::ConnectionTermination, |connection| connection.life().end()),
            )),
            other => other,
        };
        match result {
            Ok(response) => Ok(Box::new(Sent { response: flight.answered(response), local_address })),
            Err(SendError::Reset(reason)) => {
                flight.fail(reason);
                Err(SendError::Reset(reason))
            }
            Err(unsent) => {
                flight.abandon();
                Err(unsent)
            }
        }
    }
}

fn failed<B>(
    mut error: hyper::client::conn::TrySendError<Request<B>>,
    reason: impl FnOnce(&hyper::Error) -> ResetReason,
) -> SendError<B> {
    match error.take_message() {
        Some(request) => SendError::Unsent(Box::new(request)),
        None => SendError::Reset(reason(error.error())),
    }
}

/// A request under way: dropped before its end, it is cancelled.
#[derive(Debug)]
pub(super) struct Flight<B: Payload> {
    pool: Rc<HostPool<B>>,
    connection: Option<Connection<B>>,
    permit: Option<RequestPermit>,
}

impl<B: Payload> Flight<B> {
    fn answered(self, response: Response<Incoming>) -> Response<ResponseBody<B>> {
        let (head, incoming) = response.into_parts();
        let body = ResponseBody::new(incoming, &head.headers, self);
        Response::from_parts(head, body)
    }

    pub(super) fn is_h1(&self) -> bool {
        matches!(self.connection, Some(Connection::H1(_)))
    }

    /// The response is complete.
    pub(super) fn finish(mut self) {
        // The permit first: the next request in line may be waiting for it.
        self.permit = None;
        match self.connection.take() {
            Some(Connection::H1(connection)) => {
                if let Some(connection) = connection.settle() {
                    self.pool.put_idle(connection);
                }
            }
            Some(Connection::H2(connection)) => {
                connection.life.leave();
                self.pool.stream_ended(&connection);
            }
            None => {}
        }
    }

    /// The endpoint failed the request.
    pub(super) fn fail(mut self, reason: ResetReason) {
        let stats = &self.pool.cluster.stats;
        if reason == ResetReason::ProtocolError {
            stats.upstream_cx_protocol_error.inc();
        }
        match (&self.connection, reason) {
            (Some(Connection::H1(connection)), _) => {
                connection.life.count_cut(connection.life.ended_by_peer(), stats);
            }
            (Some(Connection::H2(connection)), ResetReason::ConnectionTermination) => {
                stats.upstream_rq_pending_failure_eject.inc();
                connection.life.count_cut(connection.life.ended_by_peer(), stats);
            }
            (Some(Connection::H2(_)), ResetReason::RemoteReset) => stats.upstream_rq_rx_reset.inc(),
            (Some(Connection::H2(_)), ResetReason::LocalReset | ResetReason::ProtocolError) => {
                stats.upstream_rq_tx_reset.inc();
            }
            (Some(Connection::H2(_)), ResetReason::RemoteRefusedStream) | (None, _) => {}
        }
        self.close();
    }

    /// Nothing was sent: nobody failed.
    fn abandon(mut self) {
        self.close();
    }

    /// An HTTP/1 connection cannot be used again; an HTTP/2 stream is reset by hyper when its handles are dropped.
    fn close(&mut self) {
        self.permit = None;
        match self.connection.take() {
            Some(Connection::H2(connection)) => {
                connection.life.leave();
                self.pool.stream_ended(&connection);
            }
            Some(Connection::H1(_)) | None => {}
        }
    }
}

impl<B: Payload> Drop for Flight<B> {
    fn drop(&mut self) {
        let stats = &self.pool.cluster.stats;
        match &self.connection {
            Some(Connection::H1(connection)) => connection.life.count_cut(false, stats),
            Some(Connection::H2(_)) => stats.upstream_rq_tx_reset.inc(),
            None => {}
        }
        self.close();
    }
}
