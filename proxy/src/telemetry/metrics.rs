//! Istio's metrics of requests and connections: counted by each worker in cells of its own, merged when somebody scrapes.
//!
//! [`Requests`] keys the series by their labels and outlives every reload. A worker resolves a series once and keeps
//! the handle in its [`Cache`] under small keys (addresses and numbers), so that a request hashes no label and takes no
//! lock. Both the cache and the registry are bounded; what does not fit counts in one series whose labels all say
//! `overflow`.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hashbrown::{DefaultHashBuilder, HashTable};
use outrigger_config::snapshot::{Cluster, Direction, Endpoint, Node};
use tokio::time::Instant;

use super::{
    Flags, Record,
    histogram::{Histogram, Merged, add},
    labels::{Labels, Outcome, Peer, Spoken},
};
use crate::net::tls::Parties;

/// Distinct label sets that are kept; each costs about 3 KiB and 0.5 KiB for each worker that counts in it.
const MAX_SERIES: usize = 2_000;
/// Distinct hosts that a worker reports for requests to no service: clients choose them.
const MAX_HOSTS: usize = 50;
/// A series that no worker holds is dropped when it stood still for so long.
const EXPIRY: Duration = Duration::from_mins(15);

/// All series of requests, shared by the workers and the scraper.
#[derive(Debug)]
pub struct Requests {
    workers: usize,
    series: Mutex<HashMap<Labels, Series>>,
}

#[derive(Debug)]
struct Series {
    /// One place for each worker, filled when that worker counts.
    cells: Box<[Option<Arc<Cells>>]>,
    unheld_since: Option<Instant>,
}

/// What one worker counted of one series: metrics of one kind have the same labels, and those of the other stay 0.
#[derive(Debug, Default)]
pub(super) struct Cells {
    requests: AtomicU64,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
    opened: AtomicU64,
    closed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Cells {
    /// Bytes that a client got.
    pub(super) fn sent(&self, bytes: u64) {
        add(&self.sent, bytes);
    }

    /// Bytes that a client sent.
    pub(super) fn received(&self, bytes: u64) {
        add(&self.received, bytes);
    }
}

/// One series, summed over the workers.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Sums {
    pub(super) requests: u64,
    pub(super) duration: Merged,
    pub(super) request_bytes: Merged,
    pub(super) response_bytes: Merged,
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Sums {
    /// Whether requests were counted, not connections. The series of what no longer fits has both.
    pub(super) fn has_requests(&self) -> bool {
        self.requests > 0
    }

    pub(super) fn has_connections(&self) -> bool {
        self.opened + self.closed > 0
    }
}

impl Requests {
    /// An empty registry for workers with numbers below `workers`.
    #[must_use]
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self { workers, series: Mutex::default() })
    }

    fn resolve(&self, worker: usize, labels: Labels) -> Arc<Cells> {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = if series.len() < MAX_SERIES || series.contains_key(&labels) {
            labels
        } else {
            Labels::overflow()
        };
        let entry = series
            .entry(labels)
            .or_insert_with(|| Series { cells: vec![None; self.workers].into(), unheld_since: None });
        entry.unheld_since = None;
        match entry.cells.get_mut(worker) {
            Some(cell) => Arc::clone(cell.get_or_insert_default()),
            None => {
                debug_assert!(false, "worker {worker} of {}", self.workers);
                Arc::default()
            }
        }
    }

    /// Every series with its sums, in no order. Drops the series that have expired at `now`.
    pub(super) fn scrape(&self, now: Instant) -> Vec<(Labels, Sums)> {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.retain(|_, entry| !entry.expired(now));
        series.iter().map(|(labels, entry)| (labels.clone(), entry.sums())).collect()
    }
}

impl Series {
    /// No worker of the current configuration counts here, for long enough to be scraped a last time.
    fn expired(&mut self, now: Instant) -> bool {
        if self.cells.iter().flatten().any(|cells| Arc::strong_count(cells) > 1) {
            self.unheld_since = None;
            return false;
        }
        now.saturating_duration_since(*self.unheld_since.get_or_insert(now)) >= EXPIRY
    }

    fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for cells in self.cells.iter().flatten() {
            sums.requests += cells.requests.load(Relaxed);
            sums.duration.merge(&cells.duration);
            sums.request_bytes.merge(&cells.request_bytes);
            sums.response_bytes.merge(&cells.response_bytes);
            sums.opened += cells.opened.load(Relaxed);
            sums.closed += cells.closed.load(Relaxed);
            sums.sent += cells.sent.load(Relaxed);
            sums.received += cells.received.load(Relaxed);
        }
        sums
    }
}

/// The series that one worker has resolved under the current snapshot.
#[derive(Debug)]
pub(super) struct Cache {
    worker: usize,
    requests: Arc<Requests>,
    own: Peer,
    handles: HashTable<(Key, Arc<Cells>)>,
    hasher: DefaultHashBuilder,
    hosts: usize,
}

/// Owns what an [`Outcome`] borrows: clusters and endpoints are compared by address, and the key keeps them alive, so
/// that no other one takes their place. Equal outcomes have equal labels under one snapshot.
#[derive(Debug)]
struct Key {
    direction: Direction,
    cluster: Option<Arc<Cluster>>,
    endpoint: Option<Arc<Endpoint>>,
    host: Option<Box<str>>,
    spoken: Spoken,
    grpc_status: Option<u32>,
    status: u16,
    flags: Flags,
    parties: Option<Arc<Parties>>,
}

impl Cache {
    pub(super) fn new(worker: usize, requests: Arc<Requests>) -> Self {
        Self {
            worker,
            requests,
            own: Peer::own(&Node::default()),
            handles: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            hosts: 0,
        }
    }

