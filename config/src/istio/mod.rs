//! Istio's resources as users write them: the envelope, and the scalars that several kinds share.

pub(crate) mod client_tls;
pub(crate) mod connection_pool;
mod cors;
pub(crate) mod custom_tags;
pub(crate) mod delegate;
pub(crate) mod destination;
pub(crate) mod destination_rule;
mod direct_response;
pub(crate) mod envoy_filter;
mod fault;
pub(crate) mod headers;
pub(crate) mod http_match;
pub(crate) mod imports;
mod later;
pub(crate) mod load_balancer;
pub(crate) mod locality;
pub(crate) mod log_format;
pub(crate) mod mesh;
pub(crate) mod mesh_fields;
pub(crate) mod mirror;
mod names;
pub(crate) mod outlier;
pub(crate) mod peer_authentication;
mod percent;
mod provider_fields;
pub(crate) mod providers;
pub(crate) mod redirect;
pub(crate) mod retries;
pub(crate) mod retry_budget;
pub(crate) mod rewrite;
mod server_tls;
pub(crate) mod service_entry;
mod service_entry_checks;
pub(crate) mod sidecar;
mod sidecar_checks;
pub(crate) mod tcp_route;
pub(crate) mod telemetry;
pub(crate) mod telemetry_fields;
pub(crate) mod tls_route;
pub(crate) mod virtual_service;
mod warmup;

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderName, StatusCode};
use regex::Regex;

pub(crate) use names::{
    check_gateways, check_host, check_labels, check_name, check_protocol, in_mesh, is_label, selector,
};

use crate::{
    fields::{self, Labels, Message, Object, Spanned, Type, yes},
    report::Code,
    sink::{Sink, Span},
    snapshot::{ClusterDomain, Node as Proxy, Origin, ValueMatch, anchored},
    yaml::Node,
};

/// Whose resource it is and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) kind: &'static str,
    pub(crate) name: Arc<str>,
    pub(crate) namespace: Arc<str>,
    /// RFC 3339, which sorts as text; empty in most files.
    pub(crate) created: Box<str>,
    pub(crate) labels: Labels,
    /// By which its short names are completed.
    pub(crate) domain: ClusterDomain,
    pub(crate) file: Arc<str>,
    pub(crate) span: Span,
}

impl Meta {
    /// Istio's rule for hosts of virtual services and destination rules: a name without a dot is one of the
    /// resource's own namespace, everything else is a full name already. Lower case.
    pub(crate) fn full_host(&self, host: &str) -> Box<str> {
        if host == "*" || host.contains('.') || is_ip(host) {
            host.to_ascii_lowercase().into()
        } else {
            self.domain.host(host, &self.namespace).into()
        }
    }

    /// Kind, namespace and name.
    pub(crate) fn resource(&self) -> String {
        format!("{} {}/{}", self.kind, self.namespace, self.name)
    }

    pub(crate) fn origin(&self, span: Span) -> Origin {
        Origin { resource: self.resource().into(), file: Arc::clone(&self.file), line: span.line }
    }

    /// For notes: the resource and its place.
    pub(crate) fn reference(&self) -> String {
        self.origin(self.span).to_string()
    }

    /// Istio's order: the oldest first, then by name.
    pub(crate) fn age(&self) -> (&str, &str, &str) {
        (&self.created, &self.name, &self.namespace)
    }
}

/// `exportTo`: who sees a resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Exports(Option<Vec<Box<str>>>);

impl Exports {
    pub(crate) fn read(spec: &Object<'_>, meta: &Meta, sink: &mut Sink) -> Self {
        Self::of(&spec.texts("exportTo"), &meta.namespace, meta.kind == "ServiceEntry", sink)
    }

    /// `.` is the namespace `own`; a default of the mesh, which has none, keeps it. A service may be hidden (`~`) from
    /// all but its own workloads; a rule may not.
    pub(crate) fn of(names: &[Spanned<&str>], own: &str, hideable: bool, sink: &mut Sink) -> Self {
        if names.is_empty() {
            return Self(None);
        }
        let mut out: Vec<Box<str>> = Vec::new();
        for name in names {
            let resolved = if name.value == "." { own } else { name.value };
            let hides = name.value == "~";
            if (hides && !hideable) || !(hides || matches!(resolved, "*" | ".") || is_label(resolved)) {
                let message = format!("`{resolved}` is nobody to export to");
                let found = sink.report(Code::InvalidValue, name.span, message);
                found.help("write `.`, `*` or the name of a namespace");
            }
            if out.iter().any(|other| &**other == resolved) {
                sink.report(Code::DuplicateName, name.span, format!("`{resolved}` is exported to twice"));
            }
            if (hides || name.value == "*") && names.len() > 1 {
                let message =
                    "`*` and `~` stand for all namespaces and for none: neither is listed with others";
                sink.report(Code::ExclusiveFields, name.span, message);
            }
            out.push(resolved.into());
        }
        out.sort();
        Self(Some(out))
    }

    /// The default of the mesh, where nothing is said.
    pub(crate) fn or<'e>(&'e self, default: &'e Self) -> &'e Self {
        if self.0.is_none() { default } else { self }
    }

