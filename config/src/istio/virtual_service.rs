//! `VirtualService`: matches become conditions here; what depends on the registry waits for `compile`.

use std::time::Duration;

use super::{
    Exports, Meta, at_least_1ms, check_gateways, check_host,
    cors::{CORS, cors},
    delegate::{DELEGATE, Delegate, read_delegate},
    destination::{DESTINATION, Destination, HTTP_DESTINATION, weighted},
    direct_response::{DIRECT_RESPONSE, read_direct},
    fault::{FAULT, fault},
    headers::{HEADERS, Headers, headers},
    http_match::{HTTP_MATCH, Match, match_block},
    in_mesh,
    mirror::{MIRROR_POLICY, MirrorTo, mirrors},
    percent::PERCENT,
    redirect::{REDIRECT, Redirect, read_redirect},
    retries::{HTTP_RETRY, Retries, read_retries},
    rewrite::{REWRITE, Rewrite, read_rewrite},
    tcp_route::{TCP_ROUTE, TcpRule, tcp_rule},
    tls_route::{TLS_ROUTE, TlsRule, tls_rule},
};
use crate::{
    fields::{Message, Object, Spanned, Type, yes},
    report::Code,
    sink::{Sink, Span},
    snapshot::{Cors, DirectResponse, Fault, Origin},
};

/// One resource; hosts are full names.
#[derive(Debug, Clone)]
pub(crate) struct VirtualService {
    pub(crate) meta: Meta,
    pub(crate) hosts: Vec<Spanned<Box<str>>>,
    /// Without hosts of its own: others refer to it.
    pub(crate) is_delegate: bool,
    pub(crate) gateways: Vec<Box<str>>,
    pub(crate) http: Vec<HttpRule>,
    /// For listeners of TLS.
    pub(crate) tls: Vec<TlsRule>,
    /// For other listeners of bytes.
    pub(crate) tcp: Vec<TcpRule>,
    pub(crate) exports: Exports,
}

/// One entry of `http`. What a delegate inherits is optional here.
#[derive(Debug, Clone)]
pub(crate) struct HttpRule {
    pub(crate) name: Box<str>,
    pub(crate) span: Span,
    pub(crate) origin: Origin,
    /// Empty: everything.
    pub(crate) matches: Vec<Match>,
    pub(crate) does: Does,
    pub(crate) rewrite: Option<Rewrite>,
    /// Zero: none, whatever the root says.
    pub(crate) timeout: Option<Duration>,
    /// `None`: the mesh's default.
    pub(crate) retries: Option<Retries>,
    pub(crate) retries_span: Span,
    pub(crate) headers: Option<Headers>,
    pub(crate) fault: Option<Fault>,
    pub(crate) cors: Option<Cors>,
    pub(crate) mirrors: Vec<MirrorTo>,
}

/// What becomes of the requests of a rule.
#[derive(Debug, Clone)]
pub(crate) enum Does {
    /// `route`; none where they could not be read.
    Route(Vec<Destination>),
    /// `redirect`
    Redirect(Box<Redirect>),
    /// `directResponse`
    Direct(DirectResponse),
    /// `delegate`
    Delegate(Delegate),
}

impl HttpRule {
    /// Where requests are forwarded to.
    pub(crate) fn destinations(&self) -> &[Destination] {
        match &self.does {
            Does::Route(destinations) => destinations,
            Does::Redirect(_) | Does::Direct(_) | Does::Delegate(_) => &[],
        }
    }

    /// Whether the rules of another resource take its place.
    pub(crate) fn is_delegated(&self) -> bool {
        matches!(self.does, Does::Delegate(_))
    }

    /// `timeout`, if it is one.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.timeout.filter(|timeout| !timeout.is_zero())
    }
}

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
        yes("redirect", Type::Object(&REDIRECT), "a_redirect_is_translated_as_in_istio"),
        yes("directResponse", Type::Object(&DIRECT_RESPONSE), "a_direct_response_has_its_status_and_body"),
        yes("delegate", Type::Object(&DELEGATE), "a_delegates_rules_stand_in_the_place_of_the_entry"),
        yes(
            "rewrite",
            Type::Object(&REWRITE),
            "a_prefix_is_replaced_by_its_length_and_any_other_match_as_a_whole",
        ),
        yes("timeout", Type::Duration, "timeouts_and_retries_are_compiled"),
        yes("retries", Type::Object(&HTTP_RETRY), "timeouts_and_retries_are_compiled"),
        yes("fault", Type::Object(&FAULT), "faults_are_compiled"),
        yes("mirror", Type::Object(&DESTINATION), "mirrors_are_compiled"),
        yes("mirrors", Type::List(&Type::Object(&MIRROR_POLICY)), "mirrors_are_compiled"),
        yes("mirrorPercent", Type::Int, "a_mirror_has_the_newer_percentage"),
        yes("mirrorPercentage", Type::Object(&PERCENT), "a_mirror_has_the_newer_percentage"),
        yes("corsPolicy", Type::Object(&CORS), "a_cors_policy_is_compiled"),
        yes("headers", Type::Object(&HEADERS), "header_operations_keep_istios_order"),
    ],
};

