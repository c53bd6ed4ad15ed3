//! What a request leaves behind: one [`Record`], and from it the metrics and the access log line.
//!
//! A record is a plain struct that the request path fills; a [`Shard`] belongs to one worker and takes it at the true
//! end of the stream. Nothing here delays traffic: metrics are cells of the worker's own, the log is a bounded queue
//! whose drops are counted.

mod access_log;
mod exposition;
mod flags;
mod histogram;
mod labels;
mod metrics;
mod record;

pub use access_log::{LogCounts, LogQueue, LogWriter};
pub use exposition::{CLASSIC, Kind, Metrics, OPEN_METRICS, Sample};
pub use flags::{Details, Flag, Flags};
pub use metrics::Requests;
pub use record::Record;

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use outrigger_config::snapshot::{Direction, Snapshot};
use tokio::time::Instant;

#[cfg(test)]
mod tests;

use access_log::LogPlan;
use metrics::Cache;

/// The telemetry of one worker. Not shared between threads.
#[derive(Debug)]
pub struct Shard {
    log: LogQueue,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    /// The newest snapshot seen; another one drops the plan and the cached series.
    snapshot: Option<Arc<Snapshot>>,
    plan: Option<Arc<LogPlan>>,
    cache: Cache,
    line: Vec<u8>,
}

impl Shard {
    /// The shard of worker number `worker`, which counts into `requests` and logs into `log`.
    #[must_use]
    pub fn new(worker: usize, requests: Arc<Requests>, log: LogQueue) -> Self {
        let state =
            State { snapshot: None, plan: None, cache: Cache::new(worker, requests), line: Vec::new() };
        Self { log, state: RefCell::new(state) }
    }

    /// Starts the record of a request that came in now and keeps to `snapshot`.
    #[must_use]
    pub fn begin(&self, snapshot: &Arc<Snapshot>, direction: Direction) -> Record {
        let mut state = self.state.borrow_mut();
        if !state.snapshot.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, snapshot)) {
            state.plan =
                snapshot.outbound.access_logs.first().map(|log| Arc::new(LogPlan::new(log, &snapshot.node)));
            state.cache.adopt(&snapshot.node);
            state.snapshot = Some(Arc::clone(snapshot));
        }
        Record::new(Instant::now(), SystemTime::now(), direction, state.plan.clone())
    }

    /// Keeps the request header values that the log format names. Call it with the headers as they are sent
    /// upstream, so that the line shows the request id.
    pub fn capture_request(&self, record: &mut Record, headers: &HeaderMap) {
        if let Some(plan) = record.plan.clone() {
            plan.capture_request(record, headers);
        }
    }

    /// Keeps the response header values that the log format names, and the `grpc-status` of a gRPC request. Call it
    /// with the headers as they are sent to the client.
    pub fn capture_response(&self, record: &mut Record, headers: &HeaderMap) {
        record.read_grpc_status(headers);
        if let Some(plan) = record.plan.clone() {
            plan.capture_response(record, headers);
        }
    }

    /// Keeps the trailer values that the log format names, and the `grpc-status` of a gRPC request.
    pub fn capture_trailers(&self, record: &mut Record, trailers: &HeaderMap) {
        record.read_grpc_status(trailers);
        if let Some(plan) = record.plan.clone() {
            plan.capture_trailers(record, trailers);
        }
    }

    /// Counts and logs a request that has ended: once per request, at the end of its stream or when it was dropped.
    #[expect(clippy::needless_pass_by_value, reason = "a record that was emitted must not be emitted again")]
    pub fn emit(&self, record: Record) {
        let took = record.began.elapsed();
        let mut state = self.state.borrow_mut();
        state.cache.count(&record, took);
        if let Some(plan) = &record.plan {
            state.line.clear();
            plan.render(&record, took, &mut state.line);
            self.log.send(plan.path(), &state.line);
        }
    }
}

/// Whole milliseconds, as the log shows durations.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
