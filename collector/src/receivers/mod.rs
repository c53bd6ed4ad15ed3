//! The doors: what is the same for both of them. A request is read within its limits, checked, counted and
//! admitted; only then is it acknowledged.

pub mod body;
pub mod connection;
pub mod grpc;
pub mod http;
pub mod reply;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::budget::{Budget, Charge};
use crate::metrics::ReceiverMetrics;
use crate::otlp;
use crate::pipeline::Route;
use crate::queue::Frame;
use crate::signal::Signal;
use crate::status::{Code, Refusal};

/// What a listener needs to take requests in.
#[derive(Debug)]
pub struct Intake {
    /// By [`Signal::index`]; `None` where no pipeline takes the signal.
    pub routes: [Option<Route>; 3],
    /// The memory budget of the whole collector.
    pub budget: Budget,
    /// The largest request after decompression.
    pub max_request: usize,
    /// To receive a whole body.
    pub read_timeout: Duration,
    /// Its counters.
    pub metrics: ReceiverMetrics,
}

impl Intake {
    /// The route of a signal, or the refusal for a signal that nobody takes.
    pub fn route(&self, signal: Signal) -> Result<&Route, Refusal> {
        let [traces, metrics, logs] = &self.routes;
        let route = match signal {
            Signal::Traces => traces,
            Signal::Metrics => metrics,
            Signal::Logs => logs,
        };
        route.as_ref().ok_or_else(|| {
            let message = format!("no pipeline takes {signal}");
            Refusal::new(Code::Unimplemented, ::http::StatusCode::NOT_FOUND, message)
        })
    }

    /// Checks a protobuf request and hands it on; when this returns, it is accepted.
    pub async fn accept(
        &self,
        signal: Signal,
        payload: Bytes,
        mut charge: Charge,
        at_most: Option<Duration>,
    ) -> Result<(), Refusal> {
        let route = self.route(signal)?;
        let items = otlp::walk(signal, &payload)
            .map_err(|malformed| Refusal::malformed(malformed.to_string(), malformed.field()))?;
        if items == 0 && payload.is_empty() {
            return Ok(());
        }
        // What was needed for the body as it came (compressed, JSON) is not needed any more.
        charge.shrink(payload.len());
        let frame = Frame { signal, items, received: SystemTime::now(), payload, charge: Arc::new(charge) };
        let result = route.admit(frame, at_most).await;
        let counters = if result.is_ok() { &self.metrics.accepted } else { &self.metrics.refused };
        if let Some(counter) = counters.get(signal.index()) {
            counter.add(items);
        }
        result
    }

    /// Counts a refused request by its reason.
    pub fn count_refusal(&self, refusal: &Refusal) {
        match refusal.retry_after {
            Some(_) => self.metrics.overloaded.add(1),
            None => self.metrics.invalid.add(1),
        }
    }
}
