//! `outrigger validate`: every finding of a configuration, without running it.

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use outrigger_config::{Loader, report::Severity, snapshot::TelemetryDefaults};

use super::{BAD_CONFIGURATION, FINDINGS, identity::IdentityArgs};
use crate::reload::Sources;

/// Check configuration without running it.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:
  outrigger validate rules/ --namespace observability
  kubectl get virtualservice,destinationrule -o yaml | outrigger validate -
  outrigger validate rules/ -o json --failure-threshold warning

EXIT CODES: 0 clean, 79 findings, 65 unreadable input, 64 usage")]
pub(super) struct ValidateArgs {
    /// Files or folders (*.yaml, *.yml); `-` is standard input.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How to show the findings.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// The least severity that fails.
    #[arg(long, value_enum, default_value_t = Threshold::Error, value_name = "SEVERITY")]
    failure_threshold: Threshold,
    /// Mesh settings: MeshConfig, or the ConfigMap `istio`.
    #[arg(long, env = "OUTRIGGER_MESH_CONFIG", value_name = "FILE")]
    mesh_config: Option<PathBuf>,
    #[command(flatten)]
    identity: IdentityArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// With the line and a caret.
    Text,
    /// One object a line.
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Threshold {
    Warning,
    Error,
}

pub(super) fn run(args: &ValidateArgs) -> ExitCode {
    let sources = Sources::new(args.paths.clone(), args.mesh_config.clone());
    let documents = match sources.read() {
        Ok(documents) => documents,
        Err(error) => {
            eprintln!("error: {error}");
            return BAD_CONFIGURATION.into();
        }
    };
    let mut loader = Loader::new(args.identity.node(), TelemetryDefaults::default());
    let report = match documents.compile(&mut loader) {
        Ok(loaded) => loaded.warnings,
        Err(report) => report,
    };
    match args.output {
        Output::Text => show(&report.to_string()),
        Output::Json => show(&report.to_json_lines()),
    }
    let least = match args.failure_threshold {
        Threshold::Warning => Severity::Warning,
        Threshold::Error => Severity::Error,
    };
    if report.diagnostics.iter().any(|diagnostic| diagnostic.severity() >= least) {
        return FINDINGS.into();
    }
    ExitCode::SUCCESS
}

/// A reader that has seen enough (`| head`) is no error.
fn show(findings: &str) {
    let _ = std::io::stdout().write_all(findings.as_bytes());
}
