//! The pauses between attempts: exponential, bounded, with jitter. There is no last attempt.

use std::time::Duration;

use crate::config::Retry;

/// Longer than this no destination may put us off.
const LONGEST_REQUESTED: Duration = Duration::from_secs(300);

/// The pauses of one request.
#[derive(Debug)]
pub struct Backoff<'a> {
    settings: &'a Retry,
    next: Duration,
}

impl<'a> Backoff<'a> {
    /// Starts with the shortest pause.
    pub fn new(settings: &'a Retry) -> Self {
        Self { settings, next: settings.initial }
    }

    /// The next pause. What the destination asked for goes first, and is never cut short by jitter.
    pub fn pause(&mut self, requested: Option<Duration>) -> Duration {
        let base = self.next;
        self.next = base.mul_f64(self.settings.multiplier).min(self.settings.max);
        let share = self.settings.jitter * rand::random_range(-1.0..=1.0);
        match requested {
            Some(requested) => requested.min(LONGEST_REQUESTED).mul_f64(1.0 + 0.1 * share.abs()),
            None => base.mul_f64(1.0 + share),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_bound() {
        let settings = Retry { jitter: 0.0, ..Retry::default() };
        let mut backoff = Backoff::new(&settings);
        let pauses: Vec<u128> = (0..9).map(|_| backoff.pause(None).as_millis()).collect();
        assert_eq!(pauses, [500, 750, 1125, 1687, 2531, 3796, 5000, 5000, 5000]);
    }

    #[test]
    fn a_requested_pause_is_kept() {
        let settings = Retry::default();
        for _ in 0..50 {
            let pause = Backoff::new(&settings).pause(Some(Duration::from_secs(2)));
            assert!(pause >= Duration::from_secs(2) && pause <= Duration::from_millis(2200), "{pause:?}");
        }
    }

    #[test]
    fn jitter_stays_in_its_share() {
        let settings = Retry::default();
        for _ in 0..50 {
            let pause = Backoff::new(&settings).pause(None);
            assert!(pause >= Duration::from_millis(250) && pause <= Duration::from_millis(750), "{pause:?}");
        }
    }
}
