//! Access log formats: Istio's own, and those that users write.
//!
//! What is broken is reported, and Istio's own format stands in its place; a load with errors is not used.

use std::sync::Arc;

use crate::{
    fields::{Object, Spanned},
    format::Format,
    report::Code,
    sink::{Sink, Span},
};

/// Keys with what they show, in order of the keys.
pub(crate) type Pairs = Box<[(Arc<str>, Format)]>;

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

/// `accessLogFormat` of the encoding TEXT, and `logFormat.text`: one line each, whether the newline was written or not.
pub(crate) fn text_line(text: &Spanned<&str>, sink: &mut Sink) -> Format {
    let mut line = text.value.to_owned();
    if !line.ends_with('\n') {
        line.push('\n');
    }
    format_or_report(&line, text.span, sink).unwrap_or_else(default_text)
}

pub(crate) fn default_text() -> Format {
    built_in(TEXT_LOG_FORMAT)
}

pub(crate) fn default_json() -> Pairs {
    built_in_pairs(&JSON_LOG_FORMAT)
}

#[expect(clippy::unwrap_used, reason = "a test reads the built-in formats")]
fn built_in(text: &str) -> Format {
    Format::parse(text).unwrap()
}

/// For formats of our own.
pub(crate) fn built_in_pairs(pairs: &[(&str, &str)]) -> Pairs {
    pairs.iter().map(|(key, text)| ((*key).into(), built_in(text))).collect()
}

/// `accessLogFormat` of the encoding JSON.
pub(crate) fn json_format(text: &Spanned<&str>, sink: &mut Sink) -> Pairs {
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

/// `logFormat.labels`
pub(crate) fn labels(format: &Object<'_>, sink: &mut Sink) -> Pairs {
    let mut pairs: Vec<(Arc<str>, Format)> = Vec::new();
    for entry in format.entries("labels") {
        let text = entry.value.text().unwrap_or_default();
        let format = format_or_report(text, entry.value.span, sink);
        pairs.extend(format.map(|format| (entry.key.as_ref().into(), format)));
    }
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    pairs.into()
}

pub(crate) fn format_or_report(text: &str, span: Span, sink: &mut Sink) -> Option<Format> {
    match Format::parse(text) {
        Ok(format) => Some(format),
        Err(error) => {
            sink.report(Code::InvalidValue, span, error.to_string());
            None
        }
    }
}
