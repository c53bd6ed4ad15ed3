//! Loads one configuration after another: what has not changed is taken over from the one before.

use crate::{
    Loaded, Source,
    compile::{self, Known},
    decide, diagnose,
    documents::{self, Documents},
    report::Report,
    sink::Sink,
    snapshot::{Node, TelemetryDefaults, Version},
};

/// Keeps what it has read, for the next load.
#[derive(Debug)]
pub struct Loader {
    node: Node,
    telemetry: TelemetryDefaults,
    allow_envoy_filters: bool,
    documents: Documents,
    known: Option<Known>,
}

impl Loader {
    /// For one proxy: documents without a namespace take its own. `telemetry` is what the environment says.
    #[must_use]
    pub fn new(node: Node, telemetry: TelemetryDefaults) -> Self {
        Self { node, telemetry, allow_envoy_filters: false, documents: Documents::default(), known: None }
    }

    /// An `EnvoyFilter` that selects the proxy is a warning, and no error.
    #[must_use]
    pub fn allow_envoy_filters(mut self, allow: bool) -> Self {
        self.allow_envoy_filters = allow;
        self
    }

    /// One for the same proxy that has read nothing yet.
    #[must_use]
    pub fn afresh(&self) -> Self {
        Self::new(self.node.clone(), self.telemetry.clone()).allow_envoy_filters(self.allow_envoy_filters)
    }

    /// Reads and compiles everything. `mesh` is a file with a `MeshConfig` of its own; it wins over the ConfigMap `istio`.
    ///
    /// # Errors
    /// The report holds every error of every document, and the warnings too. What was loaded before stays known.
    pub fn load(&mut self, sources: &[Source], mesh: Option<&Source>) -> Result<Loaded, Report> {
        let mut sink = Sink::default();
        let files = self.documents.read(sources, mesh, &self.node);
        let resources = documents::resources(&files, &mut sink);
        let version = version(sources.iter().chain(mesh));
        let known = self.known.as_ref();
        let (snapshot, known) = compile::compile(
            resources,
            &self.node,
            &self.telemetry,
            version,
            known,
            self.allow_envoy_filters,
            &mut sink,
        );
        let report = diagnose::report(sink, &files, &self.node);
        let good = !report.has_errors();
        self.documents.settle(good);
        if !good {
            return Err(report);
        }
        self.known = Some(known);
        Ok(Loaded { snapshot, warnings: report })
    }
}

fn version<'s>(sources: impl Iterator<Item = &'s Source>) -> Version {
    Version(sources.fold(0, |seed, source| decide::xxh64(source.text.as_bytes(), seed)))
}
