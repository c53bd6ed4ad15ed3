//! `outrigger validate`: every finding of a configuration, without running it.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use outrigger_config::{
    Loader,
    report::{Code, Severity},
    snapshot::TelemetryDefaults,
};

use super::{BAD_CONFIGURATION, FINDINGS, identity::IdentityArgs, show};
use crate::reload::Sources;

/// Check configuration without running it.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:
  outrigger validate rules/ --namespace observability
  kubectl get virtualservice,destinationrule -o yaml | outrigger validate -
  outrigger validate rules/ -o json --failure-threshold warning
  outrigger validate --explain OUT0107
  outrigger validate rules/ -o sarif -S OUT0107 -S IST0002 > findings.sarif

EXIT CODES: 0 clean, 79 findings, 65 unreadable input, 64 usage")]
pub(super) struct ValidateArgs {
    /// Files or folders (*.yaml, *.yml); `-` is standard input.
    #[arg(required_unless_present = "explain", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How to show the findings.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Print what a code means, an example and what to write instead, and check nothing.
    #[arg(long, value_name = "CODE", value_parser = named, conflicts_with = "paths")]
    explain: Option<Named>,
    /// Leave out the findings of a code, of Outrigger (OUT0107) or of Istio (IST0002). The proxy refuses errors all the
    /// same.
    #[arg(short = 'S', long = "suppress", value_name = "CODE", value_delimiter = ',', value_parser = named)]
    suppress: Vec<Named>,
    /// The least severity that fails.
    #[arg(long, value_enum, default_value_t = Threshold::Error, value_name = "SEVERITY")]
    failure_threshold: Threshold,
    /// Ignore an EnvoyFilter that selects this workload; without it that is an error.
    #[arg(long = "allow-envoyfilter", env = "OUTRIGGER_ALLOW_ENVOYFILTER")]
    allow_envoy_filters: bool,
    #[command(flatten)]
    identity: IdentityArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// With the line and a caret.
    Text,
    /// One object a line.
    Json,
    /// SARIF 2.1.0, for code scanning and editors.
    Sarif,
    /// Annotations in a GitHub workflow.
    Github,
}

/// The codes that a user means by one word.
#[derive(Debug, Clone)]
struct Named(Vec<Code>);

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Threshold {
    Note,
    Warning,
    Error,
}

pub(super) fn run(args: &ValidateArgs) -> ExitCode {
    if let Some(Named(codes)) = &args.explain {
        let pages: Vec<_> = codes.iter().map(|code| code.page()).collect();
        show(&pages.join("\n"));
        return ExitCode::SUCCESS;
    }
    let sources = Sources::new(args.paths.clone(), args.identity.mesh_config.clone());
    let documents = match sources.read() {
        Ok(documents) => documents,
        Err(error) => {
            eprintln!("error: {error}");
            return BAD_CONFIGURATION.into();
        }
    };
    let mut loader = Loader::new(args.identity.node(), TelemetryDefaults::default())
        .allow_envoy_filters(args.allow_envoy_filters);
    let report = match documents.compile(&mut loader) {
        Ok(loaded) => loaded.warnings,
        Err(report) => report,
    };
    let suppressed: Vec<Code> = args.suppress.iter().flat_map(|Named(codes)| codes).copied().collect();
    let report = report.without(&suppressed);
    match args.output {
        Output::Text => show(&report.to_string()),
        Output::Json => show(&report.to_json_lines()),
        Output::Sarif => show(&format!("{:#}\n", report.to_sarif())),
        Output::Github => show(&report.to_github_commands()),
    }
    let least = match args.failure_threshold {
        Threshold::Note => Severity::Note,
        Threshold::Warning => Severity::Warning,
        Threshold::Error => Severity::Error,
    };
    if report.diagnostics.iter().any(|diagnostic| diagnostic.severity() >= least) {
        return FINDINGS.into();
    }
    ExitCode::SUCCESS
}

fn named(name: &str) -> Result<Named, String> {
    match Code::named(name) {
        codes if codes.is_empty() => {
            Err("no finding has this code: docs/diagnostics.md lists them".to_owned())
        }
        codes => Ok(Named(codes)),
    }
}
