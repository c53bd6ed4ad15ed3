//! Telemetry leaves the process by OTLP: spans and access logs from their queues in batches, metrics at an interval.
//!
//! It runs on the control thread and delays no request. A receiver that is a service of the registry is reached
//! through its cluster, so balanced, limited and ejected as requests are; no span is made of an export.

mod answer;
mod batch;
mod client;
mod delivery;
mod environment;
mod metrics;
mod request;

use std::{rc::Rc, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use outrigger_config::snapshot::TelemetryDefaults;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use self::{client::Client, delivery::Delivery, metrics::Meter};
use crate::{
    telemetry::{Account, Bounds, Inbox, Kind, Loss, Metrics, Resource, Sample, Signal},
    upstream::{Published, Upstreams},
};

pub use environment::Problem;
pub use metrics::Temporality;

/// What the environment says about telemetry.
#[derive(Debug, Clone, Default)]
pub struct Otel {
    /// Receivers, propagators, sampler: the mesh configuration wins over them.
    pub defaults: TelemetryDefaults,
    /// Who reports.
    pub resource: Arc<Resource>,
    /// `OTEL_BSP_*`
    pub spans: Batching,
    /// `OTEL_BLRP_*`
    pub records: Batching,
    /// `OTEL_METRIC_EXPORT_INTERVAL` (60 s).
    pub interval: MetricInterval,
    /// `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`
    pub temporality: Temporality,
}

/// How a queue is emptied.
#[derive(Debug, Clone, Copy)]
pub struct Batching {
    /// What it holds.
    pub bounds: Bounds,
    /// A batch that is not full is sent after this time.
    pub delay: Duration,
}

impl Default for Batching {
    /// That of OpenTelemetry's span processor.
    fn default() -> Self {
        Self { bounds: Bounds::default(), delay: Duration::from_secs(5) }
    }
}

/// Time between two exports of metrics.
#[derive(Debug, Clone, Copy)]
pub struct MetricInterval(pub Duration);

impl Default for MetricInterval {
    fn default() -> Self {
        Self(Duration::from_secs(60))
    }
}

/// How long the end of the process waits for the last exports, and how long where it is to end at once.
const LAST_EXPORTS: Duration = Duration::from_secs(3);
const AT_ONCE: Duration = Duration::from_millis(200);

/// What became of everything that was to be exported.
#[derive(Debug, Clone)]
pub(crate) struct Accounts([(Signal, Account); 3]);

impl Accounts {
    pub(crate) fn new(spans: &Inbox, records: &Inbox) -> Self {
        Self([
            (Signal::Traces, spans.account()),
            (Signal::Logs, records.account()),
            (Signal::Metrics, Account::unqueued()),
        ])
    }

    /// For `/metrics`: at rest `produced = exported + queued + dropped`, for each signal.
    #[expect(clippy::cast_precision_loss, reason = "a sample is a float")]
    pub(crate) fn samples(&self) -> Vec<Sample> {
        let sample = |name: &'static str, help, kind, labels, value: u64| Sample {
            name: name.into(),
            help,
            kind,
            labels,
            value: value as f64,
        };
        let of = |signal: &Signal| ("signal", Arc::from(signal.as_str()));
        let each = |name, help, kind, read: fn(&Account) -> u64| {
            self.0
                .iter()
                .map(move |(signal, account)| sample(name, help, kind, vec![of(signal)], read(account)))
        };
        let produced = each(
            "outrigger_otlp_produced_total",
            "Spans, log records and metric points that were to be exported",
            Kind::Counter,
            Account::produced,
        );
        let exported = each(
            "outrigger_otlp_exported_total",
            "Those that a receiver accepted",
            Kind::Counter,
            Account::exported,
        );
        let queued = each(
            "outrigger_otlp_queued",
            "Those that wait or are on their way",
            Kind::Gauge,
            Account::queued,
        );
        let dropped = self.0.iter().flat_map(|(signal, account)| {
            Loss::ALL.map(|loss| {
                let labels = vec![of(signal), ("reason", loss.as_str().into())];
                let help = "Those that were lost";
                sample("outrigger_otlp_dropped_total", help, Kind::Counter, labels, account.dropped(loss))
            })
        });
        produced.chain(exported).chain(queued).chain(dropped).collect()
    }
}

/// The running exports.
#[derive(Debug)]
pub(crate) struct Exporter {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    accounts: Accounts,
}

impl Exporter {
    /// Starts them. Must run in a local task set.
    pub(crate) fn start(
        otel: &Otel,
        (spans, records): (Inbox, Inbox),
        accounts: &Accounts,
        metrics: Arc<Metrics>,
        upstreams: Arc<Upstreams>,
        published: Arc<ArcSwap<Published>>,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let client = Rc::new(Client::new(upstreams));
        let mut tasks = JoinSet::new();
        let [_, _, (_, points)] = &accounts.0;
        for (signal, inbox, delay) in
            [(Signal::Traces, spans, otel.spans.delay), (Signal::Logs, records, otel.records.delay)]
        {
            let delivery = Delivery::new(signal, Rc::clone(&client), inbox.account(), stopped.clone());
            tasks.spawn_local(drain(inbox, delay, delivery, stopped.clone()));
        }
        let delivery = Delivery::new(Signal::Metrics, client, points.clone(), stopped.clone());
        let meter = Meter {
            metrics,
            temporality: otel.temporality,
            resource: Arc::clone(&otel.resource),
            account: points.clone(),
            published,
        };
        tasks.spawn_local(metrics::run(meter, otel.interval.0, delivery, stopped));
        Self { stop, tasks, accounts: accounts.clone() }
    }

    /// Exports what is left, for a moment; what then remains counts as lost.
    pub(crate) async fn finish(mut self, at_once: bool) {
        let _ = self.stop.send(true);
        let deadline = Instant::now() + if at_once { AT_ONCE } else { LAST_EXPORTS };
        while let Ok(Some(_)) = timeout_at(deadline, self.tasks.join_next()).await {}
        self.tasks.abort_all();
        for (signal, account) in &self.accounts.0 {
            let lost = account.abandon(Loss::Shutdown);
            if lost > 0 {
                tracing::warn!(
                    signal = signal.as_str(),
                    lost,
                    "telemetry could not be exported before the end"
                );
            }
        }
    }
}

/// Empties a queue: at once where a batch is full, else after `delay`.
async fn drain(mut inbox: Inbox, delay: Duration, mut delivery: Delivery, mut stop: watch::Receiver<bool>) {
    loop {
        let stopping = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => true,
            () = inbox.full() => false,
            () = sleep(delay) => false,
        };
        while let Some((target, items)) = inbox.take() {
            delivery.items(&target, items).await;
        }
        if stopping {
            return;
        }
    }
}
