//! Reading, inflating and converting a body, never holding more than is allowed and paid for.

use std::io::Read;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::budget::{Charge, Full};
use crate::offload::{self, Interrupted};
use crate::otlp;
use crate::signal::Signal;
use crate::status::{Code, Refusal};

/// How long a half-read body waits for the memory budget.
const BUDGET_WAIT: Duration = Duration::from_secs(1);
/// While a body comes in, memory is paid for up to this far ahead of it, and never beyond its declared end. A
/// declaration alone pays for nothing: it would hold memory that the client may never fill.
const STEP: usize = 16 << 10;

/// Reads a body to its end. A body that comes in one piece is not copied.
pub async fn read<B>(
    body: &mut B,
    limit: usize,
    declared: Option<u64>,
    charge: &mut Charge,
    within: Duration,
) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(Refusal::too_large(limit));
    }
    let declared = declared.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let deadline = Instant::now() + within;
    let mut whole = Bytes::new();
    let mut parts = BytesMut::new();
    while let Some(frame) = timeout_at(deadline, body.frame()).await.map_err(|_| too_slow())? {
        let Ok(data) = frame.map_err(|_| broken())?.into_data() else { continue };
        let total = whole.len() + parts.len() + data.len();
        if total > limit {
            return Err(Refusal::too_large(limit));
        }
        let ahead = total.next_multiple_of(STEP).min(declared);
        charge.grow(total.max(ahead), BUDGET_WAIT).await.map_err(over_budget)?;
        if whole.is_empty() && parts.is_empty() {
            whole = data;
            continue;
        }
        if parts.is_empty() {
            parts.reserve(total);
            parts.extend_from_slice(&std::mem::take(&mut whole));
        }
        parts.extend_from_slice(&data);
    }
    Ok(if parts.is_empty() { whole } else { parts.freeze() })
}

/// Reads on and throws away, so that a client still sending hears the answer. True if the body has ended.
pub async fn discard<B>(body: &mut B, limit: usize, within: Duration) -> bool
where
    B: Body<Data = Bytes> + Unpin,
{
    let deadline = Instant::now() + within;
    let mut left = limit;
    while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(length) {
            Some(less) => left = less,
            None => return false,
        }
    }
    body.is_end_stream()
}

/// Undoes gzip, checking the limit while inflating.
pub async fn inflate(
    compressed: Bytes,
    limit: usize,
    mut charge: Charge,
) -> Result<(Bytes, Charge), Refusal> {
    let compressed_length = compressed.len();
    let work = move || inflate_now(&compressed, limit, &mut charge).map(|bytes| (bytes, charge));
    offload::run(compressed_length, work).await.map_err(interrupted)?
}

/// Turns an export request in JSON into protobuf, which may be larger: a zero in a list of doubles has two bytes
/// in JSON and eight in protobuf.
pub async fn from_json(signal: Signal, json: Bytes, mut charge: Charge) -> Result<(Bytes, Charge), Refusal> {
    let length = json.len();
    let work = move || {
        let converted = otlp::from_json(signal, &json)
            .map_err(|error| Refusal::malformed(error.to_string(), "body".to_owned()))?;
        charge.try_grow(converted.len()).map_err(over_budget)?;
        Ok((Bytes::from(converted), charge))
    };
    offload::run(length, work).await.map_err(interrupted)?
}

fn inflate_now(compressed: &[u8], limit: usize, charge: &mut Charge) -> Result<Bytes, Refusal> {
    let mut out = Vec::with_capacity(compressed.len().saturating_mul(4).min(limit).min(1 << 20));
    let mut decoder = MultiGzDecoder::new(compressed);
    let mut chunk = [0; 16 << 10];
    loop {
        let count = match decoder.read(&mut chunk) {
            Ok(0) => return Ok(Bytes::from(out)),
            Ok(count) => count,
            Err(error) => {
                return Err(Refusal::malformed(format!("invalid gzip: {error}"), "body".to_owned()));
            }
        };
        if out.len() + count > limit {
            return Err(Refusal::too_large(limit));
        }
        charge.try_grow(compressed.len() + out.len() + count).map_err(over_budget)?;
        out.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
}

fn interrupted(_: Interrupted) -> Refusal {
    Refusal::overloaded("interrupted")
}

fn over_budget(_: Full) -> Refusal {
    Refusal::overloaded("the memory budget is used up; try again")
}

fn too_slow() -> Refusal {
    let message = "the body did not arrive in time";
    Refusal::new(Code::DeadlineExceeded, http::StatusCode::REQUEST_TIMEOUT, message)
}

fn broken() -> Refusal {
    Refusal::malformed("the body ended early", "body".to_owned())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;

    use super::*;
    use crate::budget::Budget;
    use crate::offload::tests::{LARGE, moved};

    const MINUTE: Duration = Duration::from_secs(60);

    /// Sends its pieces and then nothing more, but does not end either.
    struct Stalled(Vec<Bytes>);

    impl Body for Stalled {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.pop().map_or(Poll::Pending, |data| Poll::Ready(Some(Ok(Frame::data(data)))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_declared_length_pays_for_nothing_before_the_bytes_come() {
        let limit = 1 << 20;
        let budget = Budget::new(limit);
        let cases = [(0, 0), (1, STEP), (3, STEP), (5, 2 * STEP)];
        for (pieces, held) in cases {
            let mut charge = budget.open();
            let mut body = Stalled(vec![Bytes::from(vec![0; STEP / 4]); pieces]);
            let whole = read(&mut body, limit, Some(limit as u64), &mut charge, MINUTE);
            assert!(tokio::time::timeout(Duration::from_secs(1), whole).await.is_err());
            assert_eq!(budget.free(), limit - held, "{pieces} pieces");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_declared_length_over_the_limit_is_refused_at_once() {
        let mut charge = Budget::new(1 << 20).open();
        let started = Instant::now();
        let result = read(&mut Stalled(Vec::new()), 1024, Some(1025), &mut charge, MINUTE).await;
        assert_eq!(result.unwrap_err().http, http::StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[test]
    fn large_json_is_converted_off_the_event_loop() {
        for (size, large) in [(2, false), (LARGE, true)] {
            let json = Bytes::from(format!("{{{}}}", " ".repeat(size - 2)));
            let charge = Budget::new(LARGE).open();
            let (moved, result) = moved(from_json(Signal::Traces, json, charge));
            assert_eq!((moved, result.unwrap().0.len()), (large, 0));
        }
    }

    #[tokio::test]
    async fn json_that_grows_is_paid_for() {
        let zeros = "0,".repeat(2 << 10);
        let point = format!("{{\"explicitBounds\":[{zeros}0]}}");
        let json = format!(
            "{{\"resourceMetrics\":[{{\"scopeMetrics\":[{{\"metrics\":[{{\"histogram\":{{\"dataPoints\":[{point}]}}}}]}}]}}]}}"
        );
        let budget = Budget::new(32 << 10);
        let convert = |charge| from_json(Signal::Metrics, Bytes::from(json.clone()), charge);
        let (converted, charge) = convert(budget.open()).await.unwrap();
        assert!(converted.len() > 16 << 10, "{}", converted.len());
        assert!(budget.free() <= (32 << 10) - converted.len());
        // There is room for the JSON, but not for what it becomes.
        assert_eq!(convert(budget.open()).await.unwrap_err().http, http::StatusCode::SERVICE_UNAVAILABLE);
        drop(charge);
        assert_eq!(budget.free(), 32 << 10);
    }
}