/// Reads the spec.
pub(crate) fn read(spec: &Object<'_>, meta: Meta, sink: &mut Sink) -> VirtualService {
    let is_delegate = spec.texts("hosts").is_empty();
    if is_delegate {
        for field in ["gateways", "tls", "tcp"].into_iter().filter(|field| spec.has(field)) {
            let message = format!("a VirtualService without hosts is a delegate, and has no `{field}`");
            let found = sink.report(Code::ExclusiveFields, spec.key_span(field), message);
            found.help("list the hosts if it is none");
        }
    }
    let rules = spec.objects("http");
    if rules.is_empty() && !spec.has("tls") && !spec.has("tcp") {
        sink.report(Code::MissingField, spec.span(), "a VirtualService needs http, tls or tcp");
    }
    check_gateways(&spec.texts("gateways"), sink);
    let gateways: Vec<Box<str>> = spec.texts("gateways").iter().map(|text| text.value.into()).collect();
    let in_mesh = in_mesh(&gateways);
    let hosts = hosts(spec, in_mesh, &meta, sink);
    // A delegate's are refused as a whole.
    let raw = |field: &str| if is_delegate { Vec::new() } else { spec.objects(field) };
    VirtualService {
        is_delegate,
        gateways,
        http: rules.iter().map(|rule| http_rule(rule, in_mesh, &meta, is_delegate, sink)).collect(),
        tls: raw("tls").iter().map(|rule| tls_rule(rule, &hosts, &meta, sink)).collect(),
        tcp: raw("tcp").iter().map(|rule| tcp_rule(rule, &meta, sink)).collect(),
        hosts,
        exports: Exports::read(spec, &meta, sink),
        meta,
    }
}

fn hosts(spec: &Object<'_>, in_mesh: bool, meta: &Meta, sink: &mut Sink) -> Vec<Spanned<Box<str>>> {
    let written = spec.texts("hosts");
    let mut hosts: Vec<Spanned<Box<str>>> = Vec::new();
    for host in written.iter().filter(|host| check_host(host, sink)).collect::<Vec<_>>() {
        let full = meta.full_host(host.value);
        if hosts.iter().any(|other| super::covers(&other.value, &full) || super::covers(&full, &other.value))
        {
            let message = format!("`{}` is covered by another host of the list", host.value);
            sink.report(Code::DuplicateName, host.span, message);
        }
        if &*full == "*" && in_mesh {
            sink.report(Code::InvalidHost, host.span, "`*` alone cannot be bound to the mesh");
        }
        hosts.push(Spanned { value: full, span: host.span });
    }
    hosts
}

fn http_rule(rule: &Object<'_>, in_mesh: bool, meta: &Meta, in_delegate: bool, sink: &mut Sink) -> HttpRule {
    let headers = headers(rule, sink);
    let rewrite = rule.object("rewrite").map(|block| read_rewrite(&block, headers.as_ref(), sink));
    let does = does(rule, meta, in_delegate, sink);
    let authority = headers.as_ref().is_some_and(|headers| headers.authority.is_some())
        || rewrite.as_ref().is_some_and(|rewrite| rewrite.authority.is_some());
    let timeout = rule.duration("timeout");
    let read = HttpRule {
        name: rule.text("name").map_or("", |text| text.value).into(),
        span: rule.span(),
        origin: meta.origin(rule.span()),
        matches: rule.objects("match").iter().map(|block| match_block(block, in_mesh, meta, sink)).collect(),
        does,
        rewrite,
        timeout: match timeout {
            Some(zero) if zero.value.is_zero() => Some(Duration::ZERO),
            timeout => at_least_1ms(timeout, sink),
        },
        retries: rule.object("retries").map(|retries| read_retries(&retries, sink)),
        retries_span: rule.key_span("retries"),
        headers,
        fault: fault(rule, sink),
        cors: cors(rule, sink),
        mirrors: mirrors(rule, meta, sink),
    };
    let ignored = read.destinations().iter().filter(|_| authority);
    for second in ignored.filter_map(|destination| destination.headers.authority.as_ref()) {
        let message = "the authority of the destination has no effect";
        let found = sink.report(Code::IgnoredAuthority, second.span, message);
        found.label("the whole route sets another");
    }
    read
}

/// Istio's rules for what stands beside what.
fn does(rule: &Object<'_>, meta: &Meta, in_delegate: bool, sink: &mut Sink) -> Does {
    let direct = rule.object("directResponse").map(|response| read_direct(&response, sink));
    if let Some(delegate) = rule.object("delegate") {
        if in_delegate {
            let found = sink.report(
                Code::ExclusiveFields,
                rule.key_span("delegate"),
                "a delegate cannot delegate any further",
            );
            found.label("this VirtualService has no hosts, so it is a delegate");
        }
        exclude(rule, "delegate", &["route", "redirect"], sink);
        return Does::Delegate(read_delegate(&delegate, direct, meta));
    }
    if let Some(redirect) = rule.object("redirect") {
        exclude(rule, "redirect", &["route", "fault", "rewrite", "directResponse"], sink);
        return Does::Redirect(Box::new(read_redirect(&redirect, rule, sink)));
    }
    if let Some(direct) = direct {
        exclude(rule, "directResponse", &["route", "fault", "rewrite"], sink);
        return Does::Direct(direct);
    }
    let destinations = rule.objects("route");
    if destinations.is_empty() {
        let found = sink.report(Code::MissingField, rule.span(), "the rule does nothing");
        found.help("give it one of `route`, `redirect`, `directResponse`, `delegate`");
    }
    Does::Route(weighted(&destinations, meta, sink))
}

fn exclude(rule: &Object<'_>, action: &str, others: &[&str], sink: &mut Sink) {
    for other in others.iter().filter(|other| rule.has(other)) {
        let message = format!("a rule with `{action}` has no `{other}`");
        sink.report(Code::ExclusiveFields, rule.key_span(other), message);
    }
}
