//! `outrigger proxy`: runs the sidecar until a signal ends it.

use std::{io::Write, net::SocketAddr, num::NonZeroUsize, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::{BAD_CONFIGURATION, UNAVAILABLE, environment, identity::IdentityArgs};
use crate::{
    app::{App, DrainTimes, Options, Ports, StartError},
    export::Otel,
};

/// Run the sidecar.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:
  outrigger proxy --config rules/ --namespace observability
  outrigger proxy --config registry.yaml --config routes.yaml --concurrency 2
  outrigger proxy --config rules/ --admin 127.0.0.1:0 --metrics 127.0.0.1:0 --health 127.0.0.1:0")]
pub(super) struct ProxyArgs {
    /// File or folder (*.yaml, *.yml) of Istio documents, watched for changes.
    #[arg(long, env = "OUTRIGGER_CONFIG", value_name = "PATH", required = true, num_args = 1..,
        value_delimiter = ',', value_parser = watchable)]
    config: Vec<PathBuf>,
    /// Ignore an EnvoyFilter that selects this workload; without it that is an error.
    #[arg(long = "allow-envoyfilter", env = "OUTRIGGER_ALLOW_ENVOYFILTER")]
    allow_envoy_filters: bool,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Worker threads; 0 is one for each CPU [default: ISTIO_CPU_LIMIT, else the CPU limit].
    #[arg(long, env = "OUTRIGGER_CONCURRENCY", value_name = "N")]
    concurrency: Option<usize>,
    /// Admin pages.
    #[arg(long, env = "OUTRIGGER_ADMIN", value_name = "ADDR", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,
    /// Metrics, in place of both defaults [default: 0.0.0.0:15020 and 0.0.0.0:15090].
    #[arg(long, env = "OUTRIGGER_METRICS", value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// Readiness, `/healthz/ready`.
    #[arg(long, env = "OUTRIGGER_HEALTH", value_name = "ADDR", default_value = "0.0.0.0:15021")]
    health: SocketAddr,
    /// Bind the ports that the configuration names, or any free ones, which the start-up lines tell.
    #[arg(long, env = "OUTRIGGER_PORTS", value_enum, value_name = "WHICH", default_value = "configured")]
    ports: Ports,
    /// Seed of all random choices, to replay a run.
    #[arg(long, env = "OUTRIGGER_SEED", value_name = "N")]
    seed: Option<u64>,
}

pub(super) fn run(args: ProxyArgs) -> ExitCode {
    log_to_stderr();
    let settings = environment("PROXY_CONFIG").map(|json| ProxyConfig::parse(&json)).unwrap_or_default();
    if let Some(mode) = environment("ISTIO_META_INTERCEPTION_MODE").filter(|mode| mode != "NONE") {
        tracing::warn!(mode, "traffic capture is not supported yet: only explicit listeners are bound");
    }
    let (otel, problems) = Otel::from_environment(environment);
    for problem in problems {
        tracing::warn!(%problem, "a telemetry setting cannot be used");
    }
    let options = Options {
        config: args.config,
        node: args.identity.node(),
        mesh_config: args.identity.mesh_config,
        allow_envoy_filters: args.allow_envoy_filters,
        concurrency: concurrency(args.concurrency.or(settings.concurrency)),
        admin: args.admin,
        metrics: args.metrics.map_or_else(default_metrics, |address| vec![address]),
        health: args.health,
        seed: args.seed,
        ports: args.ports,
        otel,
        drain: drain_times(&settings),
        signals: true,
    };
    let running = match App::start(options) {
        Ok(running) => running,
        Err(error) => return refuse(&error),
    };
    let mut stdout = std::io::stdout().lock();
    for (name, address) in running.addresses() {
        let line = serde_json::json!({"name": *name, "address": address.to_string()});
        if let Err(error) = writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
            tracing::warn!(%error, "cannot print the listeners");
        }
    }
    drop(stdout);
    running.join();
    ExitCode::SUCCESS
}

