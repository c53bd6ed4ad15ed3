//! What a request leaves behind: one [`Record`], and from it the metrics and the access log line.
//!
//! A record is a plain struct that the request path fills; a [`Shard`] belongs to one worker and takes it at the true
//! end of the stream. Nothing here delays traffic: metrics are cells of the worker's own, the log is a bounded queue
//! whose drops are counted.

mod access_log;
mod capture;
mod exposition;
mod flags;
mod histogram;
mod labels;
mod metrics;
mod outbox;
mod plan;
mod points;
mod record;
mod resource;
mod span;
pub(crate) mod wire;

pub use access_log::{LogCounts, LogQueue, LogWriter};
pub use exposition::{CLASSIC, Kind, Metrics, OPEN_METRICS, Sample};
pub use flags::{Details, Flag, Flags};
pub use metrics::Requests;
pub use outbox::{Account, Bounds, Inbox, Item, Loss, Outbox, Signal, Target};
pub use points::{Points, Temporal};
pub use record::{RawConnection, Record};
pub use resource::{Environment, Resource};
pub use span::SpanContext;

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use outrigger_config::snapshot::{Direction, Snapshot};
use tokio::time::Instant;

#[cfg(test)]
mod export_tests;
#[cfg(test)]
mod tests;

use access_log::{Clock, End};
use capture::Part;
use metrics::{Cache, Cells};
use plan::Plan;

/// The telemetry of one worker. Not shared between threads.
#[derive(Debug)]
pub struct Shard {
    queues: Queues,
    state: RefCell<State>,
}

/// What workers tell of requests beside metrics, shared by them.
#[derive(Debug, Clone)]
pub struct Queues {
    /// Lines for files.
    pub log: LogQueue,
    /// Spans by OTLP.
    pub spans: Outbox,
    /// Log records by OTLP.
    pub records: Outbox,
    /// Who reports.
    pub resource: Arc<Resource>,
}

#[derive(Debug)]
struct State {
    /// The newest snapshot seen; another one drops the plans and the cached series.
    snapshot: Option<Arc<Snapshot>>,
    outbound: Option<Arc<Plan>>,
    inbound: Option<Arc<Plan>>,
    cache: Cache,
    clock: Clock,
    scratch: Vec<u8>,
    message: Vec<u8>,
}

impl Shard {
    /// The shard of worker number `worker`, which counts into `requests`.
    #[must_use]
    pub fn new(worker: usize, requests: Arc<Requests>, queues: Queues) -> Self {
        let state = State {
            snapshot: None,
            outbound: None,
            inbound: None,
            cache: Cache::new(worker, requests),
            clock: Clock::default(),
            scratch: Vec::new(),
            message: Vec::new(),
        };
        Self { queues, state: RefCell::new(state) }
    }

    /// Starts the record of a request that came in now and keeps to `snapshot`.
    #[must_use]
    pub fn begin(&self, snapshot: &Arc<Snapshot>, direction: Direction) -> Record {
        let mut state = self.state.borrow_mut();
        if !state.snapshot.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, snapshot)) {
            let plan = |direction| Plan::new(snapshot, direction, &self.queues.resource);
            state.outbound = plan(Direction::Outbound);
            state.inbound = plan(Direction::Inbound);
            state.cache.adopt(&snapshot.node);
            state.snapshot = Some(Arc::clone(snapshot));
        }
        let plan = match direction {
            Direction::Outbound => state.outbound.clone(),
            Direction::Inbound => state.inbound.clone(),
        };
        Record::new(Instant::now(), SystemTime::now(), direction, plan)
    }

    /// Keeps the request header values that the plan names. Call it with the headers as they are sent upstream, so that
    /// the log shows the request id.
    pub fn capture_request(&self, record: &mut Record, headers: &HeaderMap) {
        capture(Part::Request, record, headers);
    }

    /// Keeps the response header values that the plan names, and the `grpc-status` of a gRPC request. Call it with the
    /// headers as they are sent to the client.
    pub fn capture_response(&self, record: &mut Record, headers: &HeaderMap) {
        record.read_grpc_status(headers);
        capture(Part::Response, record, headers);
    }

    /// Keeps the trailer values that the plan names, and the `grpc-status` of a gRPC request.
    pub fn capture_trailers(&self, record: &mut Record, trailers: &HeaderMap) {
        record.read_grpc_status(trailers);
        capture(Part::Trailers, record, trailers);
    }

    /// Counts a raw connection that reached its endpoint, and returns where its bytes are counted as they pass.
    pub fn open(&self, record: &mut Record) -> ByteCount {
        record.connection.get_or_insert_default().opened = true;
        ByteCount(self.state.borrow_mut().cache.open(record))
    }

    /// Counts, logs and traces a request that has ended: once per request, at the end of its stream or when it was
    /// dropped.
    #[expect(clippy::needless_pass_by_value, reason = "a record that was emitted must not be emitted again")]
    pub fn emit(&self, record: Record) {
        let took = record.began.elapsed();
        let State { cache, clock, scratch, message, .. } = &mut *self.state.borrow_mut();
        cache.count(&record, took);
        let Some(plan) = &record.plan else { return };
        let end = End { took, started: clock.text(record.started) };
        for log in &plan.logs {
            log.write(&record, &end, (scratch, message), (&self.queues.log, &self.queues.records));
        }
        if let (Some(spans), Some(span)) = (&plan.spans, record.span.filter(|span| span.sampled)) {
            message.clear();
            spans.encode(&record, &span, &end, scratch, message);
            self.queues.spans.send(&spans.target, message);
        }
    }
}

/// Where the bytes of one open connection count. For the worker that made it: others would lose some.
#[derive(Debug)]
pub struct ByteCount(Arc<Cells>);

impl ByteCount {
    /// Bytes that went to the client.
    pub fn sent(&self, bytes: u64) {
        self.0.sent(bytes);
    }

    /// Bytes that came from the client.
    pub fn received(&self, bytes: u64) {
        self.0.received(bytes);
    }
}

fn capture(part: Part, record: &mut Record, headers: &HeaderMap) {
    let traced = record.is_traced();
    if let Some(plan) = &record.plan {
        plan.captures.keep(part, headers, traced, &mut record.captured);
    }
}

/// Whole milliseconds, as the log shows durations.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
