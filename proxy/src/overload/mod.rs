//! Refusing work before the kernel ends the process for its memory: Envoy's overload manager with one resource, the
//! memory of the control group, and three actions.
//!
//! From 92 % on new requests are answered with 503 and their connections end (`stop_accepting_requests`,
//! `disable_http_keepalive`); from 95 % on nothing is accepted (`stop_accepting_connections`), so that clients wait in
//! the system's queue, and bodies of requests that were accepted are not read. A flood may fill what is left before the
//! next look: connections and bodies claim from what the last one found. The control thread looks; a request reads one
//! atomic, and each frame of its body another. Descriptors are not the business of this module: `net::listen` bounds the
//! connections and waits out what fails.

mod allowance;
mod memory;
mod usage;

use std::{
    sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

pub(crate) use allowance::Allowance;
pub use memory::Cgroups;
use memory::Memory;
pub(crate) use usage::Level;
use usage::{Look, Pressure};

/// Between two looks at memory that is plentiful. Envoy's `refresh_interval` is 250 ms or more; a small limit may be
/// reached within that time.
const CALM: Duration = Duration::from_millis(100);
/// Between two looks when it is getting short, or was growing fast a moment ago.
const CLOSE: Duration = Duration::from_millis(5);
const MOMENT: Duration = Duration::from_secs(1);
/// Bytes that a connection fills with its first request, about.
const CONNECTION: i64 = 32 << 10;
/// Between two looks when what the last one found is claimed.
const AT_ONCE: Duration = Duration::from_millis(1);
/// From this share of the limit on it is looked at closely.
const GETTING_SHORT: Pressure = Pressure(600);
/// Growth from one look to the next that is fast.
const FAST: u32 = 20;

/// What is refused now, and what may be claimed; one per process.
#[derive(Debug)]
pub struct Overload {
    /// Whether requests are, readable for each of them without the lock of the watch channel.
    shedding: AtomicBool,
    pressure: AtomicU32,
    /// Bytes that connections and bodies may fill, as of the last look, less what was claimed since.
    room: AtomicI64,
    looks: AtomicU32,
    /// The last look found no room, and nobody has given up for it yet.
    gives_up: AtomicBool,
    looked: Notify,
    asked: Notify,
    level: watch::Sender<Level>,
}

impl Default for Overload {
    /// Without a limit.
    fn default() -> Self {
        Self {
            shedding: AtomicBool::default(),
            pressure: AtomicU32::default(),
            room: AtomicI64::new(Look::default().room),
            looks: AtomicU32::default(),
            gives_up: AtomicBool::default(),
            looked: Notify::default(),
            asked: Notify::default(),
            level: watch::Sender::default(),
        }
    }
}

impl Overload {
    /// Whether new requests are refused.
    pub(crate) fn is_shedding(&self) -> bool {
        self.shedding.load(Relaxed)
    }

    /// Bytes that the caller may fill, `wanted` at most. It may do so until the next look, which finds what is filled then
    /// and has all the rest to give.
    fn claim(&self, wanted: i64) -> i64 {
        self.room.fetch_sub(wanted, Relaxed).clamp(0, wanted)
    }

    /// Changes with each look.
    fn looks(&self) -> u32 {
        self.looks.load(Relaxed)
    }

    /// Whether who has waited for long is to give up: one for each look that found no room.
    fn gives_up(&self) -> bool {
        self.gives_up.swap(false, Relaxed)
    }

    /// Waits for the next look, which is soon if the last one found room. One that finds none wakes one of those who wait.
    async fn next_look(&self) {
        let looked = self.looked.notified();
        if self.level() < Level::Refusing {
            self.asked.notify_one();
        }
        looked.await;
    }

    /// Waits until there is memory for a connection: after a shortage thousands may be waiting.
    pub(crate) async fn accepts(&self) {
        loop {
            // It fails only without a sender, which is this.
            let _ = self.level.subscribe().wait_for(|level| *level < Level::Refusing).await;
            if self.claim(CONNECTION) > 0 {
                return;
            }
            self.next_look().await;
        }
    }

    /// How much is refused now.
    pub(crate) fn level(&self) -> Level {
        *self.level.borrow()
    }

    /// Used memory in percent of its limit; 0 without a limit.
    pub(crate) fn percent(&self) -> u32 {
        self.pressure.load(Relaxed) / 10
    }

    /// As a look would that finds memory short.
    #[cfg(test)]
    pub(crate) fn shed(&self) {
        self.set_room(1);
    }

    /// As a look would that finds so much room.
    #[cfg(test)]
    fn set_room(&self, bytes: u64) {
        self.set(usage::Usage::with_room(bytes).look());
    }

    fn set(&self, Look { pressure, level, room }: Look) {
        self.looks.fetch_add(1, Relaxed);
        self.room.store(room, Relaxed);
        self.gives_up.store(room <= 0, Relaxed);
        self.pressure.store(pressure.0, Relaxed);
        self.shedding.store(level >= Level::Shedding, Relaxed);
        let changed = self.level.send_if_modified(|now| std::mem::replace(now, level) != level);
        if changed {
            let percent = self.percent();
            match level {
                Level::Normal => tracing::info!(percent, "memory suffices again"),
                Level::Shedding => tracing::warn!(percent, "memory is short: new requests are refused"),
                Level::Refusing => tracing::warn!(percent, "memory is short: nothing is accepted"),
            }
        }
        if room > 0 {
            self.looked.notify_waiters();
        } else {
            self.looked.notify_one();
        }
    }

    /// Follows the memory of the control groups until dropped; ends at once where none is accounted.
    pub(crate) async fn follow(&self, groups: &Cgroups) {
        let memory = Memory::find(groups);
        if memory.is_unaccounted() {
            tracing::debug!("no control group accounts for memory: nothing is refused for it");
            return;
        }
        let mut pace = Pace { last: Pressure::default(), close_until: Instant::now() };
        loop {
            let look = memory.look();
            self.set(look);
            let pause = pace.pause(look.pressure, Instant::now());
            sleep(AT_ONCE).await;
            let _ = timeout(pause.saturating_sub(AT_ONCE), self.asked.notified()).await;
        }
    }
}

/// How closely memory is looked at.
#[derive(Debug)]
struct Pace {
    last: Pressure,
    close_until: Instant,
}

impl Pace {
    /// Until the next look.
    fn pause(&mut self, pressure: Pressure, now: Instant) -> Duration {
        let last = std::mem::replace(&mut self.last, pressure);
        if pressure >= GETTING_SHORT || pressure.0.saturating_sub(last.0) >= FAST {
            self.close_until = now + MOMENT;
        }
        if now < self.close_until { CLOSE } else { CALM }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn used(percent: u64) -> Look {
        usage::Usage { used: percent << 20, limit: 100 << 20 }.look()
    }

    #[tokio::test]
    async fn requests_are_refused_before_connections_and_both_recover() {
        let overload = Overload::default();
        let at = |percent| {
            overload.set(used(percent));
            (overload.is_shedding(), overload.accepts().now_or_never().is_some())
        };
        let (normal, shedding, refusing) = ((false, true), (true, true), (true, false));
        assert_eq!([91, 92, 95, 92, 0].map(at), [normal, shedding, refusing, shedding, normal]);
    }

    #[test]
    fn no_more_is_claimed_between_two_looks_than_there_is_room_for() {
        let overload = Overload::default();
        assert_eq!(overload.claim(1 << 40), 1 << 40, "no limit");
        for _ in 0..2 {
            overload.set_room(20);
            assert_eq!([15, 15, 15].map(|wanted| overload.claim(wanted)), [15, 5, 0]);
        }
        overload.set(used(100));
        assert_eq!(overload.claim(1), 0);
    }

    #[tokio::test]
    async fn no_more_connections_are_accepted_between_two_looks_than_there_is_room_for() {
        let overload = Overload::default();
        let accepted = || (0..100).take_while(|_| overload.accepts().now_or_never().is_some()).count();
        assert_eq!(accepted(), 100, "no limit");
        for _ in 0..2 {
            overload.set_room(320 << 10);
            assert_eq!(accepted(), 10);
        }
    }

    #[test]
    fn memory_that_is_short_or_grows_fast_is_looked_at_closely() {
        let start = Instant::now();
        let mut pace = Pace { last: Pressure(200), close_until: start };
        let mut pause =
            |pressure, millis| pace.pause(Pressure(pressure), start + Duration::from_millis(millis));
        assert_eq!(pause(219, 0), CALM);
        assert_eq!(pause(239, 100), CLOSE, "it grows");
        assert_eq!(pause(240, 200), CLOSE, "it was growing a moment ago");
        assert_eq!(pause(230, 1100), CALM);
        assert_eq!(pause(600, 2000), CLOSE);
        assert_eq!(pause(599, 2999), CLOSE);
        assert_eq!(pause(599, 3000), CALM);
    }

    #[tokio::test]
    async fn who_waits_to_accept_is_woken() {
        let overload = Overload::default();
        overload.set(used(95));
        let mut waiting = std::pin::pin!(overload.accepts());
        assert!(waiting.as_mut().now_or_never().is_none());
        overload.set(used(92));
        assert!(waiting.now_or_never().is_some());
    }
}
