//! Tries until one is good enough: the overall deadline, the conditions of `retryOn`, back-off, and what stops it.
//!
//! A retry stays in the chosen cluster. Three clocks meet here and in [`forward`](super::forward): the route's timeout
//! and the try's, both from the end of the request, and the back-off between tries.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use outrigger_config::snapshot::{RetryOn, RetryPolicy};
use rand::RngExt;
use tokio::time::{Instant, sleep};

use super::{
    forward::{Outbound, grpc_status},
    headers::{X_ENVOY_ATTEMPT_COUNT, is_grpc},
    reply::Failure,
    timeout::Deadline,
    upload::RequestBody,
};
use crate::{
    telemetry::{Flag, Record},
    upstream::{
        Host, Outcome, RetryPermit,
        pool::{ResetReason, Sent},
    },
    worker::Worker,
};

const X_ENVOY_RATELIMITED: &str = "x-envoy-ratelimited";

/// Runs the tries. The deadline comes back with the answer, since it goes on through the response body.
///
/// # Errors
/// The failure of the last try.
pub(crate) async fn run(
    worker: &Worker,
    record: &mut Record,
    outbound: &mut Outbound,
    policy: Option<&RetryPolicy>,
    hash: Option<u64>,
    timeout: Option<Duration>,
) -> Result<(Box<Sent<RequestBody>>, Option<Deadline>), Failure> {
    let mut deadline = timeout.map(|timeout| Deadline::new(&outbound.upload, timeout));
    let mut tries = Tries { policy, hash, tried: Vec::new(), permit: None };
    let result = match &mut deadline {
        None => tries.until_final(worker, record, outbound).await,
        Some(deadline) => {
            let result = tokio::select! {
                biased;
                result = tries.until_final(worker, record, outbound) => Some(result),
                () = deadline => None,
            };
            result.unwrap_or_else(|| Err(out_of_time(outbound)))
        }
    };
    outbound.upload.settle();
    result.map(|sent| (sent, deadline))
}

struct Tries<'a> {
    policy: Option<&'a RetryPolicy>,
    hash: Option<u64>,
    /// Hosts that were tried, the last one at the end.
    tried: Vec<Arc<Host>>,
    /// Held while a retry is under way.
    permit: Option<RetryPermit>,
}

impl Tries<'_> {
    async fn until_final(
        &mut self,
        worker: &Worker,
        record: &mut Record,
        outbound: &mut Outbound,
    ) -> Result<Box<Sent<RequestBody>>, Failure> {
        loop {
            let result = self.one(worker, record, outbound).await;
            let Some(backoff) = self.again(worker, record, outbound, &result) else {
                return result;
            };
            // The refused answer gives back its connection before the wait.
            drop(result);
            sleep(backoff).await;
        }
    }

    async fn one(
        &mut self,
        worker: &Worker,
        record: &mut Record,
        outbound: &mut Outbound,
    ) -> Result<Box<Sent<RequestBody>>, Failure> {
        let avoids = self.policy.is_some_and(|policy| policy.avoid_previous_hosts);
        let avoid = if avoids { &*self.tried } else { &[] };
        let picked = worker.pick(&outbound.cluster, outbound.original, self.hash, avoid);
        let Some(host) = picked else {
            outbound.cluster.stats.upstream_cx_none_healthy.inc();
            record.endpoint = None;
            return Err(Failure::NoHealthyUpstream);
        };
        record.attempts += 1;
        let number = match record.attempts {
            1 => HeaderValue::from_static("1"),
            number => number.into(),
        };
        outbound.headers.insert(X_ENVOY_ATTEMPT_COUNT, number);
        self.tried.push(Arc::clone(&host));
        outbound.attempt(worker, &host, record).await
    }

    /// The wait before the next try, or `None` if this result is final. Raises the flags that say why.
    fn again(
        &mut self,
        worker: &Worker,
        record: &mut Record,
        outbound: &Outbound,
        result: &Result<Box<Sent<RequestBody>>, Failure>,
    ) -> Option<Duration> {
        let policy = self.policy?;
        let stats = &outbound.cluster.stats;
        let retries = record.attempts.saturating_sub(1);
        let wanted = match result {
            Ok(sent) => takes_answer(&policy.on, sent),
            Err(failure) => takes_failure(&policy.on, failure),
        };
        if !wanted {
            if retries > 0 && result.is_ok() {
                stats.upstream_rq_retry_success.inc();
            }
            return None;
        }
        if outbound.upload.was_abandoned() {
            stats.retry_or_shadow_abandoned.inc();
            return None;
        }
        if retries >= policy.attempts.get() {
            stats.upstream_rq_retry_limit_exceeded.inc();
            record.flags.raise(Flag::UpstreamRetryLimitExceeded);
            return None;
        }
        self.permit = None;
        match outbound.cluster.acquire_retry() {
            Ok(permit) => self.permit = Some(permit),
            Err(_) => {
                record.flags.raise(Flag::UpstreamOverflow);
                return None;
            }
        }
        stats.upstream_rq_retry.inc();
        stats.upstream_rq_retry_backoff_exponential.inc();
        Some(backoff(policy.backoff, retries + 1, worker.rng().random()))
    }
}

