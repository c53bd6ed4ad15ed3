//! One try: a host, a connection, the request, and what became of it. Whether another try follows is not decided here.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, uri::PathAndQuery};
use outrigger_config::snapshot::Protocol;
use tokio::time::Instant;

use super::{
    client_body::BodyFailure,
    headers::{GRPC_STATUS, is_grpc, with_host, without_host},
    reply::Failure,
    timeout::Deadline,
    upload::{RequestBody, Upload},
};
use crate::{
    telemetry::Record,
    upstream::{
        ClusterState, Host, Original, Outcome, Overflow,
        pool::{PoolError, ResetReason, SendError, Sent, Wire},
        transport_failure,
    },
    worker::Worker,
};

/// Free resends on connections that turn out to be stale; more than one is rare, endless ones are a broken peer.
const MAX_RESENDS: u32 = 3;

/// What all tries of a request have in common.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) cluster: Arc<ClusterState>,
    /// Where the client was going, if its connection was captured.
    pub(crate) original: Option<Original>,
    pub(crate) wire: Wire,
    pub(crate) method: Method,
    pub(crate) authority: HeaderValue,
    pub(crate) path: PathAndQuery,
    pub(crate) headers: HeaderMap,
    pub(crate) upload: Rc<Upload>,
    pub(crate) per_try_timeout: Option<Duration>,
    /// The host that has a try on one of its connections now: it alone can be to blame for a timeout.
    pub(crate) busy: RefCell<Option<Arc<Host>>>,
}

/// The protocol of the upstream connection.
pub(crate) fn wire(protocol: Protocol, client: Version) -> Wire {
    match protocol {
        Protocol::Http1 => Wire::Http1,
        Protocol::Http2 => Wire::Http2,
        Protocol::Client if client == Version::HTTP_2 => Wire::Http2,
        Protocol::Client => Wire::Http1,
    }
}

impl Outbound {
    /// Sends the request to `host` and waits for the response headers.
    ///
    /// # Errors
    /// Why there are none. What the host is to blame for has been reported to outlier detection.
    pub(crate) async fn attempt(
        &self,
        worker: &Worker,
        host: &Arc<Host>,
        record: &mut Record,
    ) -> Result<Box<Sent<RequestBody>>, Failure> {
        record.endpoint = Some(Arc::clone(&host.endpoint));
        record.upstream_local = None;
        record.upstream_parties = None;
        record.transport_failure = None;
        let result = self.exchange(worker, host, record).await;
        self.busy.take();
        let outcome = match &result {
            Ok(sent) => {
                let headers = sent.response.headers();
                let grpc = grpc_status(headers).filter(|_| is_grpc(headers));
                Some(Outcome::of_answer(sent.response.status().as_u16(), grpc))
            }
            Err(Failure::Connect(_)) => Some(Outcome::ConnectFailure),
            Err(Failure::ConnectTimeout) => Some(Outcome::ConnectTimeout),
            Err(Failure::Upstream(ResetReason::LocalReset)) => None,
            Err(Failure::Upstream(_)) => Some(Outcome::Reset),
            Err(Failure::TryTimeout) => Some(Outcome::Timeout),
            Err(_) => None,
        };
        if let Some(outcome) = outcome {
            self.cluster.report(host, outcome, Instant::now());
        }
        result
    }

    async fn exchange(
        &self,
        worker: &Worker,
        host: &Arc<Host>,
        record: &mut Record,
    ) -> Result<Box<Sent<RequestBody>>, Failure> {
        let mut request = self.request(host)?;
        let mut resends = self.is_repeatable();
        for _ in 0..=MAX_RESENDS {
            let lease = match worker
                .pools()
                .checkout(&self.cluster, host, self.wire, self.authority.as_bytes())
                .await
            {
                Ok(lease) => lease,
                Err(error) => return Err(refused(&error, record)),
            };
            host.connected();
            record.upstream_local = lease.local_address();
            record.upstream_parties = lease.parties();
            self.busy.replace(Some(Arc::clone(host)));
            let reused = lease.is_reused();
            let sent = match self.per_try_timeout {
                None => lease.send(request).await,
                Some(limit) => tokio::select! {
                    biased;
                    sent = lease.send(request) => sent,
                    () = Deadline::new(&self.upload, limit) => {
                        self.cluster.stats.upstream_rq_per_try_timeout.inc();
                        return Err(Failure::TryTimeout);
                    }
                },
            };
            match sent {
                Ok(sent) if sent.response.status().is_informational() => {
                    // No upgrade was asked for.
                    return Err(Failure::Upstream(ResetReason::ProtocolError));
                }
                Ok(sent) => return Ok(sent),
                Err(SendError::Unsent(back)) => {
                    self.busy.take();
                    request = back;
                }
                Err(SendError::Reset(ResetReason::ConnectionTermination)) if reused && resends => {
                    // The peer closed it while the request was on its way; the next one may be fresh.
                    self.busy.take();
                    resends = false;
                    request = self.request(host)?;
                }
                Err(SendError::Reset(reason)) => {
                    return Err(self.body_failure().unwrap_or(Failure::Upstream(reason)));
                }
            }
        }
        Err(Failure::Upstream(ResetReason::ConnectionTermination))
    }

    /// Whether the request may go twice to the same host: idempotent and without a body. HTTP/2 needs no such thing,
    /// its GOAWAY tells which requests were not looked at.
    fn is_repeatable(&self) -> bool {
        self.wire == Wire::Http1 && self.method.is_idempotent() && self.upload.is_empty()
    }

    fn body_failure(&self) -> Option<Failure> {
        self.upload.failure().map(|failure| match failure {
            BodyFailure::Left => Failure::ClientLeft,
            BodyFailure::Malformed => Failure::RequestBody,
            BodyFailure::Starved => Failure::Starved,
        })
    }

    /// Boxed, since it passes through several futures on its way.
    fn request(&self, host: &Host) -> Result<Box<Request<RequestBody>>, Failure> {
        let body = self.upload.body().ok_or_else(|| self.body_failure().unwrap_or(Failure::RequestBody))?;
        let (uri, headers) = match self.wire {
            Wire::Http1 => (Uri::from(self.path.clone()), with_host(&self.headers, &self.authority)),
            Wire::Http2 => {
                // HTTP/1 may leave its Host empty, HTTP/2 has to name something.
                let authority = match self.authority.as_bytes() {
                    b"" => host.endpoint.key.as_bytes(),
                    authority => authority,
                };
                let uri = Uri::builder()
                    .scheme("http")
                    .authority(authority)
                    .path_and_query(self.path.clone())
                    .build()
                    .map_err(|_| Failure::InvalidAuthority)?;
                (uri, without_host(&self.headers))
            }
        };
        let mut request = Box::new(Request::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

fn refused(error: &PoolError, record: &mut Record) -> Failure {
    match error {
        PoolError::Overflow(which) => {
            if !matches!(which, Overflow::Requests) {
                // No host was reached: the log shows none.
                record.endpoint = None;
            }
            Failure::Overflow
        }
        PoolError::ConnectTimeout => Failure::ConnectTimeout,
        PoolError::Reset(reason) => Failure::Upstream(*reason),
        PoolError::Connect(error) => {
            let why = transport_failure(error);
            record.transport_failure = Some(why.clone());
            Failure::Connect(why)
        }
    }
}

/// `grpc-status` of response headers; what is no number counts as unknown (2).
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    let value = headers.get(GRPC_STATUS)?;
    Some(value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(2))
}
