//! `EndpointSlice` (discovery.k8s.io/v1): addresses that serve a `Service`, and at which ports.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::service::Family;
use crate::{
    fields::{self, Message, Object, Type, moot, yes},
    istio::{Meta, port},
    report::Code,
    sink::{Sink, Span},
    yaml::Node,
};

/// The label with the name of the service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// One resource.
#[derive(Debug)]
pub(crate) struct EndpointSlice {
    pub(crate) meta: Meta,
    /// Name of the service, of the same namespace.
    pub(crate) service: Option<Arc<str>>,
    pub(crate) family: Family,
    /// By the names of the service's ports.
    pub(crate) ports: BTreeMap<Arc<str>, u16>,
    pub(crate) endpoints: Vec<SliceEndpoint>,
}

/// One entry of `endpoints`.
#[derive(Debug)]
pub(crate) struct SliceEndpoint {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ready: bool,
    /// Namespace and name.
    pub(crate) pod: Option<(Option<Box<str>>, Box<str>)>,
    pub(crate) zone: Option<Arc<str>>,
    pub(crate) span: Span,
}

const LOCALITY: &str = "endpoints are told apart by their zone";
const ENVELOPE: &str = "the envelope of the resource";

pub(crate) static ENDPOINT_SLICE: Message = Message {
    name: "EndpointSlice",
    fields: &[
        moot("apiVersion", ENVELOPE),
        moot("kind", ENVELOPE),
        moot("metadata", ENVELOPE),
        yes("addressType", Type::Enum(&["IPv4", "IPv6", "FQDN"]), "slices_of_names_are_left_out_and_said_so"),
        yes(
            "endpoints",
            Type::List(&Type::Object(&ENDPOINT)),
            "endpoints_come_from_slices_by_the_name_of_the_port",
        ),
        yes(
            "ports",
            Type::List(&Type::Object(&ENDPOINT_PORT)),
            "endpoints_come_from_slices_by_the_name_of_the_port",
        ),
    ],
};

static ENDPOINT: Message = Message {
    name: "Endpoint",
    fields: &[
        yes("addresses", Type::List(&Type::Text), "endpoints_come_from_slices_by_the_name_of_the_port"),
        yes("conditions", Type::Object(&CONDITIONS), "only_ready_endpoints_of_a_slice_are_used"),
        yes("targetRef", Type::Object(&TARGET), "labels_of_endpoints_are_those_of_their_pods"),
        moot("hostname", "part of a DNS name"),
        moot("nodeName", LOCALITY),
        yes("zone", Type::Text, "endpoints_of_slices_have_the_zone_of_the_slice"),
        moot("hints", LOCALITY),
        moot("deprecatedTopology", LOCALITY),
    ],
};

static CONDITIONS: Message = Message {
    name: "EndpointConditions",
    fields: &[
        yes("ready", Type::Bool, "only_ready_endpoints_of_a_slice_are_used"),
        moot("serving", "an endpoint that ends is not ready"),
        moot("terminating", "an endpoint that ends is not ready"),
    ],
};

static TARGET: Message = Message {
    name: "ObjectReference",
    fields: &[
        yes("kind", Type::Text, "labels_of_endpoints_are_those_of_their_pods"),
        yes("name", Type::Text, "labels_of_endpoints_are_those_of_their_pods"),
        yes("namespace", Type::Text, "labels_of_endpoints_are_those_of_their_pods"),
        moot("apiVersion", "kind and name tell the pod"),
        moot("uid", "kind and name tell the pod"),
        moot("resourceVersion", "kind and name tell the pod"),
        moot("fieldPath", "kind and name tell the pod"),
    ],
};

static ENDPOINT_PORT: Message = Message {
    name: "EndpointPort",
    fields: &[
        yes("name", Type::Text, "endpoints_come_from_slices_by_the_name_of_the_port"),
        yes("port", Type::Int, "endpoints_come_from_slices_by_the_name_of_the_port"),
        moot("protocol", "the port of the Service has it"),
        moot("appProtocol", "the port of the Service has it"),
    ],
};

/// Reads the document, which has no spec; `None` after a report.
pub(crate) fn read(document: &Node, meta: Meta, sink: &mut Sink) -> Option<EndpointSlice> {
    fields::check(document, &ENDPOINT_SLICE, sink);
    let slice = Object::new(document, &ENDPOINT_SLICE);
    let Some(kind) = slice.text("addressType") else {
        sink.report(Code::MissingField, document.span, "this EndpointSlice has no addressType");
        return None;
    };
    let Some(family) = Family::read(kind.value) else {
        let message = format!("{} holds host names", meta.resource());
        let found = sink.report(Code::NotResolved, kind.span, message);
        found.label("its endpoints are left out").note("Istio leaves them out too");
        found.help("write a ServiceEntry with `resolution: DNS`, or a Service of type ExternalName");
        return None;
    };
    let ports = slice.objects("ports");
    let ports = ports.iter().filter_map(|entry| {
        let name = entry.text("name").map_or("", |text| text.value);
        Some((name.into(), port(entry.int("port")?, sink)?))
    });
    let ports = ports.collect();
    let entries = slice.objects("endpoints");
    Some(EndpointSlice {
        service: meta.labels.get(SERVICE_NAME).map(Arc::clone),
        family,
        ports,
        endpoints: entries.iter().map(|entry| endpoint(entry, sink)).collect(),
        meta,
    })
}

fn endpoint(entry: &Object<'_>, sink: &mut Sink) -> SliceEndpoint {
    let addresses = entry.texts("addresses").into_iter().filter_map(|text| {
        let address = text.value.parse().ok();
        if address.is_none() {
            let message = format!("`{}` is not an IP address", text.value);
            sink.report(Code::InvalidEndpoint, text.span, message);
        }
        address
    });
    let target = entry.object("targetRef");
    let pod = target.filter(|target| target.text("kind").is_some_and(|kind| kind.value == "Pod"));
    SliceEndpoint {
        addresses: addresses.collect(),
        // Unknown is ready, as in Kubernetes.
        ready: entry.object("conditions").and_then(|conditions| conditions.bool("ready")) != Some(false),
        pod: pod.and_then(|pod| {
            Some((pod.text("namespace").map(|text| text.value.into()), pod.text("name")?.value.into()))
        }),
        zone: entry.text("zone").filter(|zone| !zone.value.is_empty()).map(|zone| zone.value.into()),
        span: entry.span(),
    }
}
