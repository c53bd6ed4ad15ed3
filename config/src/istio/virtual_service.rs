//! `VirtualService`: matches become conditions here; what depends on the registry waits for `compile`.

use std::{num::NonZeroU32, time::Duration};

use http::{HeaderName, HeaderValue};

use super::{
    Exports, Meta, STRING_MATCH, at_least_1ms, check_host, full_host, full_match, header_name, is_label,
    later, one_form, port, value_match,
};
use crate::{
    fields::{Labels, Message, Object, Spanned, Type, did_you_mean, refused, warned, yes},
    format::Format,
    report::{Code, Sink, Span},
    snapshot::{HeaderKey, HeaderMatch, HeaderOps, PathMatch, QueryMatch, RetryOn, RetryPolicy, RouteMatch},
    yaml::Entry,
};

/// One resource; hosts are full names.
#[derive(Debug)]
pub(crate) struct VirtualService {
    pub(crate) meta: Meta,
    pub(crate) hosts: Vec<Spanned<Box<str>>>,
    pub(crate) gateways: Vec<Box<str>>,
    pub(crate) http: Vec<HttpRule>,
    pub(crate) exports: Exports,
}

/// One entry of `http`.
#[derive(Debug)]
pub(crate) struct HttpRule {
    pub(crate) name: Box<str>,
    pub(crate) span: Span,
    /// Empty: everything.
    pub(crate) matches: Vec<Match>,
    pub(crate) destinations: Vec<Destination>,
    pub(crate) timeout: Option<Duration>,
    /// `None`: the mesh's default.
    pub(crate) retries: Option<Retries>,
    pub(crate) headers: Headers,
}

/// One block of `match`.
#[derive(Debug)]
pub(crate) struct Match {
    pub(crate) name: Box<str>,
    pub(crate) span: Span,
    pub(crate) when: RouteMatch,
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
        PathMatch::Regex(regex) => regex.as_str() == "^(?:.*)$",
    };
    path && when.headers.is_empty() && when.query.is_empty()
}

/// One entry of `route`; the host is a full name.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) host: Spanned<Box<str>>,
    pub(crate) subset: Option<Spanned<Box<str>>>,
    pub(crate) port: Option<Spanned<u16>>,
    pub(crate) weight: u32,
    pub(crate) headers: Headers,
}

/// `headers`, the authority set apart.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    pub(crate) request: HeaderOps,
    pub(crate) response: HeaderOps,
    pub(crate) authority: Option<Spanned<HeaderValue>>,
}

/// `retries`; `None` inside is switched off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retries(pub(crate) Option<RetryPolicy>);

static WHY_ACTION: &str = "this action is planned: docs/compatibility.md tells when it works";
static WHY_TCP: &str = "only HTTP listeners are built yet";

pub(crate) static VIRTUAL_SERVICE: Message = Message {
    name: "VirtualService",
    fields: &[
        yes("hosts", Type::List(&Type::Text), "short_names_take_the_namespace_of_the_rule"),
        yes("gateways", Type::List(&Type::Text), "a_virtual_service_without_mesh_is_not_applied"),
        yes("http", Type::List(&Type::Object(&HTTP_ROUTE)), "the_seed_compiles"),
        warned("tls", Type::List(&Type::Object(&later::TLS_ROUTE)), WHY_TCP),
        warned("tcp", Type::List(&Type::Object(&later::TCP_ROUTE)), WHY_TCP),
        yes("exportTo", Type::List(&Type::Text), "exports_limit_who_sees_a_resource"),
    ],
};

