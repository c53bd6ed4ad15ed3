//! What happens, in order. Every figure it tells is read from the sidecar or counted in the ledger.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    COLLECTOR, SIDECAR,
    children::Process,
    ledger::{Ledger, SinkId, Totals},
    load::{Load, SESSIONS_PER_TRANSPORT, Targets},
    mesh::{BASE_EJECTION_TIME, Collector, INTERVAL, MeshFiles, NAMESPACE},
    observe::Sidecar,
    screen::Screen,
    sink::Sink,
};

const STEADY: Duration = Duration::from_secs(7);
const EVEN_SPLIT: Duration = Duration::from_secs(6);
const OUTAGE: Duration = Duration::from_secs(4);
/// Longer than the interval at which ejected endpoints are looked at.
const STAYS_HEALTHY: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);

const COLLECTOR_CONFIG: &str = include_str!("../collector.yaml");
const NAMES: [&str; 3] = ["v1-a", "v1-b", "v2-a"];
const VERSIONS: [&str; 2] = ["v1.0.0", "v2.0.0"];
/// The one that fails.
const VICTIM: SinkId = SinkId(0);
/// The endpoints of subset v1.
const STABLE: [SinkId; 2] = [SinkId(0), SinkId(1)];

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Plays it all; false if a promise was not kept.
pub(crate) async fn tell() -> Result<bool, Failure> {
    let screen = Screen::new();
    let ledger = Arc::new(Ledger::default());
    let logs = tempfile::Builder::new().prefix("outrigger-demo-logs-").tempdir()?;

    let mut sinks = Vec::new();
    let mut collectors = Vec::new();
    for (number, name) in NAMES.iter().enumerate() {
        let sink = Sink::start(SinkId(number), &ledger).await?;
        let config = logs.path().join(format!("{name}.yaml"));
        std::fs::write(&config, COLLECTOR_CONFIG.replace("SINK", &sink.address.to_string()))?;
        let args = ["--config".into(), config];
        collectors
            .push(Process::start(name, COLLECTOR, args, &["otlp_grpc", "otlp_http"], logs.path()).await?);
        sinks.push(sink);
    }
    let mut addresses = Vec::new();
    for collector in &collectors {
        addresses
            .push(Collector { grpc: collector.address("otlp_grpc")?, http: collector.address("otlp_http")? });
    }
    let addresses: [Collector; 3] = addresses.try_into().map_err(|_| "three collectors were started")?;
    let mesh = MeshFiles::write(addresses)?;
    let (process, sidecar, targets) = start_sidecar(&mesh, logs.path()).await?;

    screen.say(format!(
        "sidecar ready after {} ms; collectors v1-a, v1-b and v2-a behind it",
        process.ready_after().as_millis()
    ));
    screen.detail(format!("OTLP/gRPC on {}, OTLP/HTTP on {}", targets.grpc, targets.http));
    screen.detail("configuration: the seed's registry, destination rule and weighted virtual service");
    screen.detail(format!("shortened so that you can watch: {} (seed: {})", INTERVAL.1, INTERVAL.0));
    screen.detail(format!("and {} (seed: {})", BASE_EJECTION_TIME.1, BASE_EJECTION_TIME.0));
    screen.say(format!(
        "load: {SESSIONS_PER_TRANSPORT} sessions over gRPC, {SESSIONS_PER_TRANSPORT} over HTTP; spans, logs and metrics by the OpenTelemetry SDK"
    ));
    let load = Load::start(targets, &ledger)?;

    let steady_from = Instant::now();
    let split = measure_split(&screen, &sidecar, &ledger, STEADY).await?;
    screen.say(format!("split configured 90/10, actual {split}"));
    let seeds_split = split.is_near(90.0);
    let sticky = tell_sessions(&screen, &ledger, steady_from);

    let victim_hosts = [addresses[0].grpc.to_string(), addresses[0].http.to_string()];
    let sink = sinks.get_mut(VICTIM.0).ok_or("the victim has a sink")?;
    sink.stop();
    screen.say("the sink of v1-a is stopped: its queue fills, it answers 503 and UNAVAILABLE");
    let ejected = watch_ejection(&screen, &sidecar, &ledger, &victim_hosts).await?;
    progress(&screen, &ledger, OUTAGE, "v1-a is out").await;
    sink.restart().await?;
    screen.say("the sink of v1-a is back");
    let returned = ejected && watch_return(&screen, &sidecar, &ledger, &victim_hosts).await?;

    let before = sidecar.config_version().await?;
    mesh.split_evenly()?;
    screen.say("weighted.yaml is edited under load: 90/10 becomes 50/50");
    let reloaded = watch_reload(&screen, &sidecar, &ledger, &before).await?;
    let even_from = Instant::now();
    let split = measure_split(&screen, &sidecar, &ledger, EVEN_SPLIT).await?;
    screen.say(format!("split configured 50/50, actual {split}"));
    let sessions = ledger.sinks_by_session(even_from, Instant::now());
    let back = sessions.values().filter(|sinks| sinks.contains(&VICTIM)).count();
    screen.detail(format!("{back} sessions are on v1-a again"));

    screen.say("the load stops; everything accepted has to reach a sink");
    load.finish().await;
    settle(&screen, &ledger).await;
    process.terminate(PATIENCE).await?;
    for collector in collectors {
        collector.terminate(PATIENCE).await?;
    }
    let totals = ledger.totals();
    tell_totals(&screen, &totals);
    let promises = [
        (seeds_split, "requests were split as configured"),
        (sticky, "every session stayed on one endpoint within its subset"),
        (ejected, "v1-a was ejected"),
        (returned && back > 0, "v1-a returned, and serves again"),
        (reloaded && split.is_near(50.0), "the new weights took effect without a restart"),
        (totals.accepted > 0 && totals.missing == 0, "every accepted item arrived"),
    ];
    for (kept, promise) in promises {
        screen.line(format!("  {} {promise}", if kept { "ok    " } else { "FAILED" }));
    }
    screen.line(format!("  {:.0} s in all", screen.elapsed().as_secs_f64()));
    Ok(promises.iter().all(|(kept, _)| *kept))
}

