//! From a queue to a destination: batches, several in flight, and retries without end.

use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Backoff, Exporter, Failure, join};
use crate::config::{self, Batch, Retry};
use crate::metrics::ExporterMetrics;
use crate::queue::Queued;
use crate::signal::Signal;

/// No batch grows beyond this, whatever the item counts say: OTLP's limit is 64 MiB.
const MAX_BATCH_BYTES: usize = 32 << 20;

/// Tells a sender to take no more, and to send what it has without waiting for more.
pub type Stop = CancellationToken;

/// One exporter at work.
#[derive(Debug)]
pub struct Sender {
    name: String,
    exporter: Exporter,
    retry: Retry,
    metrics: ExporterMetrics,
    stop: Stop,
    last_error: Mutex<Option<String>>,
}

impl Sender {
    /// A sender for one exporter.
    pub fn new(settings: &config::Exporter, metrics: ExporterMetrics, stop: Stop) -> Self {
        Self {
            name: settings.name.clone(),
            exporter: Exporter::new(settings),
            retry: settings.retry.clone(),
            metrics,
            stop,
            last_error: Mutex::new(None),
        }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its counters.
    pub fn metrics(&self) -> &ExporterMetrics {
        &self.metrics
    }

    /// Why the destination does not take anything at the moment, if it does not.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().ok().and_then(|error| error.clone())
    }

    /// Runs until it is told to stop and everything is delivered. Dropping the future abandons what is left.
    pub async fn run(self: Arc<Self>, mut queue: mpsc::Receiver<Queued>, settings: config::Queue) {
        let mut flight = Flight {
            sender: Arc::clone(&self),
            places: Arc::new(Semaphore::new(settings.consumers.min(Semaphore::MAX_PERMITS))),
            tasks: JoinSet::new(),
        };
        let mut waiting = [const { Pending::new() }; 3];
        let batch = settings.batch.unwrap_or(Batch {
            min_items: 0,
            max_items: 1,
            flush_timeout: std::time::Duration::ZERO,
        });
        let mut closed = false;
        loop {
            let due = waiting.iter().filter_map(|pending| pending.since).min();
            let due = due.map(|since| if closed { since } else { since + batch.flush_timeout });
            let flush = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled(), if !closed => {
                    queue.close();
                    closed = true;
                }
                () = flush => {
                    for pending in &mut waiting {
                        if pending.since.is_some_and(|since| closed || since.elapsed() >= batch.flush_timeout) {
                            flight.launch(pending.take()).await;
                        }
                    }
                }
                queued = queue.recv() => {
                    let Some(queued) = queued else { break };
                    let Some(pending) = waiting.get_mut(queued.frame.signal.index()) else { continue };
                    if !pending.fits(&queued, &batch) {
                        flight.launch(pending.take()).await;
                    }
                    pending.add(queued);
                    if pending.items >= batch.min_items {
                        flight.launch(pending.take()).await;
                    }
                }
            }
        }
        for pending in &mut waiting {
            flight.launch(pending.take()).await;
        }
        while flight.tasks.join_next().await.is_some() {}
    }

    /// Delivers a batch, however long it takes.
    async fn deliver(&self, frames: Vec<Queued>) {
        let mut work = vec![frames];
        while let Some(mut frames) = work.pop() {
            let Some(first) = frames.first() else { continue };
            let signal = first.frame.signal;
            let items = frames.iter().map(|queued| queued.frame.items).sum();
            let Err(error) = self.attempt(signal, items, join(&frames)).await else { continue };
            if frames.len() > 1 {
                // One bad request must not take the others with it, and smaller pieces may fit.
                let tail = frames.split_off(frames.len() / 2);
                work.push(tail);
                work.push(frames);
                continue;
            }
            self.count(&self.metrics.failed, signal, items);
            let exporter = self.name.as_str();
            tracing::error!(
                exporter,
                signal = signal.name(),
                items,
                error,
                "the destination refused a request"
            );
        }
    }

    /// Tries until the destination has decided. The error is final.
    async fn attempt(&self, signal: Signal, items: u64, payload: bytes::Bytes) -> Result<(), String> {
        let mut backoff = Backoff::new(&self.retry);
        let mut prepared = None;
        for attempt in 1u64.. {
            let result = match &prepared {
                Some(request) => self.exporter.send(request).await,
                None => match self.exporter.prepare(signal, items, payload.clone()).await {
                    Ok(request) => self.exporter.send(prepared.insert(request)).await,
                    Err(failure) => Err(failure),
                },
            };
            match result {
                Ok(delivered) => {
                    self.note(None);
                    let rejected = delivered.rejected.min(items);
                    self.count(&self.metrics.sent, signal, items - rejected);
                    self.count(&self.metrics.failed, signal, rejected);
                    if rejected > 0 || !delivered.message.is_empty() {
                        let (exporter, message) = (self.name.as_str(), delivered.message);
                        tracing::warn!(exporter, rejected, message, "the destination took a request in part");
                    }
                    return Ok(());
                }
                Err(Failure::Refused { error }) => return Err(error),
                Err(Failure::Retry { after, error }) => {
                    self.metrics.retries.add(1);
                    let pause = backoff.pause(after);
                    if attempt.is_power_of_two() {
                        let exporter = self.name.as_str();
                        tracing::warn!(exporter, attempt, error, ?pause, "delivery failed; trying again");
                    }
                    self.note(Some(error));
                    self.pause(pause).await;
                }
            }
        }
        Ok(())
    }

    /// A stop cuts one pause short, so that a destination that is back is used at once.
    async fn pause(&self, pause: std::time::Duration) {
        if self.stop.is_cancelled() {
            return sleep(pause).await;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = self.stop.cancelled() => {}
        }
    }

    fn note(&self, error: Option<String>) {
        if let Ok(mut last) = self.last_error.lock() {
            *last = error;
        }
    }

    fn count(&self, counters: &[crate::metrics::Counter; 3], signal: Signal, items: u64) {
        if let Some(counter) = counters.get(signal.index()) {
            counter.add(items);
        }
    }
}

/// The deliveries under way.
struct Flight {
    sender: Arc<Sender>,
    places: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Flight {
    /// Starts a delivery when there is a place for it; meanwhile the queue fills, as it should.
    async fn launch(&mut self, frames: Vec<Queued>) {
        while self.tasks.try_join_next().is_some() {}
        if frames.is_empty() {
            return;
        }
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
        let sender = Arc::clone(&self.sender);
        self.tasks.spawn(async move {
            sender.deliver(frames).await;
            drop::<OwnedSemaphorePermit>(place);
        });
    }
}

/// A batch in the making.
struct Pending {
    frames: Vec<Queued>,
    items: u64,
    bytes: usize,
    since: Option<Instant>,
}

impl Pending {
    const fn new() -> Self {
        Self { frames: Vec::new(), items: 0, bytes: 0, since: None }
    }

    fn fits(&self, queued: &Queued, batch: &Batch) -> bool {
        let items = self.items + queued.frame.items;
        self.frames.is_empty()
            || (self.bytes + queued.frame.payload.len() <= MAX_BATCH_BYTES
                && (batch.max_items == 0 || items <= batch.max_items))
    }

    fn add(&mut self, queued: Queued) {
        self.items += queued.frame.items;
        self.bytes += queued.frame.payload.len();
        self.since.get_or_insert_with(Instant::now);
        self.frames.push(queued);
    }

    fn take(&mut self) -> Vec<Queued> {
        std::mem::replace(self, Self::new()).frames
    }
}
