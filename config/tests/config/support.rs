//! Loading in one line, and readable failures.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use outrigger_config::{
    LoadOptions, Loaded, Source,
    decide::{Decision, RequestView, decide},
    load,
    report::{Code, Report, Severity},
    snapshot::{Cluster, ClusterRef, Destination, Node, OtlpProtocol, RouteTable, Snapshot},
};

pub(crate) const VIRTUAL_SERVICE: &str = include_str!("../../../examples/seed/virtual-service.yaml");
pub(crate) const DESTINATION_RULE: &str = include_str!("../../../examples/seed/destination-rule.yaml");
pub(crate) const REGISTRY: &str = include_str!("../../../examples/seed/registry.yaml");
pub(crate) const WEIGHTED: &str = include_str!("../../../examples/seed/weighted.yaml");

/// A proxy of the namespace `observability`.
pub(crate) fn options() -> LoadOptions {
    LoadOptions {
        node: Node { namespace: "observability".into(), ..Node::default() },
        ..LoadOptions::default()
    }
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

/// Those that are more than notes.
pub(crate) fn complaints(report: &Report) -> Vec<Code> {
    codes(report).into_iter().filter(|code| code.severity() > Severity::Note).collect()
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
            Decision::Direct { response, .. } => response.status.as_u16().to_string(),
            Decision::Redirect { redirect, .. } => redirect.status.as_u16().to_string(),
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
            Decision::Direct { route, .. }
            | Decision::Redirect { route, .. }
            | Decision::Forward { route, .. } => Some(&route.name),
        }
    }
}

/// Two services of two namespaces, and listeners for their ports. The pages on codes show it too.
pub(crate) const MESH: &str = include_str!("../../src/report/pages/mesh.yaml");

pub(crate) const REVIEWS: &str = "reviews.observability.svc.cluster.local";
pub(crate) const RATINGS: &str = "ratings.other.svc.cluster.local";

/// A `VirtualService` for `reviews` with these http rules, each line indented by two at least.
pub(crate) fn rules(http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: reviews }}\n\
         spec:\n  hosts: [reviews]\n  http:\n{http}\n"
    )
}

/// A `VirtualService` without hosts, `rest`, with these http rules, each line indented by two at least.
pub(crate) fn delegate(http: &str) -> String {
    rules(http).replace("name: reviews }", "name: rest }").replace("  hosts: [reviews]\n", "")
}

/// A `DestinationRule` for `reviews` with this spec, each line indented by two.
pub(crate) fn rule(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: reviews }}\n\
         spec:\n  host: reviews\n{spec}\n"
    )
}

pub(crate) const TO_REVIEWS: &str = "route: [{ destination: { host: reviews } }]";

/// `outbound|8080||reviews...`
pub(crate) fn outbound(port: u16, subset: &str, host: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// The first route that a request to `reviews` on port 8080 takes.
pub(crate) fn first_route(snapshot: &Snapshot) -> &outrigger_config::snapshot::Route {
    match Request::to("reviews").decided(table(snapshot, "8080"), 0) {
        Decision::Direct { route, .. }
        | Decision::Redirect { route, .. }
        | Decision::Forward { route, .. } => route,
        Decision::NoRoute => panic!("no route"),
    }
}

pub(crate) fn first_forward(snapshot: &Snapshot) -> &outrigger_config::snapshot::Forward {
    match &first_route(snapshot).action {
        outrigger_config::snapshot::Action::Forward(forward) => forward,
        _ => panic!("it answers by itself"),
    }
}

/// The options with these mesh settings, as a file of its own.
pub(crate) fn with_mesh(settings: &str) -> LoadOptions {
    LoadOptions { mesh: Some(source("mesh.yaml", settings)), ..options() }
}

/// A `Telemetry` with this metadata and this spec, both in flow style.
pub(crate) fn telemetry(metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{ {metadata} }}\nspec: {{ {spec} }}\n"
    )
}

/// The mesh, these resources, and nothing to complain of.
pub(crate) fn quiet(texts: &[&str], options: &LoadOptions) -> Snapshot {
    let texts: Vec<&str> = std::iter::once(MESH).chain(texts.iter().copied()).collect();
    let loaded = try_load(&texts, options).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(complaints(&loaded.warnings), [], "{}", loaded.warnings);
    loaded.snapshot
}

/// An `opentelemetry` provider `otel` at `ratings`, chosen by default, with more fields.
pub(crate) fn otel(fields: &str) -> String {
    format!(
        "extensionProviders: [{{ name: otel, opentelemetry: {{ service: {RATINGS}, port: 8080, {fields} }} }}]\n\
         defaultProviders: {{ tracing: [otel] }}\n"
    )
}

/// A receiver as the environment names one.
pub(crate) fn destination(host: &str, port: u16) -> Destination {
    Destination {
        name: "OTEL_EXPORTER_OTLP_ENDPOINT".into(),
        host: host.into(),
        port,
        tls: None,
        cluster: None,
        protocol: OtlpProtocol::Grpc,
        headers: HeaderMap::new(),
        timeout: std::time::Duration::from_secs(10),
        gzip: false,
        semantic_service_name: false,
    }
}
