//! `Sidecar`: where to listen, and which services each listener carries, or what is carried of captured traffic.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use super::{
    Meta, PORT, SELECTOR,
    connection_pool::{CONNECTION_POOL, ConnectionPool, connection_pool},
    destination::DESTINATION,
    imports::Imports,
    selector, selects,
    server_tls::{IngressTls, SERVER_TLS, ingress_tls},
    sidecar_checks,
};
use crate::{
    fields::{Labels, Message, Object, Spanned, Type, warned, yes},
    report::Code,
    sink::{Sink, Span},
    snapshot::Node,
};

use super::service_entry::{ServicePort, service_port};

/// One resource.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) meta: Meta,
    pub(crate) selector: Option<Labels>,
    pub(crate) egress: Vec<Egress>,
    /// The listener without a port, for captured traffic; everything, if there is no egress at all.
    pub(crate) catch_all: Option<Imports>,
    pub(crate) ingress: Vec<Ingress>,
    pub(crate) outbound: Option<OutboundMode>,
    /// `inboundConnectionPool`
    pub(crate) inbound_pool: Option<ConnectionPool>,
}

impl Sidecar {
    /// True if one of its listeners carries the service.
    pub(crate) fn imports(&self, namespace: &str, host: &str) -> bool {
        let listeners = self.egress.iter().map(|egress| &egress.hosts).chain(&self.catch_all);
        listeners.into_iter().any(|imports| imports.service(namespace, host))
    }
}

/// Where the connections of a listener come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// A socket of its own.
    Bound(SocketAddr),
    /// Captured traffic to its port: to this address alone, if one was written.
    Captured(Option<IpAddr>),
}

/// An outbound listener.
#[derive(Debug)]
pub(crate) struct Egress {
    pub(crate) door: Spanned<Door>,
    pub(crate) port: ServicePort,
    pub(crate) hosts: Imports,
    pub(crate) span: Span,
}

/// An inbound listener.
#[derive(Debug)]
pub(crate) struct Ingress {
    pub(crate) bind: Spanned<SocketAddr>,
    /// It has no socket of its own: captured traffic to its port is meant.
    pub(crate) captured: bool,
    pub(crate) port: ServicePort,
    pub(crate) endpoint: SocketAddr,
    pub(crate) tls: Option<IngressTls>,
    /// Before the `inboundConnectionPool` of all.
    pub(crate) pool: Option<ConnectionPool>,
    pub(crate) span: Span,
}

/// `outboundTrafficPolicy.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutboundMode {
    AllowAny,
    RegistryOnly,
}

pub(crate) static SIDECAR: Message = Message {
    name: "Sidecar",
    fields: &[
        yes("workloadSelector", Type::Object(&SELECTOR), "the_selecting_sidecar_wins"),
        yes("ingress", Type::List(&Type::Object(&INGRESS)), "an_ingress_listener_forwards_to_its_endpoint"),
        yes("egress", Type::List(&Type::Object(&EGRESS)), "the_seed_compiles"),
        yes(
            "inboundConnectionPool",
            Type::Object(&CONNECTION_POOL),
            "inbound_pools_come_from_the_listener_the_sidecar_or_the_rule_of_the_own_service",
        ),
        yes("outboundTrafficPolicy", Type::Object(&OUTBOUND), "unknown_hosts_follow_the_outbound_policy"),
    ],
};

static INGRESS: Message = Message {
    name: "IstioIngressListener",
    fields: &[
        yes("port", Type::Object(&PORT), "an_ingress_listener_forwards_to_its_endpoint"),
        yes("bind", Type::Text, "an_ingress_listener_forwards_to_its_endpoint"),
        yes(
            "captureMode",
            Type::Enum(&["DEFAULT", "IPTABLES", "NONE"]),
            "an_ingress_listener_takes_its_port_of_captured_traffic",
        ),
        yes("defaultEndpoint", Type::Text, "an_ingress_listener_forwards_to_its_endpoint"),
        yes(
            "tls",
            Type::Object(&SERVER_TLS),
            "an_ingress_listener_ends_tls_of_its_own_where_the_mesh_has_none",
        ),
        yes(
            "connectionPool",
            Type::Object(&CONNECTION_POOL),
            "inbound_pools_come_from_the_listener_the_sidecar_or_the_rule_of_the_own_service",
        ),
    ],
};

