//! `Service` (v1): a host of the mesh with its addresses and ports. Its endpoints stand in other documents.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::annotation;
use crate::{
    fields::{Labels, Message, Object, Spanned, Type, moot, yes},
    istio::{
        Exports, Meta, PortProtocol, port, protocol_of, selects,
        service_entry::{Address, ServicePort, Workload, address_of},
    },
    report::Code,
    sink::Sink,
    yaml::Node,
};

/// One resource.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) meta: Meta,
    /// Full name in lower case.
    pub(crate) host: Arc<str>,
    /// ClusterIPs.
    pub(crate) addresses: Vec<Spanned<Box<str>>>,
    pub(crate) headless: bool,
    /// `externalName`: the service is an alias.
    pub(crate) external: Option<Spanned<Address>>,
    pub(crate) ports: Vec<KubernetesPort>,
    selector: Option<Labels>,
    /// The first of `ipFamilies`: Istio's sidecars are not dual-stack by default.
    pub(crate) family: Option<Family>,
    pub(crate) exports: Exports,
    /// `trafficDistribution`: endpoints that are near come first.
    pub(crate) close: bool,
}

/// One entry of `ports`.
#[derive(Debug)]
pub(crate) struct KubernetesPort {
    pub(crate) port: ServicePort,
    target: Option<Target>,
}

/// `targetPort`
#[derive(Debug)]
enum Target {
    Number(u16),
    Name(Box<str>),
}

/// Version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

const NODE: &str = "a setting of the node's network";
const OUTSIDE: &str = "for traffic from outside of the cluster";

pub(crate) static SERVICE: Message = Message {
    name: "Service",
    fields: &[
        yes("clusterIP", Type::Text, "a_kubernetes_service_answers_to_its_names_and_addresses"),
        yes("clusterIPs", Type::List(&Type::Text), "a_kubernetes_service_answers_to_its_names_and_addresses"),
        yes(
            "ports",
            Type::List(&Type::Object(&SERVICE_PORT)),
            "endpoints_come_from_slices_by_the_name_of_the_port",
        ),
        yes("selector", Type::Map(&Type::Text), "a_kubernetes_service_selects_workload_entries"),
        yes("ipFamilies", Type::List(&Type::Text), "slices_of_the_first_ip_family_count"),
        yes("externalName", Type::Text, "an_alias_is_looked_up"),
        yes("type", Type::Text, "an_alias_is_looked_up"),
        moot("publishNotReadyAddresses", "Kubernetes lists such endpoints as ready"),
        yes("trafficDistribution", Type::Text, "a_kubernetes_service_prefers_what_is_close"),
        moot("internalTrafficPolicy", "`Cluster` is what is done; `Local` is a warning"),
        moot("sessionAffinity", "Istio ignores it: write a consistentHash"),
        moot("sessionAffinityConfig", "Istio ignores it: write a consistentHash"),
        moot("ipFamilyPolicy", NODE),
        moot("topologyKeys", NODE),
        moot("externalIPs", OUTSIDE),
        moot("externalTrafficPolicy", OUTSIDE),
        moot("healthCheckNodePort", OUTSIDE),
        moot("loadBalancerIP", OUTSIDE),
        moot("loadBalancerClass", OUTSIDE),
        moot("loadBalancerSourceRanges", OUTSIDE),
        moot("allocateLoadBalancerNodePorts", OUTSIDE),
    ],
};

static SERVICE_PORT: Message = Message {
    name: "ServicePort",
    fields: &[
        yes("name", Type::Text, "endpoints_come_from_slices_by_the_name_of_the_port"),
        yes("port", Type::Int, "endpoints_come_from_slices_by_the_name_of_the_port"),
        yes("protocol", Type::Text, "the_protocol_of_a_kubernetes_port_is_istios"),
        yes("appProtocol", Type::Text, "the_protocol_of_a_kubernetes_port_is_istios"),
        yes("targetPort", Type::Text, "a_kubernetes_service_selects_workload_entries"),
        moot("nodePort", OUTSIDE),
    ],
};

/// Who sees the service: names by commas.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// Reads the spec; `None` after a report.
pub(crate) fn read(document: &Node, spec: &Object<'_>, meta: Meta, sink: &mut Sink) -> Option<Service> {
    let is_alias = spec.text("type").is_some_and(|kind| kind.value == "ExternalName");
    let external = if is_alias { Some(external(spec, sink)?) } else { None };
    let cluster_ip = spec.text("clusterIP");
    let written = spec.texts("clusterIPs");
    let addresses = if written.is_empty() { cluster_ip.into_iter().collect() } else { written };
    if let Some(policy) = spec.text("internalTrafficPolicy").filter(|policy| policy.value == "Local") {
        let found = sink.report(Code::NotHonoured, policy.span, "endpoints are not told apart by their node");
        found.label("endpoints of all nodes are used");
    }
    let distribution = spec.text("trafficDistribution");
    if let Some(distribution) = distribution.filter(|text| text.value == "PreferSameNode") {
        let message = "endpoints are not told apart by their node";
        let found = sink.report(Code::NotHonoured, distribution.span, message);
        found.label("this does as `PreferSameZone`");
    }
    let close = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    let mut ports: Vec<_> =
        spec.objects("ports").iter().filter_map(|entry| service_port(entry, sink)).collect();
    // A number may serve TCP and UDP: what can be carried is found first.
    ports.sort_by_key(|entry| entry.port.protocol == PortProtocol::Udp);
    let exports = annotation(document, EXPORT_TO).map(|text| {
        let names = text.value.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(|value| Spanned { value, span: text.span }).collect::<Vec<_>>()
    });
    Some(Service {
        host: meta.domain.host(&meta.name, &meta.namespace).into(),
        addresses: addresses.iter().filter_map(address).collect(),
        headless: cluster_ip.is_some_and(|ip| ip.value == "None"),
        external,
        ports,
        selector: Some(spec.labels("selector")).filter(|labels| !labels.is_empty()),
        family: spec.texts("ipFamilies").first().and_then(|family| Family::read(family.value)),
        exports: Exports::of(&exports.unwrap_or_default(), &meta.namespace, true, sink),
        close: distribution.is_some_and(|text| close.contains(&text.value)),
        meta,
    })
}

