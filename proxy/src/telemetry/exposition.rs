//! The scrape: every metric of the process as text.
//!
//! `prometheus-client` writes OpenMetrics. A scraper that does not ask for it gets the classic text format, which
//! differs in its comment lines only. Envoy's counters lack the suffix `_total` that OpenMetrics wants of a counter;
//! their names matter more than their type, so they are of unknown type.

use std::{borrow::Cow, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};
use tokio::time::Instant;

use super::{
    Requests,
    histogram::Merged,
    labels::Labels,
    metrics::Sums,
    points::{Family, FamilyKind, Points, Temporal, Value},
};

/// Content type of [`Metrics::open_metrics`].
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of [`Metrics::classic`].
pub const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All sources of metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Arc<Requests>,
    sources: Vec<Source>,
}

/// One number of a source, read at the scrape.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Full name.
    pub name: Cow<'static, str>,
    /// One sentence without its full stop.
    pub help: &'static str,
    /// What the number is.
    pub kind: Kind,
    /// Names and values.
    pub labels: Vec<(&'static str, Arc<str>)>,
    /// The number.
    pub value: f64,
}

/// The type of a [`Sample`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows. Its name ends in `_total`, or it is an Envoy counter.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Metrics {
    /// Metrics of requests.
    #[must_use]
    pub fn new(requests: Arc<Requests>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(IstioMetrics(Arc::clone(&requests))));
        Self { registry, requests, sources: Vec::new() }
    }

    /// Adds a source that is asked at every scrape. Samples of one name must be neighbours.
    pub fn add(&mut self, source: impl Fn() -> Vec<Sample> + Send + Sync + 'static) {
        let source = Source(Arc::new(source));
        self.sources.push(source.clone());
        self.registry.register_collector(Box::new(source));
    }

    /// The numbers of all sources that were added, now.
    pub fn samples(&self) -> impl Iterator<Item = Sample> {
        self.sources.iter().flat_map(|source| source.0())
    }

    /// Everything as data points at `now`, in nanoseconds since the epoch.
    pub fn points(&self, temporal: &mut Temporal, now: u64) -> Vec<Points> {
        temporal.collect(self.families(), now)
    }

    fn families(&self) -> Vec<Family> {
        let series = self.requests.scrape(Instant::now());
        let mut families = Vec::new();
        for (name, help, unit, has, pick) in COUNTERS {
            let points = series.iter().filter(|(_, sums)| has(sums));
            let points = points.map(|(labels, sums)| (labels.pairs(), Value::Count(pick(sums)))).collect();
            let name = format!("{name}_total").into();
            families.push(Family { name, help, unit, kind: FamilyKind::Sum, points });
        }
        for (name, help, unit, pick) in HISTOGRAMS {
            let points = series.iter().filter(|(_, sums)| sums.has_requests());
            let points =
                points.map(|(labels, sums)| (labels.pairs(), Value::Histogram(Box::new(pick(sums).clone()))));
            let points = points.collect();
            families.push(Family { name: name.into(), help, unit, kind: FamilyKind::Histogram, points });
        }
        let samples: Vec<Sample> = self.samples().collect();
        for family in samples.chunk_by(|left, right| left.name == right.name) {
            let Some(first) = family.first() else { continue };
            let kind = match first.kind {
                Kind::Counter => FamilyKind::Sum,
                Kind::Gauge => FamilyKind::Gauge,
            };
            let points = family.iter().map(|sample| (sample.labels.clone(), Value::Number(sample.value)));
            let (name, help, points) = (first.name.clone(), first.help, points.collect());
            families.push(Family { name, help, unit: "", kind, points });
        }
        families
    }

    /// The OpenMetrics text.
    #[must_use]
    pub fn open_metrics(&self) -> String {
        let mut page = String::new();
        let written = text::encode(&mut page, &self.registry);
        debug_assert!(written.is_ok(), "a string takes every write");
        page
    }

    /// The classic Prometheus text.
    #[must_use]
    pub fn classic(&self) -> String {
        to_classic(&self.open_metrics())
    }
}

/// A counter's comments name its samples, and nothing marks the end.
fn to_classic(page: &str) -> String {
    let mut classic = String::with_capacity(page.len());
    let mut help = None;
    for line in page.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if line.starts_with("# HELP ") {
            help = Some(line);
            continue;
        }
        let Some((family, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.rsplit_once(' ')) else {
            classic.push_str(line);
            classic.push('\n');
            continue;
        };
        let (suffix, kind) = match kind {
            "counter" => ("_total", "counter"),
            "unknown" => ("", "untyped"),
            other => ("", other),
        };
        if let Some(text) = help.take().and_then(|line| line.strip_prefix("# HELP ")?.strip_prefix(family)) {
            classic.push_str(&format!("# HELP {family}{suffix}{text}\n"));
        }
        classic.push_str(&format!("# TYPE {family}{suffix} {kind}\n"));
    }
    classic
}

