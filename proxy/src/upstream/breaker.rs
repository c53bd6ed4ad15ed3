//! Circuit breakers: four limits of a cluster, counted by all workers together, and the permits that give back what
//! they took when they are dropped.
//!
//! Counters are compared at admission only (Envoy `ResourceManager`): a lowered limit cuts nothing that is under way.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use outrigger_config::snapshot::Limits;

use super::{ClusterState, Host};

/// What may be refused at admission; each has its counter in [`super::ClusterStats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Overflow {
    /// `http1MaxPendingRequests`: too many requests wait for a connection.
    #[error("too many pending requests")]
    Pending,
    /// `http2MaxRequests`: too many requests are active.
    #[error("too many active requests")]
    Requests,
    /// `maxRetries` or `retryBudget`: too many retries are under way.
    #[error("too many retries")]
    Retries,
}

/// The breakers of one cluster.
#[derive(Debug)]
pub struct Breaker {
    /// Open and opening connections.
    pub connections: Resource,
    /// Requests that wait for a connection.
    pub pending: Resource,
    /// Active requests.
    pub requests: Resource,
    /// Retries under way.
    pub retries: Resource,
}

impl Breaker {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            connections: Resource::new(limits.max_connections),
            pending: Resource::new(limits.max_pending_requests),
            requests: Resource::new(limits.max_requests),
            retries: Resource::new(limits.max_retries),
        }
    }

    pub(super) fn set_limits(&self, limits: &Limits) {
        self.connections.limit.store(limits.max_connections, Relaxed);
        self.pending.limit.store(limits.max_pending_requests, Relaxed);
        self.requests.limit.store(limits.max_requests, Relaxed);
        self.retries.limit.store(limits.max_retries, Relaxed);
    }
}

/// How much of one thing is in use, and how much may be.
#[derive(Debug)]
pub struct Resource {
    limit: AtomicU32,
    used: AtomicU32,
}

impl Resource {
    fn new(limit: u32) -> Self {
        Self { limit: AtomicU32::new(limit), used: AtomicU32::new(0) }
    }

    /// The limit; `u32::MAX` is none.
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// What is in use now. It may exceed the limit: see [`ConnectionPermit`].
    pub fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// Whether the next admission would be refused.
    pub fn is_open(&self) -> bool {
        self.used() >= self.limit()
    }

    fn try_take(&self) -> bool {
        self.try_take_within(self.limit())
    }

    fn try_take_within(&self, limit: u32) -> bool {
        self.used.fetch_update(Relaxed, Relaxed, |used| (used < limit).then(|| used + 1)).is_ok()
    }

    fn take(&self) {
        self.used.fetch_add(1, Relaxed);
    }

    fn give_back(&self) {
        self.used.fetch_sub(1, Relaxed);
    }
}

/// An open or opening connection to a host.
#[derive(Debug)]
pub struct ConnectionPermit {
    cluster: Arc<ClusterState>,
    host: Arc<Host>,
}

impl ConnectionPermit {
    /// Takes a connection, or counts `upstream_cx_overflow`. With `first`, the limit is exceeded rather than leave a
    /// worker without any connection to a host (Envoy).
    pub(super) fn acquire(cluster: &Arc<ClusterState>, host: &Arc<Host>, first: bool) -> Option<Self> {
        if !cluster.breaker.connections.try_take() {
            cluster.stats.upstream_cx_overflow.inc();
            if !first {
                return None;
            }
            cluster.breaker.connections.take();
        }
        cluster.stats.upstream_cx_total.inc();
        host.stats().cx_total.inc();
        host.stats().cx_active.inc();
        Some(Self { cluster: cluster.clone(), host: host.clone() })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.cluster.breaker.connections.give_back();
        self.cluster.stats.upstream_cx_destroy.inc();
        self.host.stats().cx_active.dec();
    }
}

/// A request that waits for a connection.
#[derive(Debug)]
pub struct PendingPermit(Arc<ClusterState>);

impl PendingPermit {
    pub(super) fn acquire(cluster: &Arc<ClusterState>) -> Result<Self, Overflow> {
        if !cluster.breaker.pending.try_take() {
            cluster.stats.upstream_rq_pending_overflow.inc();
            return Err(Overflow::Pending);
        }
        cluster.stats.upstream_rq_pending_total.inc();
        Ok(Self(cluster.clone()))
    }
}

impl Drop for PendingPermit {
    fn drop(&mut self) {
        self.0.breaker.pending.give_back();
    }
}

/// A request that has a connection to a host.
#[derive(Debug)]
pub struct RequestPermit {
    cluster: Arc<ClusterState>,
    host: Arc<Host>,
}

impl RequestPermit {
    pub(super) fn acquire(cluster: &Arc<ClusterState>, host: &Arc<Host>) -> Result<Self, Overflow> {
        if !cluster.breaker.requests.try_take() {
            cluster.stats.upstream_rq_active_overflow.inc();
            return Err(Overflow::Requests);
        }
        Ok(Self::taken(cluster, host))
    }

    /// A raw connection counts as a request, but is never refused as one (Envoy).
    pub(super) fn take(cluster: &Arc<ClusterState>, host: &Arc<Host>) -> Self {
        cluster.breaker.requests.take();
        Self::taken(cluster, host)
    }

