//! From the workers to the exporter: encoded spans and log records, bounded in number and bytes, each accounted for.
//!
//! A worker never waits: what finds no room is dropped and counted. At any moment at rest
//! `produced = exported + queued + dropped`, where `queued` includes what is on its way to the receiver.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    mpsc::{Receiver, SyncSender, sync_channel},
};

use outrigger_config::snapshot::Destination;
use tokio::sync::Notify;

/// What is sent by OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Access logs as log records.
    Logs,
    /// Metrics; they are collected, not queued.
    Metrics,
}

impl Signal {
    /// As OTLP's paths and `OTEL_*` variables name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Logs => "logs",
            Self::Metrics => "metrics",
        }
    }
}

/// Why an item never reached its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The queue had no room.
    QueueFull,
    /// The receiver could not be reached, or asked for patience, until the time for an export was over.
    Unavailable,
    /// The receiver refused it for good.
    Rejected,
    /// The process ended first.
    Shutdown,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::QueueFull, Self::Unavailable, Self::Rejected, Self::Shutdown];

    /// Value of the label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Unavailable => "unavailable",
            Self::Rejected => "rejected",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Where items go: the receiver with what every request to it begins with.
#[derive(Debug)]
pub struct Target {
    /// The receiver.
    pub destination: Arc<Destination>,
    /// Its cluster, where it is a service of the registry.
    pub cluster: Option<Arc<str>>,
    /// The encoded `Resource`.
    pub resource: Box<[u8]>,
}

/// An encoded span or log record.
#[derive(Debug)]
pub struct Item {
    /// Where it goes.
    pub target: Arc<Target>,
    /// The message without its key and length.
    pub bytes: Box<[u8]>,
}

/// Bounds of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Items that may wait (`OTEL_BSP_MAX_QUEUE_SIZE`, `OTEL_BLRP_MAX_QUEUE_SIZE`; 2048).
    pub items: usize,
    /// Bytes that may wait.
    pub bytes: usize,
    /// Items of one request (`OTEL_BSP_MAX_EXPORT_BATCH_SIZE`, `OTEL_BLRP_MAX_EXPORT_BATCH_SIZE`; 512).
    pub batch: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { items: 2048, bytes: 4 << 20, batch: 512 }
    }
}

/// Bytes of one request; most receivers take 4 MiB.
const BATCH_BYTES: usize = 1 << 20;

/// The workers' end.
#[derive(Debug, Clone)]
pub struct Outbox {
    items: SyncSender<Item>,
    shared: Arc<Shared>,
}

/// The exporter's end.
#[derive(Debug)]
pub struct Inbox {
    items: Receiver<Item>,
    /// Taken, but for another target than the batch before it.
    next: Option<Item>,
    shared: Arc<Shared>,
}

/// What became of the items of one signal.
#[derive(Debug, Clone)]
pub struct Account(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bounds: Bounds,
    produced: AtomicU64,
    exported: AtomicU64,
    dropped: [AtomicU64; Loss::ALL.len()],
    queued: AtomicU64,
    /// Not yet taken by the exporter.
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    /// A batch is full.
    full: Notify,
}

impl Outbox {
    /// A queue.
    #[must_use]
    pub fn new(bounds: Bounds) -> (Self, Inbox) {
        let bounds = Bounds { batch: bounds.batch.clamp(1, bounds.items.max(1)), ..bounds };
        let (sender, receiver) = sync_channel(bounds.items);
        let shared = Arc::new(Shared {
            bounds,
            produced: AtomicU64::new(0),
            exported: AtomicU64::new(0),
            dropped: Default::default(),
            queued: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            full: Notify::new(),
        });
        (Self { items: sender, shared: Arc::clone(&shared) }, Inbox { items: receiver, next: None, shared })
    }

