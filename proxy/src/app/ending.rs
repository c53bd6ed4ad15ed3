//! The end of the process: drained, finished, or at once.
//!
//! One setting, the grace period between SIGTERM and SIGKILL, bounds all of it (see [`DrainTimes::within`]).

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout, timeout_at},
};

use super::{Command, control::Process};
use crate::{drain::Phase, net::listen::Workers, reload::POLL};

/// How long the end of the process waits for the last log lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How the process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Clients are told to go away, and have time to.
    Drain,
    /// There are no clients to tell: a job is done. What is open may finish.
    Finish,
    /// What is open is cut, and telemetry has next to no time.
    Now,
}

/// How long the phases of a drain last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainTimes {
    /// Clients are told to go away while new connections are still accepted (Istio's `terminationDrainDuration`,
    /// 5 s). Counted from the first announcement, so that a hook before SIGTERM is no second wait.
    pub announce: Duration,
    /// Istio's `EXIT_ON_ZERO_ACTIVE_CONNECTIONS`: announce at least for this time, and then until no connection is
    /// open.
    pub until_idle: Option<Duration>,
    /// The longest that `until_idle` announces; without it, as long as it takes.
    pub at_most: Option<Duration>,
    /// After that, how long open requests may go on before they are cut (Envoy's delayed close, 1 s).
    pub close: Duration,
}

impl Default for DrainTimes {
    fn default() -> Self {
        Self { announce: Duration::from_secs(5), until_idle: None, at_most: None, close: DELAYED_CLOSE }
    }
}

/// Open requests have this time at least (Envoy's `delayed_close_timeout`).
const DELAYED_CLOSE: Duration = Duration::from_secs(1);
/// The last exports and log lines, at the end of a grace period that is long enough.
const RESERVE: Duration = Duration::from_secs(4);

impl DrainTimes {
    /// Fits the phases into the time between SIGTERM and SIGKILL, of which a reserve is for the last telemetry: the
    /// announcement is as it was, unless that is too long, and open requests have all the rest.
    #[must_use]
    pub fn within(self, grace: Duration) -> Self {
        let usable = grace - RESERVE.min(grace / 4);
        let longest = usable.saturating_sub(self.close);
        let announce = self.announce.min(longest);
        match self.until_idle {
            Some(least) => Self { until_idle: Some(least.min(longest)), at_most: Some(longest), ..self },
            None => Self { announce, close: usable - announce, ..self },
        }
    }
}

impl Process {
    /// Ends as wished for, unless another wish cuts it short, and waits for the threads.
    pub(super) async fn end(mut self, ending: Ending, commands: &mut mpsc::Receiver<Command>) {
        let mut ending = Wish { ending, repeated: false };
        while ending.ending != Ending::Now {
            tracing::info!(ending = ?ending.ending, "draining");
            match self.drain_connections(ending.ending, commands).await {
                Ok(()) => break,
                Err(again) => ending = ending.and(again),
            }
        }
        let at_once = ending.ending == Ending::Now;
        self.drain.enter(Phase::Forced);
        self.listeners.close_all();
        for worker in self.workers {
            if worker.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
        // The workers are done: nothing more is told.
        self.exporter.finish(at_once).await;
        // Whoever reads the log may have stopped reading: that must not keep the process alive.
        let writer = self.log_writer;
        let last_lines = tokio::task::spawn_blocking(move || writer.join());
        if timeout(LAST_LINES, last_lines).await.is_err() {
            tracing::warn!("the last access log lines could not be written");
        }
        tracing::info!("stopped");
    }

    /// An error is another wish to end.
    async fn drain_connections(
        &mut self,
        ending: Ending,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<(), Ending> {
        let mut close = self.times.close;
        if ending == Ending::Drain {
            let announced = self.announce();
            match self.times.until_idle {
                Some(least) => {
                    let at_most = self.times.at_most;
                    let idle = idle(
                        self.connections.clone(),
                        announced + least,
                        at_most.map(|most| announced + most),
                    );
                    self.while_leaving(commands, idle).await?;
                }
                None => {
                    let over = announced + self.times.announce;
                    self.while_leaving(commands, sleep_until(over)).await?;
                    // The grace period began with the announcement.
                    let left = (over + close).saturating_duration_since(Instant::now());
                    close = left.max(close.min(DELAYED_CLOSE));
                }
            }
        }
        self.close();
        tokio::select! {
            // Whether it became idle or not: what is still open is cut.
            _ = timeout(close, self.listeners.idle()) => Ok(()),
            again = wish_to_end(commands) => Err(again.unwrap_or(Ending::Now)),
        }
    }

    /// Waits for `over`. The listeners close if that is asked for meanwhile, a reload is not done any more, and who still
    /// comes is shown certificates that are valid.
    async fn while_leaving(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        over: impl Future<Output = ()>,
    ) -> Result<(), Ending> {
        let secrets = Arc::clone(&self.secrets);
        let rotate = async move {
            let mut look = interval(POLL);
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                look.tick().await;
                secrets.poll();
            }
        };
        let over = async {
            tokio::select! {
                () = over => {}
                never = rotate => never,
            }
        };
        self.meanwhile(commands, over).await
    }
}

/// Waits until no connection is open: not before `least`, and not longer than until `most`.
async fn idle(connections: Workers, least: Instant, most: Option<Instant>) {
    sleep_until(least).await;
    match most {
        Some(most) => {
            let _ = timeout_at(most, connections.idle()).await;
        }
        None => connections.idle().await,
    }
}

/// How the process is to end, by all that was said so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wish {
    ending: Ending,
    /// Somebody else has said so, too.
    repeated: bool,
}

