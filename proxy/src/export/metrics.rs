//! Metrics by OTLP: everything that `/metrics` shows, pushed at an interval, cumulative or as deltas.
//!
//! A delta that could not be delivered is not lost: the next one holds it too.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{batch, delivery::Delivery};
use crate::{
    telemetry::{Account, Metrics, Resource, Target, Temporal, wire},
    upstream::Published,
};

/// How sums and histograms are told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Temporality {
    /// Since the start of the series.
    #[default]
    Cumulative,
    /// Since the last export.
    Delta,
}

/// What is exported, and for whom.
pub(super) struct Meter {
    pub(super) metrics: Arc<Metrics>,
    pub(super) temporality: Temporality,
    pub(super) resource: Arc<Resource>,
    pub(super) account: Account,
    pub(super) published: Arc<ArcSwap<Published>>,
}

/// Exports every `interval`, and once more at the end.
pub(super) async fn run(
    meter: Meter,
    interval: Duration,
    mut delivery: Delivery,
    mut stop: watch::Receiver<bool>,
) {
    let mut temporal = Temporal::new(meter.temporality == Temporality::Delta, now());
    let mut ticks = interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let stopping = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => true,
            _ = ticks.tick() => false,
        };
        meter.export(&mut temporal, &mut delivery).await;
        if stopping {
            return;
        }
    }
}

impl Meter {
    async fn export(&self, temporal: &mut Temporal, delivery: &mut Delivery) {
        let snapshot = Arc::clone(&self.published.load().snapshot);
        let Some(to) = &snapshot.metrics else { return };
        let target = Target::new(&snapshot, to, &self.resource, None);
        let parts = self.metrics.points(temporal, now());
        self.account.produce(parts.iter().map(|part| part.count).sum());
        for mut part in parts {
            let body = message(&target, &std::mem::take(&mut part.metrics));
            if delivery.message(&target, body.into(), part.count).await {
                temporal.delivered(part);
            }
        }
    }
}

/// `ExportMetricsServiceRequest`
fn message(target: &Target, metrics: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(metrics.len() + target.resource.len() + 64);
    wire::message(1, &mut out, |out| {
        wire::bytes(1, &target.resource, out);
        wire::message(2, out, |out| {
            wire::bytes(1, &batch::scope(), out);
            out.extend_from_slice(metrics);
        });
    });
    out
}

fn now() -> u64 {
    wire::nanoseconds(SystemTime::now())
}
