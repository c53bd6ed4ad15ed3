//! `ServiceEntry` and `WorkloadEntry`: the services, their ports and their endpoints as written.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{
    Exports, Meta, PORT, PortProtocol, SELECTOR, check_labels, check_name, client_tls::subjects, port,
    protocol_of, selector, service_entry_checks,
};
use crate::{
    fields::{Labels, Message, Object, Spanned, Type, warned, yes},
    report::Code,
    sink::{Sink, Span},
    snapshot::{Locality, Subnet},
};

/// One resource.
#[derive(Debug)]
pub(crate) struct ServiceEntry {
    pub(crate) meta: Meta,
    pub(crate) hosts: Vec<Spanned<Box<str>>>,
    pub(crate) addresses: Vec<Spanned<Box<str>>>,
    /// Ranges among the addresses.
    pub(crate) ranges: Vec<Subnet>,
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) resolution: Spanned<Resolution>,
    /// With the ports at which they serve the entry's.
    pub(crate) endpoints: Arc<[Workload]>,
    pub(crate) selector: Option<Labels>,
    /// `MESH_INTERNAL`: the selector selects pods too, and mutual TLS is automatic.
    pub(crate) internal: bool,
    /// `subjectAltNames`
    pub(crate) subjects: Box<[Arc<str>]>,
    pub(crate) exports: Exports,
}

impl ServiceEntry {
    /// What is looked up where no endpoint is written: the host itself.
    pub(crate) fn by_itself(&self, host: &Spanned<Box<str>>) -> Workload {
        let workload = Workload {
            address: Address::Name(host.value.as_ref().into()),
            ports: BTreeMap::new(),
            labels: Labels::new(),
            weight: 1,
            locality: None,
            account: Account::None,
            span: host.span,
        };
        Workload { ports: served_by(&self.ports, &workload), ..workload }
    }
}

/// Where a workload serves each port: its own port of that name, else the target port, else the port itself.
pub(crate) fn served_by(ports: &[ServicePort], workload: &Workload) -> BTreeMap<Arc<str>, u16> {
    let served = ports.iter().map(|port| {
        let own = workload.ports.get(&port.name).copied();
        (Arc::clone(&port.name), own.or(port.target).unwrap_or(port.number))
    });
    served.collect()
}

/// One entry of `ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub(crate) number: u16,
    pub(crate) name: Arc<str>,
    pub(crate) protocol: PortProtocol,
    pub(crate) target: Option<u16>,
}

/// How endpoints are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolution {
    None,
    Static,
    /// Names are looked up.
    Dns {
        /// Only the first address of each answer counts.
        first_only: bool,
    },
    /// `DYNAMIC_DNS`: the name in each request is looked up.
    Dynamic,
}

/// Where a workload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Ip(IpAddr),
    /// A host name in lower case, for services that are resolved by DNS.
    Name(Arc<str>),
}

/// An entry of `endpoints`, or a `WorkloadEntry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) address: Address,
    pub(crate) ports: BTreeMap<Arc<str>, u16>,
    pub(crate) labels: Labels,
    pub(crate) weight: u32,
    /// As written.
    pub(crate) locality: Option<Locality>,
    pub(crate) account: Account,
    pub(crate) span: Span,
}

/// The service account that a workload's certificate names, as far as documents say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Account {
    Named(Arc<str>),
    /// That of a pod: every pod has one, with a sidecar or without.
    OfPod(Arc<str>),
    /// None is written where one could be: `serviceAccount` of an endpoint.
    None,
    /// A pod has one, and there is no document of the pod.
    Unknown,
}

impl Workload {
    /// Whether it has a sidecar that takes mutual TLS. Istio: the label says it; without one, whoever is no pod and has
    /// an account.
    pub(crate) fn has_sidecar(&self) -> bool {
        match self.labels.get("security.istio.io/tlsMode") {
            Some(mode) => **mode == *"istio",
            None => matches!(self.account, Account::Named(_)),
        }
    }

    /// The field, else the label of Istio.
    pub(crate) fn locality(&self) -> Locality {
        let label = || self.labels.get("istio-locality").map(|value| Locality::of_label(value));
        self.locality.clone().or_else(label).unwrap_or_default()
    }
}

