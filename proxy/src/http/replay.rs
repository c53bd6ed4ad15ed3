//! What is kept of a request body so that a retry can send it again, or a mirror can send it too: bounded by request, by
//! worker and by the memory there is, and given back at once when it is forgotten.

use std::{cell::Cell, collections::VecDeque, rc::Rc, sync::Arc};

use bytes::{Bytes, BytesMut};

use crate::overload::Overload;

/// A larger body is sent once and never again (Envoy `per_connection_buffer_limit_bytes`).
const MAX_KEPT: usize = 1 << 20;
/// Bodies that one worker keeps for retries, together.
const MAX_KEPT_PER_WORKER: usize = 64 << 20;
/// The first frames are kept as they are: a short body is never copied.
const SHARED: usize = 8;
/// Later frames below this size are copied together: each one alone costs a handle and holds a read buffer, which is not
/// counted.
const SMALL: usize = 4096;
/// Size to which they are gathered.
const BLOCK: usize = 16 * 1024;

/// What the worker keeps for retries. Where memory is short nothing more is kept: a request can do without.
#[derive(Debug, Default)]
pub(crate) struct ReplayBudget {
    in_use: Cell<usize>,
    overload: Arc<Overload>,
}

impl ReplayBudget {
    pub(crate) fn new(overload: Arc<Overload>) -> Self {
        Self { overload, ..Self::default() }
    }

    fn take(&self, bytes: usize) -> bool {
        let in_use = self.in_use.get() + bytes;
        let fits = in_use <= MAX_KEPT_PER_WORKER && !self.overload.is_shedding();
        if fits {
            self.in_use.set(in_use);
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        self.in_use.set(self.in_use.get() - bytes);
    }

    #[cfg(test)]
    pub(super) fn in_use(&self) -> usize {
        self.in_use.get()
    }
}

/// The beginning of a body, and how far the try under way has read it.
#[derive(Debug)]
pub(super) struct Kept {
    budget: Rc<ReplayBudget>,
    frames: VecDeque<Bytes>,
    /// Small frames behind the last of `frames`; empty while frames are being read again.
    tail: BytesMut,
    bytes: usize,
    /// Index of the frame that is read next.
    next: usize,
}

impl Kept {
    pub(super) fn new(budget: Rc<ReplayBudget>) -> Self {
        Self { budget, frames: VecDeque::new(), tail: BytesMut::new(), bytes: 0, next: 0 }
    }

    /// Whose budget it is.
    pub(super) fn budget(&self) -> &Rc<ReplayBudget> {
        &self.budget
    }

    /// Keeps a fresh frame, which counts as read; `false` if there is no room for it.
    pub(super) fn keep(&mut self, data: &Bytes) -> bool {
        let fits = self.push(data);
        self.next = self.frames.len();
        fits
    }

    /// Keeps a fresh frame for who [takes](Self::take) it; `false` if there is no room for it.
    pub(super) fn push(&mut self, data: &Bytes) -> bool {
        if self.bytes + data.len() > MAX_KEPT || !self.budget.take(data.len()) {
            return false;
        }
        self.bytes += data.len();
        let small = data.len() < SMALL && self.frames.len() >= SHARED;
        if !small || self.tail.len() + data.len() > BLOCK {
            self.close_tail();
        }
        if small {
            self.tail.extend_from_slice(data);
        } else {
            self.frames.push_back(data.clone());
        }
        true
    }

    /// The first frame, which is forgotten: for a lone reader that never begins again.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        if self.frames.is_empty() {
            self.close_tail();
        }
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len();
        self.budget.give_back(frame.len());
        Some(frame)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.tail.is_empty()
    }

    /// Another try reads from the beginning.
    pub(super) fn rewind(&mut self) {
        self.close_tail();
        self.next = 0;
    }

    /// The next frame that was kept.
    pub(super) fn read(&mut self) -> Option<Bytes> {
        let frame = self.frames.get(self.next)?;
        self.next += 1;
        Some(frame.clone())
    }

    /// Whether the try under way has read all of it.
    pub(super) fn is_read(&self) -> bool {
        self.next >= self.frames.len()
    }

    pub(super) fn forget(&mut self) {
        self.frames = VecDeque::new();
        self.tail = BytesMut::new();
        self.next = 0;
        self.budget.give_back(std::mem::take(&mut self.bytes));
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.frames.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(kept: &mut Kept) -> Vec<u8> {
        kept.rewind();
        std::iter::from_fn(|| kept.read()).flatten().collect()
    }

    #[test]
    fn many_small_frames_are_kept_as_few_large_ones() {
        let budget = Rc::new(ReplayBudget::default());
        let mut kept = Kept::new(Rc::clone(&budget));
        let sent: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
        let (first, rest) = sent.split_at(60_000);
        first.iter().for_each(|byte| assert!(kept.keep(&Bytes::copy_from_slice(&[*byte]))));
        assert_eq!(all(&mut kept), first);
        // A try that has read all of it goes on with what is fresh.
        rest.chunks(5000).for_each(|chunk| assert!(kept.keep(&Bytes::copy_from_slice(chunk))));
        assert_eq!(all(&mut kept), sent);
        assert!(kept.frames.len() < 30, "{} frames", kept.frames.len());
        assert_eq!(budget.in_use(), sent.len());
        drop(kept);
        assert_eq!(budget.in_use(), 0);
    }

    #[test]
    fn a_short_body_is_kept_without_a_copy() {
        let mut kept = Kept::new(Rc::default());
        let data = Bytes::from_static(b"short");
        assert!(kept.keep(&data));
        kept.rewind();
        assert_eq!(kept.read().unwrap().as_ptr(), data.as_ptr());
    }

    #[test]
    fn a_body_over_a_mebibyte_is_not_kept_however_it_is_cut() {
        for size in [1, 1000, 1 << 19] {
            let mut kept = Kept::new(Rc::default());
            let frame = Bytes::from(vec![0; size]);
            let frames = (0..).take_while(|_| kept.keep(&frame)).count();
            assert_eq!(frames, MAX_KEPT / size);
        }
    }
}
