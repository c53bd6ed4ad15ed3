//! `outrigger inject` and `uninject`: documents in, documents out, and what was done on standard error.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use outrigger_inject::{Changed, Done, Format, Options, Outcome, Verb, change};

use super::{BAD_CONFIGURATION, show};
use crate::reload::Sources;

/// Put the sidecar into workloads.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:
  outrigger inject -f deployment.yaml | kubectl apply -f -
  kubectl get deployment web -o yaml | outrigger inject -f - | kubectl apply -f -
  outrigger inject -f manifests/ --image registry.example.com/outrigger:1.2 > injected.yaml

Documents of other kinds are passed on as they are. A workload that has the sidecar gets it anew: twice is once.

EXIT CODES: 0 done, 65 unreadable or wrong input (nothing is printed), 64 usage")]
pub(super) struct InjectArgs {
    #[command(flatten)]
    files: Files,
    /// Namespace of documents without one.
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE", value_name = "NS")]
    namespace: Option<String>,
    #[command(flatten)]
    injection: InjectionArgs,
}

/// Take the sidecar out of workloads.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:
  kubectl get deployment web -o yaml | outrigger uninject -f - | kubectl apply -f -

EXIT CODES: 0 done, 65 unreadable or wrong input (nothing is printed), 64 usage")]
pub(super) struct UninjectArgs {
    #[command(flatten)]
    files: Files,
}

/// What is read, and how it is printed.
#[derive(Debug, Args)]
struct Files {
    /// Files or folders (*.yaml, *.yml); `-` is standard input.
    #[arg(short, long, required = true, value_name = "PATH", num_args = 1..)]
    filename: Vec<PathBuf>,
    /// How to print the documents.
    #[arg(short, long, value_enum, default_value_t = Output::Yaml)]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// As the input is written; only what is changed is written anew.
    Yaml,
    /// One object, a `List` for several documents.
    Json,
}

/// What is injected; the webhook has the same flags.
#[derive(Debug, Clone, Args)]
pub(super) struct InjectionArgs {
    /// Image of the proxy and of the init container.
    #[arg(long, env = "OUTRIGGER_IMAGE", value_name = "IMAGE", default_value_t = Options::default().image)]
    image: String,
    /// When the kubelet pulls it [default: as Kubernetes does].
    #[arg(long, env = "OUTRIGGER_IMAGE_PULL_POLICY", value_name = "POLICY",
        value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: Option<String>,
    /// ConfigMap in the workload's namespace whose keys are the mesh's YAML files.
    #[arg(long, env = "OUTRIGGER_MESH_CONFIG_MAP", value_name = "NAME",
        default_value_t = Options::default().mesh_config_map)]
    mesh_config_map: String,
    /// Secret in the workload's namespace with `tls.crt`, `tls.key` and `ca.crt`: its certificate.
    #[arg(long, env = "OUTRIGGER_CERTIFICATES_SECRET", value_name = "NAME")]
    certificates_secret: Option<String>,
    /// Name of this injector among several.
    #[arg(long, env = "OUTRIGGER_REVISION", value_name = "NAME", default_value_t = Options::default().revision)]
    revision: String,
    /// Domain of the cluster's services.
    #[arg(long, env = "OUTRIGGER_CLUSTER_DOMAIN", value_name = "DOMAIN",
        default_value_t = Options::default().cluster_domain)]
    cluster_domain: String,
    /// Domain of the workloads' identities.
    #[arg(long, env = "OUTRIGGER_TRUST_DOMAIN", value_name = "DOMAIN",
        default_value_t = Options::default().trust_domain)]
    trust_domain: String,
    /// Name of the cluster in metrics.
    #[arg(long, env = "OUTRIGGER_CLUSTER_ID", value_name = "NAME", default_value_t = Options::default().cluster_id)]
    cluster_id: String,
    /// Variables of every sidecar, which a workload's `proxy.istio.io/config` refines (Istio's
    /// `meshConfig.defaultConfig.proxyMetadata`): ISTIO_META_DNS_CAPTURE=true, for example.
    #[arg(long, env = "OUTRIGGER_PROXY_METADATA", value_name = "NAME=VALUE,...", value_delimiter = ',',
        value_parser = variable)]
    proxy_metadata: Vec<(String, String)>,
    /// Form of the sidecar where the workload does not choose one.
    #[arg(long, env = "OUTRIGGER_SIDECAR", value_enum, value_name = "FORM", default_value_t = Form::Native)]
    sidecar: Form,
    /// Workloads that neither ask for a sidecar nor refuse it.
    #[arg(long, env = "OUTRIGGER_INJECTION_POLICY", value_enum, value_name = "POLICY",
        default_value_t = Policy::Enabled)]
    injection_policy: Policy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// An init container that keeps running (Kubernetes 1.29 and later).
    Native,
    /// A container beside the application.
    Classic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// Are injected.
    Enabled,
    /// Are left as they are.
    Disabled,
}

