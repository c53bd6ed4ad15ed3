//! `extensionProviders`: receivers of traces and access logs as written. Whether the registry has them is decided when
//! one is chosen.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, uri::PathAndQuery};

use super::{
    at_least_1ms, check_host, header_name,
    log_format::{Pairs, default_json, default_text, labels, text_line},
    port,
};
use crate::{
    fields::{Object, Spanned},
    format::Format,
    report::Code,
    sink::Sink,
    snapshot::{LogEncoding, OtlpProtocol, Propagation},
};

/// `logName` where none is given.
pub(crate) const LOG_NAME: &str = "otel_envoy_accesslog";
/// That of OpenTelemetry's exporters; Istio has none.
const TIMEOUT: Duration = Duration::from_secs(10);
const KINDS: [&str; 15] = [
    "opentelemetry",
    "zipkin",
    "envoyFileAccessLog",
    "envoyOtelAls",
    "prometheus",
    "envoyHttpAls",
    "envoyTcpAls",
    "envoyExtAuthzHttp",
    "envoyExtAuthzGrpc",
    "datadog",
    "skywalking",
    "lightstep",
    "opencensus",
    "stackdriver",
    "sds",
];

/// One entry.
#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) name: Arc<str>,
    /// Its field, for messages; empty if it has none.
    pub(crate) field: &'static str,
    pub(crate) kind: Kind,
}

/// What it is good for.
#[derive(Debug)]
pub(crate) enum Kind {
    Tracer(Tracer),
    FileLog(FileLog),
    OtelLog(OtelLog),
    /// Neither traces nor access logs are sent to it.
    Other,
}

/// `opentelemetry` and `zipkin`.
#[derive(Debug)]
pub(crate) struct Tracer {
    pub(crate) propagation: Propagation,
    /// None for Zipkin: only OTLP is spoken.
    pub(crate) receiver: Option<Receiver>,
    pub(crate) max_path_length: Option<usize>,
}

/// `envoyFileAccessLog`
#[derive(Debug)]
pub(crate) struct FileLog {
    pub(crate) path: Arc<str>,
    /// None without `logFormat`.
    pub(crate) encoding: Option<LogEncoding>,
}

/// `envoyOtelAls`
#[derive(Debug)]
pub(crate) struct OtelLog {
    pub(crate) receiver: Option<Receiver>,
    pub(crate) log_name: Arc<str>,
    pub(crate) body: Format,
    pub(crate) attributes: Pairs,
}

/// Where a provider's service is and how it is spoken to.
#[derive(Debug)]
pub(crate) struct Receiver {
    /// Of `namespace/host`.
    pub(crate) namespace: Option<Box<str>>,
    pub(crate) host: Spanned<Box<str>>,
    pub(crate) port: Spanned<u16>,
    pub(crate) protocol: OtlpProtocol,
    pub(crate) headers: HeaderMap,
    pub(crate) timeout: Duration,
    pub(crate) semantic_service_name: bool,
}

/// Reads the list.
pub(super) fn providers(config: &Object<'_>, sink: &mut Sink) -> Vec<Provider> {
    let mut out: Vec<Provider> = Vec::new();
    for entry in config.objects("extensionProviders") {
        let Some(name) = entry.text("name").filter(|name| !name.value.is_empty()) else {
            sink.report(Code::MissingField, entry.span(), "the extension provider has no name");
            continue;
        };
        if out.iter().any(|other| is_named(&other.name, name.value)) {
            let message = format!("the extension provider `{}` is defined twice", name.value);
            sink.report(Code::DuplicateName, name.span, message);
        }
        let mut given = KINDS.into_iter().filter(|kind| entry.has(kind));
        let field = given.next().unwrap_or_default();
        if let Some(other) = given.next() {
            let message = format!("`{other}` stands beside `{field}`; a provider is of one kind");
            sink.report(Code::ExclusiveFields, entry.key_span(other), message);
        }
        let kind = kind(&entry, &name, sink);
        out.push(Provider { name: name.value.into(), field, kind });
    }
    out
}

/// Istio does not tell capitals from small letters here.
pub(crate) fn is_named(provider: &str, name: &str) -> bool {
    provider.eq_ignore_ascii_case(name)
}

fn kind(entry: &Object<'_>, name: &Spanned<&str>, sink: &mut Sink) -> Kind {
    if let Some(settings) = entry.object("opentelemetry") {
        let receiver = receiver(&settings, name, sink).map(|receiver| exported(&settings, receiver, sink));
        let max_path_length = length(&settings, "maxTagLength", sink);
        Kind::Tracer(Tracer { propagation: Propagation::W3c, receiver, max_path_length })
    } else if let Some(zipkin) = entry.object("zipkin") {
        let max_path_length = length(&zipkin, "maxTagLength", sink);
        Kind::Tracer(Tracer { propagation: zipkin_propagation(&zipkin), receiver: None, max_path_length })
    } else if let Some(file) = entry.object("envoyFileAccessLog") {
        let path = file.text("path").filter(|path| !path.value.is_empty());
        Kind::FileLog(FileLog {
            path: path.map_or("/dev/stdout", |path| path.value).into(),
            encoding: file.object("logFormat").map(|format| file_encoding(&format, sink)),
        })
    } else if let Some(settings) = entry.object("envoyOtelAls") {
        let format = settings.object("logFormat");
        let log_name = settings.text("logName").filter(|name| !name.value.is_empty());
        let text = format.and_then(|format| format.text("text")).filter(|text| !text.value.is_empty());
        let line = text.map_or_else(default_text, |text| text_line(&text, sink));
        Kind::OtelLog(OtelLog {
            receiver: receiver(&settings, name, sink),
            log_name: log_name.map_or(LOG_NAME, |name| name.value).into(),
            body: line.without_newline(),
            attributes: format.map(|format| labels(&format, sink)).unwrap_or_default(),
        })
    } else {
        Kind::Other
    }
}