pub(crate) static HTTP_ROUTE: Message = Message {
    name: "HTTPRoute",
    fields: &[
        yes("name", Type::Text, "routes_are_named_by_rule_and_match"),
        yes("match", Type::List(&Type::Object(&HTTP_MATCH)), "every_match_field_is_honoured"),
        yes("route", Type::List(&Type::Object(&HTTP_DESTINATION)), "the_seed_compiles"),
        refused("redirect", Type::Object(&later::REDIRECT), WHY_ACTION),
        refused("directResponse", Type::Object(&later::DIRECT_RESPONSE), WHY_ACTION),
        refused("delegate", Type::Object(&later::DELEGATE), WHY_ACTION),
        refused("rewrite", Type::Object(&later::REWRITE), WHY_ACTION),
        yes("timeout", Type::Duration, "timeouts_and_retries_are_compiled"),
        yes("retries", Type::Object(&HTTP_RETRY), "timeouts_and_retries_are_compiled"),
        refused("fault", Type::Object(&later::FAULT), WHY_ACTION),
        refused("mirror", Type::Object(&DESTINATION), WHY_ACTION),
        refused("mirrors", Type::List(&Type::Object(&later::MIRROR_POLICY)), WHY_ACTION),
        refused("mirrorPercent", Type::Int, WHY_ACTION),
        refused("mirrorPercentage", Type::Object(&later::PERCENT), WHY_ACTION),
        refused("corsPolicy", Type::Object(&later::CORS), WHY_ACTION),
        yes("headers", Type::Object(&HEADERS), "header_operations_keep_istios_order"),
    ],
};

