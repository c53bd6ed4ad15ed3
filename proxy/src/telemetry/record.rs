//! The facts of one request or connection, gathered while it passes.

use std::{borrow::Cow, net::SocketAddr, sync::Arc, time::SystemTime};

use http::{HeaderMap, HeaderValue, Method, Version, uri::PathAndQuery};
use outrigger_config::snapshot::{Cluster, Direction, Endpoint};
use tokio::time::Instant;

use super::{Details, Flags, SpanContext, capture::Captured, plan::Plan};
use crate::net::tls::{Parties, Peer, Secured};

/// What is known of one request. [`Shard::begin`](super::Shard::begin) makes it, the request path fills it,
/// [`Shard::emit`](super::Shard::emit) takes it.
#[derive(Debug)]
pub struct Record {
    /// When the request headers were complete; durations count from here.
    pub began: Instant,
    /// The same on the wall clock.
    pub started: SystemTime,
    /// Of the listener.
    pub direction: Direction,
    /// The client's end of its connection.
    pub downstream_remote: Option<SocketAddr>,
    /// Our end of the client's connection.
    pub downstream_local: Option<SocketAddr>,
    /// `None` where the request line could not be read.
    pub method: Option<Method>,
    /// Normalised path with its query, as sent upstream.
    pub path: Option<PathAndQuery>,
    /// `:authority` or `Host`, as sent upstream.
    pub authority: Option<HeaderValue>,
    /// What the client spoke.
    pub version: Option<Version>,
    /// This hop's span, where tracing is on.
    pub span: Option<SpanContext>,
    /// What the span is called: the route's operation, or what the caller's sidecar says.
    pub operation: Option<HeaderValue>,
    /// Name of the route that matched.
    pub route: Option<Arc<str>>,
    /// The cluster that was chosen, if it exists.
    pub cluster: Option<Arc<Cluster>>,
    /// The endpoint of the last try.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Our end of the connection of the last try; `None` if it never stood.
    pub upstream_local: Option<SocketAddr>,
    /// Who was at the ends of the last try's connection, if it was secured.
    pub(crate) upstream_parties: Option<Arc<Parties>>,
    /// What was agreed with the client, if its connection is secured.
    pub(crate) secured: Option<Arc<Secured>>,
    /// Tries that were sent to an endpoint, or would have been.
    pub attempts: u32,
    /// Status that the client got; 0 if it got none.
    pub status: u16,
    /// The request's content type is gRPC.
    pub grpc: bool,
    /// `grpc-status` of headers or trailers.
    pub grpc_status: Option<u32>,
    /// Envoy's response flags.
    pub flags: Flags,
    /// Envoy's response code details.
    pub details: Option<Details>,
    /// Why the connection to the endpoint failed: `delayed_connect_error:_Connection_refused`.
    pub transport_failure: Option<Cow<'static, str>>,
    /// Body bytes that the client sent.
    pub body_received: u64,
    /// Body bytes that the client got.
    pub body_sent: u64,
    /// Bytes of the request on the client's connection, headers included.
    pub wire_received: u64,
    /// Bytes of the response on the client's connection, headers included.
    pub wire_sent: u64,
    /// It is no request but a raw connection.
    pub connection: Option<RawConnection>,
    pub(super) plan: Option<Arc<Plan>>,
    pub(super) captured: Captured,
}

/// What only raw connections have.
#[derive(Debug, Default)]
pub struct RawConnection {
    /// What the client's TLS hello asks for.
    pub server_name: Option<Box<str>>,
    /// It was counted when it reached its endpoint.
    pub(super) opened: bool,
}

impl RawConnection {
    /// One that has reached no endpoint yet.
    #[must_use]
    pub fn new(server_name: Option<Box<str>>) -> Self {
        Self { server_name, opened: false }
    }
}

impl Record {
    pub(super) fn new(
        began: Instant,
        started: SystemTime,
        direction: Direction,
        plan: Option<Arc<Plan>>,
    ) -> Self {
        Self {
            began,
            started,
            direction,
            downstream_remote: None,
            downstream_local: None,
            method: None,
            path: None,
            authority: None,
            version: None,
            span: None,
            operation: None,
            route: None,
            cluster: None,
            endpoint: None,
            upstream_local: None,
            upstream_parties: None,
            secured: None,
            attempts: 0,
            status: 0,
            grpc: false,
            grpc_status: None,
            flags: Flags::default(),
            details: None,
            transport_failure: None,
            body_received: 0,
            body_sent: 0,
            wire_received: 0,
            wire_sent: 0,
            connection: None,
            plan,
            captured: Captured::default(),
        }
    }

    /// Of a copy for a mirror: filled like any other, and never emitted.
    pub(crate) fn untold(direction: Direction) -> Self {
        Self::new(Instant::now(), SystemTime::now(), direction, None)
    }

    /// What the client is on.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.secured.is_some() { "https" } else { "http" }
    }

    /// What the client's TLS hello asks for.
    pub(crate) fn requested_server_name(&self) -> Option<&str> {
        let of_connection = self.connection.as_ref().and_then(|connection| connection.server_name.as_deref());
        of_connection.or_else(|| self.secured.as_ref()?.server_name.as_deref())
    }

    /// What the client's certificate says.
    pub(crate) fn client(&self) -> Option<&Peer> {
        self.secured.as_ref()?.parties.peer.as_ref()
    }

    /// Whom the client has reached.
    pub(crate) fn reached(&self) -> Option<&Arc<str>> {
        self.secured.as_ref()?.parties.own_principal()
    }

    /// Whether a span is reported.
    pub(super) fn is_traced(&self) -> bool {
        self.span.is_some_and(|span| span.sampled)
    }

    pub(super) fn read_grpc_status(&mut self, headers: &HeaderMap) {
        if self.grpc
            && let Some(value) = headers.get("grpc-status")
        {
            self.grpc_status = value.to_str().ok().and_then(|text| text.parse().ok());
        }
    }
}