async fn start_sidecar(
    mesh: &MeshFiles,
    logs: &std::path::Path,
) -> Result<(Process, Sidecar, Targets), Failure> {
    const ANY: &str = "127.0.0.1:0";
    let folder = mesh.folder();
    let folder = folder.to_string_lossy();
    let args = [
        ["proxy", "--config", &folder].as_slice(),
        &["--namespace", NAMESPACE, "--ports", "ephemeral"],
        &["--admin", ANY, "--metrics", ANY, "--health", ANY],
    ]
    .concat();
    let listeners = ["127.0.0.1_4317", "127.0.0.1_4318", "admin", "metrics"];
    let process = Process::start("sidecar", SIDECAR, args, &listeners, logs).await?;
    let sidecar = Sidecar { admin: process.address("admin")?, metrics: process.address("metrics")? };
    let targets =
        Targets { grpc: process.address("127.0.0.1_4317")?, http: process.address("127.0.0.1_4318")? };
    Ok((process, sidecar, targets))
}

/// Requests of a while, by version.
#[derive(Debug, Clone, Copy)]
struct Split {
    v1: u64,
    v2: u64,
}

impl Split {
    fn percent_v1(self) -> f64 {
        self.v1 as f64 * 100.0 / (self.v1 + self.v2).max(1) as f64
    }

    /// Within more than four standard deviations of what a thousand draws would give.
    fn is_near(self, percent_v1: f64) -> bool {
        (self.percent_v1() - percent_v1).abs() < 7.0
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (v1, v2) = (self.percent_v1(), 100.0 - self.percent_v1());
        write!(f, "{v1:.1}/{v2:.1} ({} requests to v1, {} to v2)", self.v1, self.v2)
    }
}

/// Reads the split off the sidecar's `istio_requests_total`.
async fn measure_split(
    screen: &Screen,
    sidecar: &Sidecar,
    ledger: &Ledger,
    span: Duration,
) -> Result<Split, Failure> {
    let before = sidecar.requests_by_version().await?;
    progress(screen, ledger, span, "counting requests by version").await;
    let after = sidecar.requests_by_version().await?;
    let requests = |counts: &BTreeMap<String, u64>, version| counts.get(version).copied().unwrap_or_default();
    let [v1, v2] = VERSIONS.map(|version| requests(&after, version) - requests(&before, version));
    Ok(Split { v1, v2 })
}

