//! `outrigger webhook`: flags, signals and the runtime of the webhook.

use std::{future::Future, io, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{ArgMatches, Args, ValueEnum, parser::ValueSource};
use outrigger_inject::{FailurePolicy, OnFailure, manifests};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    BAD_CONFIGURATION, UNAVAILABLE, USAGE, environment, inject::InjectionArgs, proxy::log_to_stderr, show,
};
use crate::webhook::{ApiServer, Certificate, Files, Own, StartError, Webhook};

/// Put the sidecar into pods while the API server makes them.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:
  outrigger webhook --print-manifests --image registry.example.com/outrigger:1.2 | kubectl apply -f -
  outrigger webhook
  outrigger webhook --tls-cert /certs/tls.crt --tls-key /certs/tls.key

Without a certificate it makes one, renews it, and writes its authority into the MutatingWebhookConfiguration.
Pages: POST /inject, GET /healthz (it lives), GET /readyz (the API server can know its certificate).

EXIT CODES: 0 stopped, 64 usage, 65 bad certificate, 69 cannot listen")]
pub(super) struct WebhookArgs {
    /// Where to listen.
    #[arg(long, env = "OUTRIGGER_LISTEN", value_name = "ADDR", default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// Certificate chain, PEM, watched for changes [default: one of its own].
    #[arg(long, env = "OUTRIGGER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM.
    #[arg(long, env = "OUTRIGGER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The Service's name, for the certificate of its own.
    #[arg(long, env = "OUTRIGGER_WEBHOOK_SERVICE", value_name = "NAME", default_value = "outrigger-webhook")]
    service: String,
    /// Its own namespace.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NS", default_value = "outrigger-system")]
    namespace: String,
    /// The MutatingWebhookConfiguration that is to trust the certificate of its own.
    #[arg(
        long,
        env = "OUTRIGGER_WEBHOOK_CONFIGURATION",
        value_name = "NAME",
        default_value = "outrigger-injector"
    )]
    configuration: String,
    /// What becomes of a pod that cannot be injected as its annotations say.
    #[arg(long, env = "OUTRIGGER_ON_FAILURE", value_enum, value_name = "WHAT", default_value_t = Failure::Allow)]
    on_failure: Failure,
    /// Print what the cluster needs for the webhook, and serve nothing. Names and addresses in it are fixed.
    #[arg(long)]
    print_manifests: bool,
    /// With `--print-manifests`: what becomes of pods while no webhook answers.
    #[arg(long, value_enum, value_name = "POLICY", default_value_t = Unanswered::Fail, requires = "print_manifests")]
    failure_policy: Unanswered,
    #[command(flatten)]
    injection: InjectionArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Failure {
    /// It is made without a sidecar, and the user is warned.
    Allow,
    /// It is refused.
    Deny,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Unanswered {
    /// They are not made, as in Istio.
    Fail,
    /// They are made without a sidecar.
    Ignore,
}

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Of a certificate of its own.
const LIFE: Duration = DAY.saturating_mul(30);
/// When the next one is made.
const RENEWAL: Duration = DAY.saturating_mul(20);
/// Between looks at the certificate's files.
const FILES: Duration = Duration::from_secs(1);
/// Between looks at what the API server knows.
const API: Duration = Duration::from_secs(30);
/// Endpoints still lead here for a moment after the signal.
const LINGER: Duration = Duration::from_secs(5);

/// Flags of the running webhook that the manifests would drop in silence. What the environment says is not meant for them.
pub(super) fn check(given: &ArgMatches) -> Result<(), String> {
    const OF_SERVING: [&str; 6] = ["listen", "tls_cert", "tls_key", "service", "namespace", "configuration"];
    let is_flag = |id: &&&str| given.value_source(id) == Some(ValueSource::CommandLine);
    match OF_SERVING.iter().find(is_flag) {
        Some(id) if given.get_flag("print_manifests") => {
            let flag = id.replace('_', "-");
            Err(format!(
                "--{flag} cannot be used with --print-manifests: change the manifests after printing"
            ))
        }
        _ => Ok(()),
    }
}

pub(super) fn run(args: WebhookArgs) -> ExitCode {
    let options = args.injection.options(None);
    let on_failure = match args.on_failure {
        Failure::Allow => OnFailure::Allow,
        Failure::Deny => OnFailure::Deny,
    };
    if args.print_manifests {
        let policy = match args.failure_policy {
            Unanswered::Fail => FailurePolicy::Fail,
            Unanswered::Ignore => FailurePolicy::Ignore,
        };
        show(&manifests(&options, policy, on_failure));
        return ExitCode::SUCCESS;
    }
    log_to_stderr();
    let (certificate, interval) = match (args.tls_cert, args.tls_key) {
        (Some(certificate), Some(key)) => (Certificate::Given(Files { certificate, key }), FILES),
        _ => {
            let Some(api_server) = ApiServer::in_cluster(environment) else {
                eprintln!(
                    "error: this is no pod (KUBERNETES_SERVICE_HOST is not set), so that no API server can learn of a \
                     certificate: give --tls-cert and --tls-key"
                );
                return USAGE.into();
            };
            let service = format!("{}.{}.svc", args.service, args.namespace);
            let names = vec![format!("{service}.{}", options.cluster_domain), service];
            (
                Certificate::Own(Own {
                    names,
                    life: LIFE,
                    renew_after: RENEWAL,
                    configuration: args.configuration,
                    api_server,
                }),
                API,
            )
        }
    };
    let webhook = Webhook { listen: args.listen, options, on_failure, certificate, interval };
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(serve(webhook)),
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            UNAVAILABLE.into()
        }
    }
}

async fn serve(webhook: Webhook) -> ExitCode {
    let signals = match stop() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("error: cannot watch for signals: {error}");
            return UNAVAILABLE.into();
        }
    };
    match webhook.bind().await {
        Ok(bound) => {
            show(&format!(
                "{}\n",
                serde_json::json!({"name": "webhook", "address": bound.address.to_string()})
            ));
            bound.serve(signals).await;
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            match error {
                StartError::Certificate(_) => BAD_CONFIGURATION.into(),
                StartError::Bind { .. } | StartError::Tls(_) => UNAVAILABLE.into(),
            }
        }
    }
}

/// Comes a while after SIGTERM, or at once with a second one or SIGINT. As PID 1 there is no default action: the handlers
/// are set before anything else.
fn stop() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => return,
        }
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = tokio::time::sleep(LINGER) => {}
        }
    })
}
