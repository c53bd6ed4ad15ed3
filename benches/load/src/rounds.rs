//! Rounds: each has every proxy once, in an order that rotates, so that a neighbour's noise hits all of them.

use std::collections::BTreeMap;

use crate::{
    measure::{Bench, Values},
    metric::Metric,
    programs::Kind,
    scenario::{Scenario, Work},
};

/// The values of each round, or what went wrong, by proxy.
#[derive(Debug, Default)]
pub(crate) struct Results {
    rounds: BTreeMap<Kind, Vec<Result<Values, String>>>,
}

impl Results {
    /// A proxy's values of a metric in the rounds that have it.
    pub(crate) fn values(&self, kind: Kind, metric: Metric) -> Vec<f64> {
        let rounds = self.rounds(kind).iter();
        rounds.filter_map(|round| round.as_ref().ok()?.get(&metric).copied()).collect()
    }

    pub(crate) fn rounds(&self, kind: Kind) -> &[Result<Values, String>] {
        self.rounds.get(&kind).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.rounds.keys().copied()
    }

    /// Ratios round by round, where both have a value.
    pub(crate) fn ratios(&self, (one, other): (Kind, Kind), metric: Metric) -> Vec<f64> {
        let value = |round: &Result<Values, String>| round.as_ref().ok()?.get(&metric).copied();
        let pairs = self.rounds(one).iter().zip(self.rounds(other));
        pairs.filter_map(|(one, other)| Some(value(one)? / value(other)?)).collect()
    }

    pub(crate) fn faults(&self) -> impl Iterator<Item = (Kind, &str)> {
        let all = self.rounds.iter();
        all.flat_map(|(kind, rounds)| {
            rounds.iter().filter_map(|round| Some((*kind, round.as_ref().err()?.as_str())))
        })
    }

    /// What the proxies add to the median latency of no proxy at all.
    fn subtract_direct(&mut self) {
        let direct: Vec<Option<f64>> = self
            .rounds(Kind::Direct)
            .iter()
            .map(|round| round.as_ref().ok()?.get(&Metric::Median).copied())
            .collect();
        for (_, rounds) in self.rounds.iter_mut().filter(|(kind, _)| **kind != Kind::Direct) {
            for (round, direct) in rounds.iter_mut().zip(&direct) {
                if let (Ok(values), Some(direct)) = (round, direct)
                    && let Some(median) = values.get(&Metric::Median).copied()
                {
                    values.insert(Metric::AddedMedian, median - direct);
                }
            }
        }
    }
}

/// Runs a scenario with all proxies that are there.
pub(crate) async fn run(bench: &Bench, scenario: &Scenario, rounds: usize) -> Results {
    let open = matches!(
        scenario.work,
        Work::Load(crate::load::Load::OpenH1 { .. } | crate::load::Load::OpenGrpc { .. })
    );
    let mut kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| match kind {
            Kind::Direct => open,
            Kind::Hyper => scenario.hyper && bench.programs.path(Kind::Hyper).is_some(),
            kind => bench.programs.path(*kind).is_some(),
        })
        .collect();
    let mut results = Results::default();
    for round in 0..rounds {
        for kind in &kinds {
            let measured = bench.measure(scenario, *kind, round).await.map_err(|error| error.to_string());
            results.rounds.entry(*kind).or_default().push(measured);
        }
        kinds.rotate_left(1);
    }
    results.subtract_direct();
    results
}