/// Where an alias leads; `None` after a report.
fn external(spec: &Object<'_>, sink: &mut Sink) -> Option<Spanned<Address>> {
    let Some(name) = spec.text("externalName") else {
        sink.report(Code::MissingField, spec.span(), "a Service of type ExternalName needs externalName");
        return None;
    };
    Some(Spanned { value: address_of(&name, true, sink)?, span: name.span })
}

/// `None` for headless services and those that have no address yet.
fn address(text: &Spanned<&str>) -> Option<Spanned<Box<str>>> {
    text.value.parse::<IpAddr>().ok().map(|_| Spanned { value: text.value.into(), span: text.span })
}

impl Family {
    pub(crate) fn read(word: &str) -> Option<Self> {
        match word {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }
}

fn service_port(entry: &Object<'_>, sink: &mut Sink) -> Option<KubernetesPort> {
    let Some(number) = entry.int("port") else {
        sink.report(Code::MissingField, entry.span(), "the port has no number");
        return None;
    };
    let number = port(number, sink)?;
    let name = entry.text("name").map_or("", |text| text.value);
    let target = entry.text("targetPort").filter(|target| !matches!(target.value, "" | "0"));
    Some(KubernetesPort {
        port: ServicePort {
            number,
            name: name.into(),
            protocol: protocol(
                number,
                name,
                entry.text("protocol").map_or("TCP", |text| text.value),
                entry.text("appProtocol").map(|text| text.value),
            ),
            target: None,
        },
        target: target.map(|text| match text.value.parse() {
            Ok(number) => Target::Number(number),
            Err(_) => Target::Name(text.value.into()),
        }),
    })
}

/// Istio's `ConvertProtocol`: UDP, the application protocol, the prefix of the name, ports whose servers speak first.
fn protocol(number: u16, name: &str, transport: &str, application: Option<&str>) -> PortProtocol {
    if transport != "TCP" {
        return PortProtocol::Udp;
    }
    match application {
        Some("kubernetes.io/h2c") => return PortProtocol::Http2,
        Some("kubernetes.io/ws") => return PortProtocol::Http1,
        Some("kubernetes.io/wss") => return PortProtocol::Tls,
        _ => {}
    }
    match (protocol_of(application.unwrap_or(name), ""), number) {
        (PortProtocol::Sniffed, 25 | 53 | 3306 | 27017) => PortProtocol::Tcp,
        (protocol, _) => protocol,
    }
}

impl Service {
    /// Namespace and name.
    pub(crate) fn key(&self) -> (&str, &str) {
        (&self.meta.namespace, &self.meta.name)
    }

    /// Workload entries of its namespace, with the ports at which they serve it.
    pub(crate) fn selected(&self, workloads: &[Arc<(Meta, Workload)>]) -> Vec<Workload> {
        let Some(selector) = &self.selector else { return Vec::new() };
        let workloads = workloads.iter().map(|one| &**one);
        let here = workloads.filter(|(meta, _)| meta.namespace == self.meta.namespace);
        let chosen = here.filter(|(_, workload)| selects(selector, &workload.labels));
        chosen.map(|(_, workload)| Workload { ports: self.served_by(workload), ..workload.clone() }).collect()
    }

    /// A named target is a port of the workload. Without a target its port of the same name counts, else the number.
    fn served_by(&self, workload: &Workload) -> BTreeMap<Arc<str>, u16> {
        let served = self.ports.iter().filter_map(|KubernetesPort { port, target }| {
            let number = match target {
                Some(Target::Number(number)) => *number,
                Some(Target::Name(name)) => *workload.ports.get(&**name)?,
                None => workload.ports.get(&port.name).copied().unwrap_or(port.number),
            };
            Some((Arc::clone(&port.name), number))
        });
        served.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_protocol_beats_the_name_and_well_known_ports_are_tcp() {
        use PortProtocol::{Http1, Http2, Sniffed, Tcp, Tls, Udp};
        for (number, name, transport, application, expected) in [
            (80, "http-web", "TCP", None, Http1),
            (80, "GRPC-api", "TCP", None, Http2),
            (80, "grpc-web-x", "TCP", None, Http1),
            (80, "http", "UDP", None, Udp),
            (80, "http", "TCP", Some("kubernetes.io/h2c"), Http2),
            (80, "tcp", "TCP", Some("kubernetes.io/ws"), Http1),
            (80, "http", "TCP", Some("kubernetes.io/wss"), Tls),
            (80, "http", "TCP", Some("grpc"), Http2),
            (80, "http", "TCP", Some("example.com/mine"), Sniffed),
            (80, "", "TCP", None, Sniffed),
            (3306, "", "TCP", None, Tcp),
            (3306, "db", "TCP", Some("example.com/mine"), Tcp),
            (3306, "http", "TCP", None, Http1),
            (53, "dns", "SCTP", None, Udp),
        ] {
            assert_eq!(
                protocol(number, name, transport, application),
                expected,
                "{number} {name} {application:?}"
            );
        }
    }
}
