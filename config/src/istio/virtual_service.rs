//! `VirtualService`: matches become conditions here; what depends on the registry waits for `compile`.

use std::time::Duration;

use super::{
    Exports, Meta, at_least_1ms, check_host,
    destination::{DESTINATION, Destination, HTTP_DESTINATION, weighted},
    full_host,
    headers::{HEADERS, Headers, headers},
    http_match::{HTTP_MATCH, Match, match_block},
    later,
    retries::{HTTP_RETRY, Retries, read_retries},
    tcp_route::{L4Match, TCP_ROUTE, TcpRule, tcp_rule},
    tls_route::{TLS_ROUTE, TlsRule, tls_rule},
};
use crate::{
    fields::{Message, Object, Spanned, Type, refused, yes},
    report::Code,
    sink::{Sink, Span},
    snapshot::PathMatch,
};

/// One resource; hosts are full names.
#[derive(Debug)]
pub(crate) struct VirtualService {
    pub(crate) meta: Meta,
    pub(crate) hosts: Vec<Spanned<Box<str>>>,
    pub(crate) gateways: Vec<Box<str>>,
    pub(crate) http: Vec<HttpRule>,
    /// For listeners of TLS.
    pub(crate) tls: Vec<TlsRule>,
    /// For other listeners of bytes.
    pub(crate) tcp: Vec<TcpRule>,
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

static WHY_ACTION: &str = "the action is planned";

pub(crate) static VIRTUAL_SERVICE: Message = Message {
    name: "VirtualService",
    fields: &[
        yes("hosts", Type::List(&Type::Text), "short_names_take_the_namespace_of_the_rule"),
        yes("gateways", Type::List(&Type::Text), "a_virtual_service_without_mesh_is_not_applied"),
        yes("http", Type::List(&Type::Object(&HTTP_ROUTE)), "the_seed_compiles"),
        yes("tls", Type::List(&Type::Object(&TLS_ROUTE)), "tls_routes_take_connections_by_server_name"),
        yes("tcp", Type::List(&Type::Object(&TCP_ROUTE)), "tcp_routes_take_connections_by_address"),
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

/// Reads the spec; `None` where there is nothing to go on with.
pub(crate) fn read(spec: &Object<'_>, meta: Meta, sink: &mut Sink) -> VirtualService {
    let hosts = hosts(spec, &meta, sink);
    let rules = spec.objects("http");
    if rules.is_empty() && !spec.has("tls") && !spec.has("tcp") {
        sink.report(Code::MissingField, spec.span(), "a VirtualService needs http, tls or tcp");
    }
    let http = rules.iter().map(|rule| http_rule(rule, &meta, sink)).collect();
    let tls = spec.objects("tls").iter().map(|rule| tls_rule(rule, &hosts, &meta, sink)).collect();
    let tcp = spec.objects("tcp").iter().map(|rule| tcp_rule(rule, &meta, sink)).collect();
    let virtual_service = VirtualService {
        hosts,
        gateways: spec.texts("gateways").iter().map(|text| text.value.into()).collect(),
        http,
        tls,
        tcp,
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

/// Rules behind a catch-all, and prefixes that an earlier prefix covers.
fn warn_unreachable(virtual_service: &VirtualService, sink: &mut Sink) {
    warn_unreachable_tcp(&virtual_service.tcp, sink);
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

/// Istio stops at the first rule for everything.
fn warn_unreachable_tcp(rules: &[TcpRule], sink: &mut Sink) {
    let all = |rule: &TcpRule| rule.matches.is_empty() || rule.matches.iter().any(L4Match::takes_all);
    let Some(at) = rules.iter().position(all) else { return };
    let mut rest = rules.iter().skip(at);
    let by = rest.next().map_or(0, |rule| rule.span.line);
    for rule in rest {
        let found = sink.report(Code::UnreachableRule, rule.span, "this rule is never reached");
        found.label(format!("the rule of line {by} takes every connection"));
        found.help("put the general rule last");
    }
}