    fn taken(cluster: &Arc<ClusterState>, host: &Arc<Host>) -> Self {
        cluster.stats.upstream_rq_total.inc();
        host.stats().rq_total.inc();
        host.stats().rq_active.inc();
        Self { cluster: cluster.clone(), host: host.clone() }
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.cluster.breaker.requests.give_back();
        self.host.stats().rq_active.dec();
    }
}

/// A retry under way: held from the decision to retry until that try is over.
#[derive(Debug)]
pub struct RetryPermit(Arc<ClusterState>);

impl RetryPermit {
    pub(super) fn acquire(cluster: &Arc<ClusterState>) -> Result<Self, Overflow> {
        if !cluster.breaker.retries.try_take_within(cluster.max_retries()) {
            cluster.stats.upstream_rq_retry_overflow.inc();
            return Err(Overflow::Retries);
        }
        Ok(Self(cluster.clone()))
    }
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.breaker.retries.give_back();
    }
}

#[cfg(test)]
mod tests {
    use outrigger_config::snapshot::RetryBudget;

    use super::*;
    use crate::upstream::testing::{ClusterBuilder, state};

    fn limited() -> Arc<ClusterState> {
        state(ClusterBuilder::new(1).limits(Limits {
            max_connections: 1,
            max_pending_requests: 1,
            max_requests: 1,
            max_retries: 1,
        }))
    }

    #[test]
    fn the_limit_is_refused_counted_and_given_back() {
        let cluster = limited();
        let host = cluster.hosts().all[0].clone();

        let held = cluster.acquire_request(&host).unwrap();
        assert_eq!(cluster.acquire_request(&host).unwrap_err(), Overflow::Requests);
        assert_eq!((cluster.stats.upstream_rq_active_overflow.get(), host.active()), (1, 1));
        drop(held);
        assert_eq!((cluster.breaker.requests.used(), host.active()), (0, 0));
        drop(cluster.acquire_request(&host).unwrap());

        let held = cluster.acquire_retry().unwrap();
        assert_eq!(cluster.acquire_retry().unwrap_err(), Overflow::Retries);
        assert_eq!(cluster.stats.upstream_rq_retry_overflow.get(), 1);
        drop(held);
        drop(cluster.acquire_retry().unwrap());

        let held = PendingPermit::acquire(&cluster).unwrap();
        assert_eq!(PendingPermit::acquire(&cluster).unwrap_err(), Overflow::Pending);
        assert_eq!(cluster.stats.upstream_rq_pending_overflow.get(), 1);
        drop(held);
        assert_eq!(cluster.breaker.pending.used(), 0);
    }

    #[test]
    fn the_first_connection_of_a_host_exceeds_the_limit_and_is_counted() {
        let cluster = limited();
        let host = cluster.hosts().all[0].clone();
        let one = ConnectionPermit::acquire(&cluster, &host, true).unwrap();
        assert_eq!(cluster.stats.upstream_cx_overflow.get(), 0);
        assert!(ConnectionPermit::acquire(&cluster, &host, false).is_none());
        let two = ConnectionPermit::acquire(&cluster, &host, true).unwrap();
        assert_eq!((cluster.stats.upstream_cx_overflow.get(), cluster.breaker.connections.used()), (2, 2));
        drop((one, two));
        assert_eq!((cluster.breaker.connections.used(), host.stats().cx_active.get()), (0, 0));
    }

    #[test]
    fn a_retry_budget_is_a_share_of_what_is_active_and_pending() {
        let budget = RetryBudget { percent: 20.0, min_concurrency: 3 };
        let cluster = state(ClusterBuilder::new(1).with(|c| c.retry_budget = Some(budget)));
        let host = cluster.hosts().all[0].clone();
        let mut retries: Vec<_> = (0..3).map(|_| cluster.acquire_retry().unwrap()).collect();
        assert_eq!(cluster.acquire_retry().unwrap_err(), Overflow::Retries, "the least is 3");
        assert_eq!(cluster.stats.upstream_rq_retry_overflow.get(), 1);
        let active: Vec<_> = (0..10).map(|_| cluster.acquire_request(&host).unwrap()).collect();
        let pending: Vec<_> = (0..9).map(|_| PendingPermit::acquire(&cluster).unwrap()).collect();
        assert!(cluster.acquire_retry().is_err(), "20 % of 19 is 3");
        let one_more = cluster.acquire_request(&host).unwrap();
        retries.push(cluster.acquire_retry().unwrap());
        drop((active, pending, one_more));
        assert!(cluster.acquire_retry().is_err());
        retries.truncate(2);
        assert!(cluster.acquire_retry().is_ok());
    }

    #[test]
    fn a_lowered_limit_cuts_nothing_under_way() {
        let cluster = state(ClusterBuilder::new(1));
        let host = cluster.hosts().all[0].clone();
        let held = [cluster.acquire_request(&host).unwrap(), cluster.acquire_request(&host).unwrap()];
        cluster.breaker.set_limits(&Limits { max_requests: 1, ..Limits::default() });
        assert!(cluster.acquire_request(&host).is_err());
        drop(held);
        assert!(cluster.acquire_request(&host).is_ok());
    }
}
