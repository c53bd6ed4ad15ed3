//! Loading in one line, and readable failures.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use outrigger_config::{
    LoadOptions, Loaded, Source,
    decide::{Decision, RequestView, decide},
    load,
    report::{Code, Report},
    snapshot::{Cluster, ClusterRef, Node, RouteTable, Snapshot},
};

pub(crate) const VIRTUAL_SERVICE: &str = include_str!("../../../examples/seed/virtual-service.yaml");
pub(crate) const DESTINATION_RULE: &str = include_str!("../../../examples/seed/destination-rule.yaml");
pub(crate) const REGISTRY: &str = include_str!("../../../examples/seed/registry.yaml");
pub(crate) const WEIGHTED: &str = include_str!("../../../examples/seed/weighted.yaml");

/// A proxy of the namespace `observability`.
pub(crate) fn options() -> LoadOptions {
    LoadOptions { node: Node { namespace: "observability".into(), ..Node::default() }, mesh: None }
}

pub(crate) fn source(name: &str, text: &str) -> Source {
    Source { name: name.into(), text: text.to_owned() }
}

/// Each text is a file: `0.yaml`, `1.yaml`.
pub(crate) fn try_load(texts: &[&str], options: &LoadOptions) -> Result<Loaded, Report> {
    let sources: Vec<_> =
        texts.iter().enumerate().map(|(index, text)| source(&format!("{index}.yaml"), text)).collect();
    load(&sources, options)
}

pub(crate) fn loaded(texts: &[&str]) -> Loaded {
    try_load(texts, &options()).unwrap_or_else(|report| panic!("{report}"))
}

pub(crate) fn snapshot(texts: &[&str]) -> Snapshot {
    loaded(texts).snapshot
}

/// All findings, whether the load went well or not.
pub(crate) fn findings(texts: &[&str]) -> Report {
    match try_load(texts, &options()) {
        Ok(loaded) => loaded.warnings,
        Err(report) => report,
    }
}

pub(crate) fn codes(report: &Report) -> Vec<Code> {
    report.diagnostics.iter().map(|diagnostic| diagnostic.code).collect()
}

pub(crate) fn table<'s>(snapshot: &'s Snapshot, name: &str) -> &'s RouteTable {
    snapshot.route_tables.iter().find(|table| &*table.name == name).expect("a route table of that name")
}

pub(crate) fn cluster<'s>(snapshot: &'s Snapshot, name: &str) -> &'s Cluster {
    let names: Vec<_> = snapshot.clusters.iter().map(|cluster| &*cluster.name).collect();
    let found = snapshot.clusters.iter().find(|cluster| &*cluster.name == name);
    found.unwrap_or_else(|| panic!("no cluster {name} among {names:?}"))
}

/// A request to decide on: `Request::to("host").path("/x").header("a", "b")`.
pub(crate) struct Request {
    method: Method,
    scheme: &'static str,
    authority: String,
    path: String,
    headers: HeaderMap,
}

impl Request {
    pub(crate) fn to(authority: &str) -> Self {
        Self {
            method: Method::GET,
            scheme: "http",
            authority: authority.to_owned(),
            path: "/".to_owned(),
            headers: HeaderMap::new(),
        }
    }

    pub(crate) fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    pub(crate) fn method(mut self, method: &str) -> Self {
        self.method = method.parse().unwrap();
        self
    }

    pub(crate) fn scheme(mut self, scheme: &'static str) -> Self {
        self.scheme = scheme;
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().unwrap();
        self.headers.append(name, HeaderValue::from_str(value).unwrap());
        self
    }

    pub(crate) fn view(&self) -> RequestView<'_> {
        RequestView {
            method: &self.method,
            scheme: self.scheme,
            authority: &self.authority,
            path_and_query: &self.path,
            headers: &self.headers,
        }
    }

    pub(crate) fn decided<'s>(&self, table: &'s RouteTable, draw: u64) -> Decision<'s> {
        decide(table, &self.view(), || draw)
    }

    /// Name of the cluster, `404`, or the status of a direct answer.
    pub(crate) fn answer(&self, snapshot: &Snapshot, port: &str, draw: u64) -> String {
        match self.decided(table(snapshot, port), draw) {
            Decision::NoRoute => "404".to_owned(),
            Decision::Direct { status, .. } => status.as_u16().to_string(),
            Decision::Forward { destination, .. } => match &destination.cluster {
                ClusterRef::Known(id) => snapshot[*id].name.to_string(),
                ClusterRef::Missing(name) => format!("missing {name}"),
            },
        }
    }

    /// Name of the route that takes it.
    pub(crate) fn route<'s>(&self, table: &'s RouteTable) -> Option<&'s str> {
        match self.decided(table, 0) {
            Decision::NoRoute => None,
            Decision::Direct { route, .. } | Decision::Forward { route, .. } => Some(&route.name),
        }
    }
}