static HTTP_MATCH: Message = Message {
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

static HTTP_DESTINATION: Message = Message {
    name: "HTTPRouteDestination",
    fields: &[
        yes("destination", Type::Object(&DESTINATION), "the_seed_compiles"),
        yes("weight", Type::Int, "weights_split_the_draws"),
        yes("headers", Type::Object(&HEADERS), "header_operations_keep_istios_order"),
    ],
};

pub(super) static DESTINATION: Message = Message {
    name: "Destination",
    fields: &[
        yes("host", Type::Text, "short_names_take_the_namespace_of_the_rule"),
        yes("subset", Type::Text, "the_seed_compiles"),
        yes("port", Type::Object(&PORT_SELECTOR), "the_port_of_a_destination_is_chosen_as_in_istio"),
    ],
};

pub(super) static PORT_SELECTOR: Message = Message {
    name: "PortSelector",
    fields: &[yes("number", Type::Int, "the_port_of_a_destination_is_chosen_as_in_istio")],
};

static HEADERS: Message = Message {
    name: "Headers",
    fields: &[
        yes("request", Type::Object(&HEADER_OPERATIONS), "header_operations_keep_istios_order"),
        yes("response", Type::Object(&HEADER_OPERATIONS), "header_operations_keep_istios_order"),
    ],
};

static HEADER_OPERATIONS: Message = Message {
    name: "HeaderOperations",
    fields: &[
        yes("set", Type::Map(&Type::Text), "header_operations_keep_istios_order"),
        yes("add", Type::Map(&Type::Text), "header_operations_keep_istios_order"),
        yes("remove", Type::List(&Type::Text), "header_operations_keep_istios_order"),
    ],
};

pub(crate) static HTTP_RETRY: Message = Message {
    name: "HTTPRetry",
    fields: &[
        yes("attempts", Type::Int, "timeouts_and_retries_are_compiled"),
        yes("perTryTimeout", Type::Duration, "timeouts_and_retries_are_compiled"),
        yes("retryOn", Type::Text, "timeouts_and_retries_are_compiled"),
        warned("retryRemoteLocalities", Type::Bool, "endpoints have no localities yet"),
        yes("retryIgnorePreviousHosts", Type::Bool, "timeouts_and_retries_are_compiled"),
        yes("backoff", Type::Duration, "timeouts_and_retries_are_compiled"),
    ],
};

/// Reads the spec; `None` where there is nothing to go on with.
pub(crate) fn read(spec: &Object<'_>, meta: Meta, sink: &mut Sink) -> VirtualService {
    let hosts = hosts(spec, &meta, sink);
    let rules = spec.objects("http");
    if rules.is_empty() && !spec.has("tls") && !spec.has("tcp") {
        sink.report(Code::MissingField, spec.span(), "a VirtualService needs http, tls or tcp");
    }
    let http = rules.iter().map(|rule| http_rule(rule, &meta, sink)).collect();
    let virtual_service = VirtualService {
        hosts,
        gateways: spec.texts("gateways").iter().map(|text| text.value.into()).collect(),
        http,
        exports: Exports::read(spec, &meta, sink),
        meta,
    };
    warn_unreachable(&virtual_service, sink);
    virtual_service
}

fn hosts(spec: &Object<'_>, meta: &Meta, sink: &mut Sink) -> Vec<Spanned<Box<str>>> {
    let written = spec.texts("hosts");
    if written.is_empty() {
        let found =
            sink.report(Code::NotExecutable, spec.span(), "a VirtualService without hosts is a delegate");
        found.help("delegates are not built yet: list the hosts");
    }
    let mut hosts: Vec<Spanned<Box<str>>> = Vec::new();
    for host in written.iter().filter(|host| check_host(host, sink)).collect::<Vec<_>>() {
        let full = full_host(host.value, &meta.namespace);
        if hosts.iter().any(|other| super::covers(&other.value, &full) || super::covers(&full, &other.value))
        {
            let message = format!("`{}` is covered by another host of the list", host.value);
            sink.report(Code::DuplicateName, host.span, message);
        }
        if &*full == "*" && applies_to_mesh(spec) {
            sink.report(Code::InvalidHost, host.span, "`*` alone cannot be bound to the mesh");
        }
        hosts.push(Spanned { value: full, span: host.span });
    }
    hosts
}

fn applies_to_mesh(spec: &Object<'_>) -> bool {
    let gateways = spec.texts("gateways");
    gateways.is_empty() || gateways.iter().any(|gateway| gateway.value == "mesh")
}

fn http_rule(rule: &Object<'_>, meta: &Meta, sink: &mut Sink) -> HttpRule {
    let other_action = ["redirect", "directResponse", "delegate"].into_iter().any(|action| rule.has(action));
    let destinations = rule.objects("route");
    if destinations.is_empty() && !other_action {
        let found = sink.report(Code::MissingField, rule.span(), "the rule has no route");
        found.help("give it `route` with at least one destination");
    }
    if !destinations.is_empty() && other_action {
        let message = "a rule has one of route, redirect, directResponse, delegate";
        sink.report(Code::ExclusiveFields, rule.key_span("route"), message);
    }
    let headers = headers(rule, sink);
    let destinations = weighted(&destinations, meta, sink);
    let several = destinations.len() > 1;
    for destination in &destinations {
        if let (true, Some(authority)) = (several, &destination.headers.authority) {
            let message = "a destination of several cannot set its own authority yet";
            sink.report(Code::NotExecutable, authority.span, message).help("set it for the whole route");
        }
        if let (Some(_), Some(second)) = (&headers.authority, &destination.headers.authority) {
            sink.report(Code::ExclusiveFields, second.span, "the authority is set by the route already");
        }
    }
    HttpRule {
        name: rule.text("name").map_or("", |text| text.value).into(),
        span: rule.span(),
        matches: rule.objects("match").iter().map(|block| match_block(block, sink)).collect(),
        destinations,
        timeout: at_least_1ms(rule.duration("timeout").filter(|t| !t.value.is_zero()), sink),
        retries: rule.object("retries").map(|retries| read_retries(&retries, sink)),
        headers,
    }
}

/// Weights as they count: a lone destination has 1, those with 0 are dropped.
fn weighted(entries: &[Object<'_>], meta: &Meta, sink: &mut Sink) -> Vec<Destination> {
    let lone = entries.len() == 1;
    let mut destinations = Vec::new();
    let mut valid = true;
    for entry in entries {
        let weight = entry.int("weight");
        let value = match weight {
            Some(weight) if weight.value < 0 || weight.value > i64::from(i32::MAX) => {
                valid = false;
                let found =
                    sink.report(Code::InvalidWeights, weight.span, format!("the weight is {}", weight.value));
                found.help("weights are 0 to 2147483647; the share is the weight by the sum of the weights");
                0
            }
            Some(weight) if lone => {
                if weight.value != 100 {
                    let message = format!("the weight {} of a lone destination has no effect", weight.value);
                    let found = sink.report(Code::LoneWeight, weight.span, message);
                    found.label("it takes every request that matches");
                    found.help("remove the weight, or list all destinations under one `route`");
                }
                1
            }
            Some(weight) => u32::try_from(weight.value).unwrap_or_default(),
            None => u32::from(lone),
        };
        if let Some(destination) = destination(entry, value, meta, sink) {
            destinations.push(destination);
        }
    }
    if !lone && valid && !destinations.is_empty() {
        destinations.retain(|destination| destination.weight > 0);
        if destinations.is_empty() {
            let span = entries.first().map_or(meta.span, Object::span);
            let found = sink.report(Code::InvalidWeights, span, "the weights of all destinations are 0");
            found.help("give at least one destination a weight");
        }
    }
    destinations
}

fn destination(entry: &Object<'_>, weight: u32, meta: &Meta, sink: &mut Sink) -> Option<Destination> {
    let Some(target) = entry.object("destination") else {
        sink.report(Code::MissingField, entry.span(), "the entry has no destination");
        return None;
    };
    let Some(host) = target.text("host") else {
        sink.report(Code::MissingField, target.span(), "the destination has no host");
        return None;
    };
    if host.value == "*" {
        sink.report(Code::InvalidHost, host.span, "`*` is no destination");
        return None;
    }
    if !check_host(&host, sink) {
        return None;
    }
    let subset = target.text("subset").filter(|subset| !subset.value.is_empty());
    if let Some(subset) = subset.filter(|subset| !is_label(subset.value)) {
        sink.report(Code::InvalidValue, subset.span, format!("`{}` is not a subset's name", subset.value));
    }
    let number = target.object("port").and_then(|selector| selector.int("number"));
    Some(Destination {
        host: Spanned { value: full_host(host.value, &meta.namespace), span: host.span },
        subset: subset.map(|subset| Spanned { value: subset.value.into(), span: subset.span }),
        port: number.and_then(|n| Some(Spanned { value: port(n, sink)?, span: n.span })),
        weight,
        headers: headers(entry, sink),
    })
}

fn match_block(block: &Object<'_>, sink: &mut Sink) -> Match {
    let mut conditions = Vec::new();
    for (field, key) in
        [("scheme", HeaderKey::Scheme), ("method", HeaderKey::Method), ("authority", HeaderKey::Authority)]
    {
        if let Some(value) = block.get(field).and_then(|node| value_match(node, sink)) {
            conditions.push(HeaderMatch { key, value, invert: false });
        }
    }
    conditions.extend(header_matches(block.entries("headers"), false, sink));
    conditions.extend(header_matches(block.entries("withoutHeaders"), true, sink));
    let query = block.entries("queryParams").iter().filter_map(|entry| {
        Some(QueryMatch { key: entry.key.clone(), value: value_match(&entry.value, sink)? })
    });
    let when =
        RouteMatch { query: query.collect(), headers: conditions.into(), path: path_match(block, sink) };
    Match {
        name: block.text("name").map_or("", |text| text.value).into(),
        span: block.span(),
        when,
        port: block.int("port").and_then(|number| port(number, sink)),
        source_labels: block.labels("sourceLabels"),
        source_namespace: block.text("sourceNamespace").map(|text| text.value.into()),
        gateways: block.texts("gateways").iter().map(|text| text.value.into()).collect(),
    }
}

fn path_match(block: &Object<'_>, sink: &mut Sink) -> PathMatch {
    let ignore_case = block.bool("ignoreUriCase").unwrap_or_default();
    match block.get("uri").and_then(|node| one_form(node, sink)) {
        Some(("exact", text)) => PathMatch::Exact { value: text.value.into(), ignore_case },
        Some(("prefix", text)) => PathMatch::Prefix { value: text.value.into(), ignore_case },
        Some((_, text)) => full_match(&text, sink).map_or_else(all_paths, PathMatch::Regex),
        None => all_paths(),
    }
}

pub(crate) fn all_paths() -> PathMatch {
    PathMatch::Prefix { value: "/".into(), ignore_case: false }
}

fn header_matches(entries: &[Entry], invert: bool, sink: &mut Sink) -> Vec<HeaderMatch> {
    let conditions = entries.iter().filter_map(|entry| {
        let key = match &*entry.key {
            ":method" => HeaderKey::Method,
            ":scheme" => HeaderKey::Scheme,
            ":authority" => HeaderKey::Authority,
            ":path" => HeaderKey::Path,
            name => HeaderKey::Name(header_name(&Spanned { value: name, span: entry.key_span }, sink)?),
        };
        // Envoy keeps Host as `:authority`.
        let key = if key == HeaderKey::Name(http::header::HOST) { HeaderKey::Authority } else { key };
        Some(HeaderMatch { key, value: value_match(&entry.value, sink)?, invert })
    });
    conditions.collect()
}

fn headers(parent: &Object<'_>, sink: &mut Sink) -> Headers {
    let Some(headers) = parent.object("headers") else { return Headers::default() };
    let mut authority = None;
    let request = headers.object("request").map(|ops| operations(&ops, Some(&mut authority), sink));
    let response = headers.object("response").map(|ops| operations(&ops, None, sink));
    Headers { request: request.unwrap_or_default(), response: response.unwrap_or_default(), authority }
}

/// `authority` is where a `host` or `:authority` of a request goes; responses have none.
fn operations(
    ops: &Object<'_>,
    mut authority: Option<&mut Option<Spanned<HeaderValue>>>,
    sink: &mut Sink,
) -> HeaderOps {
    let mut values = |field: &str, sink: &mut Sink| {
        let mut pairs: Vec<(HeaderName, Format)> = Vec::new();
        for entry in ops.entries(field) {
            let name = entry.key.to_ascii_lowercase();
            if let (":authority" | "host", Some(authority)) = (&*name, &mut authority) {
                set_authority(entry, authority, sink);
            } else if let Some(name) = operated_name(&name, entry.key_span, sink)
                && let Some(text) = entry.value.text()
            {
                match header_value(text) {
                    Ok(value) => pairs.push((name, value)),
                    Err(why) => {
                        sink.report(Code::InvalidHeader, entry.value.span, why);
                    }
                }
            }
        }
        pairs.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
        pairs.into()
    };
    let set = values("set", sink);
    let add = values("add", sink);
    let remove = ops.texts("remove");
    let remove = remove.iter().filter_map(|text| operated_name(text.value, text.span, sink));
    let mut remove: Vec<_> = remove.collect();
    remove.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    HeaderOps { remove: remove.into(), set, add }
}

fn header_value(text: &str) -> Result<Format, String> {
    if HeaderValue::from_str(text).is_err() {
        return Err("the value holds characters that no header may".to_owned());
    }
    Format::parse(text).map_err(|error| error.to_string())
}

fn operated_name(name: &str, span: Span, sink: &mut Sink) -> Option<HeaderName> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        sink.report(Code::InvalidHeader, span, format!("`{name}` cannot be changed here"));
        return None;
    }
    header_name(&Spanned { value: name, span }, sink)
}

