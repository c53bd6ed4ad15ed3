//! `HTTPMatchRequest`: one block of `match`, compiled.

use super::{
    Meta, STRING_MATCH, check_gateways, check_labels, full_match, header_name, is_label, one_form, port,
    value_match,
};
use crate::{
    fields::{Labels, Message, Object, Spanned, Type, warned, yes},
    report::Code,
    sink::{Sink, Span},
    snapshot::{HeaderKey, HeaderMatch, Origin, PathMatch, QueryMatch, RouteMatch, written},
    yaml::Entry,
};

/// One block of `match`.
#[derive(Debug, Clone)]
pub(crate) struct Match {
    pub(crate) name: Box<str>,
    pub(crate) span: Span,
    /// Of the path that is asked for, else of the block.
    pub(crate) path_span: Span,
    pub(crate) origin: Origin,
    pub(crate) when: RouteMatch,
    /// Whether `uri` is given: the prefix `/` may be written or not.
    pub(crate) has_uri: bool,
    pub(crate) ignore_uri_case: bool,
    pub(crate) port: Option<u16>,
    pub(crate) source_labels: Labels,
    pub(crate) source_namespace: Option<Box<str>>,
    pub(crate) gateways: Vec<Box<str>>,
}

impl Match {
    /// Nothing is asked of the request itself.
    pub(crate) fn takes_all(&self) -> bool {
        takes_all(&self.when)
    }

    /// Nothing is asked of the proxy either.
    pub(crate) fn applies_everywhere(&self) -> bool {
        self.port.is_none()
            && self.source_labels.is_empty()
            && self.source_namespace.is_none()
            && self.gateways.is_empty()
    }
}

/// Istio's catch-all: prefix `/` or regex `.*`, and no other condition.
pub(crate) fn takes_all(when: &RouteMatch) -> bool {
    let path = match &when.path {
        PathMatch::Prefix { value, .. } => matches!(&**value, "" | "/"),
        PathMatch::Exact { .. } => false,
        PathMatch::Regex(regex) => written(regex) == ".*",
    };
    path && when.headers.is_empty() && when.query.is_empty()
}

pub(crate) static HTTP_MATCH: Message = Message {
    name: "HTTPMatchRequest",
    fields: &[
        yes("name", Type::Text, "routes_are_named_by_rule_and_match"),
        yes("uri", Type::Object(&STRING_MATCH), "every_match_field_is_honoured"),
        yes("scheme", Type::Object(&STRING_MATCH), "every_match_field_is_honoured"),
        yes("method", Type::Object(&STRING_MATCH), "every_match_field_is_honoured"),
        yes("authority", Type::Object(&STRING_MATCH), "every_match_field_is_honoured"),
        yes("headers", Type::Map(&Type::Object(&STRING_MATCH)), "every_match_field_is_honoured"),
        yes("port", Type::Int, "static_conditions_are_decided_when_compiling"),
        yes("sourceLabels", Type::Map(&Type::Text), "static_conditions_are_decided_when_compiling"),
        yes("gateways", Type::List(&Type::Text), "static_conditions_are_decided_when_compiling"),
        yes("queryParams", Type::Map(&Type::Object(&STRING_MATCH)), "every_match_field_is_honoured"),
        yes("ignoreUriCase", Type::Bool, "every_match_field_is_honoured"),
        yes("withoutHeaders", Type::Map(&Type::Object(&STRING_MATCH)), "every_match_field_is_honoured"),
        yes("sourceNamespace", Type::Text, "static_conditions_are_decided_when_compiling"),
        warned("statPrefix", Type::Text, "there are no per-route Envoy statistics"),
    ],
};

