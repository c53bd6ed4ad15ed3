//! Refusing work before the kernel ends the process for its memory: Envoy's overload manager with one resource, the
//! memory of the control group, and three actions.
//!
//! From 92 % on new requests are answered with 503 and their connections end (`stop_accepting_requests`,
//! `disable_http_keepalive`); from 95 % on nothing is accepted (`stop_accepting_connections`), so that clients wait in
//! the system's queue. The control thread looks; a request reads one atomic. Descriptors are not the business of this
//! module: `net::listen` bounds the connections and waits out what fails.

mod memory;

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

pub use memory::Cgroups;
use memory::Memory;

/// Between two looks at memory that is plentiful. Envoy's `refresh_interval` is 250 ms or more; a small limit may be
/// reached within that time.
const CALM: Duration = Duration::from_millis(100);
/// Between two looks when it is getting short, or was growing fast a moment ago.
const CLOSE: Duration = Duration::from_millis(5);
const MOMENT: Duration = Duration::from_secs(1);
/// From this share of the limit on it is looked at closely.
const GETTING_SHORT: Pressure = Pressure(600);
/// Growth from one look to the next that is fast.
const FAST: u32 = 20;
const SHED: Pressure = Pressure(920);
const REFUSE: Pressure = Pressure(950);

/// Used memory in thousandths of its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Pressure(u32);

/// How much is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Level {
    /// Nothing.
    #[default]
    Normal,
    /// New requests.
    Shedding,
    /// New connections too.
    Refusing,
}

impl From<Pressure> for Level {
    fn from(pressure: Pressure) -> Self {
        match pressure {
            pressure if pressure >= REFUSE => Self::Refusing,
            pressure if pressure >= SHED => Self::Shedding,
            _ => Self::Normal,
        }
    }
}

/// What is refused now; one per process.
#[derive(Debug, Default)]
pub struct Overload {
    /// Whether requests are, readable for each of them without the lock of the watch channel.
    shedding: AtomicBool,
    pressure: AtomicU32,
    level: watch::Sender<Level>,
}

impl Overload {
    /// Whether new requests are refused.
    pub(crate) fn is_shedding(&self) -> bool {
        self.shedding.load(Relaxed)
    }

    /// Waits until connections are accepted.
    pub(crate) async fn accepts(&self) {
        // It fails only without a sender, which is this.
        let _ = self.level.subscribe().wait_for(|level| *level < Level::Refusing).await;
    }

    /// How much is refused now.
    pub(crate) fn level(&self) -> Level {
        *self.level.borrow()
    }

    /// Used memory in percent of its limit; 0 without a limit.
    pub(crate) fn percent(&self) -> u32 {
        self.pressure.load(Relaxed) / 10
    }

    fn set(&self, pressure: Pressure) {
        self.pressure.store(pressure.0, Relaxed);
        let level = Level::from(pressure);
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
            let pressure = memory.pressure();
            self.set(pressure);
            sleep(pace.pause(pressure, Instant::now())).await;
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

    #[tokio::test]
    async fn requests_are_refused_before_connections_and_both_recover() {
        let overload = Overload::default();
        let at = |pressure| {
            overload.set(Pressure(pressure));
            (overload.is_shedding(), overload.accepts().now_or_never().is_some())
        };
        assert_eq!(at(919), (false, true));
        assert_eq!(at(920), (true, true));
        assert_eq!(at(949), (true, true));
        assert_eq!(at(950), (true, false));
        assert_eq!(at(1000), (true, false));
        assert_eq!(at(930), (true, true));
        assert_eq!(at(0), (false, true));
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
        overload.set(REFUSE);
        let mut waiting = std::pin::pin!(overload.accepts());
        assert!(waiting.as_mut().now_or_never().is_none());
        overload.set(SHED);
        assert!(waiting.now_or_never().is_some());
    }
}