fn set_authority(entry: &Entry, authority: &mut Option<Spanned<HeaderValue>>, sink: &mut Sink) {
    let span = entry.value.span;
    let Some(text) = entry.value.text() else { return };
    let literal = Format::parse(text).ok().and_then(|format| HeaderValue::from_str(format.literal()?).ok());
    match literal {
        Some(_) if authority.is_some() => {
            sink.report(Code::ExclusiveFields, span, "the authority is set twice");
        }
        Some(value) => *authority = Some(Spanned { value, span }),
        None => {
            sink.report(Code::InvalidHeader, span, "the authority must be a literal text");
        }
    }
}

const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

/// Istio's default list: no status code is among it.
pub(crate) fn default_retry() -> RetryPolicy {
    RetryPolicy {
        attempts: NonZeroU32::MIN.saturating_add(1),
        on: RetryOn {
            connect_failure: true,
            refused_stream: true,
            unavailable: true,
            cancelled: true,
            ..RetryOn::default()
        },
        per_try_timeout: None,
        backoff: DEFAULT_BACKOFF,
        avoid_previous_hosts: true,
    }
}

/// Shared with the mesh's `defaultHttpRetryPolicy`.
pub(crate) fn read_retries(retries: &Object<'_>, sink: &mut Sink) -> Retries {
    let attempts = retries.int("attempts").unwrap_or(Spanned { value: 0, span: retries.span() });
    let Ok(number) = u32::try_from(attempts.value) else {
        sink.report(Code::InvalidRetry, attempts.span, "attempts is negative or too large");
        return Retries(None);
    };
    let Some(number) = NonZeroU32::new(number) else {
        let rest = ["perTryTimeout", "retryOn", "retryRemoteLocalities"];
        if let Some(field) = rest.into_iter().find(|field| retries.has(field)) {
            let message = format!("`{field}` has no meaning with 0 attempts");
            let found = sink.report(Code::InvalidRetry, retries.key_span(field), message);
            found.help("set `attempts` to the number of retries, or remove the field");
        }
        return Retries(None);
    };
    let default = default_retry();
    Retries(Some(RetryPolicy {
        attempts: number,
        on: retries.text("retryOn").map_or(default.on, |text| retry_on(&text, sink)),
        per_try_timeout: at_least_1ms(retries.duration("perTryTimeout").filter(|t| !t.value.is_zero()), sink),
        backoff: at_least_1ms(retries.duration("backoff"), sink).unwrap_or(DEFAULT_BACKOFF),
        avoid_previous_hosts: retries.bool("retryIgnorePreviousHosts").unwrap_or(true),
    }))
}

