//! `MeshConfig`: the key `mesh` of the ConfigMap `istio`, or a file of its own.

use std::{sync::Arc, time::Duration};

use super::{
    at_least_1ms,
    connection_pool::keepalive,
    mesh_fields::MESH_CONFIG,
    retries::{Retries, read_retries},
    sidecar::{OutboundMode, outbound_mode},
};
use crate::{
    fields::{self, Object, Spanned},
    format::Format,
    report::Code,
    sink::{Sink, Span},
    snapshot::{AccessLog, Keepalive, LogEncoding, LogSink, Propagation, Tracing},
    yaml::{self, Base, Node, Value},
};

/// Istio's default access log line (`EnvoyTextLogFormat`), its newline included.
pub const TEXT_LOG_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
     %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
     \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
     %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
     \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
     %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
     %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Istio's default JSON access log, in the order in which Envoy writes the keys.
pub const JSON_LOG_FORMAT: [(&str, &str); 24] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

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
        (_, None) => LogEncoding::Text(built_in(TEXT_LOG_FORMAT)),
        (_, Some(text)) => {
            // As in Istio: one line each, whether the newline was written or not.
            let mut line = text.value.to_owned();
            if !line.ends_with('\n') {
                line.push('\n');
            }
            LogEncoding::Text(format_or_report(&line, text.span, sink)?)
        }
    };
    let path = config.text("accessLogFile").filter(|path| !path.value.is_empty())?;
    Some(AccessLog { to: LogSink::File(path.value.into()), encoding })
}

#[expect(clippy::unwrap_used, reason = "a test reads the built-in formats")]
fn built_in(text: &str) -> Format {
    Format::parse(text).unwrap()
}

fn default_json() -> Box<[(Arc<str>, Format)]> {
    JSON_LOG_FORMAT.iter().map(|(key, text)| ((*key).into(), built_in(text))).collect()
}

fn json_format(text: &Spanned<&str>, sink: &mut Sink) -> Box<[(Arc<str>, Format)]> {
    let Ok(serde_json::Value::Object(object)) = serde_json::from_str(text.value) else {
        let found = sink.report(Code::InvalidValue, text.span, "the JSON log format is not a JSON object");
        found.help("write `{\"key\": \"%OPERATOR%\", ...}`");
        return Box::default();
    };
    let mut pairs: Vec<(Arc<str>, Format)> = Vec::new();
    for (key, value) in object {
        match value.as_str() {
            Some(value) => {
                pairs.extend(format_or_report(value, text.span, sink).map(|format| (key.into(), format)));
            }
            None => {
                sink.report(Code::InvalidValue, text.span, format!("the value of `{key}` is not a string"));
            }
        }
    }
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    pairs.into()
}

fn format_or_report(text: &str, span: Span, sink: &mut Sink) -> Option<Format> {
    match Format::parse(text) {
        Ok(format) => Some(format),
        Err(error) => {
            sink.report(Code::InvalidValue, span, error.to_string());
            None
        }
    }
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