    /// Forgets all handles: a new snapshot has other clusters, and perhaps another node.
    pub(super) fn adopt(&mut self, node: &Node) {
        self.own = Peer::own(node);
        self.handles.clear();
        self.hosts = 0;
    }

    pub(super) fn count(&mut self, record: &Record, took: Duration) {
        let cells = self.handle(record);
        if let Some(connection) = &record.connection {
            add(&cells.opened, (!connection.opened).into());
            add(&cells.closed, 1);
            return;
        }
        add(&cells.requests, 1);
        cells.duration.observe(took.as_secs_f64() * 1_000.0);
        cells.request_bytes.observe(as_f64(record.wire_received));
        cells.response_bytes.observe(as_f64(record.wire_sent));
    }

    /// Counts a connection as open, and returns where its bytes count from now on.
    pub(super) fn open(&mut self, record: &Record) -> Arc<Cells> {
        let cells = self.handle(record);
        add(&cells.opened, 1);
        Arc::clone(cells)
    }

    fn handle(&mut self, record: &Record) -> &Arc<Cells> {
        let mut outcome = Outcome::of(record);
        if outcome.host.is_some() && self.find(&outcome).is_none() {
            if self.hosts < MAX_HOSTS {
                self.hosts += 1;
            } else {
                outcome.host = None;
            }
        }
        if self.handles.len() >= MAX_SERIES {
            // Upstreams choose status codes: many distinct keys, few of them used again.
            self.handles.clear();
        }
        let (hash, hasher) = (self.hasher.hash_one(&outcome), &self.hasher);
        let entry = self.handles.entry(
            hash,
            |(key, _)| key.outcome() == outcome,
            |(key, _)| hasher.hash_one(key.outcome()),
        );
        let entry = entry.or_insert_with(|| {
            let labels = Labels::new(&self.own, &outcome);
            (Key::new(record, &outcome), self.requests.resolve(self.worker, labels))
        });
        &entry.into_mut().1
    }

    fn find(&self, outcome: &Outcome<'_>) -> Option<&(Key, Arc<Cells>)> {
        self.handles.find(self.hasher.hash_one(outcome), |(key, _)| key.outcome() == *outcome)
    }
}

impl<'r> Outcome<'r> {
    fn of(record: &'r Record) -> Self {
        Self {
            direction: record.direction,
            cluster: record.cluster.as_deref(),
            endpoint: record.endpoint.as_deref(),
            // Only a request whose cluster is none of a service is told by its host.
            host: match (&record.cluster, &record.authority) {
                (Some(cluster), _) if !cluster.service.host.is_empty() => None,
                (_, Some(authority)) => authority.to_str().ok(),
                (_, None) => None,
            },
            spoken: match record.connection {
                Some(_) => Spoken::Tcp,
                None if record.grpc => Spoken::Grpc,
                None => Spoken::Http,
            },
            grpc_status: record.grpc_status,
            status: record.status,
            flags: record.flags,
            parties: parties(record).map(|parties| &**parties),
        }
    }
}

impl Key {
    fn new(record: &Record, outcome: &Outcome<'_>) -> Self {
        Self {
            direction: outcome.direction,
            cluster: record.cluster.clone(),
            endpoint: record.endpoint.clone(),
            host: outcome.host.map(Into::into),
            spoken: outcome.spoken,
            grpc_status: outcome.grpc_status,
            status: outcome.status,
            flags: outcome.flags,
            parties: parties(record).cloned(),
        }
    }

    fn outcome(&self) -> Outcome<'_> {
        Outcome {
            direction: self.direction,
            cluster: self.cluster.as_deref(),
            endpoint: self.endpoint.as_deref(),
            host: self.host.as_deref(),
            spoken: self.spoken,
            grpc_status: self.grpc_status,
            status: self.status,
            flags: self.flags,
            parties: self.parties.as_deref(),
        }
    }
}

impl PartialEq for Outcome<'_> {
    fn eq(&self, other: &Self) -> bool {
        address(self.endpoint) == address(other.endpoint)
            && address(self.cluster) == address(other.cluster)
            && self.status == other.status
            && self.grpc_status == other.grpc_status
            && self.spoken == other.spoken
            && self.flags == other.flags
            && self.direction == other.direction
            && self.host == other.host
            && principals(self.parties) == principals(other.parties)
    }
}

impl Eq for Outcome<'_> {}

impl Hash for Outcome<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(address(self.endpoint));
        state.write_usize(address(self.cluster));
        state.write_u32(self.grpc_status.unwrap_or(u32::MAX));
        state.write_u16(self.status);
        if let Some(host) = self.host {
            host.hash(state);
        }
        if let Some(parties) = self.parties {
            parties.peer_principal().hash(state);
        }
    }
}

/// Of the client on the way in, if it has shown who it is (Istio's `mutual_tls`), of the endpoint on the way out.
fn parties(record: &Record) -> Option<&Arc<Parties>> {
    match record.direction {
        Direction::Inbound => {
            record.secured.as_ref().map(|secured| &secured.parties).filter(|parties| parties.peer.is_some())
        }
        Direction::Outbound => record.upstream_parties.as_ref(),
    }
}

/// What is told of a connection: many have the same.
fn principals(parties: Option<&Parties>) -> Option<[Option<&Arc<str>>; 2]> {
    parties.map(|parties| [parties.peer_principal(), parties.own_principal()])
}

fn address<T>(shared: Option<&T>) -> usize {
    shared.map_or(0, |shared| std::ptr::from_ref(shared).addr())
}

#[expect(clippy::cast_precision_loss, reason = "a histogram's sum is a float")]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}
