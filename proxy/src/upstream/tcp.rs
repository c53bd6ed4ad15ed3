//! A raw connection to an endpoint: under the breakers of its cluster, watched by outlier detection, never pooled.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::time::{Instant, timeout};

use super::{
    ClusterState, ConnectionPermit, Host, Outcome, PendingPermit, RequestPermit,
    connect::{Destination, connect},
};
use crate::net::tls::{Parties, Speaks, Stream};

/// An open connection; what it holds of its cluster is given back when it is dropped.
#[derive(Debug)]
pub struct TcpConnection {
    /// The socket.
    pub(crate) stream: Stream,
    /// Who is at the other end, if the connection is secured.
    pub(crate) parties: Option<Arc<Parties>>,
    /// Our end of it.
    pub local: SocketAddr,
    cluster: Arc<ClusterState>,
    ended_by_peer: bool,
    _request: RequestPermit,
    _connection: ConnectionPermit,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// `http1MaxPendingRequests`: too many wait for a connection. The endpoint was not asked.
    #[error("too many wait for a connection")]
    Pending,
    /// The endpoint refused, or cannot be reached.
    #[error(transparent)]
    Connect(#[from] io::Error),
    /// `connectTimeout` has passed.
    #[error("connection timeout")]
    Timeout,
}

impl ClusterState {
    /// Whether `maxConnections` is reached, which is counted; each worker may go beyond it only for requests.
    pub fn refuses_connections(&self) -> bool {
        let full = self.breaker.connections.is_open();
        if full {
            self.stats.upstream_cx_overflow.inc();
        }
        full
    }

    /// Connects to `host`. There is one attempt (Envoy `max_connect_attempts`).
    ///
    /// # Errors
    /// It is counted, and told to outlier detection.
    pub async fn dial(self: &Arc<Self>, host: &Arc<Host>) -> Result<TcpConnection, DialError> {
        let dialled = self.connect(host).await;
        if dialled.is_err() {
            self.stats.upstream_cx_connect_attempts_exceeded.inc();
        }
        dialled
    }

    async fn connect(self: &Arc<Self>, host: &Arc<Host>) -> Result<TcpConnection, DialError> {
        let pending = PendingPermit::acquire(self).map_err(|_| DialError::Pending)?;
        let permit = ConnectionPermit::acquire(self, host, true).ok_or(DialError::Pending)?;
        let config = self.config();
        // Boxed: a connection lasts longer than its beginning, and is to be small.
        let connecting = Box::pin(async {
            let to = Destination { cluster: self, host, asked_for: None };
            let (stream, parties) = connect(to, Speaks::Raw, config.keepalive).await?;
            io::Result::Ok((stream.tcp().local_addr()?, stream, parties))
        });
        let (error, outcome) = match timeout(config.connect_timeout, connecting).await {
            Ok(Ok((local, stream, parties))) => {
                host.connected();
                self.watch(host, Outcome::Status(200), Instant::now());
                drop(pending);
                return Ok(TcpConnection {
                    local,
                    stream,
                    parties,
                    cluster: Arc::clone(self),
                    ended_by_peer: false,
                    _request: RequestPermit::take(self, host),
                    _connection: permit,
                });
            }
            Ok(Err(error)) => (error.into(), Outcome::ConnectFailure),
            Err(_) => {
                self.stats.upstream_cx_connect_timeout.inc();
                (DialError::Timeout, Outcome::ConnectTimeout)
            }
        };
        self.stats.end_connection(outcome == Outcome::ConnectFailure);
        self.stats.upstream_cx_connect_fail.inc();
        self.stats.upstream_rq_pending_failure_eject.inc();
        host.stats().cx_connect_fail.inc();
        self.watch(host, outcome, Instant::now());
        Err(error)
    }
}

impl TcpConnection {
    /// The endpoint has ended it, not we.
    pub fn ended_by_peer(&mut self) {
        self.ended_by_peer = true;
    }
}

impl Drop for TcpConnection {
    fn drop(&mut self) {
        self.cluster.stats.end_connection(self.ended_by_peer);
        self.cluster.stats.cut_request(self.ended_by_peer);
    }
}
