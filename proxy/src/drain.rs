//! Going away without failing a request: the phases of a drain. What is still open is counted where it is accepted, in
//! `net::listen`. A single listener goes away by its [`Departure`].
//!
//! *Announced*: readiness fails, HTTP/2 connections get GOAWAY, HTTP/1 answers carry `Connection: close`, and new
//! connections are still taken, since clients learn late. *Closing*: nothing new is accepted. *Forced*: whatever is
//! open is dropped. Who moves from phase to phase, and when, is the business of the application.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, Ordering},
};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::upstream::Published;

/// How far the shutdown is. Phases only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// No drain.
    Serving = 0,
    /// Clients are told to go away; new connections are still accepted.
    Announced = 1,
    /// Nothing new is accepted; what is open may finish.
    Closing = 2,
    /// What is open is dropped.
    Forced = 3,
}

/// Moves the phase; one per process.
#[derive(Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
    shared: Arc<Shared>,
}

/// Sees the phase; cheap to clone.
#[derive(Debug, Clone)]
pub struct Watch {
    phase: watch::Receiver<Phase>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The phase again, readable for every response without the lock of the watch channel.
    phase: AtomicU8,
}

/// What the configuration has taken from a listener while its connections live on: all of it, or the requests to some
/// destinations.
#[derive(Debug, Default)]
pub struct Departure {
    /// Each configuration that was the last to have something, in their order.
    lasts: ArcSwap<Vec<Arc<Published>>>,
    /// There is one: asked with each request.
    lost: AtomicBool,
    told: CancellationToken,
}

/// After more of them a connection that asked for nothing meanwhile has no routes.
const LOSSES: usize = 4;

impl Departure {
    /// The configuration that comes takes something; `last` still has it. One thread alone says so.
    pub fn record(&self, last: Arc<Published>) {
        let mut lasts = Vec::clone(&self.lasts.load());
        // A connection may last for days, and is not to keep every configuration of that time.
        if lasts.len() >= LOSSES {
            lasts.remove(0);
        }
        lasts.push(last);
        self.lasts.store(Arc::new(lasts));
        self.lost.store(true, Ordering::Release);
    }

    /// That configuration is the newest now.
    pub fn tell(&self) {
        self.told.cancel();
    }

    /// Whether anything was taken.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// The last configuration that `has` it, of those that were the last to have something.
    #[must_use]
    pub fn last(&self, has: impl Fn(&Arc<Published>) -> bool) -> Option<Arc<Published>> {
        self.lasts.load().iter().rev().find(|last| has(last)).cloned()
    }

    /// Waits until something is taken.
    pub async fn told(&self) {
        self.told.cancelled().await;
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { phase: watch::Sender::new(Phase::Serving), shared: Arc::default() }
    }
}

impl Drain {
    /// A handle for workers and connections.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch { phase: self.phase.subscribe(), shared: Arc::clone(&self.shared) }
    }

    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Moves on to `phase`; going back is ignored.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
                self.shared.phase.store(phase as u8, Ordering::Release);
            }
            later
        });
    }
}

impl Watch {
    /// The phase now, without a lock.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.shared.phase.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Announced,
            2 => Phase::Closing,
            _ => Phase::Forced,
        }
    }

    /// Whether responses are to say that the connection closes.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.phase() >= Phase::Announced
    }

    /// Waits for a phase, or a later one. A [`Drain`] that is gone counts as [`Phase::Forced`].
    pub async fn reached(&mut self, phase: Phase) {
        // An error means that the sender is gone, and with it the process.
        let _gone = self.phase.wait_for(|now| *now >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn phases_only_grow_and_wake_who_waits() {
        let drain = Drain::default();
        let mut watch = drain.watch();
        assert!(watch.reached(Phase::Announced).now_or_never().is_none());
        drain.enter(Phase::Closing);
        drain.enter(Phase::Announced);
        assert_eq!((drain.phase(), watch.phase()), (Phase::Closing, Phase::Closing));
        assert!(watch.reached(Phase::Announced).now_or_never().is_some(), "a later phase counts");
        assert!(watch.reached(Phase::Forced).now_or_never().is_none());
    }
}
