//! The copy of a body for a mirror: what the request's own upload reads waits here until the mirror's has taken it.
//!
//! The request is never held back. What does not fit ends the copy, and with it the mirrored request.

use std::{
    cell::RefCell,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::{
    client_body::BodyFailure,
    replay::{Kept, ReplayBudget},
};

/// Where the request's upload puts what it reads; dropped before its end, the copy breaks off.
#[derive(Debug)]
pub(super) struct Feed(Rc<RefCell<Shared>>);

/// Where the mirror's upload takes it.
#[derive(Debug)]
pub(super) struct Tap(Rc<RefCell<Shared>>);

#[derive(Debug)]
struct Shared {
    kept: Kept,
    end: End,
    /// Who reads, and who waits for the copy to break off.
    wakers: [Option<Waker>; 2],
}

#[derive(Debug)]
enum End {
    Open,
    /// With the trailers that have yet to be read.
    Whole(Option<HeaderMap>),
    /// The client's body ended early, or nobody reads it any more.
    Broken,
    /// The mirror was too slow, or memory is short.
    Overflown,
}

/// The two ends of a copy that is bounded like a body kept for retries, by the same budget.
pub(super) fn tap(budget: Rc<ReplayBudget>) -> (Feed, Tap) {
    let shared = Shared { kept: Kept::new(budget), end: End::Open, wakers: [None, None] };
    let shared = Rc::new(RefCell::new(shared));
    (Feed(Rc::clone(&shared)), Tap(shared))
}

impl Feed {
    /// Whether anyone reads it.
    pub(super) fn is_wanted(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }

    /// Keeps a frame; `false` if the copy is over.
    pub(super) fn push(&self, data: &Bytes) -> bool {
        if !self.is_wanted() {
            return false;
        }
        let mut shared = self.0.borrow_mut();
        let fits = shared.kept.push(data);
        if fits {
            shared.wake();
        } else {
            shared.kept.forget();
            shared.close(End::Overflown);
        }
        fits
    }

    /// The body is complete.
    pub(super) fn finish(self, trailers: Option<&HeaderMap>) {
        self.0.borrow_mut().close(End::Whole(trailers.cloned()));
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.0.borrow_mut().close(End::Broken);
    }
}

impl Shared {
    /// The first end counts.
    fn close(&mut self, end: End) {
        if matches!(self.end, End::Open) {
            self.end = end;
            self.wake();
        }
    }

    fn wake(&mut self) {
        self.wakers.iter_mut().filter_map(Option::take).for_each(Waker::wake);
    }
}

impl Tap {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let mut shared = self.0.borrow_mut();
        if let Some(data) = shared.kept.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match &mut shared.end {
            End::Open => {
                shared.wakers[0] = Some(cx.waker().clone());
                Poll::Pending
            }
            End::Whole(trailers) => {
                Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
            }
            End::Broken | End::Overflown => Poll::Ready(Some(Err(BodyFailure::Left))),
        }
    }

    /// Waits until the rest of the copy will never come: `true` if the mirror was too slow for it.
    pub(super) fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut shared = self.0.borrow_mut();
        match shared.end {
            End::Broken => Poll::Ready(false),
            End::Overflown => Poll::Ready(true),
            End::Open | End::Whole(_) => {
                shared.wakers[1] = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let shared = self.0.borrow();
        shared.kept.is_empty() && matches!(shared.end, End::Whole(None))
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, sync::Arc};

    use futures_util::FutureExt;

    use super::*;
    use crate::overload::Overload;

    fn frame(tap: &mut Tap) -> Option<Option<Result<Bytes, BodyFailure>>> {
        let frame = pin!(poll_fn(|cx| tap.poll_frame(cx))).now_or_never()?;
        Some(frame.map(|frame| frame.map(|frame| frame.into_data().unwrap())))
    }

    #[test]
    fn what_is_read_passes_and_what_was_taken_is_given_back() {
        let budget = Rc::new(ReplayBudget::default());
        let (feed, mut tap) = tap(Rc::clone(&budget));
        assert_eq!(frame(&mut tap), None, "it waits");
        for number in 0..100_u8 {
            assert!(feed.push(&Bytes::copy_from_slice(&[number; 100])));
        }
        assert_eq!(budget.in_use(), 10_000);
        let mut taken = Vec::new();
        while let Some(Some(Ok(data))) = frame(&mut tap) {
            taken.extend_from_slice(&data);
        }
        let expected: Vec<u8> = (0..100).flat_map(|number| [number; 100]).collect();
        assert_eq!((taken, budget.in_use()), (expected, 0));
        assert!(!tap.is_end_stream());
        feed.finish(None);
        assert!(tap.is_end_stream());
        assert_eq!(frame(&mut tap), Some(None));
    }

    #[test]
    fn a_reader_that_keeps_up_reads_a_body_of_any_length() {
        let (feed, mut tap) = tap(Rc::default());
        let data = Bytes::from(vec![0; 1 << 19]);
        for _ in 0..10 {
            assert!(feed.push(&data));
            assert_eq!(frame(&mut tap).unwrap().unwrap().unwrap().len(), 1 << 19);
        }
    }

    #[test]
    fn where_memory_is_short_the_copy_ends() {
        let overload = Arc::<Overload>::default();
        let (feed, mut tap) = tap(Rc::new(ReplayBudget::new(Arc::clone(&overload))));
        let data = Bytes::from_static(b"data");
        assert!(feed.push(&data) && frame(&mut tap).is_some());
        overload.shed();
        assert!(!feed.push(&data));
        assert_eq!(poll_fn(|cx| tap.poll_cut(cx)).now_or_never(), Some(true));
    }

    #[test]
    fn what_does_not_fit_ends_the_copy_and_gives_all_back() {
        let budget = Rc::new(ReplayBudget::default());
        let (feed, mut tap) = tap(Rc::clone(&budget));
        let data = Bytes::from(vec![0; 1 << 19]);
        assert!(feed.push(&data) && feed.push(&data));
        assert!(poll_fn(|cx| tap.poll_cut(cx)).now_or_never().is_none());
        assert!(!feed.push(&data), "over a mebibyte");
        assert_eq!(budget.in_use(), 0);
        drop(feed);
        assert_eq!(poll_fn(|cx| tap.poll_cut(cx)).now_or_never(), Some(true), "the first end counts");
        assert_eq!(frame(&mut tap), Some(Some(Err(BodyFailure::Left))));
    }

    #[test]
    fn a_copy_whose_upload_is_gone_never_ends_cleanly() {
        let (feed, mut tap) = tap(Rc::default());
        assert!(feed.push(&Bytes::from_static(b"half")));
        drop(feed);
        assert_eq!(frame(&mut tap).unwrap().unwrap().unwrap(), "half");
        assert_eq!(frame(&mut tap), Some(Some(Err(BodyFailure::Left))));
        assert_eq!(poll_fn(|cx| tap.poll_cut(cx)).now_or_never(), Some(false));
        let (feed, tap) = super::tap(Rc::default());
        drop(tap);
        assert!(!feed.push(&Bytes::from_static(b"x")), "nobody reads");
    }
}