/// True if no session was seen at both endpoints of v1.
fn tell_sessions(screen: &Screen, ledger: &Ledger, from: Instant) -> bool {
    let sessions = ledger.sinks_by_session(from, Instant::now());
    let homes = |home| sessions.values().filter(|sinks| sinks.contains(&home)).count();
    let torn = sessions.values().filter(|sinks| STABLE.iter().all(|home| sinks.contains(home))).count();
    screen.say(format!(
        "{} sessions, each on one endpoint within its subset: {} on v1-a, {} on v1-b, {} torn",
        sessions.len(),
        homes(STABLE[0]),
        homes(STABLE[1]),
        torn
    ));
    !sessions.is_empty() && torn == 0
}

async fn watch_ejection(
    screen: &Screen,
    sidecar: &Sidecar,
    ledger: &Ledger,
    hosts: &[String],
) -> Result<bool, Failure> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let ejections = sidecar.ejections().await?;
        if let Some(ejection) = ejections.iter().find(|ejection| hosts.contains(&ejection.host)) {
            screen.say(format!("ejected: v1-a ({}) from {}", ejection.host, ejection.cluster));
            screen.detail(format!("because of {}, until {}", ejection.reason, ejection.until));
            return Ok(true);
        }
        progress(screen, ledger, LOOK_EVERY, "waiting for the ejection").await;
    }
    screen.say("no ejection was seen");
    Ok(false)
}

/// A return counts once the endpoint has stayed healthy for a while: it might be ejected again at once.
async fn watch_return(
    screen: &Screen,
    sidecar: &Sidecar,
    ledger: &Ledger,
    hosts: &[String],
) -> Result<bool, Failure> {
    let deadline = Instant::now() + PATIENCE;
    let mut healthy_since = None;
    while Instant::now() < deadline {
        if sidecar.ejections().await?.iter().any(|ejection| hosts.contains(&ejection.host)) {
            healthy_since = None;
        } else if healthy_since.get_or_insert_with(Instant::now).elapsed() > STAYS_HEALTHY {
            screen.say("returned: v1-a is healthy on /clusters, and stays so");
            return Ok(true);
        }
        progress(screen, ledger, LOOK_EVERY, "waiting for the return").await;
    }
    screen.say("no return was seen");
    Ok(false)
}

async fn watch_reload(
    screen: &Screen,
    sidecar: &Sidecar,
    ledger: &Ledger,
    before: &str,
) -> Result<bool, Failure> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if sidecar.config_version().await? != before {
            return Ok(true);
        }
        progress(screen, ledger, LOOK_EVERY, "waiting for the reload").await;
    }
    screen.say("the new configuration did not take effect");
    Ok(false)
}

async fn progress(screen: &Screen, ledger: &Ledger, span: Duration, what: &str) {
    let deadline = Instant::now() + span;
    while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        let totals = ledger.totals();
        screen.progress(&format!("{what}; {} items sent, {} received", totals.made, totals.received));
        sleep(left.min(LOOK_EVERY)).await;
    }
}

/// Waits until nothing accepted is missing any more.
async fn settle(screen: &Screen, ledger: &Ledger) {
    let deadline = Instant::now() + PATIENCE;
    while ledger.totals().missing > 0 && Instant::now() < deadline {
        progress(screen, ledger, LOOK_EVERY, "waiting for the last items").await;
    }
}

fn tell_totals(screen: &Screen, totals: &Totals) {
    screen.line("");
    screen.line("Summary, counted item by item:");
    for (count, what) in [
        (totals.made, "items sent (spans, log records, metric points)"),
        (totals.accepted, "accepted"),
        (totals.refused, "refused after the SDK's own retries"),
        (totals.received, "distinct items received at the sinks"),
        (totals.duplicates, "duplicates"),
        (totals.refused_yet_received, "refused, yet received"),
        (totals.missing, "accepted but missing"),
        (totals.accepted_requests, "export requests accepted"),
        (totals.refused_requests, "export requests refused"),
    ] {
        screen.line(format!("  {count:7} {what}"));
    }
}