/// The route's timeout: the host that has the request and did not answer in time is to blame. In the back-off it was
/// blamed already, and in the line for a connection none is.
fn out_of_time(outbound: &Outbound) -> Failure {
    outbound.cluster.stats.upstream_rq_timeout.inc();
    if let Some(host) = outbound.busy.take() {
        outbound.cluster.report(&host, Outcome::Timeout, Instant::now());
    }
    Failure::RouteTimeout
}

/// Before retry `number` (from 1): uniform in [0, min(2^(number-1) base, 10 base)), with `share` in [0, 1).
fn backoff(base: Duration, number: u32, share: f64) -> Duration {
    let factor = 1_u32.checked_shl(number - 1).unwrap_or(u32::MAX).min(10);
    base.saturating_mul(factor).mul_f64(share)
}

/// Envoy `RetryStateImpl::wouldRetryFromHeaders`.
fn takes_answer(on: &RetryOn, sent: &Sent<RequestBody>) -> bool {
    let status = sent.response.status().as_u16();
    let headers = sent.response.headers();
    if headers.contains_key(X_ENVOY_RATELIMITED) {
        return on.envoy_ratelimited;
    }
    let grpc = match grpc_status(headers).filter(|_| is_grpc(headers)) {
        Some(1) => on.cancelled,
        Some(4) => on.deadline_exceeded,
        Some(8) => on.resource_exhausted,
        Some(13) => on.internal,
        Some(14) => on.unavailable,
        _ => false,
    };
    grpc || (on.server_error && status >= 500)
        || (on.gateway_error && matches!(status, 502..=504))
        || (on.retriable_4xx && status == 409)
        || on.statuses.contains(&status)
}

/// Envoy `RetryStateImpl::wouldRetryFromReset`. An overflow is never retried.
fn takes_failure(on: &RetryOn, failure: &Failure) -> bool {
    let any_reset = on.reset || on.server_error || on.gateway_error;
    match failure {
        Failure::Connect(_) | Failure::ConnectTimeout => {
            any_reset || on.connect_failure || on.reset_before_request
        }
        Failure::Upstream(ResetReason::RemoteRefusedStream) => any_reset || on.refused_stream,
        Failure::Upstream(_) | Failure::TryTimeout => any_reset,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_ten_times_its_base() {
        let base = Duration::from_millis(25);
        let longest: Vec<_> = (1..=7).map(|number| backoff(base, number, 1.0).as_millis()).collect();
        assert_eq!(longest, [25, 50, 100, 200, 250, 250, 250]);
        assert_eq!(backoff(base, 1, 0.0), Duration::ZERO);
        assert_eq!(backoff(base, 40, 0.5), Duration::from_millis(125));
    }

    #[test]
    fn istios_default_retries_only_what_was_not_processed() {
        let default = RetryOn {
            connect_failure: true,
            refused_stream: true,
            unavailable: true,
            cancelled: true,
            ..RetryOn::default()
        };
        assert!(takes_failure(&default, &Failure::Connect("x".into())));
        assert!(takes_failure(&default, &Failure::ConnectTimeout));
        assert!(takes_failure(&default, &Failure::Upstream(ResetReason::RemoteRefusedStream)));
        for failure in [
            Failure::Upstream(ResetReason::ConnectionTermination),
            Failure::Upstream(ResetReason::ProtocolError),
            Failure::Upstream(ResetReason::RemoteReset),
            Failure::TryTimeout,
            Failure::RouteTimeout,
            Failure::Overflow,
            Failure::NoHealthyUpstream,
            Failure::RequestBody,
            Failure::ClientLeft,
        ] {
            assert!(!takes_failure(&default, &failure), "{failure:?}");
        }
        let all = RetryOn { server_error: true, reset: true, ..RetryOn::default() };
        assert!(takes_failure(&all, &Failure::Upstream(ResetReason::ConnectionTermination)));
        assert!(takes_failure(&all, &Failure::TryTimeout));
        assert!(!takes_failure(&all, &Failure::Overflow));
        assert!(!takes_failure(&all, &Failure::RouteTimeout));
    }
}