/// `in_mesh` is the reach of the virtual service: claims of a token are there for gateways only.
pub(crate) fn match_block(block: &Object<'_>, in_mesh: bool, meta: &Meta, sink: &mut Sink) -> Match {
    let mut conditions = Vec::new();
    for (field, key) in
        [("scheme", HeaderKey::Scheme), ("method", HeaderKey::Method), ("authority", HeaderKey::Authority)]
    {
        if let Some(value) = block.get(field).and_then(|node| value_match(node, sink)) {
            conditions.push(HeaderMatch { key, value, invert: false });
        }
    }
    conditions.extend(header_matches(block.entries("headers"), false, in_mesh, sink));
    conditions.extend(header_matches(block.entries("withoutHeaders"), true, in_mesh, sink));
    let query = block.entries("queryParams").iter().filter_map(|entry| {
        Some(QueryMatch { key: entry.key.clone(), value: value_match(&entry.value, sink)? })
    });
    let query = query.collect();
    let (path, path_span) = path_match(block, sink);
    let when = RouteMatch { query, headers: conditions.into(), path };
    check_labels(block.entries("sourceLabels"), sink);
    check_gateways(&block.texts("gateways"), sink);
    let namespace = block.text("sourceNamespace").filter(|text| !text.value.is_empty());
    if let Some(namespace) = namespace.filter(|namespace| !is_label(namespace.value)) {
        let message = format!("`{}` is not a namespace", namespace.value);
        sink.report(Code::InvalidValue, namespace.span, message);
    }
    Match {
        name: block.text("name").map_or("", |text| text.value).into(),
        span: block.span(),
        path_span,
        origin: meta.origin(block.span()),
        when,
        has_uri: block.has("uri"),
        ignore_uri_case: block.bool("ignoreUriCase").unwrap_or_default(),
        port: block.int("port").filter(|number| number.value != 0).and_then(|number| port(number, sink)),
        source_labels: block.labels("sourceLabels"),
        source_namespace: namespace.map(|text| text.value.into()),
        gateways: block.texts("gateways").iter().map(|text| text.value.into()).collect(),
    }
}

fn path_match(block: &Object<'_>, sink: &mut Sink) -> (PathMatch, Span) {
    let ignore_case = block.bool("ignoreUriCase").unwrap_or_default();
    let Some((form, text)) = block.get("uri").and_then(|node| one_form(node, sink)) else {
        return (PathMatch::all(), block.span());
    };
    let path = match form {
        "exact" => PathMatch::Exact { value: text.value.into(), ignore_case },
        "prefix" => PathMatch::Prefix { value: text.value.into(), ignore_case },
        _ => full_match(&text, sink).map_or_else(PathMatch::all, PathMatch::Regex),
    };
    (path, text.span)
}

/// Istio's name of a claim in a token, where a header's name may stand.
const CLAIMS: &str = "@request.auth.claims";

fn header_matches(entries: &[Entry], invert: bool, in_mesh: bool, sink: &mut Sink) -> Vec<HeaderMatch> {
    let conditions = entries.iter().filter_map(|entry| {
        let claim = entry.key.starts_with(CLAIMS);
        if claim && in_mesh {
            let message = "requests are routed by claims of a token at a gateway only";
            let found = sink.report(Code::InvalidHeader, entry.key_span, message);
            found.help("bind the VirtualService to a gateway, or match a header");
            return None;
        }
        let key = match &*entry.key {
            ":method" => HeaderKey::Method,
            ":scheme" => HeaderKey::Scheme,
            ":authority" => HeaderKey::Authority,
            ":path" => HeaderKey::Path,
            // No sidecar applies the rule; the condition is kept so that matches can be told apart.
            name if claim => {
                let name = name.replace(['@', '[', ']'], "-");
                HeaderKey::Name(header_name(&Spanned { value: &name, span: entry.key_span }, sink)?)
            }
            name => {
                // Istio takes fewer names than HTTP has.
                let name = Spanned { value: name, span: entry.key_span };
                if !name.value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                    let message = format!("`{}` is not a header name that can be matched", name.value);
                    sink.report(Code::InvalidHeader, name.span, message);
                    return None;
                }
                HeaderKey::Name(header_name(&name, sink)?)
            }
        };
        // Envoy keeps Host as `:authority`.
        let key = if key == HeaderKey::Name(http::header::HOST) { HeaderKey::Authority } else { key };
        Some(HeaderMatch { key, value: value_match(&entry.value, sink)?, invert })
    });
    conditions.collect()
}
