//! From files and the environment to a [`Config`], or to every reason why not.
//!
//! The shape is the OpenTelemetry Collector's. Precedence: defaults, files in order, `OUTRIGGER__` overrides.
//! `OTEL_EXPORTER_OTLP_*` decide what runs when there is no file, and fill in an endpoint that a file leaves out.

mod environment;
mod expand;
mod exporters;
mod fields;
mod model;
mod print;
mod receivers;
mod report;
mod service;
mod yaml;

use std::path::PathBuf;
use std::sync::Arc;

pub use environment::process_environment;
pub use expand::Environment;
pub use model::{
    Batch, Config, Connection, Exporter, ExporterKind, Grpc, Http, OtlpGrpc, OtlpHttp, Pipeline, Queue,
    Receiver, Retry, Shutdown,
};
pub use report::{Place, Problem, Report};

use yaml::Node;

/// A configuration that can run, and what is worth saying about it.
#[derive(Debug)]
pub struct Loaded {
    /// What to run.
    pub config: Config,
    /// Warnings to log.
    pub warnings: Vec<Problem>,
    /// The configuration as it applies, as YAML, secrets hidden.
    pub printed: String,
}

/// A file that cannot be read, or a configuration that cannot run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file itself.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What it says.
    #[error(transparent)]
    Invalid(#[from] Report),
}

/// Reads files and merges them in order; with none, runs from the environment.
pub fn load(files: &[PathBuf], environment: &Environment) -> Result<Loaded, LoadError> {
    let mut sources = Vec::new();
    for path in files {
        let text =
            std::fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.clone(), source })?;
        sources.push((path.display().to_string(), text));
    }
    Ok(from_sources(&sources, environment)?)
}

/// Reads one YAML text; `name` stands for the file in messages.
pub fn from_text(name: &str, text: &str, environment: &Environment) -> Result<Loaded, Report> {
    from_sources(&[(name.to_owned(), text.to_owned())], environment)
}

/// The configuration of a collector that is given none.
pub fn from_environment(environment: &Environment) -> Result<Loaded, Report> {
    from_sources(&[], environment)
}

fn from_sources(sources: &[(String, String)], environment: &Environment) -> Result<Loaded, Report> {
    let mut report = Report::default();
    let mut root: Option<Node> = None;
    if sources.is_empty() {
        root = Some(environment::default_tree(environment, &mut report));
    }
    for (name, text) in sources {
        match yaml::parse(&Arc::from(name.as_str()), text) {
            Ok(mut node) => {
                expand::expand(&mut node, "", environment, &mut report);
                match &mut root {
                    Some(root) => root.merge(node),
                    None => root = Some(node),
                }
            }
            Err(problem) => report.errors.push(problem),
        }
    }
    let Some(mut root) = root.filter(|_| report.errors.is_empty()) else { return Err(report) };
    expand::overrides(&mut root, environment);
    let config = service::read(&root, environment, &mut report);
    match config {
        Some(config) if report.errors.is_empty() => {
            Ok(Loaded { config, warnings: report.warnings, printed: print::yaml(&root) })
        }
        _ => Err(report),
    }
}
