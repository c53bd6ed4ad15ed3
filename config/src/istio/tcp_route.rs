//! `TCPRoute`: rules for connections of which nothing is known but their address.

use super::{
    Meta, check_gateways, check_labels,
    destination::{DESTINATION, Destination, weighted},
    in_mesh, port, selects,
};
use crate::{
    fields::{Field, Labels, Message, Object, Spanned, Type, warned, yes},
    report::Code,
    sink::{Sink, Span},
    snapshot::{Node, Subnet},
};

/// One entry of `tcp`.
#[derive(Debug, Clone)]
pub(crate) struct TcpRule {
    pub(crate) span: Span,
    /// Empty: everything.
    pub(crate) matches: Vec<L4Match>,
    pub(crate) destinations: Vec<Destination>,
}

/// One block of `match`, of `tcp` or `tls`.
#[derive(Debug, Clone)]
pub(crate) struct L4Match {
    pub(crate) span: Span,
    /// Empty: every address.
    pub(crate) subnets: Vec<Subnet>,
    port: Option<u16>,
    source_labels: Labels,
    source_namespace: Option<Box<str>>,
    gateways: Vec<Box<str>>,
}

impl L4Match {
    /// What is known of the proxy is decided now. Unlike those of `http`, a block with gateways is asked for the rest too
    /// (Istio `matchTCP`).
    pub(crate) fn applies(&self, node: &Node, port: u16) -> bool {
        in_mesh(&self.gateways)
            && selects(&self.source_labels, &node.labels)
            && self.source_namespace.as_deref().is_none_or(|wanted| *wanted == *node.namespace)
            && self.port.is_none_or(|wanted| wanted == port)
    }

    /// No conditions at all.
    pub(crate) fn takes_all(&self) -> bool {
        self.subnets.is_empty()
            && self.port.is_none()
            && self.source_labels.is_empty()
            && self.source_namespace.is_none()
            && self.gateways.is_empty()
    }
}

pub(super) static TCP_ROUTE: Message = Message {
    name: "TCPRoute",
    fields: &[
        yes("match", Type::List(&Type::Object(&L4_MATCH)), "tcp_routes_take_connections_by_address"),
        yes("route", Type::List(&Type::Object(&ROUTE_DESTINATION)), "tcp_routes_split_by_weight"),
    ],
};

const STATIC: &str = "static_conditions_of_connections_are_decided_when_compiling";
pub(super) const PORT: Field = yes("port", Type::Int, STATIC);
pub(super) const SOURCE_LABELS: Field = yes("sourceLabels", Type::Map(&Type::Text), STATIC);
pub(super) const GATEWAYS: Field = yes("gateways", Type::List(&Type::Text), STATIC);
pub(super) const SOURCE_NAMESPACE: Field = yes("sourceNamespace", Type::Text, STATIC);

static L4_MATCH: Message = Message {
    name: "L4MatchAttributes",
    fields: &[
        yes("destinationSubnets", Type::List(&Type::Text), "tcp_routes_take_connections_by_address"),
        PORT,
        warned("sourceSubnet", Type::Text, "Istio gives it to no proxy"),
        SOURCE_LABELS,
        GATEWAYS,
        SOURCE_NAMESPACE,
    ],
};

pub(super) static ROUTE_DESTINATION: Message = Message {
    name: "RouteDestination",
    fields: &[
        yes("destination", Type::Object(&DESTINATION), "tcp_routes_split_by_weight"),
        yes("weight", Type::Int, "tcp_routes_split_by_weight"),
    ],
};

pub(super) fn tcp_rule(rule: &Object<'_>, meta: &Meta, sink: &mut Sink) -> TcpRule {
    TcpRule {
        span: rule.span(),
        matches: rule.objects("match").iter().map(|block| l4_match(block, sink)).collect(),
        destinations: destinations(rule, meta, sink),
    }
}

pub(super) fn destinations(rule: &Object<'_>, meta: &Meta, sink: &mut Sink) -> Vec<Destination> {
    let entries = rule.objects("route");
    if entries.is_empty() {
        let found = sink.report(Code::MissingField, rule.span(), "the rule has no route");
        found.help("give it `route` with at least one destination");
    }
    weighted(&entries, meta, sink)
}

pub(super) fn l4_match(block: &Object<'_>, sink: &mut Sink) -> L4Match {
    let texts = block.texts("destinationSubnets");
    check_labels(block.entries("sourceLabels"), sink);
    check_gateways(&block.texts("gateways"), sink);
    L4Match {
        span: block.span(),
        subnets: texts.iter().filter_map(|text| subnet(text, sink)).collect(),
        port: block.int("port").filter(|number| number.value != 0).and_then(|number| port(number, sink)),
        source_labels: block.labels("sourceLabels"),
        source_namespace: block
            .text("sourceNamespace")
            .filter(|text| !text.value.is_empty())
            .map(|text| text.value.into()),
        gateways: block.texts("gateways").iter().map(|text| text.value.into()).collect(),
    }
}

fn subnet(text: &Spanned<&str>, sink: &mut Sink) -> Option<Subnet> {
    let subnet = text.value.parse().ok();
    if subnet.is_none() {
        let message = format!("`{}` is not a range of addresses", text.value);
        sink.report(Code::InvalidSubnet, text.span, message).help("write it like `10.0.0.0/8` or `10.1.2.3`");
    }
    subnet
}
