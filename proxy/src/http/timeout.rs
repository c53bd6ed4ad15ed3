//! The time limits of a request: the route's, the caller's `grpc-timeout`, how the upstream is told of them, and their
//! clock.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, HeaderValue};
use outrigger_config::snapshot::Forward;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    headers::{GRPC_TIMEOUT, X_ENVOY_EXPECTED_RQ_TIMEOUT_MS},
    upload::Upload,
};

/// The limits of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// All tries together.
    pub(crate) overall: Option<Duration>,
    /// One try; `None` unless it is the shorter one.
    pub(crate) per_try: Option<Duration>,
}

/// Reads the limits. A `grpc-timeout` is capped by the route's timeout, if there is one.
pub(crate) fn limits(forward: &Forward, headers: &HeaderMap, grpc: bool) -> Limits {
    let asked = headers.get(GRPC_TIMEOUT).filter(|_| grpc).and_then(grpc_timeout);
    let overall = match (forward.timeout, asked) {
        (Some(route), Some(asked)) => Some(route.min(asked)),
        (route, asked) => route.or(asked),
    };
    let per_try = forward.retry.as_ref().and_then(|policy| policy.per_try_timeout);
    Limits { overall, per_try: per_try.filter(|limit| overall.is_none_or(|overall| *limit < overall)) }
}

impl Limits {
    /// Tells the upstream: `x-envoy-expected-rq-timeout-ms`, and for gRPC `grpc-timeout` in milliseconds.
    pub(crate) fn announce(&self, headers: &mut HeaderMap, grpc: bool) {
        let Some(limit) = self.per_try.or(self.overall) else { return };
        let ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        headers.insert(X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, ms.into());
        // The grammar has room for 8 digits.
        let (amount, unit) = if ms < 100_000_000 { (ms, 'm') } else { (ms / 1000, 'S') };
        if grpc && let Ok(value) = HeaderValue::from_str(&format!("{amount}{unit}")) {
            headers.insert(GRPC_TIMEOUT, value);
        }
    }
}

/// Up to 8 digits and a unit, rounded up to milliseconds. What cannot be read, and zero, is no limit.
fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let ms = match unit {
        b'H' => amount * 3_600_000,
        b'M' => amount * 60_000,
        b'S' => amount * 1000,
        b'm' => amount,
        b'u' => amount.div_ceil(1000),
        b'n' => amount.div_ceil(1_000_000),
        _ => return None,
    };
    (ms > 0).then(|| Duration::from_millis(ms))
}

/// A time limit that counts from the end of the request.
#[derive(Debug)]
pub(crate) struct Deadline {
    upload: Rc<Upload>,
    timeout: Duration,
    /// The clock starts no earlier: a try begins after its connection stands.
    not_before: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    pub(crate) fn new(upload: &Rc<Upload>, timeout: Duration) -> Self {
        Self { upload: Rc::clone(upload), timeout, not_before: Instant::now(), sleep: None }
    }
}

impl Future for Deadline {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.sleep.is_none() {
            // Both limits of a request wait in its one task.
            let ended = ready!(this.upload.poll_ended(cx));
            let from = ended.max(this.not_before);
            this.sleep = Some(Box::pin(sleep_until(from + this.timeout)));
        }
        match &mut this.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use outrigger_config::snapshot::{ClusterRef, RetryOn, RetryPolicy};

    use super::*;

    fn forward(timeout: Option<u64>, per_try: Option<u64>) -> Forward {
        Forward {
            timeout: timeout.map(Duration::from_millis),
            retry: Some(RetryPolicy {
                attempts: NonZeroU32::MIN,
                on: RetryOn::default(),
                per_try_timeout: per_try.map(Duration::from_millis),
                backoff: Duration::from_millis(25),
                avoid_previous_hosts: true,
            }),
            ..Forward::to(ClusterRef::Missing("".into()))
        }
    }

    fn announced(route: Option<u64>, per_try: Option<u64>, asked: &'static str) -> [Option<String>; 2] {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static(asked));
        limits(&forward(route, per_try), &headers, true).announce(&mut headers, true);
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        [headers.get(X_ENVOY_EXPECTED_RQ_TIMEOUT_MS).map(text), headers.get(GRPC_TIMEOUT).map(text)]
    }

    #[test]
    fn a_grpc_timeout_is_capped_by_the_route_and_told_in_milliseconds() {
        let told = |ms: &str, timeout: &str| [Some(ms.to_owned()), Some(timeout.to_owned())];
        assert_eq!(announced(None, None, "1S"), told("1000", "1000m"));
        assert_eq!(announced(Some(300), None, "1S"), told("300", "300m"));
        assert_eq!(announced(Some(300), None, "nonsense"), told("300", "300m"));
        assert_eq!(announced(None, None, "1500001n"), told("2", "2m"));
        assert_eq!(announced(None, Some(50), "1S"), told("50", "50m"));
        assert_eq!(announced(None, None, "0S"), [None, Some("0S".to_owned())]);
        assert_eq!(announced(None, None, "99999999H")[0].as_deref(), Some("359999996400000"));
    }

    #[test]
    fn a_try_limit_counts_only_if_it_is_the_shorter_one() {
        let headers = HeaderMap::new();
        let read = |route, per_try| limits(&forward(route, per_try), &headers, false).per_try;
        assert_eq!(read(Some(100), Some(100)), None);
        assert_eq!(read(Some(100), Some(99)), Some(Duration::from_millis(99)));
        assert_eq!(read(None, Some(99)), Some(Duration::from_millis(99)));
        let mut headers = HeaderMap::new();
        limits(&forward(None, None), &headers, false).announce(&mut headers, false);
        assert!(headers.is_empty());
    }
}
