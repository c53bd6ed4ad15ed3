//! What happens, in order. Every figure it tells is read from the sidecar or counted in the ledger.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    cast::Cast,
    ledger::{Ledger, SinkId, Totals},
    load::{Load, SESSIONS_PER_TRANSPORT},
    mesh::{BASE_EJECTION_TIME, INTERVAL},
    screen::Screen,
    stage::{Own, Stage},
};

const STEADY: Duration = Duration::from_secs(7);
const OUTAGE: Duration = Duration::from_secs(4);
const EVEN_SPLIT: Duration = Duration::from_secs(6);

/// The one that fails, v1-a.
const VICTIM: SinkId = SinkId(0);
/// The endpoints of subset v1.
const STABLE: [SinkId; 2] = [SinkId(0), SinkId(1)];

type Failure = Box<dyn std::error::Error + Send + Sync>;
/// What was promised, and whether it was kept.
type Promise = (bool, &'static str);

/// Plays it all; false if a promise was not kept.
pub(crate) async fn tell() -> Result<bool, Failure> {
    let screen = Screen::new();
    let ledger = Arc::new(Ledger::default());
    let mut cast = Cast::gather(&ledger).await?;
    let stage = Stage { screen, ledger, sidecar: cast.sidecar };
    introduce(&stage, &cast);
    let load = Load::start(cast.targets, &stage.ledger)?;

    let mut promises = Vec::new();
    promises.extend(steady(&stage).await?);
    promises.extend(outage(&stage, &mut cast).await?);
    promises.extend(change_of_weights(&stage, &cast).await?);

    stage.screen.say("the load stops; everything accepted has to reach a sink");
    load.finish().await;
    stage.see_all_arrive().await?;
    let own = stage.see_own_telemetry().await?;
    cast.dismiss().await?;
    let totals = stage.ledger.totals();
    promises.push((totals.accepted > 0 && totals.missing == 0, "every accepted item arrived"));
    promises
        .push((own.adds_up(), "the sidecar's own spans and log records arrived, or it counted their loss"));
    sum_up(&stage.screen, &totals, &own, &promises);
    Ok(promises.iter().all(|(kept, _)| *kept))
}

fn introduce(stage: &Stage, cast: &Cast) {
    let screen = &stage.screen;
    let ready = cast.ready_after.as_millis();
    screen.say(format!("sidecar ready after {ready} ms; collectors v1-a, v1-b and v2-a behind it"));
    screen.detail(format!("OTLP/gRPC on {}, OTLP/HTTP on {}", cast.targets.grpc, cast.targets.http));
    screen.detail("configuration: the seed's registry, destination rule and weighted virtual service");
    screen.detail(format!("shortened so that you can watch: {} (seed: {})", INTERVAL.1, INTERVAL.0));
    screen.detail(format!("and {} (seed: {})", BASE_EJECTION_TIME.1, BASE_EJECTION_TIME.0));
    let sessions = SESSIONS_PER_TRANSPORT;
    screen.say(format!("load: {sessions} sessions over gRPC, {sessions} over HTTP;"));
    screen.detail("spans, log records and metric points by the OpenTelemetry SDK");
}

/// The split by weight, and each session on one endpoint within its subset.
async fn steady(stage: &Stage) -> Result<[Promise; 2], Failure> {
    let from = Instant::now();
    let split = stage.measure_split(STEADY).await?;
    stage.screen.say(format!("split configured 90/10, actual {split}"));
    let sessions = stage.ledger.sinks_by_session(from, Instant::now());
    let [on_a, on_b] = STABLE.map(|home| sessions.values().filter(|sinks| sinks.contains(&home)).count());
    let torn = sessions.values().filter(|sinks| STABLE.iter().all(|home| sinks.contains(home))).count();
    stage.screen.say(format!(
        "{} sessions, each on one endpoint within its subset: {on_a} on v1-a, {on_b} on v1-b, {torn} torn",
        sessions.len(),
    ));
    Ok([
        (split.is_near(90.0), "requests were split as configured"),
        (!sessions.is_empty() && torn == 0, "every session stayed on one endpoint within its subset"),
    ])
}

/// A collector of v1 fails for real, is ejected, recovers and returns.
async fn outage(stage: &Stage, cast: &mut Cast) -> Result<[Promise; 2], Failure> {
    let screen = &stage.screen;
    let [victim, ..] = cast.collectors;
    let hosts = [victim.grpc.to_string(), victim.http.to_string()];
    let [sink, ..] = &mut cast.sinks;
    sink.stop();
    screen.say("the sink of v1-a is stopped: its queue fills, it answers 503 and UNAVAILABLE");
    let ejection = stage.see_ejection(&hosts).await?;
    match &ejection {
        Some(ejection) => {
            screen.say(format!("ejected: v1-a ({}) from {}", ejection.host, ejection.cluster));
            screen.detail(format!("because of {}, until {}", ejection.reason, ejection.until));
        }
        None => screen.say("no ejection was seen"),
    }
    stage.pass(OUTAGE, "v1-a is out").await;
    sink.restart().await?;
    screen.say("the sink of v1-a is back");
    let returned = stage.see_return(&hosts).await?;
    screen.say(match returned {
        true => "returned: v1-a is healthy on /clusters, and stays so",
        false => "no return was seen",
    });
    Ok([(ejection.is_some(), "v1-a was ejected"), (ejection.is_some() && returned, "v1-a returned")])
}

/// The YAML is edited under load.
async fn change_of_weights(stage: &Stage, cast: &Cast) -> Result<[Promise; 2], Failure> {
    let before = stage.sidecar.config_version().await?;
    cast.mesh.split_evenly()?;
    stage.screen.say("weighted.yaml is edited under load: 90/10 becomes 50/50");
    let reloaded = stage.see_reload(&before).await?;
    let from = Instant::now();
    let split = stage.measure_split(EVEN_SPLIT).await?;
    stage.screen.say(format!("split configured 50/50, actual {split}"));
    let sessions = stage.ledger.sinks_by_session(from, Instant::now());
    let back = sessions.values().filter(|sinks| sinks.contains(&VICTIM)).count();
    stage.screen.detail(format!("{back} sessions are on v1-a again"));
    Ok([
        (back > 0, "v1-a serves again"),
        (reloaded && split.is_near(50.0), "the new weights took effect without a restart"),
    ])
}

fn sum_up(screen: &Screen, totals: &Totals, own: &Own, promises: &[Promise]) {
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
    screen.line("The sidecar's own telemetry, sent through itself to the same collectors:");
    for (count, what) in [
        (own.account.produced, "spans and log records produced"),
        (own.account.exported, "accepted by a collector"),
        (own.account.dropped, "lost, each counted with its reason"),
        (own.received, "distinct ones received at the sinks"),
        (own.points, "metric points received at the sinks"),
    ] {
        screen.line(format!("  {count:7} {what}"));
    }
    for (kept, promise) in promises {
        screen.line(format!("  {} {promise}", if *kept { "ok    " } else { "FAILED" }));
    }
    screen.line(format!("  {:.0} s in all", screen.elapsed().as_secs_f64()));
}