static EGRESS: Message = Message {
    name: "IstioEgressListener",
    fields: &[
        yes("port", Type::Object(&PORT), "the_seed_compiles"),
        yes("bind", Type::Text, "the_seed_compiles"),
        yes(
            "captureMode",
            Type::Enum(&["DEFAULT", "IPTABLES", "NONE"]),
            "listeners_that_need_capture_are_left_out",
        ),
        yes("hosts", Type::List(&Type::Text), "egress_hosts_limit_what_a_listener_carries"),
    ],
};

pub(crate) static OUTBOUND: Message = Message {
    name: "OutboundTrafficPolicy",
    fields: &[
        yes(
            "mode",
            Type::Enum(&["REGISTRY_ONLY", "ALLOW_ANY", "ALLOW_ANY_DYNAMIC_DNS"]),
            "unknown_hosts_follow_the_outbound_policy",
        ),
        warned("egressProxy", Type::Object(&DESTINATION), "unknown hosts are not forwarded"),
    ],
};

/// Reads the spec.
pub(crate) fn read(spec: &Object<'_>, meta: Meta, node: &Node, sink: &mut Sink) -> Sidecar {
    let egress = spec.objects("egress");
    let ingress = spec.objects("ingress");
    sidecar_checks::check(spec, &meta, sink);
    Sidecar {
        selector: selector(spec, "workloadSelector", "labels", sink),
        catch_all: catch_all(&egress, node, sink),
        egress: egress.iter().filter_map(|entry| egress_listener(entry, node, sink)).collect(),
        ingress: ingress.iter().filter_map(|entry| ingress_listener(entry, node, sink)).collect(),
        outbound: spec.object("outboundTrafficPolicy").map(|policy| outbound_mode(&policy)),
        inbound_pool: spec.object("inboundConnectionPool").map(|block| connection_pool(&block, sink)),
        meta,
    }
}

pub(crate) fn outbound_mode(policy: &Object<'_>) -> OutboundMode {
    match policy.text("mode").map(|mode| mode.value) {
        // Istio's zero value: a policy without a mode.
        Some("REGISTRY_ONLY") | None => OutboundMode::RegistryOnly,
        Some(_) => OutboundMode::AllowAny,
    }
}

/// Istio's choice: selector before namespace before root namespace, the oldest first.
pub(crate) fn choose<'s>(
    sidecars: &'s [Arc<Sidecar>],
    root_namespace: &str,
    node: &Node,
    sink: &mut Sink,
) -> Option<&'s Sidecar> {
    let rank = |sidecar: &Sidecar| match &sidecar.selector {
        Some(labels) if sidecar.meta.namespace == node.namespace && selects(labels, &node.labels) => Some(0),
        None if sidecar.meta.namespace == node.namespace => Some(1),
        None if &*sidecar.meta.namespace == root_namespace => Some(2),
        _ => None,
    };
    let mut ranked: Vec<_> =
        sidecars.iter().filter_map(|sidecar| Some((rank(sidecar)?, &**sidecar))).collect();
    ranked.sort_by(|a, b| (a.0, a.1.meta.age()).cmp(&(b.0, b.1.meta.age())));
    let (best, chosen) = *ranked.first()?;
    for (_, other) in ranked.iter().skip(1).filter(|(rank, _)| *rank == best) {
        let message = format!("{} has no effect", other.meta.resource());
        let found = sink.report(Code::SeveralSidecars, other.meta.span, message);
        found.note(format!("{} applies", chosen.meta.reference()));
        found.help("one Sidecar applies to a proxy: give the others a workloadSelector");
    }
    Some(chosen)
}

