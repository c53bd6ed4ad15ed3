//! What is to be reached: ratios within one run, from the comparison of peers.

use crate::{metric::Metric, programs::Kind};

/// A bound for a ratio of Outrigger to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) metric: Metric,
    pub(crate) against: Kind,
    pub(crate) must: f64,
    pub(crate) stretch: Option<f64>,
}

const fn envoy(metric: Metric, must: f64, stretch: f64) -> Goal {
    Goal { metric, against: Kind::Envoy, must, stretch: Some(stretch) }
}

/// The price of the features over the same libraries without any.
const HYPER: Goal = Goal { metric: Metric::Cpu, against: Kind::Hyper, must: 1.4, stretch: None };

pub(crate) const H1: &[Goal] = &[envoy(Metric::Cpu, 0.45, 0.35), HYPER];
pub(crate) const GRPC: &[Goal] = &[envoy(Metric::Cpu, 0.60, 0.45), HYPER];
pub(crate) const H2: &[Goal] = &[envoy(Metric::Cpu, 0.45, 0.30), HYPER];
pub(crate) const CHURN: &[Goal] = &[envoy(Metric::Cpu, 0.50, 0.42), HYPER];
pub(crate) const TEN: &[Goal] = &[envoy(Metric::Cpu, 0.50, 0.40), HYPER];
/// What the issue asks for; the stretch is that of the comparison of peers. A new connection has no goal.
pub(crate) const H1_MTLS: &[Goal] = &[envoy(Metric::Cpu, 0.50, 0.35), HYPER];
pub(crate) const GRPC_MTLS: &[Goal] = &[envoy(Metric::Cpu, 0.60, 0.50), HYPER];
pub(crate) const H1_TRACED: &[Goal] = &[envoy(Metric::Cpu, 0.40, 0.30)];
pub(crate) const GRPC_TRACED: &[Goal] = &[envoy(Metric::Cpu, 0.60, 0.45)];
pub(crate) const OPEN: &[Goal] = &[
    envoy(Metric::Cpu, 0.50, 0.40),
    HYPER,
    Goal { metric: Metric::AddedMedian, against: Kind::Envoy, must: 0.5, stretch: None },
];
pub(crate) const IDLE: &[Goal] = &[
    envoy(Metric::Rss, 0.25, 0.15),
    envoy(Metric::Connection1000, 0.9, 0.4),
    envoy(Metric::Connection5000, 0.9, 0.4),
];
/// The goal for a small configuration is that of the comparison of peers.
pub(crate) const START: &[Goal] = &[
    envoy(Metric::Start, 0.30, 0.15),
    Goal { metric: Metric::StartFilled, against: Kind::Envoy, must: 0.2, stretch: None },
    Goal { metric: Metric::RssFilled, against: Kind::Envoy, must: 0.35, stretch: None },
];