/// Istio's metrics of requests and connections.
#[derive(Debug)]
struct IstioMetrics(Arc<Requests>);

impl Collector for IstioMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let series = self.0.scrape(Instant::now());
        for (name, help, _, has, pick) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, sums) in series.iter().filter(|(_, sums)| has(sums)) {
                family.encode_family(labels)?.encode_counter(&pick(sums), NO_EXEMPLAR)?;
            }
        }
        for (name, help, _, pick) in HISTOGRAMS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (labels, sums) in series.iter().filter(|(_, sums)| sums.has_requests()) {
                let merged = pick(sums);
                family.encode_family(labels)?.encode_histogram::<NoLabelSet>(
                    merged.sum(),
                    merged.count(),
                    &merged.buckets(),
                    None,
                )?;
            }
        }
        Ok(())
    }
}

/// Name without its suffix, help, unit, which series have it, and which number of a series it is.
const COUNTERS: [(&str, &str, &str, Has, Number); 5] = [
    ("istio_requests", "Requests that ended", "1", Sums::has_requests, |sums| sums.requests),
    ("istio_tcp_connections_opened", "Raw connections that began", "1", Sums::has_connections, |sums| {
        sums.opened
    }),
    ("istio_tcp_connections_closed", "Raw connections that ended", "1", Sums::has_connections, |sums| {
        sums.closed
    }),
    (
        "istio_tcp_sent_bytes",
        "Bytes sent to clients of raw connections",
        "By",
        Sums::has_connections,
        |sums| sums.sent,
    ),
    (
        "istio_tcp_received_bytes",
        "Bytes received from clients of raw connections",
        "By",
        Sums::has_connections,
        |sums| sums.received,
    ),
];

/// Whether a series has the metric.
type Has = fn(&Sums) -> bool;
/// One of the numbers of a series.
type Number = fn(&Sums) -> u64;

/// Name, help, unit, and which of a series it is.
const HISTOGRAMS: [(&str, &str, &str, Pick); 3] = [
    (
        "istio_request_duration_milliseconds",
        "Time from a request's start to the last byte of its response",
        "ms",
        |sums| &sums.duration,
    ),
    ("istio_request_bytes", "Bytes of a request with its headers", "By", |sums| &sums.request_bytes),
    ("istio_response_bytes", "Bytes of a response with its headers", "By", |sums| &sums.response_bytes),
];

/// One of the histograms of a series.
type Pick = fn(&Sums) -> &Merged;

const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, u64>> = None;

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let pairs = self.pairs();
        pairs.iter().map(|(name, value)| (*name, &**value)).collect::<Vec<_>>().encode(encoder)
    }
}

/// Plain numbers of one part of the process.
#[derive(Clone)]
struct Source(Arc<dyn Fn() -> Vec<Sample> + Send + Sync>);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

impl Collector for Source {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in self.0().chunk_by(|left, right| left.name == right.name) {
            let Some(first) = family.first() else { continue };
            let total = first.name.strip_suffix("_total");
            let (name, kind) = match (first.kind, total) {
                (Kind::Counter, Some(name)) => (name, MetricType::Counter),
                (Kind::Counter, None) => (&*first.name, MetricType::Unknown),
                (Kind::Gauge, _) => (&*first.name, MetricType::Gauge),
            };
            let counts = matches!(kind, MetricType::Counter);
            let mut metric = encoder.encode_descriptor(name, first.help, None, kind)?;
            for sample in family {
                if sample.labels.is_empty() {
                    write_value(&mut metric, counts, sample.value)?;
                    continue;
                }
                let labels: Vec<(&str, &str)> =
                    sample.labels.iter().map(|(name, value)| (*name, &**value)).collect();
                write_value(&mut metric.encode_family(&labels)?, counts, sample.value)?;
            }
        }
        Ok(())
    }
}

/// Whole numbers without a point, as other exporters write them.
fn write_value(metric: &mut MetricEncoder<'_>, counts: bool, value: f64) -> fmt::Result {
    #[expect(clippy::cast_possible_truncation, reason = "only whole numbers that a float holds exactly")]
    let whole = (value.fract() == 0.0 && value.abs() < EXACT).then_some(value as i64);
    match (counts, whole.map(|whole| (whole, u64::try_from(whole)))) {
        (true, Some((_, Ok(whole)))) => metric.encode_counter(&whole, NO_EXEMPLAR),
        (true, _) => metric.encode_counter(&value, NO_EXEMPLAR),
        (false, Some((whole, _))) => metric.encode_gauge(&whole),
        (false, None) => metric.encode_gauge(&value),
    }
}

/// Up to here a float holds every whole number.
const EXACT: f64 = 9_007_199_254_740_992.0;
