//! `outrigger proxy`: runs the sidecar until a signal ends it.

use std::{
    io::Write,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::{
    BAD_CONFIGURATION, FAULT, UNAVAILABLE, USAGE, environment,
    identity::IdentityArgs,
    settings::{ProxyConfig, drain_times, grace_period},
};
use crate::{
    app::{App, Options, Ports, StartError},
    application::Application,
    export::Otel,
    overload::Cgroups,
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
    /// Folder with the workload's certificate, key and roots, watched for changes: `cert-chain.pem`, `key.pem` and
    /// `root-cert.pem`, or `certificates.pem`, `private_key.pem` and `ca_certificates.pem`, or `tls.crt`, `tls.key` and
    /// `ca.crt` [default: /var/run/secrets/workload-spiffe-credentials, if it is there].
    #[arg(long = "identity", env = "OUTRIGGER_IDENTITY", value_name = "DIR")]
    credentials: Option<PathBuf>,
    /// Worker threads; 0 is one for each CPU [default: ISTIO_CPU_LIMIT, else the CPU limit].
    #[arg(long, env = "OUTRIGGER_CONCURRENCY", value_name = "N")]
    concurrency: Option<usize>,
    /// Admin pages.
    #[arg(long, env = "OUTRIGGER_ADMIN", value_name = "ADDR", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,
    /// The pages of Istio's agent, metrics among them, in place of both defaults; given again, metrics alone [default:
    /// 0.0.0.0:15020, and metrics alone on 0.0.0.0:15090].
    #[arg(long, env = "OUTRIGGER_METRICS", value_name = "ADDR", value_delimiter = ',')]
    metrics: Vec<SocketAddr>,
    /// Readiness, `/healthz/ready`.
    #[arg(long, env = "OUTRIGGER_HEALTH", value_name = "ADDR", default_value = "0.0.0.0:15021")]
    health: SocketAddr,
    /// Where captured questions for addresses are answered, by UDP and TCP, if they are captured; `localhost` is both
    /// loopbacks.
    #[arg(long, env = "DNS_PROXY_ADDR", value_name = "ADDR", default_value = DNS,
        value_parser = dns_at)]
    dns: DnsAt,
    /// Seconds from SIGTERM to SIGKILL, the pod's terminationGracePeriodSeconds: open requests may use what the drain
    /// leaves of it [default: unknown, they have 1 s].
    #[arg(long, env = "TERMINATION_GRACE_PERIOD_SECONDS", value_name = "SECONDS", value_parser = grace_period)]
    grace_period: Option<Duration>,
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
    let (otel, problems) = Otel::from_environment(environment);
    for problem in problems {
        tracing::warn!(%problem, "a telemetry setting cannot be used");
    }
    let metrics = if args.metrics.is_empty() { default_metrics() } else { args.metrics };
    let own = [&metrics[..], &[args.admin, args.health]].concat();
    let application = match Application::from_environment(environment, &own) {
        Ok(application) => application,
        Err(error) => {
            eprintln!("{error}");
            return USAGE.into();
        }
    };
    let options = Options {
        config: args.config,
        identity: args
            .credentials
            .or_else(|| Some(CREDENTIALS.into()).filter(|folder: &PathBuf| folder.is_dir())),
        node: args.identity.node(),
        mesh_config: args.identity.mesh_config,
        allow_envoy_filters: args.allow_envoy_filters,
        concurrency: concurrency(args.concurrency.or(settings.concurrency)),
        admin: args.admin,
        metrics,
        health: args.health,
        dns: args.dns.0,
        seed: args.seed,
        ports: args.ports,
        otel,
        drain: drain_times(&settings, args.grace_period),
        application,
        cgroups: Cgroups::default(),
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
    if running.join() { ExitCode::SUCCESS } else { FAULT.into() }
}

/// Where DNS is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DnsAt(Vec<SocketAddr>);

/// Istio's.
const DNS: &str = "localhost:15053";

/// `DNS_PROXY_ADDR` as Istio has it: `localhost` is both loopbacks, no host every address, nothing the default.
fn dns_at(text: &str) -> Result<DnsAt, String> {
    let text = if text.is_empty() { DNS } else { text };
    let pair = match text.rsplit_once(':') {
        Some(("localhost", port)) => Some((Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, port)),
        Some(("", port)) => Some((Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED, port)),
        _ => None,
    };
    let read = match pair {
        Some((v4, v6, port)) => port.parse().ok().map(|port: u16| vec![(v4, port).into(), (v6, port).into()]),
        None => text.parse().ok().map(|address| vec![address]),
    };
    read.map(DnsAt).ok_or_else(|| format!("`{text}` is none of ADDRESS:PORT, localhost:PORT and :PORT"))
}

/// Where Istio's agent takes certificates from that others have made.
const CREDENTIALS: &str = "/var/run/secrets/workload-spiffe-credentials";

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
        StartError::Stopped => ExitCode::SUCCESS,
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
    fn dns_is_answered_where_istios_variable_says() {
        let read = |text: &str| dns_at(text).map(|DnsAt(addresses)| addresses);
        let at = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(read("localhost:53"), Ok(at(["127.0.0.1:53", "[::1]:53"])));
        assert_eq!(read(":53"), Ok(at(["0.0.0.0:53", "[::]:53"])));
        assert_eq!(read(""), read(DNS));
        assert_eq!(read("127.0.0.2:15053"), Ok(vec!["127.0.0.2:15053".parse().unwrap()]));
        for wrong in ["localhost", "localhost:x", "53", "name:53", ":"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
