//! Copies of requests for mirrors: sent beside the request, by tasks of their own, and their answers dropped.
//!
//! A copy is no request of a client: it is counted by its cluster, and by nothing else. It has one try and the route's
//! timeout, and the cluster's circuit breakers bound how many there are. Whatever becomes of it, the caller never knows.

use std::{cell::Cell, future::poll_fn, panic::AssertUnwindSafe, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Version};
use http_body_util::BodyExt;
use outrigger_config::snapshot::{ClusterRef, Direction, Mirror, Propagation};
use rand::Rng;
use tokio::{task::spawn_local, time::timeout};

use super::{
    client::ConnInfo,
    forward::{Outbound, wire},
    headers,
    reply::{Failure, Reply},
    retry,
    timeout::Deadline,
    trace::Trace,
    upload::{RequestBody, Upload},
};
use crate::{
    telemetry::Record,
    upstream::{ClusterState, Published, pool::Sent},
    worker::Worker,
};

/// What a client may still send for the copies alone, once the request itself has failed.
const REST: usize = 1 << 20;
/// How long it may take to do so: its connection is not closed before.
const REST_TIME: Duration = Duration::from_secs(1);

/// What the copies of a request differ in from the request itself.
#[derive(Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) mirrors: &'a [Mirror],
    pub(crate) version: Version,
    /// The route's timeout.
    pub(crate) timeout: Option<Duration>,
    pub(crate) trace: Option<(Trace, Propagation)>,
}

/// The copies that were started with a request.
#[derive(Debug)]
pub(crate) struct Copies {
    upload: Rc<Upload>,
    recalled: Rc<Cell<bool>>,
}

/// Starts the copies that the draw asks for: one draw for all mirrors, as in Envoy. They begin once the request itself
/// waits for something, so that it may still [recall](Copies::outlive) them.
pub(crate) fn start(
    worker: &Rc<Worker>,
    conn: &ConnInfo,
    published: &Published,
    request: &Outbound,
    terms: &Terms<'_>,
) -> Option<Copies> {
    let draw = worker.rng().next_u64();
    let clusters = terms.mirrors.iter().filter(|mirror| mirror.share.hits(draw)).filter_map(|mirror| {
        match mirror.cluster {
            ClusterRef::Known(id) => Some(published.cluster(id)),
            ClusterRef::Missing(_) => None,
        }
    });
    let mut clusters = clusters.peekable();
    clusters.peek()?;
    let own = published.own_address().cloned();
    // Where the client found us, if nothing says where the pod is.
    let own = own.or_else(|| HeaderValue::from_str(&conn.local().ip().to_string()).ok());
    let headers = headers_of_copy(&request.headers, own, terms);
    let recalled = Rc::<Cell<bool>>::default();
    for cluster in clusters {
        let copy = Outbound {
            // As in Envoy, a copy has no client.
            original: None,
            cluster: Arc::clone(cluster),
            wire: wire(cluster.protocol(), terms.version),
            method: request.method.clone(),
            authority: request.authority.clone(),
            path: request.path.clone(),
            headers: headers.clone(),
            upload: request.upload.copy(),
            per_try_timeout: None,
            busy: Default::default(),
        };
        let (worker, source) = (Rc::clone(worker), Arc::clone(&request.cluster));
        let (direction, timeout, recalled) = (conn.direction(), terms.timeout, Rc::clone(&recalled));
        spawn_local(async move {
            if recalled.get() {
                return;
            }
            let delivered =
                AssertUnwindSafe(deliver(&worker, copy, direction, timeout, &source)).catch_unwind();
            if delivered.await.is_err() {
                worker.count_panic();
            }
        });
    }
    Some(Copies { upload: Rc::clone(&request.upload), recalled })
}

impl Copies {
    /// The request itself has failed. What no host ever took is not mirrored; otherwise the client may still be sending,
    /// and the little that is left is for the copies alone.
    pub(crate) fn outlive(self, failure: &Failure) {
        if matches!(failure, Failure::NoHealthyUpstream | Failure::Overflow) {
            self.recalled.set(true);
        }
        let Some(mut rest) = self.upload.rest() else { return };
        spawn_local(timeout(REST_TIME, async move {
            let mut left = REST;
            while self.upload.is_copied()
                && let Some(Ok(frame)) = rest.frame().await
            {
                match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                    Some(less) => left = less,
                    None => return,
                }
            }
        }));
    }
}

/// Sends a copy to its end, unless the end of its body will never come.
async fn deliver(
    worker: &Worker,
    mut copy: Outbound,
    direction: Direction,
    timeout: Option<Duration>,
    source: &ClusterState,
) {
    let upload = Rc::clone(&copy.upload);
    let overflown = tokio::select! {
        biased;
        overflown = poll_fn(|cx| upload.poll_cut(cx)) => overflown,
        () = exchange(worker, &mut copy, direction, timeout) => false,
    };
    if overflown {
        source.stats.retry_or_shadow_abandoned.inc();
    }
}

async fn exchange(worker: &Worker, copy: &mut Outbound, direction: Direction, timeout: Option<Duration>) {
    let mut record = Record::untold(direction);
    let stats = &Arc::clone(&copy.cluster).stats;
    match retry::run(worker, &mut record, copy, None, None, timeout).await {
        Ok((sent, deadline)) => {
            stats.charge(sent.response.status().as_u16());
            if !read_to_end(sent, deadline).await {
                stats.upstream_rq_timeout.inc();
            }
        }
        Err(failure) => stats.charge(Reply::to(&failure, false).status.as_u16()),
    }
}

/// So that the connection can be used again; `false` if time was over before.
async fn read_to_end(sent: Box<Sent<RequestBody>>, deadline: Option<Deadline>) -> bool {
    let mut body = sent.response.into_body();
    let end = async { while matches!(body.frame().await, Some(Ok(_))) {} };
    match deadline {
        None => {
            end.await;
            true
        }
        Some(deadline) => tokio::select! {
            biased;
            () = end => true,
            () = deadline => false,
        },
    }
}

/// Envoy's internal client: it says so, and whose address it has.
fn headers_of_copy(request: &HeaderMap, own: Option<HeaderValue>, terms: &Terms<'_>) -> HeaderMap {
    let mut headers = request.clone();
    if let Some(timeout) = terms.timeout {
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        headers.insert(headers::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, ms.into());
    }
    if let Some((trace, propagation)) = terms.trace {
        trace.unsampled().inject(propagation, &mut headers);
    }
    headers.insert(headers::X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    if let Some(own) = own {
        headers::forward_for(&mut headers, &own);
    }
    headers
}
