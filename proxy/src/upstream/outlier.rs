//! Outlier detection: when an endpoint leaves the healthy set, for how long, and when it returns.
//!
//! The algorithm is Envoy's (`outlier_detection_impl`) with what Istio switches on: consecutive errors, never success
//! rates. It takes the clock as an argument and does no IO. A success costs a few relaxed loads; only an endpoint whose
//! counter reaches a threshold takes a lock. Who calls it, and who rebuilds the host set, is [`super::ClusterState`].

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_config::snapshot::Outlier;
use tokio::time::Instant;

use super::ClusterStats;

/// How one try to an endpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Response headers came, with this status.
    Status(u16),
    /// The connection was refused or failed.
    ConnectFailure,
    /// The connection was not established in time.
    ConnectTimeout,
    /// The try or the whole request ran out of time.
    Timeout,
    /// The connection or stream ended before response headers.
    Reset,
}

impl Outcome {
    /// Envoy maps a `grpc-status` in the headers of a gRPC answer, so that failing collectors are ejected although they
    /// answer 200. Trailers come too late to count.
    #[must_use]
    pub fn of_answer(status: u16, grpc: Option<u32>) -> Self {
        Self::Status(match grpc {
            Some(0 | 1 | 3 | 5..=11 | 16) => 200,
            Some(4 | 14) => 503,
            Some(_) => 500,
            None => status,
        })
    }
}

/// Which counter reached its threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// `consecutive5xxErrors`
    Consecutive5xx,
    /// `consecutiveGatewayErrors`
    ConsecutiveGatewayFailure,
    /// `consecutiveLocalOriginFailures`
    ConsecutiveLocalOriginFailure,
}

impl Reason {
    /// Envoy's name of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
        }
    }
}

/// What `/clusters` shows of an endpoint's ejections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EjectionReport {
    /// The present ejection.
    pub now: Option<Ejection>,
    /// Ejections so far.
    pub times: u32,
}

/// One ejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// What brought it about.
    pub reason: Reason,
    /// When it began.
    pub since: Instant,
    /// When it may end; it does at the first sweep from then on.
    pub until: Instant,
}

/// The health of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Health {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    ejected: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    now: Option<Ejection>,
    times: u32,
    /// Multiplies the base time; Envoy `ejectTimeBackoff`.
    backoff: u32,
    /// The sweep after a return does not decay yet.
    returned: bool,
}

