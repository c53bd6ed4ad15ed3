//! Sorts documents by kind and reads each into its type.

use std::collections::HashMap;

use crate::{
    LoadOptions, Source,
    compile::Resources,
    fields::did_you_mean,
    istio::{
        self, Meta, destination_rule, envoy_filter, mesh,
        service_entry::{self, WORKLOAD_ENTRY},
        sidecar, telemetry, telemetry_fields, virtual_service,
    },
    kinds,
    kubernetes::{endpoint_slice, pod, service},
    report::Code,
    sink::Sink,
    yaml::{self, Base, Node},
};

const NETWORKING: &str = "networking.istio.io";
const TELEMETRY: &str = "telemetry.istio.io";
const KINDS: [&str; 6] =
    ["VirtualService", "DestinationRule", "ServiceEntry", "WorkloadEntry", "Sidecar", "Telemetry"];
const KUBERNETES: [(&str, &str); 3] =
    [("v1", "Service"), ("v1", "Pod"), ("discovery.k8s.io/v1", "EndpointSlice")];

/// Reads all sources; the documents are kept for the field paths of findings.
pub(crate) fn read(sources: &[Source], options: &LoadOptions, sink: &mut Sink) -> (Resources, Vec<Node>) {
    let mut reader = Reader {
        options,
        resources: Resources::default(),
        seen: HashMap::new(),
        documents: Vec::new(),
        sink,
    };
    for (file, source) in (0_u32..).zip(sources) {
        for document in yaml::parse(Base { file, line: 0, column: 0 }, &source.text, reader.sink) {
            reader.document(&document, source);
            reader.documents.push(document);
        }
    }
    if let Some(source) = &options.mesh {
        let file = u32::try_from(sources.len()).unwrap_or(u32::MAX);
        let documents = yaml::parse(Base { file, line: 0, column: 0 }, &source.text, reader.sink);
        for document in documents {
            reader.mesh_file(document);
        }
    }
    (reader.resources, reader.documents)
}

struct Reader<'r> {
    options: &'r LoadOptions,
    resources: Resources,
    /// Kind, namespace and name.
    seen: HashMap<String, String>,
    documents: Vec<Node>,
    sink: &'r mut Sink,
}

