//! `MeshConfig`: the key `mesh` of the ConfigMap `istio`, or a file of its own.

use std::time::Duration;

use super::{
    at_least_1ms,
    connection_pool::keepalive,
    log_format::{default_json, default_text, json_format, text_line},
    mesh_fields::MESH_CONFIG,
    retries::{Retries, read_retries},
    sidecar::{OutboundMode, outbound_mode},
};
use crate::{
    fields::{self, Object},
    report::Code,
    sink::Sink,
    snapshot::{AccessLog, Keepalive, LogEncoding, LogSink, Propagation, Tracing},
    yaml::{self, Base, Node, Value},
};

/// The settings, defaults applied.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) tracing: Tracing,
    pub(crate) outbound: OutboundMode,
    pub(crate) connect_timeout: Duration,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) retries: Option<Retries>,
}

impl Default for Mesh {
    /// Istio's defaults.
    fn default() -> Self {
        Self {
            access_log: None,
            tracing: Tracing::default(),
            outbound: OutboundMode::AllowAny,
            connect_timeout: Duration::from_secs(10),
            keepalive: None,
            retries: None,
        }
    }
}

/// The settings within a ConfigMap: a document in a block of text. The lines of findings are those of the file.
pub(crate) fn embedded(config_map: &Node, sink: &mut Sink) -> Vec<Node> {
    let Some(block) = config_map.get("data").and_then(|data| data.get("mesh")) else {
        sink.report(Code::MissingField, config_map.span, "the ConfigMap `istio` has no key `mesh`");
        return Vec::new();
    };
    let text = block.text().unwrap_or_default();
    // A literal block's place is its first line that is not empty; it keeps its lines, each with the same indent.
    let empty = text.bytes().take_while(|byte| *byte == b'\n').count();
    let empty = u32::try_from(empty).unwrap_or_default();
    let base = Base {
        file: block.span.file,
        line: block.span.line.saturating_sub(empty.saturating_add(1)),
        column: block.span.column.saturating_sub(1),
    };
    yaml::parse(base, text, sink)
}

/// Reads the settings from a document that is a `MeshConfig`.
pub(crate) fn read(document: &Node, sink: &mut Sink) -> Mesh {
    fields::check(document, &MESH_CONFIG, sink);
    let config = Object::new(document, &MESH_CONFIG);
    let default = Mesh::default();
    Mesh {
        access_log: access_log(&config, sink),
        tracing: tracing(&config, sink),
        outbound: config
            .object("outboundTrafficPolicy")
            .map_or(default.outbound, |policy| outbound_mode(&policy)),
        connect_timeout: at_least_1ms(config.duration("connectTimeout"), sink)
            .unwrap_or(default.connect_timeout),
        keepalive: config.object("tcpKeepalive").map(|block| keepalive(&block, sink)),
        retries: config.object("defaultHttpRetryPolicy").map(|block| read_retries(&block, sink)),
    }
}

fn access_log(config: &Object<'_>, sink: &mut Sink) -> Option<AccessLog> {
    let format = config.text("accessLogFormat").filter(|format| !format.value.is_empty());
    let encoding = match (config.text("accessLogEncoding").map_or("TEXT", |text| text.value), format) {
        ("JSON", None) => LogEncoding::Json(default_json()),
        ("JSON", Some(text)) => LogEncoding::Json(json_format(&text, sink)),
        (_, None) => LogEncoding::Text(default_text()),
        (_, Some(text)) => LogEncoding::Text(text_line(&text, sink)),
    };
    let path = config.text("accessLogFile").filter(|path| !path.value.is_empty())?;
    Some(AccessLog { to: LogSink::File(path.value.into()), encoding })
}

fn tracing(config: &Object<'_>, sink: &mut Sink) -> Tracing {
    let default = Mesh::default().tracing;
    let settings = config.object("defaultConfig").and_then(|proxy| proxy.object("tracing"));
    let sampling = settings.and_then(|settings| settings.float("sampling"));
    let sampling = sampling.and_then(|percent| sampling_of(percent.value)).unwrap_or(default.sampling);
    if config.bool("enableTracing") == Some(false) {
        return Tracing { propagation: Propagation::Off, sampling, ..default };
    }
    let zipkin = settings.and_then(|settings| settings.object("zipkin"));
    let propagation = provider(config, sink).or_else(|| zipkin.map(|zipkin| zipkin_propagation(&zipkin)));
    Tracing { propagation: propagation.unwrap_or(default.propagation), sampling, ..default }
}

/// Hundredths of a percent; zero is unset, and what is no percentage is Istio's default.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 10000 by the guard")]
fn sampling_of(percent: f64) -> Option<u16> {
    (percent > 0.0 && percent <= 100.0).then(|| (percent * 100.0).round() as u16)
}

/// The format of the first default provider.
fn provider(config: &Object<'_>, sink: &mut Sink) -> Option<Propagation> {
    let chosen = *config.object("defaultProviders")?.texts("tracing").first()?;
    let providers = config.objects("extensionProviders");
    let named = |provider: &&Object<'_>| provider.text("name").is_some_and(|name| name.value == chosen.value);
    let Some(provider) = providers.iter().find(named) else {
        let message = format!("no extension provider is named `{}`", chosen.value);
        sink.report(Code::InvalidValue, chosen.span, message);
        return None;
    };
    if provider.has("opentelemetry") {
        return Some(Propagation::W3c);
    }
    provider.object("zipkin").map(|zipkin| zipkin_propagation(&zipkin))
}

fn zipkin_propagation(zipkin: &Object<'_>) -> Propagation {
    match zipkin.text("traceContextOption").map(|option| option.value) {
        Some("USE_B3_WITH_W3C_PROPAGATION") => Propagation::B3AndW3c,
        _ => Propagation::B3,
    }
}

/// True for a document that is the ConfigMap `istio`.
pub(crate) fn is_mesh_config_map(document: &Node) -> bool {
    let name = document.get("metadata").and_then(|metadata| metadata.get("name"));
    name.and_then(Node::text) == Some("istio")
        && document.get("data").is_some_and(|data| matches!(data.value, Value::Map(_)))
}