pub(crate) static SERVICE_ENTRY: Message = Message {
    name: "ServiceEntry",
    fields: &[
        yes("hosts", Type::List(&Type::Text), "the_seed_compiles"),
        yes("addresses", Type::List(&Type::Text), "a_service_answers_to_all_its_names"),
        yes("ports", Type::List(&Type::Object(&PORT)), "the_seed_compiles"),
        yes(
            "location",
            Type::Enum(&["MESH_EXTERNAL", "MESH_INTERNAL"]),
            "a_service_inside_the_mesh_selects_pods_too",
        ),
        yes(
            "resolution",
            Type::Enum(&["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"]),
            "each_resolution_finds_endpoints_in_its_own_way",
        ),
        yes("endpoints", Type::List(&Type::Object(&WORKLOAD_ENTRY)), "the_seed_compiles"),
        yes("workloadSelector", Type::Object(&SELECTOR), "workload_entries_are_selected_by_label"),
        yes("exportTo", Type::List(&Type::Text), "exports_limit_who_sees_a_resource"),
        yes("subjectAltNames", Type::List(&Type::Text), "servers_have_the_names_that_their_entry_says"),
    ],
};

pub(crate) static WORKLOAD_ENTRY: Message = Message {
    name: "WorkloadEntry",
    fields: &[
        yes("address", Type::Text, "the_seed_compiles"),
        yes("ports", Type::Map(&Type::Int), "target_ports_and_endpoint_ports_decide_where_to_connect"),
        yes("labels", Type::Map(&Type::Text), "the_seed_compiles"),
        yes("weight", Type::Int, "endpoint_weights_are_kept"),
        warned("network", Type::Text, "all endpoints are taken to be reachable"),
        yes("locality", Type::Text, "endpoints_have_localities"),
        yes("serviceAccount", Type::Text, "an_endpoint_with_a_service_account_takes_mutual_tls"),
    ],
};

/// Reads a `ServiceEntry`.
pub(crate) fn read(spec: &Object<'_>, meta: Meta, sink: &mut Sink) -> ServiceEntry {
    service_entry_checks::check(spec, sink);
    let written = spec.texts("hosts");
    if written.is_empty() {
        sink.report(Code::MissingField, spec.span(), "a ServiceEntry needs hosts");
    }
    let mut hosts: Vec<Spanned<Box<str>>> = Vec::new();
    for host in written {
        if host.value == "*" {
            sink.report(Code::InvalidHost, host.span, "`*` is no host of a service");
        } else if check_name(&host, sink) {
            let value: Box<str> = host.value.to_ascii_lowercase().into();
            if hosts.iter().any(|other| other.value == value) {
                sink.report(Code::DuplicateName, host.span, format!("the host `{value}` stands twice"));
            }
            hosts.push(Spanned { value, span: host.span });
        }
    }
    let resolution = spec.text("resolution");
    let resolution = Spanned {
        value: match resolution.map_or("NONE", |text| text.value) {
            "STATIC" => Resolution::Static,
            "DNS" => Resolution::Dns { first_only: false },
            "DNS_ROUND_ROBIN" => Resolution::Dns { first_only: true },
            "DYNAMIC_DNS" => Resolution::Dynamic,
            _ => Resolution::None,
        },
        span: resolution.map_or(spec.span(), |text| text.span),
    };
    let selector = selector(spec, "workloadSelector", "labels", sink);
    if selector.is_some() && spec.has("endpoints") {
        let message = "endpoints and workloadSelector exclude each other";
        sink.report(Code::ExclusiveFields, spec.key_span("workloadSelector"), message);
    }
    let entries = spec.objects("endpoints");
    if resolution.value == Resolution::None && !entries.is_empty() {
        let found = sink.report(
            Code::InvalidEndpoint,
            spec.key_span("endpoints"),
            "endpoints are not allowed with resolution NONE",
        );
        found.help("write `resolution: STATIC`");
    }
    let named = matches!(resolution.value, Resolution::Dns { .. } | Resolution::Dynamic);
    let ports = ports(spec, sink);
    let endpoints = entries.iter().filter_map(|entry| workload(entry, named, sink));
    let endpoints: Arc<[_]> =
        endpoints.map(|workload| Workload { ports: served_by(&ports, &workload), ..workload }).collect();
    let internal = spec.text("location").is_some_and(|location| location.value == "MESH_INTERNAL");
    if !internal && let Some(mutual) = endpoints.iter().find(|endpoint| endpoint.has_sidecar()) {
        let message = "mutual TLS is not automatic outside of the mesh, which is the default of `location`";
        let found = sink.report(Code::NoEffect, mutual.span, message);
        found.label("takes it by a DestinationRule alone").help("write `location: MESH_INTERNAL`");
    }
    let (addresses, ranges) = addresses(spec, sink);
    ServiceEntry {
        hosts,
        addresses,
        ranges,
        ports,
        resolution,
        endpoints,
        selector,
        internal,
        subjects: subjects(spec, sink),
        exports: Exports::read(spec, &meta, sink),
        meta,
    }
}