impl InjectionArgs {
    /// `namespace` is that of documents without one.
    pub(super) fn options(&self, namespace: Option<String>) -> Options {
        let this = self.clone();
        Options {
            image: this.image,
            pull_policy: this.image_pull_policy,
            mesh_config_map: this.mesh_config_map,
            certificates_secret: this.certificates_secret,
            revision: this.revision,
            namespace,
            cluster_domain: this.cluster_domain,
            trust_domain: this.trust_domain,
            cluster_id: this.cluster_id,
            proxy_metadata: this.proxy_metadata,
            native: this.sidecar == Form::Native,
            by_default: this.injection_policy == Policy::Enabled,
        }
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    let is_name = |name: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        name.starts_with(|c: char| !c.is_ascii_digit()) && name.chars().all(plain)
    };
    match text.split_once('=') {
        Some((name, value)) if is_name(name) => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not of the form NAME=VALUE")),
    }
}

pub(super) fn inject(args: &InjectArgs) -> ExitCode {
    let options = args.injection.options(args.namespace.clone());
    run(&args.files, Verb::Inject(&options))
}

pub(super) fn uninject(args: &UninjectArgs) -> ExitCode {
    run(&args.files, Verb::Uninject)
}

fn run(files: &Files, verb: Verb<'_>) -> ExitCode {
    let documents = match Sources::new(files.filename.clone(), None).read() {
        Ok(documents) => documents,
        Err(error) => {
            eprintln!("error: {error}");
            return BAD_CONFIGURATION.into();
        }
    };
    let format = match files.output {
        Output::Yaml => Format::Yaml,
        Output::Json => Format::Json,
    };
    match change(documents.sources(), verb, format) {
        Ok(changed) => {
            eprint!("{}", report(&changed));
            show(&changed.text);
            ExitCode::SUCCESS
        }
        Err(errors) => {
            for error in errors {
                eprintln!("{error}");
            }
            eprintln!("nothing was changed");
            BAD_CONFIGURATION.into()
        }
    }
}

/// A line for each workload, marked as `linkerd check` marks its lines.
fn report(changed: &Changed) -> String {
    let mut out = String::new();
    for Done { place, workload, outcome } in &changed.workloads {
        let name = format!("{} \"{}\"", workload.kind.to_lowercase(), workload.name);
        let (mark, what, notes) = match outcome {
            Outcome::Injected { notes } => ('√', "injected".to_owned(), &**notes),
            Outcome::Removed => ('√', "uninjected".to_owned(), &[][..]),
            Outcome::NotInjected => ('‼', "left as it is: it has no sidecar".to_owned(), &[][..]),
            Outcome::Skipped(skip) => ('‼', format!("skipped: {skip}"), &[][..]),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{mark} {name} {what} ({}:{})", place.file, place.line);
        for note in notes {
            let _ = writeln!(out, "  ‼ {note}");
        }
    }
    match changed.others {
        0 => {}
        1 => out.push_str("1 other document passed on\n"),
        others => {
            let _ = writeln!(out, "{others} other documents passed on");
        }
    }
    out
}