impl Health {
    pub(super) fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed)
    }

    pub(super) fn report(&self) -> EjectionReport {
        let record = self.record();
        EjectionReport { now: record.now, times: record.times }
    }

    /// Counts an outcome. The answer names the counters that just reached their thresholds, in Envoy's order.
    pub(super) fn observe(&self, outcome: Outcome, policy: &Outlier) -> [Option<Reason>; 2] {
        match (outcome, policy.split_local_origin) {
            (Outcome::Status(status), _) => {
                self.observe_status(seen_as(status, policy.error_codes.as_deref()), policy)
            }
            (_, true) => {
                let reached = reaches(&self.consecutive_local, policy.consecutive_local_origin);
                [reached.then_some(Reason::ConsecutiveLocalOriginFailure), None]
            }
            (Outcome::Timeout, false) => self.observe_status(504, policy),
            (_, false) => self.observe_status(503, policy),
        }
    }

    /// A request got a connection, new or pooled: that ends a row of local failures, whatever comes of the request.
    pub(super) fn connected(&self) {
        reset(&self.consecutive_local);
    }

    fn observe_status(&self, status: u16, policy: &Outlier) -> [Option<Reason>; 2] {
        if status < 500 {
            reset(&self.consecutive_5xx);
            reset(&self.consecutive_gateway);
            return [None, None];
        }
        let gateway = if matches!(status, 502..=504) {
            reaches(&self.consecutive_gateway, policy.consecutive_gateway)
        } else {
            reset(&self.consecutive_gateway);
            false
        };
        let any = reaches(&self.consecutive_5xx, policy.consecutive_5xx);
        [gateway.then_some(Reason::ConsecutiveGatewayFailure), any.then_some(Reason::Consecutive5xx)]
    }

    /// Tries to eject an endpoint whose counter reached its threshold; `true` if it left the healthy set.
    ///
    /// `hosts` are all hosts of the cluster. The caller holds the cluster's lock, so that two workers cannot both pass
    /// the percentage.
    pub(super) fn eject(
        &self,
        reason: Reason,
        hosts: usize,
        policy: &Outlier,
        stats: &ClusterStats,
        now: Instant,
    ) -> bool {
        if self.is_ejected() {
            return false;
        }
        self.detected(reason, stats);
        let active = &stats.outlier_detection_ejections_active;
        let percent = 100.0 * (active.get() + 1) as f64 / hosts as f64;
        if percent > f64::from(policy.max_ejection_percent) {
            stats.outlier_detection_ejections_overflow.inc();
            return false;
        }

        let longest = MAX_EJECTION_TIME.max(policy.base_ejection_time);
        let mut record = self.record();
        if policy.base_ejection_time.saturating_mul(record.backoff) < longest + policy.base_ejection_time {
            record.backoff += 1;
        }
        let time = policy.base_ejection_time.saturating_mul(record.backoff).min(longest);
        record.times += 1;
        record.now = Some(Ejection { reason, since: now, until: now + time });
        self.ejected.store(true, Relaxed);
        active.inc();
        enforced(reason, stats);
        true
    }

    /// What happens to an endpoint at a sweep; `true` if it returned to the healthy set.
    pub(super) fn sweep(&self, stats: &ClusterStats, now: Instant) -> bool {
        let mut record = self.record();
        match record.now {
            Some(ejection) if ejection.until <= now => {
                record.now = None;
                record.returned = true;
                for counter in [&self.consecutive_5xx, &self.consecutive_gateway, &self.consecutive_local] {
                    reset(counter);
                }
                self.ejected.store(false, Relaxed);
                stats.outlier_detection_ejections_active.dec();
                true
            }
            Some(_) => false,
            None => {
                if record.returned {
                    record.returned = false;
                } else {
                    record.backoff = record.backoff.saturating_sub(1);
                }
                false
            }
        }
    }

    /// Detection was switched off, or the endpoint left the cluster: it counts as ejected no more.
    pub(super) fn acquit(&self, stats: &ClusterStats) -> bool {
        let mut record = self.record();
        let was = record.now.take().is_some();
        if was {
            self.ejected.store(false, Relaxed);
            stats.outlier_detection_ejections_active.dec();
        }
        was
    }

    /// The counter that brought an attempt starts again, whether or not the attempt succeeded.
    fn detected(&self, reason: Reason, stats: &ClusterStats) {
        match reason {
            Reason::Consecutive5xx => {
                reset(&self.consecutive_5xx);
                stats.outlier_detection_ejections_consecutive_5xx.inc();
                stats.outlier_detection_ejections_detected_consecutive_5xx.inc();
            }
            Reason::ConsecutiveGatewayFailure => {
                reset(&self.consecutive_gateway);
                stats.outlier_detection_ejections_detected_consecutive_gateway_failure.inc();
            }
            Reason::ConsecutiveLocalOriginFailure => {
                reset(&self.consecutive_local);
                stats.outlier_detection_ejections_detected_consecutive_local_origin_failure.inc();
            }
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Envoy's `max_ejection_time`; a longer base time replaces it.
const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);

/// With `outlierDetectionHttpErrorCodes`, those codes are errors and no others.
fn seen_as(status: u16, error_codes: Option<&[u16]>) -> u16 {
    match error_codes {
        None => status,
        Some(codes) if codes.contains(&status) => status.max(500),
        Some(_) => 200,
    }
}

/// No write where there is nothing to reset: a healthy endpoint's line stays shared between the cores.
fn reset(counter: &AtomicU32) {
    if counter.load(Relaxed) != 0 {
        counter.store(0, Relaxed);
    }
}

/// Adds one; equal to the threshold means reached, so 0 never is.
fn reaches(counter: &AtomicU32, threshold: u32) -> bool {
    counter.fetch_add(1, Relaxed).wrapping_add(1) == threshold
}

fn enforced(reason: Reason, stats: &ClusterStats) {
    stats.outlier_detection_ejections_total.inc();
    stats.outlier_detection_ejections_enforced_total.inc();
    match reason {
        Reason::Consecutive5xx => stats.outlier_detection_ejections_enforced_consecutive_5xx.inc(),
        Reason::ConsecutiveGatewayFailure => {
            stats.outlier_detection_ejections_enforced_consecutive_gateway_failure.inc();
        }
        Reason::ConsecutiveLocalOriginFailure => {
            stats.outlier_detection_ejections_enforced_consecutive_local_origin_failure.inc();
        }
    }
}

#[cfg(test)]
#[path = "outlier_tests.rs"]
mod tests;