impl Reader<'_> {
    fn document(&mut self, document: &Node, source: &Source) {
        let word = |key: &str| document.get(key).and_then(Node::text);
        let (Some(version), Some(kind)) = (word("apiVersion"), word("kind")) else {
            let found =
                self.sink.report(Code::NotAResource, document.span, "a resource has apiVersion and kind");
            found.label("this document has not");
            return;
        };
        let (group, _) = version.split_once('/').unwrap_or(("", version));
        match (group, kind) {
            ("", "List") => {
                let items = document.get("items").map(Node::items).unwrap_or_default();
                items.iter().for_each(|item| self.document(item, source));
            }
            ("", "ConfigMap") if mesh::is_mesh_config_map(document) => self.config_map(document),
            _ if KUBERNETES.contains(&(version, kind)) => self.kubernetes(document, kind, source),
            (NETWORKING | TELEMETRY, kind) if is_honoured(group, kind) => {
                let (versions, listed): (&[&str], _) = if group == TELEMETRY {
                    (&["v1", "v1alpha1"], "v1 and v1alpha1")
                } else {
                    (&["v1", "v1beta1", "v1alpha3"], "v1, v1beta1 and v1alpha3")
                };
                let fine = versions.iter().any(|v| version.ends_with(&format!("/{v}")));
                if !fine {
                    let span = document.get("apiVersion").map_or(document.span, |node| node.span);
                    let found = self.sink.report(Code::UnknownKind, span, format!("`{version}` is unknown"));
                    found.help(format!("versions are {listed}"));
                }
                self.resource(document, kind, source);
            }
            (NETWORKING, "EnvoyFilter") => self.envoy_filter(document, source),
            _ => self.other(document, group, kind),
        }
    }

    /// What is not ours is either said to be without effect, or no business of a proxy (a Deployment).
    fn other(&mut self, document: &Node, group: &str, kind: &str) {
        let span = document.get("kind").map_or(document.span, |node| node.span);
        if !kinds::report_not_honoured(group, kind, span, self.sink) && group.ends_with("istio.io") {
            let guess = did_you_mean(kind, KINDS.into_iter().chain(kinds::istio_kinds()));
            let found = self.sink.report(Code::UnknownKind, span, format!("the kind `{kind}` is unknown"));
            found.help(format!("{guess}kinds are {}", KINDS.join(", ")));
        }
    }

    fn envoy_filter(&mut self, document: &Node, source: &Source) {
        let meta = self.meta(document, "EnvoyFilter", source);
        self.resources.envoy_filters.extend(meta.map(|meta| envoy_filter::read(document, meta)));
    }

    fn resource(&mut self, document: &Node, kind: &str, source: &Source) {
        let Some(kind) = KINDS.into_iter().find(|known| *known == kind) else { return };
        let Some(meta) = self.meta(document, kind, source) else { return };
        let table = match kind {
            "VirtualService" => &virtual_service::VIRTUAL_SERVICE,
            "DestinationRule" => &destination_rule::DESTINATION_RULE,
            "ServiceEntry" => &service_entry::SERVICE_ENTRY,
            "WorkloadEntry" => &WORKLOAD_ENTRY,
            "Telemetry" => &telemetry_fields::TELEMETRY,
            _ => &sidecar::SIDECAR,
        };
        let Some(spec) = istio::spec(document, table, self.sink) else { return };
        let resources = &mut self.resources;
        match kind {
            "VirtualService" => {
                resources.virtual_services.push(virtual_service::read(&spec, meta, self.sink));
            }
            "DestinationRule" => {
                resources.destination_rules.extend(destination_rule::read(&spec, meta, self.sink));
            }
            "ServiceEntry" => resources.service_entries.push(service_entry::read(&spec, meta, self.sink)),
            "WorkloadEntry" => {
                let workload = service_entry::workload_entry(&spec, &meta, self.sink);
                resources.workloads.extend(workload.map(|workload| (meta, workload)));
            }
            "Telemetry" => resources.telemetries.push(telemetry::read(&spec, meta, self.sink)),
            _ => {
                let sidecar = sidecar::read(&spec, meta, &self.options.node, self.sink);
                resources.sidecars.push(sidecar);
            }
        }
    }

    fn kubernetes(&mut self, document: &Node, kind: &str, source: &Source) {
        let Some((_, kind)) = KUBERNETES.into_iter().find(|(_, known)| *known == kind) else { return };
        let Some(meta) = self.meta(document, kind, source) else { return };
        let cluster = &mut self.resources.cluster;
        match kind {
            "Service" => {
                let Some(spec) = istio::spec(document, &service::SERVICE, self.sink) else { return };
                cluster.services.push(service::read(document, &spec, meta, self.sink));
            }
            "EndpointSlice" => cluster.slices.extend(endpoint_slice::read(document, meta, self.sink)),
            _ => cluster.pods.push(pod::read(document, meta)),
        }
    }

    /// Of a resource that must not be there twice.
    fn meta(&mut self, document: &Node, kind: &'static str, source: &Source) -> Option<Meta> {
        let meta = istio::meta(document, kind, &self.options.node, &source.name, self.sink)?;
        if let Some(first) = self.seen.insert(meta.resource(), meta.reference()) {
            let message = format!("{} is defined twice", meta.resource());
            self.sink.report(Code::DuplicateResource, document.span, message).note(format!("first: {first}"));
        }
        Some(meta)
    }

    fn config_map(&mut self, document: &Node) {
        for settings in mesh::embedded(document, self.sink) {
            // A file of its own wins.
            let read = mesh::read(&settings, self.sink);
            if self.options.mesh.is_none() {
                self.resources.mesh = Some(read);
            }
            self.documents.push(settings);
        }
    }

    /// The settings themselves, or a ConfigMap that holds them.
    fn mesh_file(&mut self, document: Node) {
        let settings = if document.get("kind").and_then(Node::text) == Some("ConfigMap") {
            mesh::embedded(&document, self.sink)
        } else {
            vec![document]
        };
        for settings in settings {
            self.resources.mesh = Some(mesh::read(&settings, self.sink));
            self.documents.push(settings);
        }
    }
}

fn is_honoured(group: &str, kind: &str) -> bool {
    KINDS.contains(&kind) && (kind == "Telemetry") == (group == TELEMETRY)
}