    /// True if a resource of the namespace `own` is seen from another.
    pub(crate) fn visible(&self, own: &str, from: &str) -> bool {
        match &self.0 {
            None => true,
            Some(names) => names.iter().any(|name| match &**name {
                "*" => true,
                "." => own == from,
                name => name == from,
            }),
        }
    }

    pub(crate) fn private_to(&self, own: &str, namespace: &str) -> bool {
        let named = |only: &str| only == namespace || (only == "." && own == namespace);
        matches!(&self.0, Some(names) if matches!(&**names, [only] if named(only)))
    }
}

pub(crate) fn is_ip(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

/// True if a host or wildcard covers another.
pub(crate) fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.len() >= suffix.len() && host.ends_with(suffix) && host != suffix,
        None => pattern == host,
    }
}

/// 1 to 65535.
pub(crate) fn port(number: Spanned<i64>, sink: &mut Sink) -> Option<u16> {
    let port = u16::try_from(number.value).ok().filter(|port| *port > 0);
    if port.is_none() {
        let message = format!("{} is not a port, which is 1 to 65535", number.value);
        sink.report(Code::InvalidValue, number.span, message);
    }
    port
}

/// Istio's rule for timeouts: at least a millisecond, and whole ones.
pub(crate) fn at_least_1ms(duration: Option<Spanned<Duration>>, sink: &mut Sink) -> Option<Duration> {
    let Spanned { value, span } = duration?;
    if value < Duration::from_millis(1) {
        sink.report(Code::InvalidValue, span, "the shortest duration here is 1ms");
        return None;
    }
    if value.subsec_nanos() % 1_000_000 != 0 {
        sink.report(Code::InvalidValue, span, "durations here are whole milliseconds");
    }
    Some(value)
}

pub(crate) fn header_name(text: &Spanned<&str>, sink: &mut Sink) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(text.value.as_bytes()).ok();
    if name.is_none() {
        sink.report(Code::InvalidHeader, text.span, format!("`{}` is not a header name", text.value));
    }
    name
}

/// A status that Istio takes for an answer: 600, too.
pub(crate) fn status(number: Spanned<i64>, sink: &mut Sink) -> Option<StatusCode> {
    let code = u16::try_from(number.value).ok().filter(|code| (200..=600).contains(code));
    let code = code.and_then(|code| StatusCode::from_u16(code).ok());
    if code.is_none() {
        let message = format!("{} is no status of an answer, which is 200 to 600", number.value);
        sink.report(Code::InvalidValue, number.span, message);
    }
    code
}

/// A number of things.
pub(crate) fn count(block: &Object<'_>, field: &str, sink: &mut Sink) -> Option<u32> {
    let number = block.int(field)?;
    let count = u32::try_from(number.value).ok();
    if count.is_none() {
        sink.report(Code::InvalidValue, number.span, format!("`{field}` is negative or too large"));
    }
    count
}

pub(crate) static STRING_MATCH: Message = Message {
    name: "StringMatch",
    fields: &[
        yes("exact", Type::Text, "every_match_field_is_honoured"),
        yes("prefix", Type::Text, "every_match_field_is_honoured"),
        yes("regex", Type::Text, "every_match_field_is_honoured"),
    ],
};

/// One of the three forms, or none.
pub(crate) fn one_form<'n>(node: &'n Node, sink: &mut Sink) -> Option<(&'static str, Spanned<&'n str>)> {
    let matcher = Object::new(node, &STRING_MATCH);
    let forms = ["exact", "prefix", "regex"].into_iter();
    let mut given = forms.filter_map(|form| Some((form, matcher.text(form)?)));
    let first = given.next();
    if let Some((form, text)) = given.next() {
        let message = format!("`{form}` stands beside another form; one of exact, prefix, regex is meant");
        sink.report(Code::ExclusiveFields, text.span, message);
    }
    first
}

/// `StringMatch` of a header or query parameter; none of the forms is presence.
pub(crate) fn value_match(node: &Node, sink: &mut Sink) -> Option<ValueMatch> {
    if node.is_null() {
        let found = sink.report(Code::InvalidValue, node.span, "the match is null");
        found.help("write `{}` to ask that it is present");
        return None;
    }
    Some(match one_form(node, sink) {
        None | Some(("regex", Spanned { value: "*", .. })) => ValueMatch::Present,
        Some(("exact", text)) => ValueMatch::Exact(text.value.into()),
        Some(("prefix", text)) if text.value.is_empty() => {
            sink.report(Code::InvalidValue, text.span, "an empty prefix matches everything");
            return None;
        }
        Some(("prefix", text)) => ValueMatch::Prefix(text.value.into()),
        Some((_, text)) => ValueMatch::Regex(full_match(&text, sink)?),
    })
}

/// A match of the whole value.
pub(crate) fn full_match(text: &Spanned<&str>, sink: &mut Sink) -> Option<Regex> {
    compiled(text, &anchored(text.value), sink)
}

/// A match anywhere in the value.
pub(crate) fn any_match(text: &Spanned<&str>, sink: &mut Sink) -> Option<Regex> {
    compiled(text, text.value, sink)
}

