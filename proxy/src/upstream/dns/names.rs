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

/// What an answer changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// Nothing.
    None,
    /// The first address: name servers rotate their answers.
    First,
    /// Which addresses there are.
    Addresses,
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
    refresh: Duration,
}

impl Names {
    /// No other names are needed any more.
    pub(crate) fn keep<'n>(&mut self, names: impl Iterator<Item = &'n Arc<str>>) {
        let needed: HashSet<&Arc<str>> = names.collect();
        self.known.retain(|name, _| needed.contains(name));
    }

    /// These names are needed from now on too. A new one is due at once; after failures it is asked for again at the
    /// latest when `refresh` is over (Istio `MeshConfig.dnsRefreshRate`).
    pub(crate) fn need<'n>(
        &mut self,
        names: impl Iterator<Item = &'n Arc<str>>,
        refresh: Duration,
        now: Instant,
    ) {
        for name in names {
            let new = || Name { addresses: None, due: Some(now), failures: 0, refresh };
            self.known.entry(Arc::clone(name)).or_insert_with(new).refresh = refresh;
        }
    }

    /// Those whose time has come, `most` of them. They are being looked up from now on, until [`Names::learn`].
    pub(crate) fn take_due(&mut self, most: usize, now: Instant) -> Vec<Arc<str>> {
        let due = self.known.iter_mut().filter(|(_, name)| name.due.is_some_and(|at| at <= now));
        due.take(most)
            .map(|(text, name)| {
                name.due = None;
                Arc::clone(text)
            })
            .collect()
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.known.values().filter_map(|name| name.due).min()
    }

    /// Takes the outcome of a lookup. After a failure the last good answer stays.
    pub(crate) fn learn(&mut self, name: &str, answer: Option<Answer>, now: Instant) -> Change {
        // Nobody needs it any more.
        let Some(known) = self.known.get_mut(name) else { return Change::None };
        let Some(answer) = answer else {
            let wait = FIRST_RETRY.saturating_mul(1 << known.failures.min(16));
            known.failures = known.failures.saturating_add(1);
            known.due = Some(now + wait.min(known.refresh));
            return Change::None;
        };
        known.failures = 0;
        known.due = Some(now + answer.ttl.max(SHORTEST));
        let change = change(known.addresses.as_deref().unwrap_or_default(), &answer.addresses);
        known.addresses = Some(answer.addresses);
        change
    }

    /// The last good answer.
    pub(crate) fn addresses(&self, name: &str) -> &[IpAddr] {
        self.known.get(name).and_then(|name| name.addresses.as_deref()).unwrap_or_default()
    }

    /// True once every name was asked for, and answered or failed.
    pub(crate) fn all_tried(&self) -> bool {
        self.known.values().all(|name| name.addresses.is_some() || name.failures > 0)
    }

    /// Whether the last lookup of a name failed.
    pub(crate) fn is_failing(&self, name: &str) -> bool {
        self.known.get(name).is_some_and(|name| name.failures > 0)
    }
}

fn change(old: &[IpAddr], new: &[IpAddr]) -> Change {
    if old.len() != new.len() || !new.iter().all(|address| old.contains(address)) {
        return Change::Addresses;
    }
    if old.first() == new.first() { Change::None } else { Change::First }
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
        let names: Vec<Arc<str>> = names.iter().map(|name| Arc::from(*name)).collect();
        table.need(names.iter(), MINUTE, now);
        table
    }

    #[test]
    fn a_name_is_asked_for_again_when_its_answer_ends() {
        let now = Instant::now();
        let mut names = needing(&["a"], now);
        assert_eq!(names.take_due(9, now), ["a".into()]);
        assert_eq!((names.take_due(9, now), names.next_due()), (vec![], None), "it is being looked up");
        assert_eq!(names.learn("a", answer(&["10.0.0.1"], 30), now), Change::Addresses);
        assert_eq!(names.next_due(), Some(now + Duration::from_secs(30)));
        assert!(names.take_due(9, now + Duration::from_secs(29)).is_empty());
        assert_eq!(names.take_due(9, now + Duration::from_secs(30)), ["a".into()]);
        names.learn("a", answer(&["10.0.0.1"], 0), now);
        assert_eq!(names.next_due(), Some(now + SHORTEST), "not without end");
    }

    #[test]
    fn the_last_good_answer_stays_while_lookups_fail() {
        let now = Instant::now();
        let mut names = needing(&["a"], now);
        names.learn("a", answer(&["10.0.0.1"], 30), now);
        let mut waits = Vec::new();
        for _ in 0..9 {
            assert_eq!(names.learn("a", None, now), Change::None);
            waits.push((names.next_due().unwrap() - now).as_millis());
        }
        assert_eq!(names.addresses("a"), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
    }

    #[test]
    fn another_order_of_the_addresses_is_told_from_other_addresses() {
        let now = Instant::now();
        let mut names = needing(&["a"], now);
        let mut change = |addresses: &[&str]| names.learn("a", answer(addresses, 30), now);
        assert_eq!(change(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]), Change::Addresses);
        assert_eq!(change(&["10.0.0.1", "10.0.0.3", "10.0.0.2"]), Change::None);
        assert_eq!(change(&["10.0.0.3", "10.0.0.2", "10.0.0.1"]), Change::First);
        assert_eq!(change(&["10.0.0.3"]), Change::Addresses);
        assert_eq!(change(&["10.0.0.4"]), Change::Addresses);
    }

    #[test]
    fn a_name_that_is_needed_again_keeps_its_answer_and_others_are_forgotten() {
        let now = Instant::now();
        let mut names = needing(&["a", "b"], now);
        assert!(!names.all_tried());
        names.learn("a", answer(&["10.0.0.1"], 30), now);
        names.learn("b", None, now);
        assert!(names.all_tried(), "a failure is an outcome");
        names.keep([Arc::from("a")].iter());
        names.need([Arc::from("a")].iter(), MINUTE, now);
        assert_eq!(names.addresses("a").len(), 1);
        assert_eq!(names.learn("b", answer(&["10.0.0.2"], 30), now), Change::None, "nobody needs it");
        assert!(names.addresses("b").is_empty());
    }
}