/// Single addresses, and ranges.
fn addresses(spec: &Object<'_>, sink: &mut Sink) -> (Vec<Spanned<Box<str>>>, Vec<Subnet>) {
    let (mut out, mut ranges) = (Vec::new(), Vec::new());
    for text in spec.texts("addresses") {
        let (address, prefix) = text.value.split_once('/').unwrap_or((text.value, ""));
        let width = address.parse().ok().map(|ip: IpAddr| if ip.is_ipv4() { 32 } else { 128 });
        match (width, prefix.parse::<u8>()) {
            (Some(_), _) if prefix.is_empty() => out.push(Spanned { value: address.into(), span: text.span }),
            // A range is for captured traffic; as the name in a request only a single address counts.
            (Some(width), Ok(bits)) if bits == width => {
                out.push(Spanned { value: address.into(), span: text.span });
            }
            (Some(width), Ok(bits)) if bits < width => ranges.extend(text.value.parse::<Subnet>()),
            _ => {
                sink.report(Code::InvalidValue, text.span, format!("`{}` is not an address", text.value));
            }
        }
    }
    (out, ranges)
}

fn ports(spec: &Object<'_>, sink: &mut Sink) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for entry in spec.objects("ports") {
        let Some(read) = service_port(&entry, sink) else { continue };
        if ports.iter().any(|other| other.number == read.number || other.name == read.name) {
            sink.report(Code::DuplicateName, entry.span(), "the number or name of the port is taken");
        }
        ports.push(read);
    }
    ports
}

/// Shared with `Sidecar` listeners.
pub(crate) fn service_port(entry: &Object<'_>, sink: &mut Sink) -> Option<ServicePort> {
    let Some(number) = entry.int("number") else {
        sink.report(Code::MissingField, entry.span(), "the port has no number");
        return None;
    };
    let name = entry.text("name").map_or("", |text| text.value);
    Some(ServicePort {
        number: port(number, sink)?,
        name: name.into(),
        protocol: protocol_of(name, entry.text("protocol").map_or("", |text| text.value)),
        target: entry.int("targetPort").filter(|n| n.value != 0).and_then(|number| port(number, sink)),
    })
}

/// `None` after a report. Host names are addresses only where names are looked up.
fn workload(entry: &Object<'_>, named: bool, sink: &mut Sink) -> Option<Workload> {
    let Some(address) = entry.text("address") else {
        sink.report(Code::MissingField, entry.span(), "the endpoint has no address");
        return None;
    };
    let address = address_of(&address, named, sink)?;
    let mut ports = BTreeMap::new();
    for pair in entry.entries("ports") {
        let number = pair.value.text().and_then(|text| text.parse().ok());
        let number = number.map(|value| Spanned { value, span: pair.value.span });
        if let Some(number) = number.and_then(|number| port(number, sink)) {
            ports.insert(pair.key.as_ref().into(), number);
        }
    }
    let weight = entry.int("weight").map_or(1, |weight| {
        // Zero is unset.
        u32::try_from(weight.value).map(|weight| weight.max(1)).unwrap_or_else(|_| {
            sink.report(Code::InvalidEndpoint, weight.span, "the weight is negative or too large");
            1
        })
    });
    check_labels(entry.entries("labels"), sink);
    let locality = entry.text("locality").filter(|text| !text.value.is_empty());
    let account = entry.text("serviceAccount").filter(|text| !text.value.is_empty());
    Some(Workload {
        address,
        ports,
        labels: entry.labels("labels"),
        weight,
        locality: locality.map(|text| Locality::parse(text.value)),
        account: account.map_or(Account::None, |text| Account::Named(text.value.into())),
        span: entry.span(),
    })
}

/// The address of an endpoint; `None` after a report.
pub(crate) fn address_of(text: &Spanned<&str>, named: bool, sink: &mut Sink) -> Option<Address> {
    if let Ok(ip) = text.value.parse() {
        return Some(Address::Ip(ip));
    }
    let is_socket = text.value.starts_with("unix:");
    if named && !is_socket && !text.value.contains('*') {
        return check_name(text, sink).then(|| Address::Name(text.value.to_ascii_lowercase().into()));
    }
    let message = match named {
        true => format!("`{}` is neither an IP address nor a host name", text.value),
        false => format!("`{}` is not an IP address", text.value),
    };
    let found = sink.report(Code::InvalidEndpoint, text.span, message);
    found.help(match (named, is_socket) {
        (_, true) => "unix sockets are not built yet",
        (true, false) => "endpoints are IP addresses and full host names",
        (false, false) => "static endpoints are IP addresses; `resolution: DNS` looks host names up",
    });
    None
}

/// A `WorkloadEntry`: its labels are those of its metadata and of its spec. Whether its address may be a host name
/// depends on the service that selects it.
pub(crate) fn workload_entry(spec: &Object<'_>, meta: &Meta, sink: &mut Sink) -> Option<Workload> {
    let workload = workload(spec, true, sink)?;
    let mut labels = meta.labels.clone();
    labels.extend(workload.labels);
    Some(Workload { labels, ..workload })
}
