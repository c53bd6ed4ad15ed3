//! The collector's own numbers, under the names that dashboards for the OpenTelemetry Collector expect.
//!
//! Label values come from the configuration only, so the number of series is fixed once it has started.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::signal::Signal;

type Labels = Vec<(&'static str, String)>;

/// All families of one collector.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    started: Instant,
    uptime: Gauge,
    memory: Gauge,
    accepted: [Family<Labels, Counter>; 3],
    refused: [Family<Labels, Counter>; 3],
    refused_requests: Family<Labels, Counter>,
    sent: [Family<Labels, Counter>; 3],
    failed: [Family<Labels, Counter>; 3],
    retries: Family<Labels, Counter>,
    queue_size: Family<Labels, Gauge>,
    queue_capacity: Family<Labels, Gauge>,
    queue_items: Family<Labels, Gauge>,
    queue_bytes: Family<Labels, Gauge>,
}

/// What one listener counts.
#[derive(Clone, Debug)]
pub struct ReceiverMetrics {
    /// Items acknowledged, by [`Signal::index`].
    pub accepted: [Counter; 3],
    /// Items refused for want of room, by [`Signal::index`].
    pub refused: [Counter; 3],
    /// Requests refused because there was no room.
    pub overloaded: Counter,
    /// Requests refused because they are wrong.
    pub invalid: Counter,
}

/// What one exporter counts.
#[derive(Clone, Debug)]
pub struct ExporterMetrics {
    /// Items delivered, by [`Signal::index`].
    pub sent: [Counter; 3],
    /// Items that the destination refused for good, by [`Signal::index`].
    pub failed: [Counter; 3],
    /// Attempts that failed and were repeated.
    pub retries: Counter,
    /// Requests held.
    pub queue_size: Gauge,
    /// Items held.
    pub queue_items: Gauge,
    /// Bytes held.
    pub queue_bytes: Gauge,
}

impl Metrics {
    /// Registers every family.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let per_signal = |registry: &mut Registry, prefix: &str, help: &str| {
            Signal::ALL.map(|signal| {
                let family = Family::<Labels, Counter>::default();
                let items = signal.items();
                registry.register(format!("{prefix}_{items}"), format!("{help}: {items}"), family.clone());
                family
            })
        };
        let accepted = per_signal(&mut registry, "otelcol_receiver_accepted", "Acknowledged to the sender");
        let refused = per_signal(&mut registry, "otelcol_receiver_refused", "Refused for want of room");
        let sent = per_signal(&mut registry, "otelcol_exporter_sent", "Delivered to the destination");
        let failed =
            per_signal(&mut registry, "otelcol_exporter_send_failed", "Refused by the destination for good");
        let mut metrics = Self {
            registry,
            started: Instant::now(),
            uptime: Gauge::default(),
            memory: Gauge::default(),
            accepted,
            refused,
            refused_requests: Family::default(),
            sent,
            failed,
            retries: Family::default(),
            queue_size: Family::default(),
            queue_capacity: Family::default(),
            queue_items: Family::default(),
            queue_bytes: Family::default(),
        };
        let registry = &mut metrics.registry;
        let mut add =
            |name: &str, help: &str, metric: Family<Labels, Gauge>| registry.register(name, help, metric);
        add(
            "otelcol_exporter_queue_size",
            "Requests held, those being sent included",
            metrics.queue_size.clone(),
        );
        add("otelcol_exporter_queue_capacity", "Requests that fit", metrics.queue_capacity.clone());
        add("outrigger_exporter_queue_items", "Items held", metrics.queue_items.clone());
        add("outrigger_exporter_queue_bytes", "Bytes held", metrics.queue_bytes.clone());
        let mut add =
            |name: &str, help: &str, metric: Family<Labels, Counter>| registry.register(name, help, metric);
        add("outrigger_exporter_retries", "Attempts that failed and were repeated", metrics.retries.clone());
        add(
            "outrigger_receiver_refused_requests",
            "Requests refused, by reason",
            metrics.refused_requests.clone(),
        );
        let mut add = |name: &str, help: &str, metric: Gauge| registry.register(name, help, metric);
        add("otelcol_process_uptime_seconds", "Time since the start", metrics.uptime.clone());
        add("otelcol_process_memory_rss", "Resident memory in bytes", metrics.memory.clone());
        metrics
    }

    /// The counters of one listener.
    pub fn receiver(&self, name: &str, transport: &str) -> ReceiverMetrics {
        let labels = vec![("receiver", name.to_owned()), ("transport", transport.to_owned())];
        let reason = |reason: &str| {
            let labels = [labels.clone(), vec![("reason", reason.to_owned())]].concat();
            self.refused_requests.get_or_create_owned(&labels)
        };
        ReceiverMetrics {
            accepted: self.accepted.each_ref().map(|family| family.get_or_create_owned(&labels)),
            refused: self.refused.each_ref().map(|family| family.get_or_create_owned(&labels)),
            overloaded: reason("overloaded"),
            invalid: reason("invalid"),
        }
    }

    /// The counters of one exporter.
    pub fn exporter(&self, name: &str, capacity: usize) -> ExporterMetrics {
        let labels = vec![("exporter", name.to_owned())];
        self.queue_capacity.get_or_create(&labels).set(capacity as u64);
        ExporterMetrics {
            sent: self.sent.each_ref().map(|family| family.get_or_create_owned(&labels)),
            failed: self.failed.each_ref().map(|family| family.get_or_create_owned(&labels)),
            retries: self.retries.get_or_create_owned(&labels),
            queue_size: self.queue_size.get_or_create_owned(&labels),
            queue_items: self.queue_items.get_or_create_owned(&labels),
            queue_bytes: self.queue_bytes.get_or_create_owned(&labels),
        }
    }

    /// Everything in Prometheus's text format.
    pub fn render(&self) -> Result<String, fmt::Error> {
        self.uptime.set(self.started.elapsed().as_secs());
        self.memory.set(resident_bytes().unwrap_or(0));
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A counter under exactly the name it is registered with: the stock one appends `_total`.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Counts.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Raises it.
    pub fn add(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    /// Lowers it.
    pub fn sub(&self, value: u64) {
        self.0.fetch_sub(value, Ordering::Relaxed);
    }

    /// The value now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl TypedMetric for Counter {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Counter {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self.value())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

impl TypedMetric for Gauge {
    const TYPE: MetricType = MetricType::Gauge;
}

impl EncodeMetric for Gauge {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self.value())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// From `/proc`; elsewhere the metric stays zero.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_collector_s_own() {
        let metrics = Metrics::new();
        metrics.receiver("otlp", "grpc").accepted[0].add(3);
        let text = metrics.render().unwrap();
        assert!(
            text.contains("otelcol_receiver_accepted_spans{receiver=\"otlp\",transport=\"grpc\"} 3\n"),
            "{text}"
        );
        assert!(text.contains("# TYPE otelcol_receiver_accepted_spans counter\n"), "{text}");
        assert!(text.contains("otelcol_process_uptime_seconds 0\n"), "{text}");
    }
}
