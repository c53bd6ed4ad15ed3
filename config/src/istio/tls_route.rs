//! `TLSRoute`: rules for TLS that passes unopened, by the server name of its hello.

use super::{
    Meta, check_host, covers,
    destination::Destination,
    is_ip,
    tcp_route::{
        GATEWAYS, L4Match, PORT, ROUTE_DESTINATION, SOURCE_LABELS, SOURCE_NAMESPACE, destinations, l4_match,
    },
};
use crate::{
    fields::{Message, Object, Spanned, Type, yes},
    report::Code,
    sink::Sink,
};

/// One entry of `tls`.
#[derive(Debug, Clone)]
pub(crate) struct TlsRule {
    pub(crate) matches: Vec<TlsMatch>,
    pub(crate) destinations: Vec<Destination>,
}

/// One block of `match`.
#[derive(Debug, Clone)]
pub(crate) struct TlsMatch {
    /// At least one: a name, or a wildcard in the first label.
    pub(crate) sni_hosts: Vec<Box<str>>,
    pub(crate) l4: L4Match,
}

pub(super) static TLS_ROUTE: Message = Message {
    name: "TLSRoute",
    fields: &[
        yes("match", Type::List(&Type::Object(&TLS_MATCH)), "tls_routes_take_connections_by_server_name"),
        yes(
            "route",
            Type::List(&Type::Object(&ROUTE_DESTINATION)),
            "tls_routes_take_connections_by_server_name",
        ),
    ],
};

static TLS_MATCH: Message = Message {
    name: "TLSMatchAttributes",
    fields: &[
        yes("sniHosts", Type::List(&Type::Text), "tls_routes_take_connections_by_server_name"),
        yes("destinationSubnets", Type::List(&Type::Text), "tls_routes_take_connections_by_address_too"),
        PORT,
        SOURCE_LABELS,
        GATEWAYS,
        SOURCE_NAMESPACE,
    ],
};

/// `hosts` are those of the virtual service, which have to cover every server name.
pub(super) fn tls_rule(
    rule: &Object<'_>,
    hosts: &[Spanned<Box<str>>],
    meta: &Meta,
    sink: &mut Sink,
) -> TlsRule {
    let blocks = rule.objects("match");
    if blocks.is_empty() {
        let found = sink.report(Code::MissingField, rule.span(), "the rule has no match");
        found.help("give it `match` with `sniHosts`");
    }
    TlsRule {
        matches: blocks.iter().map(|block| tls_match(block, hosts, meta, sink)).collect(),
        destinations: destinations(rule, meta, sink),
    }
}

fn tls_match(block: &Object<'_>, hosts: &[Spanned<Box<str>>], meta: &Meta, sink: &mut Sink) -> TlsMatch {
    let written = block.texts("sniHosts");
    if written.is_empty() {
        sink.report(Code::MissingField, block.span(), "the match has no sniHosts");
    }
    let mut sni_hosts = Vec::new();
    for name in written.iter().filter(|name| check_host(name, sink)).collect::<Vec<_>>() {
        let lower = name.value.to_ascii_lowercase();
        // Hosts without a dot were written in full since.
        let known = [lower.as_str(), &*meta.full_host(&lower)];
        let covered = |host: &Spanned<Box<str>>| {
            known.iter().any(|name| *host.value == **name || covers(&host.value, name))
        };
        if !hosts.iter().any(covered) {
            let message = format!("no host of the VirtualService covers the server name `{}`", name.value);
            let found = sink.report(Code::UncoveredServerName, name.span, message);
            found.help("add it to `hosts`, as it is or by a wildcard");
        }
        if is_ip(name.value) {
            let found = sink.report(Code::SchemaWarning, name.span, "an address is no server name");
            found.label("clients do not send it");
        }
        sni_hosts.push(lower.into());
    }
    TlsMatch { sni_hosts, l4: l4_match(block, sink) }
}
