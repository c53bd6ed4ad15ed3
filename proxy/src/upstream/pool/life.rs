//! What HTTP/1 and HTTP/2 connections have in common: identity, age, use, and when they are to end.

use std::{
    cell::Cell,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use outrigger_config::snapshot::Cluster;
use tokio::time::{Instant, Sleep, sleep_until};

use super::ResetReason;
use crate::{
    net::tls::Parties,
    upstream::{ClusterStats, connect::Meter},
};

/// The life of one connection; shared by its driver and its users.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) id: u64,
    pub(super) local_address: SocketAddr,
    /// Who is at the other end, if the connection is secured.
    pub(super) parties: Option<Arc<Parties>>,
    pub(super) meter: Arc<Meter>,
    /// Requests that were given this connection.
    pub(super) served: Cell<u32>,
    /// Requests on it now.
    pub(super) active: Cell<u32>,
    /// We end it, rather than the peer.
    pub(super) ended_here: Cell<bool>,
    /// It ended under a request.
    cut: Cell<bool>,
    /// How it failed, for a request that it never sent.
    pub(super) failure: Cell<Option<ResetReason>>,
    idle_since: Cell<Instant>,
    born: Instant,
    idle_timeout: Option<Duration>,
    longest: Option<Duration>,
    max_requests: u32,
}

impl Life {
    pub(super) fn new(
        id: u64,
        local_address: SocketAddr,
        parties: Option<Arc<Parties>>,
        meter: Arc<Meter>,
        config: &Cluster,
    ) -> Self {
        let now = Instant::now();
        Self {
            id,
            local_address,
            parties,
            meter,
            served: Cell::new(0),
            active: Cell::new(0),
            ended_here: Cell::new(false),
            cut: Cell::new(false),
            failure: Cell::new(None),
            idle_since: Cell::new(now),
            born: now,
            idle_timeout: config.idle_timeout,
            longest: config.max_connection_duration,
            max_requests: config.max_requests_per_connection.map_or(u32::MAX, Into::into),
        }
    }

    /// A request takes a place on it.
    pub(super) fn enter(&self) {
        self.active.set(self.active.get() + 1);
        self.served.set(self.served.get() + 1);
    }

    /// The request has ended.
    pub(super) fn leave(&self) {
        self.active.set(self.active.get().saturating_sub(1));
        self.idle_since.set(Instant::now());
    }

    /// The place was not used.
    pub(super) fn leave_unused(&self) {
        self.served.set(self.served.get().saturating_sub(1));
        self.leave();
    }

    /// How the connection ended, once it has.
    pub(super) fn end(&self) -> ResetReason {
        self.failure.get().unwrap_or(ResetReason::ConnectionTermination)
    }

    /// Whether its end was the peer's doing; garbage is ended here.
    pub(super) fn ended_by_peer(&self) -> bool {
        !self.ended_here.get() && self.meter.hung_up()
    }

    /// Counts its end under a request, or under several at once.
    pub(super) fn count_cut(&self, by_peer: bool, stats: &ClusterStats) {
        if self.cut.replace(true) {
            return;
        }
        stats.cut_request(by_peer);
    }

    /// `maxRequestsPerConnection` is reached.
    pub(super) fn is_used_up(&self) -> bool {
        self.served.get() >= self.max_requests
    }

    /// It takes no new request.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.is_used_up()
            || self.longest.is_some_and(|longest| now >= self.born + longest)
            || self.active.get() == 0
                && self.idle_timeout.is_some_and(|idle| now >= self.idle_since.get() + idle)
    }

    /// When an unused connection is to end.
    fn deadline(&self) -> Option<Instant> {
        let idle = self.idle_timeout.map(|idle| self.idle_since.get() + idle);
        let old = self.longest.map(|longest| self.born + longest);
        [idle, old].into_iter().flatten().min()
    }
}

/// Tells a driver when its connection has been idle for too long. The timer is moved only when it fires, so that a
/// request does not touch it.
#[derive(Debug)]
pub(super) struct IdleTimer(Option<Pin<Box<Sleep>>>);

impl IdleTimer {
    pub(super) fn new(life: &Life) -> Self {
        Self(life.deadline().map(|at| Box::pin(sleep_until(at))))
    }

    pub(super) fn poll(&mut self, life: &Life, cx: &mut Context<'_>) -> Poll<()> {
        let Some(timer) = &mut self.0 else { return Poll::Pending };
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let busy = life.active.get() > 0;
            match life.deadline() {
                Some(deadline) if !busy && deadline <= now => return Poll::Ready(()),
                Some(deadline) if deadline > now => timer.as_mut().reset(deadline),
                // Busy beyond its age: it ends when the request does; look again some time later.
                _ => timer
                    .as_mut()
                    .reset(now + life.idle_timeout.or(life.longest).unwrap_or_default().max(TICK)),
            }
        }
        Poll::Pending
    }
}

/// The least time between two looks.
const TICK: Duration = Duration::from_millis(10);
