//! The bounded queue before one exporter: where a request waits between its acknowledgement and its delivery.
//!
//! Room is reserved first and filled later, so that a request is either in every queue or in none. A request
//! occupies its room until it is delivered. This is the seam where a durable log will stand.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::budget::{Budget, Charge};
use crate::config;
use crate::metrics::{ExporterMetrics, Gauge};
use crate::signal::Signal;

/// One accepted request: what it is, how much it counts for, and its protobuf bytes, untouched.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The signal it belongs to.
    pub signal: Signal,
    /// Spans, data points or log records in it.
    pub items: u64,
    /// When it was accepted.
    pub received: SystemTime,
    /// The export request.
    pub payload: Bytes,
    /// Its part of the memory budget, held as long as any copy is.
    pub charge: Arc<Charge>,
}

/// The sending side.
#[derive(Debug)]
pub struct Queue {
    frames: mpsc::Sender<Queued>,
    slots: Arc<Semaphore>,
    bytes: Budget,
    depth: Depth,
    settings: config::Queue,
}

/// Room for one request.
#[derive(Debug)]
pub struct Room {
    _slot: OwnedSemaphorePermit,
    _bytes: Charge,
}

/// A frame with the room that it occupies.
#[derive(Debug)]
pub struct Queued {
    /// What is to be sent.
    pub frame: Frame,
    depth: Depth,
    _room: Room,
}

/// The queue has been closed: the collector is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is closed")]
pub struct Closed;

impl Queue {
    /// A queue and its receiving end.
    pub fn new(settings: &config::Queue, metrics: &ExporterMetrics) -> (Self, mpsc::Receiver<Queued>) {
        let slots = settings.max_requests.min(Semaphore::MAX_PERMITS);
        let (frames, receiver) = mpsc::channel(slots);
        let depth = Depth {
            requests: metrics.queue_size.clone(),
            items: metrics.queue_items.clone(),
            bytes: metrics.queue_bytes.clone(),
        };
        let slots = Arc::new(Semaphore::new(slots));
        let bytes = Budget::new(settings.max_bytes);
        (Self { frames, slots, bytes, depth, settings: settings.clone() }, receiver)
    }

    /// How the queue was configured.
    pub fn settings(&self) -> &config::Queue {
        &self.settings
    }

    /// Waits for room for a request of that many bytes; first come, first served.
    pub async fn reserve(&self, bytes: usize) -> Result<Room, Closed> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| Closed)?;
        let mut charge = self.bytes.open();
        charge.grow(bytes, Duration::MAX).await.map_err(|_| Closed)?;
        Ok(Room { _slot: slot, _bytes: charge })
    }

    /// Room for a request of that many bytes, if there is some now.
    pub fn try_reserve(&self, bytes: usize) -> Option<Room> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        let mut charge = self.bytes.open();
        charge.try_grow(bytes).ok()?;
        Some(Room { _slot: slot, _bytes: charge })
    }

    /// Fills a room.
    pub fn push(&self, room: Room, frame: Frame) -> Result<(), Closed> {
        self.depth.grow(&frame);
        let queued = Queued { frame, depth: self.depth.clone(), _room: room };
        // A room is a place in the channel too, so only a closed channel can refuse.
        self.frames.try_send(queued).map_err(|_| Closed)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.depth.shrink(&self.frame);
    }
}

#[derive(Clone, Debug)]
struct Depth {
    requests: Gauge,
    items: Gauge,
    bytes: Gauge,
}

impl Depth {
    fn grow(&self, frame: &Frame) {
        self.requests.add(1);
        self.items.add(frame.items);
        self.bytes.add(frame.payload.len() as u64);
    }

    fn shrink(&self, frame: &Frame) {
        self.requests.sub(1);
        self.items.sub(frame.items);
        self.bytes.sub(frame.payload.len() as u64);
    }
}