const RETRY_WORDS: [&str; 17] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
    "",
];

fn retry_on(text: &Spanned<&str>, sink: &mut Sink) -> RetryOn {
    let mut on = RetryOn::default();
    let mut statuses = Vec::new();
    for word in text.value.split(',') {
        match word {
            "5xx" => on.server_error = true,
            "gateway-error" => on.gateway_error = true,
            "reset" => on.reset = true,
            "reset-before-request" => on.reset_before_request = true,
            "connect-failure" => on.connect_failure = true,
            "retriable-4xx" => on.retriable_4xx = true,
            "refused-stream" => on.refused_stream = true,
            "envoy-ratelimited" => on.envoy_ratelimited = true,
            "cancelled" => on.cancelled = true,
            "deadline-exceeded" => on.deadline_exceeded = true,
            "internal" => on.internal = true,
            "resource-exhausted" => on.resource_exhausted = true,
            "unavailable" => on.unavailable = true,
            // The list of codes follows; response headers and HTTP/3 never ask for a retry here.
            "" | "retriable-status-codes" | "retriable-headers" | "http3-post-connect-failure" => {}
            _ => match word.parse::<u16>() {
                Ok(status @ 100..=599) => statuses.push(status),
                _ => {
                    let message = format!("`{word}` is no reason to retry");
                    let guess = did_you_mean(word.trim(), RETRY_WORDS.into_iter());
                    let found = sink.report(Code::InvalidRetry, text.span, message);
                    found.help(format!("{guess}words are separated by commas without blanks"));
                }
            },
        }
    }
    on.statuses = statuses.into();
    on
}

