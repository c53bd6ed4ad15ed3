//! Counts every item by its id: made, accepted or refused at the sender, and received at the sinks.
//!
//! Nothing is estimated: the summary is read off these tables.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

/// Attribute of every span, log record and metric point.
pub(crate) const ITEM_ID: &str = "demo.item";
/// Attribute of every resource.
pub(crate) const SESSION: &str = "demo.session";

/// Number of one item, unique in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ItemId(pub(crate) i64);

/// The three collectors by their position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SinkId(pub(crate) usize);

/// What became of the items.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    next: AtomicU64,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    accepted: BTreeSet<ItemId>,
    refused: BTreeSet<ItemId>,
    received: HashMap<ItemId, u64>,
    arrivals: Vec<Arrival>,
    accepted_requests: u64,
    refused_requests: u64,
    own: OwnReceived,
}

/// What the sinks have got of the sidecar's own telemetry.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnReceived {
    /// Spans, by their ids.
    pub(crate) spans: BTreeSet<Vec<u8>>,
    /// Log records, by the ids of their spans.
    pub(crate) records: BTreeSet<Vec<u8>>,
    /// Metric points.
    pub(crate) points: u64,
}

/// One batch at a sink.
#[derive(Debug, Clone)]
struct Arrival {
    at: Instant,
    session: String,
    sink: SinkId,
}

/// The summary.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    /// Handed to the SDK.
    pub(crate) made: u64,
    /// In an export that was answered with success.
    pub(crate) accepted: u64,
    /// In an export that failed for good after the SDK's own retries.
    pub(crate) refused: u64,
    /// Distinct items at the sinks.
    pub(crate) received: u64,
    /// Items beyond the first copy.
    pub(crate) duplicates: u64,
    /// Accepted, but at no sink.
    pub(crate) missing: u64,
    /// Refused, yet delivered: an answer was lost, not the data.
    pub(crate) refused_yet_received: u64,
    /// Export calls that succeeded.
    pub(crate) accepted_requests: u64,
    /// Export calls that failed.
    pub(crate) refused_requests: u64,
}

impl Ledger {
    /// A new item.
    pub(crate) fn make(&self) -> ItemId {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        ItemId(i64::try_from(id).unwrap_or(i64::MAX))
    }

    /// An export call ended.
    pub(crate) fn settle(&self, items: impl IntoIterator<Item = ItemId>, accepted: bool) {
        let mut tables = self.tables();
        if accepted {
            tables.accepted_requests += 1;
            tables.accepted.extend(items);
        } else {
            tables.refused_requests += 1;
            tables.refused.extend(items);
        }
    }

    /// A sink has got a batch of one session.
    pub(crate) fn receive(&self, sink: SinkId, session: String, items: impl IntoIterator<Item = ItemId>) {
        let mut tables = self.tables();
        for item in items {
            *tables.received.entry(item).or_default() += 1;
        }
        tables.arrivals.push(Arrival { at: Instant::now(), session, sink });
    }

    /// A sink has got telemetry of the sidecar itself.
    pub(crate) fn receive_own(&self, received: OwnReceived) {
        let own = &mut self.tables().own;
        own.spans.extend(received.spans);
        own.records.extend(received.records);
        own.points += received.points;
    }

    /// The sidecar's own telemetry so far.
    pub(crate) fn own(&self) -> OwnReceived {
        self.tables().own.clone()
    }

    /// The sinks that each session's data went to between two moments.
    pub(crate) fn sinks_by_session(&self, from: Instant, to: Instant) -> BTreeMap<String, BTreeSet<SinkId>> {
        let mut sinks: BTreeMap<String, BTreeSet<SinkId>> = BTreeMap::new();
        for arrival in self.tables().arrivals.iter().filter(|arrival| (from..to).contains(&arrival.at)) {
            sinks.entry(arrival.session.clone()).or_default().insert(arrival.sink);
        }
        sinks
    }

    /// Counts everything.
    pub(crate) fn totals(&self) -> Totals {
        let tables = self.tables();
        let received_of =
            |set: &BTreeSet<ItemId>| set.iter().filter(|id| tables.received.contains_key(id)).count();
        Totals {
            made: self.next.load(Ordering::Relaxed),
            accepted: count(tables.accepted.len()),
            refused: count(tables.refused.len()),
            received: count(tables.received.len()),
            duplicates: tables.received.values().map(|copies| copies - 1).sum(),
            missing: count(tables.accepted.len() - received_of(&tables.accepted)),
            refused_yet_received: count(received_of(&tables.refused)),
            accepted_requests: tables.accepted_requests,
            refused_requests: tables.refused_requests,
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Each update is complete in itself, so a panic elsewhere leaves nothing half done.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_item_that_no_sink_saw_is_missing() {
        let ledger = Ledger::default();
        let items: Vec<_> = (0..4).map(|_| ledger.make()).collect();
        ledger.settle(items[..3].iter().copied(), true);
        ledger.settle(items[3..].iter().copied(), false);
        ledger.receive(SinkId(0), "a".into(), items[..2].iter().copied());
        ledger.receive(SinkId(1), "a".into(), [items[0], items[3]]);
        let totals = ledger.totals();
        assert_eq!((totals.made, totals.accepted, totals.refused), (4, 3, 1));
        assert_eq!((totals.received, totals.duplicates, totals.missing), (3, 1, 1));
        assert_eq!(totals.refused_yet_received, 1);
    }
}
