//! A worker's part of the memory that is left: what bodies under way may fill until the next look.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::Overload;

/// Bytes that are claimed at a time, so that workers seldom meet.
const PIECE: i64 = 256 << 10;
/// After that a body has waited for memory in vain.
const PATIENCE: Duration = Duration::from_secs(5);

/// One per worker.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    /// Claimed and not filled; a frame may be larger than what was left.
    left: Cell<i64>,
    /// The look after which that was claimed: the next one finds what was filled, and gives anew.
    look: Cell<u32>,
    overload: Arc<Overload>,
}

impl Allowance {
    pub(crate) fn new(overload: Arc<Overload>) -> Self {
        Self { overload, ..Self::default() }
    }

    /// Whether more may be read.
    pub(crate) fn has_room(&self) -> bool {
        let look = self.overload.looks();
        if self.look.replace(look) != look {
            self.left.set(0);
        }
        let mut left = self.left.get();
        if left <= 0 {
            left += self.overload.claim(PIECE - left);
            self.left.set(left);
        }
        left > 0
    }

    /// So much was read.
    pub(crate) fn spend(&self, bytes: usize) {
        self.left.set(self.left.get().saturating_sub_unsigned(bytes as u64));
    }

    /// Waits until more may be read; `false` if that takes too long. Of those who have waited for so long, one is told so
    /// by each look that finds no room.
    pub(crate) fn room(self: &Rc<Self>) -> impl Future<Output = bool> + 'static {
        let this = Rc::clone(self);
        async move {
            let began = Instant::now();
            while !this.has_room() {
                if began.elapsed() >= PATIENCE && this.overload.gives_up() {
                    return false;
                }
                this.overload.next_look().await;
            }
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn no_more_is_read_between_two_looks_than_there_is_room_for() {
        let overload = Arc::<Overload>::default();
        let workers = [0, 1].map(|_| Allowance::new(Arc::clone(&overload)));
        let reads = |worker: &Allowance| {
            let room = worker.has_room();
            if room {
                worker.spend(100_000);
            }
            room
        };
        assert!((0..100).all(|_| reads(&workers[0])), "no limit");
        for _ in 0..2 {
            overload.set_room(600_000);
            let both = (0..100).filter(|at| reads(&workers[at % 2])).count();
            assert!((6..=8).contains(&both), "{both} times 100 kB");
        }
        overload.set_room(0);
        assert!(!workers[0].has_room(), "a claim ends with the next look");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_on_after_a_look_that_finds_room() {
        let overload = Arc::<Overload>::default();
        let allowance = Rc::new(Allowance::new(Arc::clone(&overload)));
        overload.set_room(0);
        let mut rooms = [0, 1].map(|_| Box::pin(allowance.room()));
        let mut found = || rooms.each_mut().map(|room| room.as_mut().now_or_never());
        assert_eq!(found(), [None, None]);
        overload.set_room(0);
        assert_eq!(found(), [None, None]);
        overload.set_room(1);
        assert_eq!(found(), [Some(true), Some(true)]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_is_told_so_one_at_a_look() {
        let overload = Arc::<Overload>::default();
        let allowance = Rc::new(Allowance::new(Arc::clone(&overload)));
        overload.set_room(0);
        let mut rooms: Vec<_> = (0..3).map(|_| Some(Box::pin(allowance.room()))).collect();
        let mut told = || {
            let ready = |room: &mut Option<_>| {
                let found: Option<bool> = Option::as_mut(room).and_then(FutureExt::now_or_never);
                found.inspect(|found| {
                    assert!(!found);
                    *room = None;
                })
            };
            rooms.iter_mut().filter_map(ready).count()
        };
        assert_eq!(told(), 0);
        tokio::time::advance(PATIENCE).await;
        assert_eq!(told(), 0, "a look tells");
        for _ in 0..3 {
            overload.set_room(0);
            assert_eq!(told(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_given_up_when_memory_comes_back_however_long_they_waited() {
        let overload = Arc::<Overload>::default();
        let allowance = Rc::new(Allowance::new(Arc::clone(&overload)));
        overload.set_room(0);
        let mut rooms = [0, 1, 2].map(|_| Some(Box::pin(allowance.room())));
        let mut found = || {
            let go_on = |room: &mut Option<_>| {
                let found: Option<bool> = Option::as_mut(room).and_then(FutureExt::now_or_never);
                if found.is_some() {
                    *room = None;
                    // Each reads more than there is.
                    allowance.spend(1 << 20);
                }
                found
            };
            rooms.iter_mut().filter_map(go_on).collect::<Vec<_>>()
        };
        assert!(found().is_empty());
        tokio::time::advance(PATIENCE).await;
        for _ in 0..3 {
            overload.set_room(1);
            assert_eq!(found(), [true]);
        }
    }
}
