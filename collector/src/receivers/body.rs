//! Reading and inflating a body, never holding more than is allowed and paid for.

use std::io::Read;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::budget::{Charge, Full};
use crate::status::{Code, Refusal};

/// How long a half-read body waits for the memory budget.
const BUDGET_WAIT: Duration = Duration::from_secs(1);
/// More compressed bytes than this are inflated off the event loop.
const INLINE: usize = 128 << 10;

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
    charge.grow(declared, BUDGET_WAIT).await.map_err(over_budget)?;
    let deadline = Instant::now() + within;
    let mut whole = Bytes::new();
    let mut parts = BytesMut::new();
    while let Some(frame) = timeout_at(deadline, body.frame()).await.map_err(|_| too_slow())? {
        let Ok(data) = frame.map_err(|_| broken())?.into_data() else { continue };
        let total = whole.len() + parts.len() + data.len();
        if total > limit {
            return Err(Refusal::too_large(limit));
        }
        charge.grow(total, BUDGET_WAIT).await.map_err(over_budget)?;
        if whole.is_empty() && parts.is_empty() {
            whole = data;
            continue;
        }
        if parts.is_empty() {
            parts.reserve(declared.max(total));
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
    if compressed.len() <= INLINE {
        return inflate_now(&compressed, limit, &mut charge).map(|bytes| (bytes, charge));
    }
    let work = move || inflate_now(&compressed, limit, &mut charge).map(|bytes| (bytes, charge));
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Refusal::overloaded("interrupted")),
    }
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
