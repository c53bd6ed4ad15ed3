//! Waiting for a condition with a deadline: the only place where a test lets time pass.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Long enough for a busy machine; reached only by a test that fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(2);

/// Polls until the condition yields something.
pub(crate) async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    eventually(what, async || condition()).await
}

/// Polls an asynchronous condition until it yields something.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        sleep(POLL).await;
    }
}

/// The future's output, or a failure that says what was awaited.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("waited {DEADLINE:?} for {what}"))
}
