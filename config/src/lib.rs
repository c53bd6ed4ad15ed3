//! Istio YAML in, an immutable [`Snapshot`] or diagnostics out; and the pure decision that both
//! the proxy and its tools make with it.
//!
//! Nothing here touches a socket, a file, a clock or a random source: what a decision needs of these is an argument.

mod allocation;
mod by_host;
pub mod compatibility;
mod compile;
pub mod decide;
mod diagnose;
pub mod diff;
mod documents;
pub mod dump;
pub mod explain;
mod fields;
pub mod format;
mod istio;
mod kinds;
mod kubernetes;
mod lint;
mod loader;
mod read;
mod registry;
pub mod report;
mod resources;
mod sink;
pub mod snapshot;
mod split;
pub mod tree;
mod yaml;

use std::sync::Arc;

pub use istio::log_format::{JSON_LOG_FORMAT, TEXT_LOG_FORMAT};
pub use loader::Loader;
use report::Report;
use snapshot::{Node, Snapshot, TelemetryDefaults};

/// A text with YAML documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// As the user names it: a path, or `-`.
    pub name: Arc<str>,
    /// Its content.
    pub text: String,
}

/// For whom to compile.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The proxy; documents without a namespace take its own.
    pub node: Node,
    /// A file with a `MeshConfig` of its own. It wins over the ConfigMap `istio`.
    pub mesh: Option<Source>,
    /// What the environment says about telemetry.
    pub telemetry: TelemetryDefaults,
    /// An `EnvoyFilter` that selects the proxy is left out with a warning, and is no error.
    pub allow_envoy_filters: bool,
}

/// A configuration that can be used.
#[derive(Debug)]
pub struct Loaded {
    /// What to publish.
    pub snapshot: Snapshot,
    /// What does not do what it seems to say.
    pub warnings: Report,
}

/// Reads and compiles everything, once: a [`Loader`] is for more.
///
/// # Errors
/// The report holds every error of every document, and the warnings too.
pub fn load(sources: &[Source], options: &LoadOptions) -> Result<Loaded, Report> {
    let LoadOptions { node, mesh, telemetry, allow_envoy_filters } = options;
    Loader::new(node.clone(), telemetry.clone())
        .allow_envoy_filters(*allow_envoy_filters)
        .load(sources, mesh.as_ref())
}
