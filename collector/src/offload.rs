//! Where long computing goes: off the threads that serve connections. What is short stays, as moving it costs
//! more than doing it.

/// Work on more bytes than this is moved.
const INLINE: usize = 128 << 10;

/// The work did not finish: it panicked, or the program is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// Does work on that many bytes, here or on a thread for blocking work. Once begun there it runs to its end, so it
/// should own whatever pays for its memory.
pub(crate) async fn run<T, F>(bytes: usize, work: F) -> Result<T, Interrupted>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    if bytes <= INLINE {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|_| Interrupted)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    /// More than is worked on in place.
    pub(crate) const LARGE: usize = super::INLINE + 2;

    /// Runs a future to its end and says whether that took a thread for blocking work: the only one there is is
    /// busy until the future has been seen to wait.
    pub(crate) fn moved<F: Future>(future: F) -> (bool, F::Output) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (release, released) = oneshot::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || released.blocking_recv());
            let mut future = pin!(future);
            let first = timeout(Duration::ZERO, future.as_mut()).await;
            release.send(()).unwrap();
            busy.await.unwrap().unwrap();
            match first {
                Ok(output) => (false, output),
                Err(_) => (true, future.await),
            }
        })
    }

    #[test]
    fn only_large_work_is_moved() {
        for (bytes, large) in [(0, false), (super::INLINE, false), (super::INLINE + 1, true)] {
            assert_eq!(moved(super::run(bytes, || 7)), (large, Ok(7)));
        }
    }
}