impl Wish {
    /// A job that is done while it drains finishes; the signal that Kubernetes sends a job that is done changes nothing.
    /// Whoever says the same twice wants it now.
    fn and(self, again: Ending) -> Self {
        let ending = match (self.ending, again) {
            (Ending::Drain, Ending::Finish) => Ending::Finish,
            (Ending::Finish, Ending::Drain) if !self.repeated => Ending::Finish,
            _ => Ending::Now,
        };
        Self { ending, repeated: true }
    }
}

/// The next wish to end; `None` if nobody is left to wish.
pub(super) async fn wish_to_end(commands: &mut mpsc::Receiver<Command>) -> Option<Ending> {
    loop {
        match commands.recv().await {
            Some(Command::End(ending)) => return Some(ending),
            Some(_) => {}
            None => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_drain_fits_into_its_grace_period() {
        let times = |grace| DrainTimes::default().within(grace);
        assert_eq!((times(seconds(30)).announce, times(seconds(30)).close), (seconds(5), seconds(21)));
        let short = times(seconds(4));
        assert_eq!((short.announce, short.close), (seconds(2), seconds(1)));
        let none = times(seconds(1));
        assert_eq!((none.announce, none.close), (Duration::ZERO, Duration::from_millis(750)));
        assert_eq!(times(Duration::ZERO).close, Duration::ZERO);
        let long = DrainTimes { announce: seconds(60), ..DrainTimes::default() }.within(seconds(30));
        assert_eq!((long.announce, long.close), (seconds(25), seconds(1)), "open requests have their second");
    }

    #[test]
    fn a_job_that_is_done_finishes_though_it_is_told_to_drain() {
        let said = |wishes: &[Ending]| {
            let first = Wish { ending: wishes[0], repeated: false };
            wishes[1..].iter().fold(first, |wish, again| wish.and(*again)).ending
        };
        use Ending::{Drain, Finish, Now};
        assert_eq!(said(&[Drain, Finish]), Finish);
        assert_eq!(said(&[Finish, Drain]), Finish);
        assert_eq!(said(&[Drain, Drain]), Now);
        assert_eq!(said(&[Finish, Finish]), Now);
        assert_eq!(said(&[Drain, Finish, Drain]), Now);
        assert_eq!(said(&[Finish, Drain, Drain]), Now);
        assert_eq!(said(&[Drain, Now]), Now);
    }

    #[test]
    fn a_drain_until_idle_has_an_end_in_its_grace_period() {
        let patient = DrainTimes { until_idle: Some(seconds(5)), ..DrainTimes::default() };
        let times = patient.within(seconds(30));
        assert_eq!(
            (times.until_idle, times.at_most, times.close),
            (Some(seconds(5)), Some(seconds(25)), seconds(1))
        );
    }
}