/// Standard input can be read once only.
fn watchable(path: &str) -> Result<PathBuf, String> {
    match path {
        "-" => Err("standard input cannot be watched: give a file".to_owned()),
        _ => Ok(path.into()),
    }
}

fn refuse(error: &StartError) -> ExitCode {
    // Diagnostics are for people, and too many lines for a log record.
    eprintln!("{error}");
    match error {
        StartError::Config(_) | StartError::Unreadable(_) => BAD_CONFIGURATION.into(),
        StartError::Bind { .. } | StartError::Thread(_) => UNAVAILABLE.into(),
    }
}

fn default_metrics() -> Vec<SocketAddr> {
    [15020, 15090].map(|port| SocketAddr::from(([0, 0, 0, 0], port))).into()
}

/// Flag or `PROXY_CONFIG`, else Istio's CPU limit, else that of the system; 0 is all CPUs, as in Istio.
fn concurrency(wanted: Option<usize>) -> NonZeroUsize {
    let limit = || environment("ISTIO_CPU_LIMIT").and_then(|limit| limit.parse().ok());
    let available = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    NonZeroUsize::new(wanted.or_else(limit).unwrap_or_default()).unwrap_or_else(available)
}

/// Istio's lifecycle variables.
fn drain_times(settings: &ProxyConfig) -> DrainTimes {
    let defaults = DrainTimes::default();
    let minimum = environment("MINIMUM_DRAIN_DURATION").and_then(|text| duration(&text));
    DrainTimes {
        announce: settings.termination_drain.unwrap_or(defaults.announce),
        until_idle: environment("EXIT_ON_ZERO_ACTIVE_CONNECTIONS")
            .is_some_and(|value| value == "true")
            .then(|| minimum.unwrap_or(Duration::from_secs(5))),
        ..defaults
    }
}

/// What is honoured of the variable `PROXY_CONFIG`, which injection writes as JSON.
#[derive(Debug, Default, PartialEq, Eq)]
struct ProxyConfig {
    concurrency: Option<usize>,
    termination_drain: Option<Duration>,
}

impl ProxyConfig {
    fn parse(json: &str) -> Self {
        let value: serde_json::Value = match serde_json::from_str(json) {
            Ok(value) => value,
            Err(error) => {
                tracing::warn!(%error, "PROXY_CONFIG is no JSON: ignored");
                return Self::default();
            }
        };
        let concurrency = value.get("concurrency").and_then(serde_json::Value::as_u64);
        Self {
            concurrency: concurrency.and_then(|count| count.try_into().ok()),
            termination_drain: value
                .get("terminationDrainDuration")
                .and_then(|text| text.as_str())
                .and_then(duration),
        }
    }
}

/// `1.5s`, `1h5m`, `300ms`: a protobuf or Go duration, not negative.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, tail) = rest.split_at(number);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(value.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// JSON lines; standard output belongs to the listener lines and the access log.
pub(super) fn log_to_stderr() {
    let filter = environment("OUTRIGGER_LOG").or_else(|| environment("RUST_LOG"));
    let filter = EnvFilter::new(filter.unwrap_or_else(|| "info".to_owned()));
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .finish();
    // A caller that embeds the command line may have its own.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_istio_writes_them() {
        assert_eq!(duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(duration("1h1.5m300ms"), Some(Duration::from_millis(3_690_300)));
        for wrong in ["", "5", "s", "-5s", "5x", "1e3s"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn proxy_config_is_read_and_rubbish_ignored() {
        let settings = ProxyConfig::parse(r#"{"concurrency":3,"terminationDrainDuration":"11s","x":1}"#);
        let expected = ProxyConfig { concurrency: Some(3), termination_drain: Some(Duration::from_secs(11)) };
        assert_eq!(settings, expected);
        assert_eq!(ProxyConfig::parse("concurrency: 3"), ProxyConfig::default());
    }
}