/// Istio: only the last listener may be one for all ports.
fn catch_all(egress: &[Object<'_>], node: &Node, sink: &mut Sink) -> Option<Imports> {
    let Some((last, others)) = egress.split_last() else {
        return Some(Imports::everything());
    };
    for entry in others.iter().filter(|entry| !entry.has("port")) {
        let message = "only the last egress listener may be without a port";
        sink.report(Code::ExclusiveFields, entry.span(), message);
    }
    if last.has("port") {
        return None;
    }
    if !node.interception.is_on() {
        let message = "an egress listener without a port needs captured traffic";
        let found = sink.report(Code::NotHonoured, last.span(), message);
        found.label("is not bound").help(CAPTURE);
    }
    Some(Imports::read(&last.texts("hosts"), &node.namespace, sink))
}

fn egress_listener(entry: &Object<'_>, node: &Node, sink: &mut Sink) -> Option<Egress> {
    if !entry.has("hosts") {
        sink.report(Code::MissingField, entry.span(), "the egress listener has no hosts");
    }
    let port = entry.object("port")?;
    let hosts = Imports::read(&entry.texts("hosts"), &node.namespace, sink);
    let captured = is_captured(entry, node);
    if let Some(mode) = entry.text("captureMode").filter(|mode| mode.value == "IPTABLES" && !captured) {
        let found = sink.report(Code::NotHonoured, mode.span, "traffic of this proxy is not captured");
        found.label("this listener is left out").help(CAPTURE);
        return None;
    }
    let port = service_port(&port, sink)?;
    let bind = bind(entry, IpAddr::V4(Ipv4Addr::LOCALHOST), sink)?;
    let door = match captured {
        true => {
            let written = entry.text("bind").is_some_and(|text| !text.value.is_empty());
            Door::Captured(Some(bind.value).filter(|ip| written && !ip.is_unspecified()))
        }
        false => Door::Bound(SocketAddr::new(bind.value, port.number)),
    };
    Some(Egress { door: Spanned { value: door, span: bind.span }, port, hosts, span: entry.span() })
}

/// Istio: `DEFAULT` is as the proxy is run.
fn is_captured(entry: &Object<'_>, node: &Node) -> bool {
    node.interception.is_on() && entry.text("captureMode").is_none_or(|mode| mode.value != "NONE")
}

const CAPTURE: &str =
    "give it `port`, `bind` and `captureMode: NONE`, or run the proxy with `--interception-mode`";

fn bind(entry: &Object<'_>, default: IpAddr, sink: &mut Sink) -> Option<Spanned<IpAddr>> {
    let Some(text) = entry.text("bind").filter(|text| !text.value.is_empty()) else {
        return Some(Spanned { value: default, span: entry.span() });
    };
    let Ok(value) = text.value.parse() else {
        let message = format!("`{}` is not an IP address", text.value);
        sink.report(Code::InvalidValue, text.span, message).help("unix sockets are not built yet");
        return None;
    };
    Some(Spanned { value, span: text.span })
}

fn ingress_listener(entry: &Object<'_>, node: &Node, sink: &mut Sink) -> Option<Ingress> {
    let Some(port) = entry.object("port") else {
        sink.report(Code::MissingField, entry.span(), "the ingress listener has no port");
        return None;
    };
    let written = port;
    let port = service_port(&written, sink)?;
    let Some(target) = entry.text("defaultEndpoint") else {
        let found =
            sink.report(Code::NotExecutable, entry.span(), "the ingress listener has no defaultEndpoint");
        found.help("write `defaultEndpoint: 127.0.0.1:PORT`");
        return None;
    };
    if target.value.starts_with("unix:") {
        let found = sink.report(Code::NotExecutable, target.span, "unix sockets cannot be connected to yet");
        found.help("let the workload listen on a port, and write `defaultEndpoint: 127.0.0.1:PORT`");
        return None;
    }
    let parsed = target.value.parse::<SocketAddr>().ok();
    // Istio's validation: the workload, by loopback or by the pod's address.
    let Some(mut endpoint) = parsed.filter(|to| is_localhost(to.ip()) || to.ip().is_unspecified()) else {
        let message = format!("`{}` is no port of the workload", target.value);
        let found = sink.report(Code::InvalidEndpoint, target.span, message);
        found.help("write `127.0.0.1:PORT`, `[::1]:PORT`, or `0.0.0.0:PORT` for the address of the pod");
        return None;
    };
    // Istio: 0.0.0.0 is the pod's own address.
    if endpoint.ip().is_unspecified() {
        endpoint.set_ip(node.address.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
    let bind = bind(entry, IpAddr::V4(Ipv4Addr::UNSPECIFIED), sink)?;
    let bind = Spanned { value: SocketAddr::new(bind.value, port.number), span: bind.span };
    let pool = entry.object("connectionPool").map(|block| connection_pool(&block, sink));
    let tls = match entry.object("tls") {
        Some(block) => Some(ingress_tls(&block, &written, sink)?),
        None => None,
    };
    let captured = is_captured(entry, node);
    if let Some(mode) = entry.text("captureMode").filter(|mode| mode.value == "IPTABLES" && !captured) {
        let found = sink.report(Code::NotHonoured, mode.span, "traffic of this proxy is not captured");
        found.label("the listener is bound to its port");
    }
    Some(Ingress { bind, captured, port, endpoint, tls, pool, span: entry.span() })
}

fn is_localhost(ip: IpAddr) -> bool {
    ip == IpAddr::V4(Ipv4Addr::LOCALHOST) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST)
}
