//! Access logs of each direction: the providers that `Telemetry` and the mesh choose, the mesh's file, and the log that
//! the environment asks for.

use super::{
    Compiler,
    receivers::{BUILT_IN, Signal},
};
use crate::{
    istio::{
        log_format::{built_in_pairs, default_text},
        mesh::ProviderName,
        providers::{Kind, LOG_NAME, is_named},
        telemetry::Telemetry,
    },
    snapshot::{AccessLog, Direction, LogEncoding, LogSink},
};

/// Attributes of the log that the environment asks for, in order of the keys: names of OpenTelemetry where it has one.
const ATTRIBUTES: [(&str, &str); 9] = [
    ("http.request.id", "%REQ(X-REQUEST-ID)%"),
    ("http.request.method", "%REQ(:METHOD)%"),
    ("http.response.status_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("server.address", "%REQ(:AUTHORITY)%"),
    ("upstream.address", "%UPSTREAM_HOST%"),
    ("upstream.cluster.name", "%UPSTREAM_CLUSTER%"),
    ("url.path", "%REQ(:PATH)%"),
    ("user_agent.original", "%REQ(USER-AGENT)%"),
];

/// What the levels add up to for one direction.
struct Chosen<'n> {
    names: Vec<&'n ProviderName>,
    /// `disabled: true` had the last word.
    off: bool,
}

impl Compiler<'_> {
    pub(super) fn access_logs(&mut self, levels: &[&Telemetry], direction: Direction) -> Box<[AccessLog]> {
        let mesh = self.mesh;
        let said = levels.iter().flat_map(|level| &level.logging);
        for name in said.flat_map(|rule| &rule.providers).chain(&mesh.loggers) {
            if !self.is_built_in(name) {
                self.provider(name, Signal::Logs);
            }
        }
        let chosen = merge(levels, &mesh.loggers, direction);
        // Istio: the file is for meshes where nothing newer is said.
        let mut logs: Vec<AccessLog> = match chosen {
            None => mesh.access_log().into_iter().collect(),
            Some(ref chosen) => chosen.names.iter().filter_map(|name| self.access_log(name)).collect(),
        };
        let has_otlp = logs.iter().any(|log| matches!(log.to, LogSink::Otlp { .. }));
        if !has_otlp && chosen.is_none_or(|chosen| !chosen.off) {
            logs.extend(self.environment_log());
        }
        logs.into()
    }

    fn is_built_in(&self, name: &ProviderName) -> bool {
        let defined = self.mesh.providers.iter().any(|provider| is_named(&provider.name, &name.value));
        is_named(BUILT_IN, &name.value) && !defined
    }

    fn access_log(&mut self, name: &ProviderName) -> Option<AccessLog> {
        let mesh = self.mesh;
        if self.is_built_in(name) {
            let to = LogSink::File("/dev/stdout".into());
            return Some(AccessLog { to, encoding: mesh.log_encoding.clone() });
        }
        let provider = self.provider(name, Signal::Logs)?;
        match &provider.kind {
            Kind::FileLog(file) => {
                let encoding = match &file.encoding {
                    Some(encoding) => encoding.clone(),
                    // A redefined `envoy` keeps the mesh's format.
                    None if is_named(BUILT_IN, &provider.name) => mesh.log_encoding.clone(),
                    None => LogEncoding::Text(default_text()),
                };
                Some(AccessLog { to: LogSink::File(file.path.clone()), encoding })
            }
            Kind::OtelLog(log) => Some(AccessLog {
                to: LogSink::Otlp {
                    to: self.receiver(provider, log.receiver.as_ref()?),
                    log_name: log.log_name.clone(),
                    attributes: log.attributes.clone(),
                },
                encoding: LogEncoding::Text(log.body.clone()),
            }),
            Kind::Tracer(_) | Kind::Other => None,
        }
    }

    fn environment_log(&mut self) -> Option<AccessLog> {
        let to = self.resolved(self.environment.logs.as_ref())?;
        let line = match &self.mesh.log_encoding {
            LogEncoding::Text(format) => format.clone(),
            LogEncoding::Json(_) => default_text(),
        };
        Some(AccessLog {
            to: LogSink::Otlp { to, log_name: LOG_NAME.into(), attributes: built_in_pairs(&ATTRIBUTES) },
            encoding: LogEncoding::Text(line.without_newline()),
        })
    }
}

/// Istio's `mergeLogs`; `None` where nobody says anything. The most specific level with names decides which providers
/// there are at all; within these each rule, from the most general, adds its own or takes them away, and a rule without
/// names is about those of the rule before it.
fn merge<'n>(
    levels: &[&'n Telemetry],
    default: &'n [ProviderName],
    direction: Direction,
) -> Option<Chosen<'n>> {
    let defaults: Vec<&ProviderName> = default.iter().collect();
    if levels.iter().all(|level| level.logging.is_empty()) {
        return (!defaults.is_empty()).then_some(Chosen { names: defaults, off: false });
    }
    let named = |level: &&'n Telemetry| -> Vec<&'n ProviderName> {
        level.logging.iter().flat_map(|rule| &rule.providers).collect()
    };
    let innermost = levels.iter().rev().map(named).find(|names| !names.is_empty());
    let in_scope = innermost.unwrap_or_else(|| defaults.clone());
    let same = |a: &ProviderName, b: &ProviderName| is_named(&a.value, &b.value);
    let mut names: Vec<&ProviderName> = Vec::new();
    let mut meant = defaults;
    let mut off = false;
    for rule in levels.iter().flat_map(|level| &level.logging) {
        if !rule.providers.is_empty() {
            meant = rule.providers.iter().collect();
        }
        if !rule.mode.takes(direction) {
            continue;
        }
        off = rule.disabled;
        for name in meant.iter().filter(|name| in_scope.iter().any(|other| same(other, name))) {
            names.retain(|other| !same(other, name));
            names.extend((!rule.disabled).then_some(name));
        }
    }
    off = off && names.is_empty();
    Some(Chosen { names, off })
}
