//! Reads the documents of a page, each into the type of its kind.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use crate::{
    diagnose::in_order,
    fields::did_you_mean,
    istio::{
        self, Meta, destination_rule, envoy_filter, mesh, peer_authentication,
        service_entry::{self, WORKLOAD_ENTRY},
        sidecar, telemetry, telemetry_fields, virtual_service,
    },
    kinds,
    kubernetes::{endpoint_slice, pod, service},
    lint,
    report::{Code, Diagnostic},
    resources::Resources,
    sink::{Sink, Span},
    snapshot,
    yaml::{self, Base, Node},
};

const NETWORKING: &str = "networking.istio.io";
const TELEMETRY: &str = "telemetry.istio.io";
const SECURITY: &str = "security.istio.io";
/// Those of Istio that are honoured, with their groups.
const KINDS: [(&str, &str); 7] = [
    (NETWORKING, "VirtualService"),
    (NETWORKING, "DestinationRule"),
    (NETWORKING, "ServiceEntry"),
    (NETWORKING, "WorkloadEntry"),
    (NETWORKING, "Sidecar"),
    (TELEMETRY, "Telemetry"),
    (SECURITY, "PeerAuthentication"),
];
const KUBERNETES: [(&str, &str); 3] =
    [("v1", "Service"), ("v1", "Pod"), ("discovery.k8s.io/v1", "EndpointSlice")];

/// A stretch of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page<'t> {
    pub(crate) file: u32,
    pub(crate) name: &'t Arc<str>,
    /// Lines before it.
    pub(crate) line: u32,
    pub(crate) text: &'t str,
    pub(crate) role: Role,
    /// Nodes that aliases have added in the file before it.
    pub(crate) aliased: usize,
}

impl Page<'_> {
    /// Of a line of the file among those of the page.
    pub(crate) fn index(&self, line: u32) -> usize {
        line.saturating_sub(self.line).saturating_sub(1) as usize
    }
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Resources,
    /// A `MeshConfig` of its own.
    Mesh,
}

/// What a page says.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) resources: Resources,
    /// Of all resources, those that could not be read too.
    pub(crate) metas: Vec<Meta>,
    /// What it says of itself, by place.
    pub(crate) diagnostics: Box<[Arc<Diagnostic>]>,
    /// Of the fields that were found fault with when all documents had been read.
    pub(crate) paths: Mutex<HashMap<Span, Box<str>>>,
    /// Nodes that aliases have added.
    pub(crate) aliased: usize,
    /// It was not read to its end.
    pub(crate) broken: bool,
}

/// Reads a page; the trees are for field paths, and are not to be kept.
pub(crate) fn read(page: &Page<'_>, node: &snapshot::Node) -> (Document, Vec<Node>) {
    let mut sink = Sink::default();
    let base = Base { file: page.file, line: page.line, column: 0 };
    let parsed = yaml::parse(base, page.text, page.aliased, &mut sink);
    let mut reader = Reader {
        node,
        file: page.name,
        resources: Resources::default(),
        metas: Vec::new(),
        trees: Vec::new(),
        sink: &mut sink,
    };
    for document in parsed.documents {
        match page.role {
            Role::Resources => {
                reader.document(&document);
                reader.trees.push(document);
            }
            Role::Mesh => reader.mesh_file(document),
        }
    }
    let Reader { resources, metas, mut trees, .. } = reader;
    lint::lint(&resources, &mut sink);
    // Settings within a ConfigMap have a tree of their own.
    trees.sort_by_key(|tree| tree.span.line);
    let findings = sink.into_findings();
    let lines: Vec<_> = if findings.is_empty() { Vec::new() } else { page.text.lines().collect() };
    let diagnostics = findings.into_iter().map(|finding| {
        let path = path_of(&trees, finding.span);
        let line = lines.get(page.index(finding.span.line)).copied().unwrap_or_default();
        Arc::new(finding.diagnostic(Arc::clone(page.name), path, line))
    });
    let document = Document {
        resources,
        metas,
        diagnostics: in_order(diagnostics.collect()).into(),
        paths: Mutex::default(),
        aliased: parsed.aliased - page.aliased,
        broken: parsed.broken,
    };
    (document, trees)
}

/// The field at a place; the tree that begins last before it has it.
pub(crate) fn path_of(trees: &[Node], span: Span) -> String {
    let behind = trees.partition_point(|tree| tree.span.line <= span.line);
    let before = trees.get(..behind).unwrap_or_default();
    before.last().and_then(|tree| tree.path_to(span)).unwrap_or_default()
}

struct Reader<'r> {
    node: &'r snapshot::Node,
    file: &'r Arc<str>,
    resources: Resources,
    metas: Vec<Meta>,
    trees: Vec<Node>,
    sink: &'r mut Sink,
}

