//! `Sidecar`: where to listen, and which services each listener carries.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use super::{
    Meta, PORT, ROOT_NAMESPACE, SELECTOR, connection_pool::CONNECTION_POOL, covers, destination::DESTINATION,
    later, selects,
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
    pub(crate) ingress: Vec<Ingress>,
    pub(crate) outbound: Option<OutboundMode>,
}

/// An explicit outbound listener.
#[derive(Debug)]
pub(crate) struct Egress {
    pub(crate) bind: Spanned<SocketAddr>,
    pub(crate) port: ServicePort,
    pub(crate) hosts: Vec<HostFilter>,
    pub(crate) span: Span,
}

/// An inbound listener.
#[derive(Debug)]
pub(crate) struct Ingress {
    pub(crate) bind: Spanned<SocketAddr>,
    pub(crate) port: ServicePort,
    pub(crate) endpoint: SocketAddr,
    pub(crate) span: Span,
}

/// `namespace/host` of `egress.hosts`.
#[derive(Debug)]
pub(crate) struct HostFilter {
    /// `None` is any namespace.
    namespace: Option<Box<str>>,
    host: Box<str>,
}

impl HostFilter {
    /// The host may itself be a wildcard, of a virtual service.
    pub(crate) fn takes(&self, namespace: &str, host: &str) -> bool {
        let here = self.namespace.as_deref().is_none_or(|wanted| wanted == namespace);
        here && (covers(&self.host, host) || covers(host, &self.host))
    }
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
        warned("inboundConnectionPool", Type::Object(&CONNECTION_POOL), "inbound clusters have no limits"),
        yes("outboundTrafficPolicy", Type::Object(&OUTBOUND), "unknown_hosts_follow_the_outbound_policy"),
    ],
};

static INGRESS: Message = Message {
    name: "IstioIngressListener",
    fields: &[
        yes("port", Type::Object(&PORT), "an_ingress_listener_forwards_to_its_endpoint"),
        yes("bind", Type::Text, "an_ingress_listener_forwards_to_its_endpoint"),
        warned(
            "captureMode",
            Type::Text,
            "inbound traffic is not captured; the listener is bound to its port",
        ),
        yes("defaultEndpoint", Type::Text, "an_ingress_listener_forwards_to_its_endpoint"),
        warned("tls", Type::Object(&later::SERVER_TLS), "listeners are plain text"),
        warned("connectionPool", Type::Object(&CONNECTION_POOL), "inbound clusters have no limits"),
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
    Sidecar {
        selector: spec.object("workloadSelector").map(|selector| selector.labels("labels")),
        egress: egress.iter().filter_map(|entry| egress_listener(entry, &meta, sink)).collect(),
        ingress: ingress.iter().filter_map(|entry| ingress_listener(entry, node, sink)).collect(),
        outbound: spec.object("outboundTrafficPolicy").map(|policy| outbound_mode(&policy)),
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
pub(crate) fn choose<'s>(sidecars: &'s [Arc<Sidecar>], node: &Node, sink: &mut Sink) -> Option<&'s Sidecar> {
    let rank = |sidecar: &Sidecar| match &sidecar.selector {
        Some(labels) if sidecar.meta.namespace == node.namespace && selects(labels, &node.labels) => Some(0),
        None if sidecar.meta.namespace == node.namespace => Some(1),
        None if &*sidecar.meta.namespace == ROOT_NAMESPACE => Some(2),
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

fn egress_listener(entry: &Object<'_>, meta: &Meta, sink: &mut Sink) -> Option<Egress> {
    let hosts: Vec<_> =
        entry.texts("hosts").iter().filter_map(|text| host_filter(text, meta, sink)).collect();
    if !entry.has("hosts") {
        sink.report(Code::MissingField, entry.span(), "the egress listener has no hosts");
    }
    let Some(port) = entry.object("port") else {
        let message = "an egress listener without a port needs captured traffic";
        let found = sink.report(Code::NotHonoured, entry.span(), message);
        found.help("give it `port`, `bind` and `captureMode: NONE`");
        return None;
    };
    if let Some(mode) = entry.text("captureMode").filter(|mode| mode.value == "IPTABLES") {
        let found = sink.report(Code::NotHonoured, mode.span, "traffic is not captured yet");
        found.label("this listener is left out").help("use `captureMode: NONE`");
        return None;
    }
    let port = service_port(&port, sink)?;
    let bind = bind(entry, IpAddr::V4(Ipv4Addr::LOCALHOST), sink)?;
    let bind = Spanned { value: SocketAddr::new(bind.value, port.number), span: bind.span };
    Some(Egress { bind, port, hosts, span: entry.span() })
}

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

fn host_filter(text: &Spanned<&str>, meta: &Meta, sink: &mut Sink) -> Option<HostFilter> {
    let Some((namespace, host)) = text.value.split_once('/') else {
        let found = sink.report(Code::InvalidHost, text.span, format!("`{}` has no namespace", text.value));
        found.help("write `./host`, `*/host` or `namespace/host`");
        return None;
    };
    if namespace == "~" {
        return None;
    }
    if namespace.starts_with('~') {
        sink.report(Code::NotExecutable, text.span, "exclusions are not built yet");
        return None;
    }
    let namespace = match namespace {
        "*" => None,
        "." => Some(meta.namespace.as_ref().into()),
        name => Some(name.into()),
    };
    Some(HostFilter { namespace, host: host.to_ascii_lowercase().into() })
}

fn ingress_listener(entry: &Object<'_>, node: &Node, sink: &mut Sink) -> Option<Ingress> {
    let Some(port) = entry.object("port") else {
        sink.report(Code::MissingField, entry.span(), "the ingress listener has no port");
        return None;
    };
    let port = service_port(&port, sink)?;
    let Some(target) = entry.text("defaultEndpoint") else {
        let found =
            sink.report(Code::NotExecutable, entry.span(), "the ingress listener has no defaultEndpoint");
        found.help("write `defaultEndpoint: 127.0.0.1:PORT`");
        return None;
    };
    let Ok(mut endpoint) = target.value.parse::<SocketAddr>() else {
        let message = format!("`{}` is not an address with a port", target.value);
        let found = sink.report(Code::InvalidEndpoint, target.span, message);
        found.help("write `127.0.0.1:PORT`; unix sockets are not built yet");
        return None;
    };
    // Istio: 0.0.0.0 is the pod's own address.
    if endpoint.ip().is_unspecified() {
        endpoint.set_ip(node.address.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
    let bind = bind(entry, IpAddr::V4(Ipv4Addr::UNSPECIFIED), sink)?;
    let bind = Spanned { value: SocketAddr::new(bind.value, port.number), span: bind.span };
    Some(Ingress { bind, port, endpoint, span: entry.span() })
}