/// Rules behind a catch-all, and prefixes that an earlier prefix covers.
fn warn_unreachable(virtual_service: &VirtualService, sink: &mut Sink) {
    let mut caught: Option<Span> = None;
    let mut prefixes: Vec<(&str, Span)> = Vec::new();
    for rule in &virtual_service.http {
        if let Some(by) = caught {
            let found = sink.report(Code::UnreachableRule, rule.span, "this rule is never reached");
            found.label(format!("the rule of line {} takes every request", by.line));
            found.help("put the general rule last");
            continue;
        }
        let all = |block: &Match| block.takes_all() && block.applies_everywhere();
        if rule.matches.is_empty() || rule.matches.iter().any(all) {
            caught = Some(rule.span);
        }
        for block in rule.matches.iter().filter(|block| block.applies_everywhere()) {
            let plain = block.when.headers.is_empty() && block.when.query.is_empty();
            let value = match &block.when.path {
                PathMatch::Prefix { value, ignore_case: false }
                | PathMatch::Exact { value, ignore_case: false } => value,
                _ => continue,
            };
            if let Some((earlier, by)) = prefixes.iter().find(|(prefix, _)| value.starts_with(prefix)) {
                let message =
                    format!("the prefix `{earlier}` of line {} takes these requests first", by.line);
                let found = sink.report(Code::IneffectiveMatch, block.span, message);
                found.help("put the longer path first");
            } else if plain && matches!(block.when.path, PathMatch::Prefix { .. }) {
                prefixes.push((value, block.span));
            }
        }
    }
}