/// Shared with the old `defaultConfig.tracing.zipkin`.
pub(super) fn zipkin_propagation(zipkin: &Object<'_>) -> Propagation {
    match zipkin.text("traceContextOption").map(|option| option.value) {
        Some("USE_B3_WITH_W3C_PROPAGATION") => Propagation::B3AndW3c,
        _ => Propagation::B3,
    }
}

/// Bytes of a tag; zero is unset.
pub(super) fn length(parent: &Object<'_>, field: &str, sink: &mut Sink) -> Option<usize> {
    let written = parent.int(field).filter(|length| length.value != 0)?;
    let length = u32::try_from(written.value).ok().and_then(|length| usize::try_from(length).ok());
    if length.is_none() {
        sink.report(Code::InvalidValue, written.span, format!("{} is not a length", written.value));
    }
    length
}

fn file_encoding(format: &Object<'_>, sink: &mut Sink) -> LogEncoding {
    if format.has("text") && format.has("labels") {
        let message = "a line is either `text` or JSON of `labels`";
        sink.report(Code::ExclusiveFields, format.key_span("labels"), message);
    }
    if format.has("labels") {
        let pairs = labels(format, sink);
        return LogEncoding::Json(if pairs.is_empty() { default_json() } else { pairs });
    }
    let text = format.text("text").filter(|text| !text.value.is_empty());
    LogEncoding::Text(text.map_or_else(default_text, |text| text_line(&text, sink)))
}

/// By gRPC, as yet; `None` after a report.
fn receiver(settings: &Object<'_>, name: &Spanned<&str>, sink: &mut Sink) -> Option<Receiver> {
    let service = settings.text("service").filter(|service| !service.value.is_empty());
    let number = settings.int("port").filter(|port| port.value != 0);
    let (Some(service), Some(number)) = (service, number) else {
        let message = format!("the provider `{}` says no `service` with its `port`", name.value);
        let found = sink.report(Code::UnusedProvider, name.span, message);
        found.label("nothing is sent to it").help("name the host of a ServiceEntry, and one of its ports");
        return None;
    };
    let (namespace, host) = match service.value.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host),
        None => (None, service.value),
    };
    let host = Spanned { value: host, span: service.span };
    if host.value.contains('*') {
        sink.report(Code::InvalidHost, host.span, format!("`{}` is no host of one receiver", host.value));
        return None;
    }
    check_host(&host, sink).then_some(())?;
    Some(Receiver {
        namespace: namespace.map(Into::into),
        host: Spanned { value: host.value.to_ascii_lowercase().into(), span: host.span },
        port: Spanned { value: port(number, sink)?, span: number.span },
        protocol: OtlpProtocol::Grpc,
        headers: HeaderMap::new(),
        timeout: TIMEOUT,
        semantic_service_name: false,
    })
}

/// What an `opentelemetry` provider says beyond its service. `http` wins over `grpc`, as in Istio.
fn exported(settings: &Object<'_>, receiver: Receiver, sink: &mut Sink) -> Receiver {
    let enrichment = settings.text("serviceAttributeEnrichment").map(|text| text.value);
    let semantic_service_name = enrichment == Some("OTEL_SEMANTIC_CONVENTIONS");
    let (http, grpc) = (settings.object("http"), settings.object("grpc"));
    if http.is_some() && grpc.is_some() {
        let message = "`grpc` has no effect beside `http`";
        sink.report(Code::NotHonoured, settings.key_span("grpc"), message).label("has no effect");
    }
    let timeout = http.or(grpc).and_then(|transport| transport.duration("timeout"));
    let timeout = at_least_1ms(timeout.filter(|timeout| !timeout.value.is_zero()), sink);
    let listed = http.map(|http| http.objects("headers"));
    let listed = listed.or_else(|| grpc.map(|grpc| grpc.objects("initialMetadata")));
    Receiver {
        protocol: http.map_or(OtlpProtocol::Grpc, |http| OtlpProtocol::Http { path: path(&http, sink) }),
        headers: headers(&listed.unwrap_or_default(), sink),
        timeout: timeout.unwrap_or(TIMEOUT),
        semantic_service_name,
        ..receiver
    }
}

fn path(http: &Object<'_>, sink: &mut Sink) -> PathAndQuery {
    let default = PathAndQuery::from_static("/v1/traces");
    let Some(text) = http.text("path").filter(|path| !path.value.is_empty()) else { return default };
    let slash = if text.value.starts_with('/') { "" } else { "/" };
    PathAndQuery::try_from(format!("{slash}{}", text.value)).unwrap_or_else(|_| {
        sink.report(Code::InvalidValue, text.span, format!("`{}` is not a path", text.value));
        default
    })
}

fn headers(entries: &[Object<'_>], sink: &mut Sink) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for entry in entries {
        let Some(name) = entry.text("name") else {
            sink.report(Code::MissingField, entry.span(), "the header has no name");
            continue;
        };
        let Some(value) = entry.text("value") else {
            if !entry.has("envName") {
                let message = format!("the header `{}` has no value", name.value);
                sink.report(Code::MissingField, entry.span(), message);
            }
            continue;
        };
        // The value is not repeated: it may be a credential.
        let Ok(mut bytes) = HeaderValue::from_str(value.value) else {
            let message = format!("the value of `{}` holds characters that no header may", name.value);
            sink.report(Code::InvalidHeader, value.span, message);
            continue;
        };
        bytes.set_sensitive(true);
        if let Some(name) = header_name(&name, sink) {
            headers.insert(name, bytes);
        }
    }
    headers
}