impl Reader<'_> {
    fn document(&mut self, document: &Node) {
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
                items.iter().for_each(|item| self.document(item));
            }
            ("", "ConfigMap") if mesh::is_mesh_config_map(document) => self.config_map(document),
            _ if KUBERNETES.contains(&(version, kind)) => self.kubernetes(document, kind),
            _ if KINDS.contains(&(group, kind)) => {
                let (versions, listed): (&[&str], _) = match group {
                    TELEMETRY => (&["v1", "v1alpha1"], "v1 and v1alpha1"),
                    SECURITY => (&["v1", "v1beta1"], "v1 and v1beta1"),
                    _ => (&["v1", "v1beta1", "v1alpha3"], "v1, v1beta1 and v1alpha3"),
                };
                let fine = versions.iter().any(|v| version.ends_with(&format!("/{v}")));
                if !fine {
                    let span = document.get("apiVersion").map_or(document.span, |node| node.span);
                    let found = self.sink.report(Code::UnknownKind, span, format!("`{version}` is unknown"));
                    found.help(format!("versions are {listed}"));
                }
                self.resource(document, kind);
            }
            (NETWORKING, "EnvoyFilter") => self.envoy_filter(document),
            _ => self.other(document, group, kind),
        }
    }

    /// What is not ours is either said to be without effect, or no business of a proxy (a Deployment).
    fn other(&mut self, document: &Node, group: &str, kind: &str) {
        let span = document.get("kind").map_or(document.span, |node| node.span);
        if !kinds::report_not_honoured(group, kind, span, self.sink) && group.ends_with("istio.io") {
            let known = KINDS.map(|(_, kind)| kind);
            let guess = did_you_mean(kind, known.into_iter().chain(kinds::istio_kinds()));
            let found = self.sink.report(Code::UnknownKind, span, format!("the kind `{kind}` is unknown"));
            found.help(format!("{guess}kinds are {}", known.join(", ")));
        }
    }

    fn envoy_filter(&mut self, document: &Node) {
        let meta = self.meta(document, "EnvoyFilter");
        let read = meta.map(|meta| Arc::new(envoy_filter::read(document, meta)));
        self.resources.envoy_filters.extend(read);
    }

    fn resource(&mut self, document: &Node, kind: &str) {
        let Some((_, kind)) = KINDS.into_iter().find(|(_, known)| *known == kind) else { return };
        let Some(meta) = self.meta(document, kind) else { return };
        let table = match kind {
            "VirtualService" => &virtual_service::VIRTUAL_SERVICE,
            "DestinationRule" => &destination_rule::DESTINATION_RULE,
            "ServiceEntry" => &service_entry::SERVICE_ENTRY,
            "WorkloadEntry" => &WORKLOAD_ENTRY,
            "Telemetry" => &telemetry_fields::TELEMETRY,
            "PeerAuthentication" => &peer_authentication::PEER_AUTHENTICATION,
            _ => &sidecar::SIDECAR,
        };
        let Some(spec) = istio::spec(document, table, self.sink) else { return };
        let resources = &mut self.resources;
        match kind {
            "VirtualService" => {
                resources.virtual_services.push(Arc::new(virtual_service::read(&spec, meta, self.sink)));
            }
            "DestinationRule" => {
                resources
                    .destination_rules
                    .extend(destination_rule::read(&spec, meta, self.sink).map(Arc::new));
            }
            "ServiceEntry" => {
                resources.service_entries.push(Arc::new(service_entry::read(&spec, meta, self.sink)));
            }
            "WorkloadEntry" => {
                let workload = service_entry::workload_entry(&spec, &meta, self.sink);
                resources.workloads.extend(workload.map(|workload| Arc::new((meta, workload))));
            }
            "Telemetry" => resources.telemetries.push(Arc::new(telemetry::read(&spec, meta, self.sink))),
            "PeerAuthentication" => {
                let policy = peer_authentication::read(&spec, meta, self.sink);
                resources.peer_authentications.push(Arc::new(policy));
            }
            _ => {
                let sidecar = sidecar::read(&spec, meta, self.node, self.sink);
                resources.sidecars.push(Arc::new(sidecar));
            }
        }
    }

    fn kubernetes(&mut self, document: &Node, kind: &str) {
        let Some((_, kind)) = KUBERNETES.into_iter().find(|(_, known)| *known == kind) else { return };
        let Some(meta) = self.meta(document, kind) else { return };
        let cluster = &mut self.resources.cluster;
        match kind {
            "Service" => {
                let Some(spec) = istio::spec(document, &service::SERVICE, self.sink) else { return };
                cluster.services.extend(service::read(document, &spec, meta, self.sink).map(Arc::new));
            }
            "EndpointSlice" => {
                cluster.slices.extend(endpoint_slice::read(document, meta, self.sink).map(Arc::new));
            }
            _ => cluster.pods.push(Arc::new(pod::read(document, meta))),
        }
    }

    /// Of a resource that must not be there twice.
    fn meta(&mut self, document: &Node, kind: &'static str) -> Option<Meta> {
        let meta = istio::meta(document, kind, self.node, self.file, self.sink)?;
        self.metas.push(meta.clone());
        Some(meta)
    }

    fn config_map(&mut self, document: &Node) {
        for settings in mesh::embedded(document, self.sink) {
            self.resources.mesh = Some(Arc::new(mesh::read(&settings, self.sink)));
            self.trees.push(settings);
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
            self.resources.mesh = Some(Arc::new(mesh::read(&settings, self.sink)));
            self.trees.push(settings);
        }
    }
}