    /// Queues an item, or drops and counts it.
    pub(super) fn send(&self, target: &Arc<Target>, bytes: &[u8]) {
        let shared = &*self.shared;
        shared.produced.fetch_add(1, Relaxed);
        let waiting_bytes = shared.waiting_bytes.fetch_add(bytes.len(), Relaxed) + bytes.len();
        // Counted before it can be taken.
        shared.queued.fetch_add(1, Relaxed);
        let waiting = shared.waiting.fetch_add(1, Relaxed) + 1;
        let fits = waiting_bytes <= shared.bounds.bytes && waiting <= shared.bounds.items;
        let item = || Item { target: Arc::clone(target), bytes: bytes.into() };
        if !fits || self.items.try_send(item()).is_err() {
            shared.waiting_bytes.fetch_sub(bytes.len(), Relaxed);
            shared.waiting.fetch_sub(1, Relaxed);
            shared.settle(1, Some(Loss::QueueFull));
        } else if waiting == shared.bounds.batch {
            shared.full.notify_one();
        }
    }

    /// What becomes of the items.
    #[must_use]
    pub fn account(&self) -> Account {
        Account(Arc::clone(&self.shared))
    }
}

impl Inbox {
    /// Waits until a batch is full.
    pub async fn full(&self) {
        if self.shared.waiting.load(Relaxed) < self.shared.bounds.batch {
            self.shared.full.notified().await;
        }
    }

    /// The next items for one target, in order; none if the queue is empty. They count as queued until they are
    /// settled in the [`account`](Self::account).
    pub fn take(&mut self) -> Option<(Arc<Target>, Vec<Item>)> {
        let first = self.next.take().or_else(|| self.receive())?;
        let target = Arc::clone(&first.target);
        let mut size = first.bytes.len();
        let mut batch = vec![first];
        while batch.len() < self.shared.bounds.batch {
            let Some(item) = self.receive() else { break };
            size += item.bytes.len();
            let same = Arc::ptr_eq(&item.target.destination, &target.destination)
                && item.target.resource == target.resource;
            if !same || size > BATCH_BYTES {
                self.next = Some(item);
                break;
            }
            batch.push(item);
        }
        Some((target, batch))
    }

    fn receive(&self) -> Option<Item> {
        let item = self.items.try_recv().ok()?;
        self.shared.waiting.fetch_sub(1, Relaxed);
        self.shared.waiting_bytes.fetch_sub(item.bytes.len(), Relaxed);
        Some(item)
    }

    /// What becomes of the items.
    #[must_use]
    pub fn account(&self) -> Account {
        Account(Arc::clone(&self.shared))
    }
}

impl Account {
    /// For what is not queued here: metrics are collected when they are due.
    #[must_use]
    pub fn unqueued() -> Self {
        Outbox::new(Bounds { items: 0, bytes: 0, batch: 0 }).0.account()
    }

    /// Items that are on their way from now on.
    pub fn produce(&self, items: u64) {
        self.0.produced.fetch_add(items, Relaxed);
        self.0.queued.fetch_add(items, Relaxed);
    }

    /// Items that left the queue for good: exported, or lost.
    pub fn settle(&self, items: u64, loss: Option<Loss>) {
        self.0.settle(items, loss);
    }

    /// Everything that is queued counts as lost.
    pub fn abandon(&self, loss: Loss) -> u64 {
        let left = self.0.queued.load(Relaxed);
        self.0.settle(left, Some(loss));
        left
    }

    /// Items that ever were.
    #[must_use]
    pub fn produced(&self) -> u64 {
        self.0.produced.load(Relaxed)
    }

    /// Items that a receiver accepted.
    #[must_use]
    pub fn exported(&self) -> u64 {
        self.0.exported.load(Relaxed)
    }

    /// Items that wait, or are on their way.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.0.queued.load(Relaxed)
    }

    /// Items lost for this reason.
    #[must_use]
    pub fn dropped(&self, loss: Loss) -> u64 {
        self.0.lost(loss).load(Relaxed)
    }
}

impl Shared {
    fn settle(&self, items: u64, loss: Option<Loss>) {
        self.queued.fetch_sub(items, Relaxed);
        match loss {
            None => self.exported.fetch_add(items, Relaxed),
            Some(loss) => self.lost(loss).fetch_add(items, Relaxed),
        };
    }

    fn lost(&self, loss: Loss) -> &AtomicU64 {
        let [full, unavailable, rejected, shutdown] = &self.dropped;
        match loss {
            Loss::QueueFull => full,
            Loss::Unavailable => unavailable,
            Loss::Rejected => rejected,
            Loss::Shutdown => shutdown,
        }
    }
}