/// Istio's limits are those of the text as it was written.
fn compiled(text: &Spanned<&str>, whole: &str, sink: &mut Sink) -> Option<Regex> {
    let problem = match text.value {
        "" => "it is empty".to_owned(),
        long if long.len() > 1024 => "it is longer than 1024 bytes".to_owned(),
        pattern => match (Regex::new(pattern), Regex::new(whole)) {
            (Ok(_), Ok(regex)) => return Some(regex),
            (Err(error), _) | (_, Err(error)) => {
                let text = error.to_string();
                text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
            }
        },
    };
    let found =
        sink.report(Code::InvalidRegex, text.span, format!("this is not a regular expression: {problem}"));
    found.help("the syntax is RE2's: no look-around, no back-references");
    None
}

pub(crate) static SELECTOR: Message = Message {
    name: "WorkloadSelector",
    fields: &[yes("labels", Type::Map(&Type::Text), "the_selecting_sidecar_wins")],
};

/// True if all labels are there.
pub(crate) fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

pub(crate) static METADATA: Message = Message {
    name: "ObjectMeta",
    fields: &[
        yes("name", Type::Text, "the_seed_compiles"),
        yes("namespace", Type::Text, "short_names_take_the_namespace_of_the_rule"),
        yes("labels", Type::Map(&Type::Text), "workload_entries_are_selected_by_label"),
        yes("creationTimestamp", Type::Text, "the_older_virtual_service_keeps_a_host"),
        yes("annotations", Type::Any, "the_seed_compiles"),
    ],
};

pub(crate) static PORT: Message = Message {
    name: "Port",
    fields: &[
        yes("number", Type::Int, "the_seed_compiles"),
        yes("name", Type::Text, "the_protocol_follows_the_port"),
        yes("protocol", Type::Text, "the_protocol_follows_the_port"),
        yes("targetPort", Type::Int, "target_ports_and_endpoint_ports_decide_where_to_connect"),
    ],
};

/// What travels on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortProtocol {
    Http1,
    Http2,
    /// Unnamed: the client's version goes upstream.
    Sniffed,
    /// TCP and the databases: passed on as bytes.
    Tcp,
    /// TLS and HTTPS: passed on as bytes, told apart by the server name of the hello.
    Tls,
    /// UDP, and whatever else is no TCP: not carried.
    Udp,
}

impl PortProtocol {
    /// Whether requests are looked at; where the name says nothing, they are.
    pub(crate) fn is_http(self) -> bool {
        matches!(self, Self::Http1 | Self::Http2 | Self::Sniffed)
    }
}

/// `protocol` as far as it is known, else the prefix of the port's name (Istio's `ParsePortName`).
pub(crate) fn protocol_of(name: &str, protocol: &str) -> PortProtocol {
    match protocol_word(name, protocol).as_str() {
        "http" => PortProtocol::Http1,
        "grpc" if name.to_ascii_lowercase().starts_with("grpc-web") => PortProtocol::Http1,
        "http2" | "grpc" => PortProtocol::Http2,
        "grpc-web" => PortProtocol::Http1,
        "https" | "tls" => PortProtocol::Tls,
        "tcp" | "mongo" | "redis" | "mysql" | "hbone" => PortProtocol::Tcp,
        "udp" => PortProtocol::Udp,
        _ => PortProtocol::Sniffed,
    }
}

/// In lower case.
fn protocol_word(name: &str, protocol: &str) -> String {
    let word = if protocol.is_empty() { name.split('-').next().unwrap_or_default() } else { protocol };
    word.to_ascii_lowercase()
}

/// Reads `metadata` and checks it; fields that Kubernetes adds are of no interest.
pub(crate) fn meta(
    document: &Node,
    kind: &'static str,
    proxy: &Proxy,
    file: &Arc<str>,
    sink: &mut Sink,
) -> Option<Meta> {
    let Some(metadata) = document.get("metadata") else {
        sink.report(Code::NotAResource, document.span, format!("this {kind} has no metadata"));
        return None;
    };
    let object = Object::new(metadata, &METADATA);
    let Some(name) = object.text("name") else {
        sink.report(Code::NotAResource, metadata.span, format!("this {kind} has no name"));
        return None;
    };
    Some(Meta {
        kind,
        name: name.value.into(),
        namespace: object
            .text("namespace")
            .map_or_else(|| Arc::clone(&proxy.namespace), |text| text.value.into()),
        created: object.text("creationTimestamp").map_or("", |text| text.value).into(),
        labels: object.labels("labels"),
        domain: proxy.domain.clone(),
        file: Arc::clone(file),
        span: document.span,
    })
}

/// The checked `spec` of a resource.
pub(crate) fn spec<'n>(document: &'n Node, message: &'static Message, sink: &mut Sink) -> Option<Object<'n>> {
    let Some(spec) = document.get("spec") else {
        sink.report(Code::MissingField, document.span, format!("this {} has no spec", message.name));
        return None;
    };
    fields::check(spec, message, sink);
    Some(Object::new(spec, message))
}
