//! One measurement: one proxy, started for it, in one scenario.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    Outcome,
    backend::Backend,
    door::Door,
    identity::Identities,
    load::{
        Load, Running, Tally,
        h1::{Connection, Requests},
    },
    metric::Metric,
    process::{CpuTime, Memory},
    programs::{Kind, Programs},
    proxy::{Proxy, Run},
    scenario::{Scenario, Work},
    sink::Sink,
    stats,
};

/// The values of one measurement.
pub(crate) type Values = BTreeMap<Metric, f64>;

/// What all measurements share.
pub(crate) struct Bench {
    pub(crate) programs: Programs,
    pub(crate) backend: Backend,
    pub(crate) identities: Identities,
    pub(crate) sink: Sink,
    pub(crate) seconds: f64,
    /// Whether the sizes are to be small too.
    pub(crate) quick: bool,
}

/// Services beside the one that is called, in the large configuration.
const FILLER: usize = 1000;

impl Bench {
    /// Measures one proxy once. What fails is an error: a number that hides failures is worth nothing.
    pub(crate) async fn measure(&self, scenario: &Scenario, kind: Kind, round: usize) -> Outcome<Values> {
        match scenario.work {
            Work::Load(load) if kind == Kind::Direct => {
                let endpoints = self.backend.endpoints(false);
                let (Some(h1), Some(h2)) = (endpoints.h1.first(), endpoints.h2.first()) else {
                    return Err("no backend".into());
                };
                self.load(load, [&Door::plain(*h1), &Door::plain(*h2)], None, round).await
            }
            Work::Load(load) => {
                let proxy = self.start(scenario, kind, 0).await?;
                let values = self.load(load, [&proxy.h1, &proxy.h2], Some(&proxy), round).await?;
                proxy.kill().await?;
                Ok(values)
            }
            Work::Idle => self.idle(scenario, kind).await,
            Work::Start => self.starts(scenario, kind).await,
        }
    }

    async fn start(&self, scenario: &Scenario, kind: Kind, filler: usize) -> Outcome<Proxy> {
        let run = Run {
            kind,
            program: self.programs.path(kind).ok_or("the program is missing")?,
            under: Vec::new(),
            backend: &self.backend,
            identities: &self.identities,
            mtls: scenario.mtls,
            sink: self.sink.grpc,
            sampling: scenario.sampling,
            max_requests_per_connection: scenario.max_requests_per_connection,
            filler,
        };
        Proxy::start(&run).await
    }

    async fn load(
        &self,
        load: Load,
        [h1, h2]: [&Door; 2],
        proxy: Option<&Proxy>,
        round: usize,
    ) -> Outcome<Values> {
        let cpu = || proxy.map(|proxy| CpuTime::read(proxy.pid)).transpose();
        let log = || proxy.map_or(0, Proxy::log_bytes);
        let tally = Tally::new(u64::MAX);
        // The same arrivals for every proxy of a round.
        let running = Running::start(load, h1, h2, round as u64, &tally).await?;
        sleep(Duration::from_secs_f64((self.seconds * 0.2).max(0.3))).await;
        tally.take_latencies();
        let (before, answered, spans, logged) = (cpu()?, tally.answered(), self.sink.spans(), log());
        let began = Instant::now();
        sleep(Duration::from_secs_f64(self.seconds)).await;
        let (after, took) = (cpu()?, began.elapsed().as_secs_f64());
        let requests = (tally.answered() - answered) as f64;
        let (spans, logged) = ((self.sink.spans() - spans) as f64, (log() - logged) as f64);
        let latencies: Vec<f64> = tally.take_latencies().into_iter().map(f64::from).collect();
        tally.stop();
        running.end(Duration::from_secs(10)).await?;
        if let Some(failure) = tally.failure() {
            return Err(failure.into());
        }
        if requests == 0.0 {
            return Err("no request was answered".into());
        }
        let mut values = Values::from([(Metric::Rate, requests / took)]);
        if let (Some(before), Some(after)) = (before, after) {
            let spent = after.since(&before);
            let cpu = spent.micros / requests;
            values.extend([(Metric::Cpu, cpu), (Metric::User, cpu * spent.user_share)]);
            values.extend([
                (Metric::System, cpu * (1.0 - spent.user_share)),
                (Metric::Spans, spans / requests),
            ]);
            values.insert(Metric::Log, logged / requests);
        }
        for (metric, percent) in [(Metric::Median, 50.0), (Metric::P99, 99.0)] {
            values.extend(stats::percentile(&latencies, percent).map(|value| (metric, value)));
        }
        Ok(values)
    }

    async fn idle(&self, scenario: &Scenario, kind: Kind) -> Outcome<Values> {
        const QUIET: Duration = Duration::from_millis(700);
        let proxy = self.start(scenario, kind, 0).await?;
        let idle = Memory::settled(proxy.pid, QUIET).await?;
        let mut values = Values::from([
            (Metric::Rss, idle.rss as f64 / 1024.0),
            (Metric::Anonymous, idle.anonymous as f64 / 1024.0),
        ]);
        let (requests, mut open) = (Requests::new(), Vec::new());
        let counts = [(Metric::Connection1000, 1000), (Metric::Connection5000, 5000)];
        for (metric, count) in counts.into_iter().take(if self.quick { 1 } else { 2 }) {
            while open.len() < count {
                let mut connection = Connection::open(&proxy.h1).await?;
                connection.exchange(requests.of(open.len())).await?;
                open.push(connection);
            }
            let grown = Memory::settled(proxy.pid, QUIET).await?.anonymous.saturating_sub(idle.anonymous);
            values.insert(metric, grown as f64 / count as f64);
        }
        proxy.kill().await?;
        Ok(values)
    }

    async fn starts(&self, scenario: &Scenario, kind: Kind) -> Outcome<Values> {
        // A start is short and there are few rounds: the median of several.
        let mut times = Vec::new();
        for _ in 0..5 {
            let proxy = self.start(scenario, kind, 0).await?;
            times.push(proxy.started.as_secs_f64() * 1000.0);
            proxy.kill().await?;
        }
        let mut values = Values::new();
        values.extend(stats::median(&times).map(|time| (Metric::Start, time)));
        if kind != Kind::Hyper {
            let proxy = self.start(scenario, kind, FILLER).await?;
            values.insert(Metric::StartFilled, proxy.started.as_secs_f64() * 1000.0);
            let memory = Memory::settled(proxy.pid, Duration::from_millis(300)).await?;
            values.insert(Metric::RssFilled, memory.rss as f64 / 1024.0);
            proxy.kill().await?;
        }
        Ok(values)
    }
}
