//! The names that clusters need looked up: the last good answer of each, and when it is asked for again.
//!
//! No socket and no clock here: the time is an argument. The table outlives configurations, so that a reload does not
//! forget an answer.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

/// An answer with a shorter life is kept for this long, or a zero would ask without end.
const SHORTEST: Duration = Duration::from_secs(1);
/// Before a name that could not be looked up is asked for again; doubled each time, up to the refresh rate.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// What a name server says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// At least one, in order of the answer.
    pub(crate) addresses: Arc<[IpAddr]>,
    /// How long it holds.
    pub(crate) ttl: Duration,
}

/// All names in use.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: HashMap<Arc<str>, Name>,
}

#[derive(Debug)]
struct Name {
    /// The last good answer, kept while later lookups fail.
    addresses: Option<Arc<[IpAddr]>>,
    /// `None` while it is being looked up.
    due: Option<Instant>,
    failures: u32,
}

impl Names {
    /// These names are needed from now on, and no others. A new one is due at once.
    pub(crate) fn need<'n>(&mut self, names: impl Iterator<Item = &'n Arc<str>>, now: Instant) {
        let needed: HashSet<&Arc<str>> = names.collect();
        self.known.retain(|name, _| needed.contains(name));
        for name in needed {
            if !self.known.contains_key(name) {
                let new = Name { addresses: None, due: Some(now), failures: 0 };
                self.known.insert(Arc::clone(name), new);
            }
        }
    }

    /// Those whose time has come. They are being looked up from now on, until [`Names::learn`].
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Arc<str>> {
        let due = self.known.iter_mut().filter(|(_, name)| name.due.is_some_and(|at| at <= now));
        due.map(|(text, name)| {
            name.due = None;
            Arc::clone(text)
        })
        .collect()
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.known.values().filter_map(|name| name.due).min()
    }

    /// Takes the outcome of a lookup; true if the addresses are others now. After a failure the last good answer stays.
    /// `refresh` is the longest wait after failures (Istio `MeshConfig.dnsRefreshRate`).
    pub(crate) fn learn(&mut self, name: &str, answer: Option<Answer>, refresh: Duration, now: Instant) -> bool {
        // Nobody needs it any more.
        let Some(known) = self.known.get_mut(name) else { return false };
        let Some(answer) = answer else {
            let wait = FIRST_RETRY.saturating_mul(1 << known.failures.min(16));
            known.failures = known.failures.saturating_add(1);
            known.due = Some(now + wait.min(refresh));
            return false;
        };
        known.failures = 0;
        known.due = Some(now + answer.ttl.max(SHORTEST));
        if known.addresses.as_ref().is_some_and(|old| same(old, &answer.addresses)) {
            return false;
        }
        known.addresses = Some(answer.addresses);
        true
    }

    /// The last good answer.
    pub(crate) fn addresses(&self, name: &str) -> &[IpAddr] {
        self.known.get(name).and_then(|name| name.addresses.as_deref()).unwrap_or_default()
    }

    /// True once every name was asked for, and answered or failed.
    pub(crate) fn all_tried(&self) -> bool {
        self.known.values().all(|name| name.addresses.is_some() || name.failures > 0)
    }
}

/// Name servers rotate their answers: another order is no change, or connections would be dropped for nothing.
fn same(old: &[IpAddr], new: &[IpAddr]) -> bool {
    old.len() == new.len() && new.iter().all(|address| old.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn answer(addresses: &[&str], ttl: u64) -> Option<Answer> {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Some(Answer { addresses, ttl: Duration::from_secs(ttl) })
    }

    fn needing(names: &[&str], now: Instant) -> Names {
        let mut table = Names::default();
        table.need(names.iter().map(|name| Arc::from(*name)).collect::<Vec<_>>().iter(), now);
        table
    }

    #[test]
    fn a_name_is_asked_for_again_when_its_answer_ends() {
        let now = Instant::now();
        let mut names = needing(&["a"], now);
        assert_eq!(names.take_due(now), ["a".into()]);
        assert_eq!((names.take_due(now), names.next_due()), (vec![], None), "it is being looked up");
        assert!(names.learn("a", answer(&["10.0.0.1"], 30), MINUTE, now));
        assert_eq!(names.next_due(), Some(now + Duration::from_secs(30)));
        assert!(names.take_due(now + Duration::from_secs(29)).is_empty());
        assert_eq!(names.take_due(now + Duration::from_secs(30)), ["a".into()]);
        names.learn("a", answer(&["10.0.0.1"], 0), MINUTE, now);
        assert_eq!(names.next_due(), Some(now + SHORTEST), "not without end");
    }

    #[test]
    fn the_last_good_answer_stays_while_lookups_fail() {
        let now = Instant::now();
        let mut names = needing(&["a"], now);
        names.learn("a", answer(&["10.0.0.1"], 30), MINUTE, now);
        let mut waits = Vec::new();
        for _ in 0..9 {
            assert!(!names.learn("a", None, MINUTE, now));
            waits.push((names.next_due().unwrap() - now).as_millis());
        }
        assert_eq!(names.addresses("a"), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
    }

    #[test]
    fn another_order_of_the_addresses_is_no_change() {
        let now = Instant::now();
        let mut names = needing(&["a"], now);
        assert!(names.learn("a", answer(&["10.0.0.1", "10.0.0.2"], 30), MINUTE, now));
        assert!(!names.learn("a", answer(&["10.0.0.2", "10.0.0.1"], 30), MINUTE, now));
        assert!(names.learn("a", answer(&["10.0.0.2"], 30), MINUTE, now));
        assert!(names.learn("a", answer(&["10.0.0.3"], 30), MINUTE, now));
    }

    #[test]
    fn a_name_that_is_needed_again_keeps_its_answer_and_others_are_forgotten() {
        let now = Instant::now();
        let mut names = needing(&["a", "b"], now);
        assert!(!names.all_tried());
        names.learn("a", answer(&["10.0.0.1"], 30), MINUTE, now);
        names.learn("b", None, MINUTE, now);
        assert!(names.all_tried(), "a failure is an outcome");
        names.need([Arc::from("a")].iter(), now);
        assert_eq!(names.addresses("a").len(), 1);
        assert!(!names.learn("b", answer(&["10.0.0.2"], 30), MINUTE, now), "nobody needs it");
        assert!(names.addresses("b").is_empty());
    }
}
