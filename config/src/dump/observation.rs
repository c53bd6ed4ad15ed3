//! Traces, access logs and who receives them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{object, put, tls::client_tls};
use crate::{
    format::Format,
    snapshot::{
        AccessLog, CustomTag, Destination, LogEncoding, LogSink, Observation, OtlpProtocol, Propagation,
        TagValue, Tracing,
    },
};

pub(crate) fn observation(observation: &Observation) -> Value {
    json!({
        "tracing": tracing(&observation.tracing),
        "access_logs": observation.access_logs.iter().map(access_log).collect::<Vec<_>>(),
    })
}

fn tracing(tracing: &Tracing) -> Value {
    let propagation = match tracing.propagation {
        Propagation::Off => "OFF",
        Propagation::B3 => "B3",
        Propagation::B3AndW3c => "B3_AND_W3C",
        Propagation::W3c => "W3C",
    };
    let mut out = object(json!({
        "propagation": propagation,
        "random_sampling_percent": f64::from(tracing.sampling) / 100.0,
    }));
    if let Some(to) = &tracing.report {
        put(&mut out, "report", destination(to));
    }
    put(&mut out, "custom_tags", tracing.custom_tags.iter().map(custom_tag).collect());
    let default = Tracing::default();
    let length = Some(tracing.max_path_length).filter(|length| *length != default.max_path_length);
    put(&mut out, "max_path_tag_length", length.into());
    put(&mut out, "istio_tags", (!tracing.istio_tags).then_some(false).into());
    put(&mut out, "use_request_id_for_trace_sampling", (!tracing.by_request_id).then_some(false).into());
    put(&mut out, "parent_based", (!tracing.parent_based).then_some(false).into());
    Value::Object(out)
}

fn custom_tag(tag: &CustomTag) -> Value {
    let (kind, value) = match &tag.value {
        TagValue::Literal(text) => ("literal", json!({ "value": &**text })),
        TagValue::Environment { name, default } => ("environment", source(name, default.as_deref())),
        TagValue::Header { name, default } => ("request_header", source(name.as_str(), default.as_deref())),
        TagValue::Format(format) => ("value", format.to_string().into()),
    };
    json!({ "tag": &*tag.name, kind: value })
}

fn source(name: &str, default: Option<&str>) -> Value {
    let mut out = object(json!({ "name": name }));
    put(&mut out, "default_value", default.into());
    Value::Object(out)
}

fn access_log(log: &AccessLog) -> Value {
    let pairs = |pairs: &[(Arc<str>, Format)]| {
        let pairs = pairs.iter().map(|(key, format)| (key.to_string(), format.to_string().into()));
        Value::Object(pairs.collect())
    };
    let format = match &log.encoding {
        LogEncoding::Text(format) => format.to_string().into(),
        LogEncoding::Json(fields) => pairs(fields),
    };
    match &log.to {
        LogSink::File(path) => json!({ "path": &**path, "format": format }),
        LogSink::Otlp { to, log_name, attributes } => json!({
            "otlp": destination(to),
            "log_name": &**log_name,
            "format": format,
            "attributes": pairs(attributes),
        }),
    }
}

/// Headers are left out: they hold credentials.
pub(crate) fn destination(to: &Destination) -> Value {
    let protocol = match &to.protocol {
        OtlpProtocol::Grpc => "grpc".to_owned(),
        OtlpProtocol::Http { path } => format!("http {path}"),
    };
    let mut out = object(json!({
        "name": &*to.name,
        "address": format!("{}:{}", to.host, to.port),
        "cluster": to.cluster.is_some(),
        "protocol": protocol,
        "timeout_ms": u64::try_from(to.timeout.as_millis()).unwrap_or(u64::MAX),
        "gzip": to.gzip,
    }));
    put(&mut out, "tls", to.tls.as_deref().map(client_tls).into());
    Value::Object(out)
}
