//! `outrigger diff`: what differs between two configurations, and what that does to recorded requests.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use outrigger_config::{
    Loader,
    diff::{diff, traffic::Traffic},
    snapshot::{Snapshot, TelemetryDefaults},
};
use serde_json::json;

use super::{BAD_CONFIGURATION, Output, identity::IdentityArgs, show};
use crate::reload::Sources;

/// Tell what differs between two configurations.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:
  outrigger diff main/rules/ rules/ --namespace observability
  outrigger diff old.yaml new.yaml --traffic access.log --max-moved 5%

Order and comments of files do not count, the order of routes does. Of a split by weight, the share that goes to
another cluster counts as moved.

EXIT CODES, as of kubectl diff: 0 no difference, 1 differences; with --max-moved 0 up to it, 1 above;
64 usage, 65 bad configuration or unreadable traffic")]
pub(super) struct DiffArgs {
    /// File or folder (*.yaml, *.yml) as it was; `-` is standard input.
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// File or folder as it will be.
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Recorded requests: the access log with accessLogEncoding JSON, one object a line.
    #[arg(long, value_name = "FILE")]
    traffic: Option<PathBuf>,
    /// Fail only if more of the requests go elsewhere.
    #[arg(long, value_name = "PERCENT", requires = "traffic", value_parser = percent)]
    max_moved: Option<f64>,
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    identity: IdentityArgs,
}

/// There are differences, or too many requests move.
const DIFFERENT: u8 = 1;

/// "No difference" would be true, and mislead.
const NO_LISTENER: &str = "warning: neither has anything to listen on, so no route was compared
  = help: pass `--interception-mode REDIRECT`, as an injected pod runs, or write a Sidecar with listeners";

pub(super) fn run(args: &DiffArgs) -> ExitCode {
    match compare(args) {
        Ok(true) => DIFFERENT.into(),
        Ok(false) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            BAD_CONFIGURATION.into()
        }
    }
}

/// Whether the exit code is to say so.
fn compare(args: &DiffArgs) -> Result<bool, String> {
    let (old, new) = (load(args, &args.old)?, load(args, &args.new)?);
    if old.listeners.is_empty() && new.listeners.is_empty() {
        eprintln!("{NO_LISTENER}");
    }
    let diff = diff(&old, &new);
    let traffic = args.traffic.as_deref().map(|path| replay(path, &old, &new)).transpose()?;
    match args.output {
        Output::Text => {
            show(&diff.to_string());
            traffic.iter().for_each(|traffic| show(&format!("\n{traffic}")));
        }
        Output::Json => {
            let traffic = traffic.as_ref().map(Traffic::to_json);
            show(&format!("{:#}\n", json!({ "changes": diff.to_json(), "traffic": traffic })));
        }
    }
    Ok(match (args.max_moved, traffic) {
        (Some(max), Some(traffic)) => traffic.moved_percent() > max,
        _ => !diff.changes.is_empty(),
    })
}

fn load(args: &DiffArgs, path: &Path) -> Result<Snapshot, String> {
    let sources = Sources::new(vec![path.to_owned()], args.identity.mesh_config.clone());
    let documents = sources.read().map_err(|error| format!("error: {error}"))?;
    // Nothing runs, so no EnvoyFilter is in the way.
    let mut loader =
        Loader::new(args.identity.node(), TelemetryDefaults::default()).allow_envoy_filters(true);
    let loaded = documents.compile(&mut loader);
    loaded.map(|loaded| loaded.snapshot).map_err(|report| report.to_string())
}

fn replay(path: &Path, old: &Snapshot, new: &Snapshot) -> Result<Traffic, String> {
    let unreadable = |error| format!("error: cannot read {}: {error}", path.display());
    let file = BufReader::new(File::open(path).map_err(unreadable)?);
    let mut traffic = Traffic::default();
    for line in file.split(b'\n') {
        let line = line.map_err(unreadable)?;
        if !line.trim_ascii().is_empty() {
            traffic.add(&String::from_utf8_lossy(&line), old, new);
        }
    }
    Ok(traffic)
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim().parse::<f64>().ok();
    number.filter(|number| (0.0..=100.0).contains(number)).ok_or_else(|| format!("`{text}` is no percentage"))
}
