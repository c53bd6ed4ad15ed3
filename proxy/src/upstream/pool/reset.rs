//! Why a request to an endpoint ended early, in Envoy's words; the one place that reads hyper's and h2's errors.

use std::{error::Error, io, sync::Arc};

use super::Overflow;

/// No connection could be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PoolError {
    /// A breaker refused it (flag UO). Never a host failure, never retried.
    #[error(transparent)]
    Overflow(#[from] Overflow),
    /// The connection was not established in time (flag UF).
    #[error("connection timeout")]
    ConnectTimeout,
    /// The connection failed (flag UF).
    #[error("remote connection failure: {0}")]
    Connect(Arc<io::Error>),
    /// The connection ended before it could take a request: as if the request had been on it.
    #[error(transparent)]
    Reset(ResetReason),
}

impl PoolError {
    pub(super) fn connect(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Connect(Arc::new(io::Error::other(error)))
    }
}

impl From<io::Error> for PoolError {
    fn from(error: io::Error) -> Self {
        Self::Connect(Arc::new(error))
    }
}

/// The request failed on its connection.
#[derive(Debug)]
pub enum SendError<B> {
    /// Nothing of it was sent, the pooled connection was stale: check out another, at no cost. A new connection never
    /// answers this, so it comes to an end.
    Unsent(Box<http::Request<B>>),
    /// It was reset before response headers.
    Reset(ResetReason),
}

/// Envoy's `StreamResetReason`, as far as an upstream brings it about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResetReason {
    /// The connection ended (flag UC).
    #[error("connection termination")]
    ConnectionTermination,
    /// What came was no HTTP, or was cut short (flag UPE, status 502).
    #[error("protocol error")]
    ProtocolError,
    /// The peer reset the stream (flag UR).
    #[error("remote reset")]
    RemoteReset,
    /// The peer refused the stream, or went away before it (flag UR): nothing was processed.
    #[error("remote refused stream reset")]
    RemoteRefusedStream,
    /// We reset it: the request's own body failed.
    #[error("local reset")]
    LocalReset,
}

impl ResetReason {
    /// The word in the response code details.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionTermination => "connection_termination",
            Self::ProtocolError => "protocol_error",
            Self::RemoteReset => "remote_reset",
            Self::RemoteRefusedStream => "remote_refused_stream_reset",
            Self::LocalReset => "local_reset",
        }
    }

    /// An HTTP/1 error; `answered` tells whether any byte of the response came.
    pub(super) fn of_h1(error: &hyper::Error, answered: bool) -> Self {
        if error.is_user() && !is_dispatch_gone(error) {
            Self::LocalReset
        } else if error.is_parse() || answered {
            Self::ProtocolError
        } else {
            Self::ConnectionTermination
        }
    }

    /// An HTTP/2 error, of the stream or of its connection.
    pub(super) fn of_h2(error: &hyper::Error) -> Self {
        if let Some(error) = find::<h2::Error>(error) {
            return Self::of_stream(error);
        }
        if error.is_user() && !is_dispatch_gone(error) {
            Self::LocalReset
        } else {
            Self::ConnectionTermination
        }
    }

    fn of_stream(error: &h2::Error) -> Self {
        if error.is_go_away() && error.is_remote() || error.reason() == Some(h2::Reason::REFUSED_STREAM) {
            Self::RemoteRefusedStream
        } else if error.is_library() {
            Self::ProtocolError
        } else if error.is_reset() && error.is_remote() {
            Self::RemoteReset
        } else if error.is_io() {
            Self::ConnectionTermination
        } else {
            Self::LocalReset
        }
    }
}

/// hyper calls it a user error when the connection's task ends under a request.
fn is_dispatch_gone(error: &hyper::Error) -> bool {
    error.source().is_some_and(|source| source.to_string().contains("dispatch task"))
}

fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
