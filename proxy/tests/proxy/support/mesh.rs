//! A mesh in a few words: services with their origins, Istio rules, and the proxy between them, in this process.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Once},
};

use outrigger::{
    app::{App, DrainTimes, Options, Running},
    application::Application,
    export::Otel,
    overload::Cgroups,
};
use outrigger_config::snapshot::Node;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    client::{self, Answer, Client, Payload, ask},
    origin::Origin,
    wait::{eventually, until},
};

/// The port of HTTP services.
pub(crate) const HTTP: u16 = 8080;
/// The port of gRPC services.
pub(crate) const GRPC: u16 = 9090;
/// The port of services that are passed on as bytes.
pub(crate) const TCP: u16 = 7000;

const REGISTRY: &str = include_str!("../../../../examples/seed/registry.yaml");
const RULE: &str = include_str!("../../../../examples/seed/destination-rule.yaml");
const LITERAL: &str = include_str!("../../../../examples/seed/virtual-service.yaml");
const WEIGHTED: &str = include_str!("../../../../examples/seed/weighted.yaml");

/// The two readings of the seed's `VirtualService`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Seed {
    /// As it was given: the weights of lone destinations have no effect.
    Literal,
    /// As it was meant: 90 to 10.
    Weighted,
}

/// What to start; see [`Mesh::start`].
pub(crate) struct Mesh {
    services: String,
    ports: Vec<(u16, &'static str)>,
    rules: String,
    settings: String,
    text_log: bool,
    egress: bool,
    concurrency: usize,
    drain: Option<DrainTimes>,
    otel: Otel,
    dns_capture: bool,
    application: Application,
    cgroups: Cgroups,
    namespace: &'static str,
    ingress: Vec<(u16, &'static str, SocketAddr)>,
    ingress_tls: Option<String>,
    identity: Option<PathBuf>,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self {
            services: String::new(),
            ports: vec![],
            rules: String::new(),
            settings: String::new(),
            text_log: false,
            egress: true,
            concurrency: 1,
            drain: None,
            otel: Otel::default(),
            dns_capture: false,
            application: Application::default(),
            cgroups: Cgroups::default(),
            namespace: "default",
            ingress: vec![],
            ingress_tls: None,
            identity: None,
        }
    }

    /// The seed's configuration with these six endpoints: per collector its gRPC and its HTTP address.
    pub(crate) fn seed(reading: Seed, collectors: [[SocketAddr; 2]; 3]) -> Self {
        let mut services = REGISTRY.to_owned();
        for (prefix, [grpc, http]) in ["14", "15", "24"].into_iter().zip(collectors) {
            services =
                services.replace(&format!("grpc-otlp: {prefix}317"), &format!("grpc-otlp: {}", grpc.port()));
            services =
                services.replace(&format!("http-otlp: {prefix}318"), &format!("http-otlp: {}", http.port()));
        }
        let route = match reading {
            Seed::Literal => LITERAL,
            Seed::Weighted => WEIGHTED,
        };
        let rules = format!("{RULE}---\n{route}");
        Self { services, rules, egress: false, namespace: "observability", ..Self::new() }
    }

    /// An HTTP service `NAME.default.svc.cluster.local` with its endpoints and their `version` labels.
    pub(crate) fn http(self, name: &str, endpoints: &[(SocketAddr, &str)]) -> Self {
        self.service(name, HTTP, "HTTP", endpoints)
    }

    /// The same for gRPC.
    pub(crate) fn grpc(self, name: &str, endpoints: &[(SocketAddr, &str)]) -> Self {
        self.service(name, GRPC, "GRPC", endpoints)
    }

    /// The same for bytes; the protocol is Istio's name: `TCP`, `TLS`.
    pub(crate) fn tcp(self, name: &str, protocol: &'static str, endpoints: &[(SocketAddr, &str)]) -> Self {
        self.service(name, TCP, protocol, endpoints)
    }

    /// One HTTP service `web` with one endpoint.
    pub(crate) fn web(origin: &Origin) -> Self {
        Self::new().http("web", &[(origin.address(), "v1")])
    }

    /// One gRPC service `rpc` with one endpoint.
    pub(crate) fn rpc(origin: &Origin) -> Self {
        Self::new().grpc("rpc", &[(origin.address(), "v1")])
    }

    fn service(
        mut self,
        name: &str,
        port: u16,
        protocol: &'static str,
        endpoints: &[(SocketAddr, &str)],
    ) -> Self {
        self.services += &service_entry(name, port, protocol, endpoints);
        self.services += "---\n";
        if !self.ports.contains(&(port, protocol)) {
            self.ports.push((port, protocol));
        }
        self
    }

    /// An inbound listener with this port, of this protocol, in front of an origin.
    pub(crate) fn ingress(mut self, port: u16, protocol: &'static str, origin: SocketAddr) -> Self {
        self.ingress.push((port, protocol, origin));
        self
    }

    /// TLS of their own at the inbound listeners, which the mesh's mutual TLS leaves alone.
    pub(crate) fn ingress_tls(mut self, fields: &str) -> Self {
        self.ingress_tls = Some(fields.to_owned());
        self.rules(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: off }\nspec: { mtls: { mode: DISABLE } }",
        )
    }

    /// The folder of the proxy's own certificate.
    pub(crate) fn identity(mut self, folder: &Path) -> Self {
        self.identity = Some(folder.to_owned());
        self
    }

    /// The endpoints that were named so far have sidecars.
    pub(crate) fn with_sidecars(mut self) -> Self {
        self.services = self.services.replace("labels: { ", "labels: { security.istio.io/tlsMode: istio, ");
        self
    }

    /// The endpoints that were named so far have this service account.
    pub(crate) fn with_account(mut self, account: &str) -> Self {
        self.services =
            self.services.replace("labels: { ", &format!("serviceAccount: {account}, labels: {{ "));
        self
    }

    /// The services that were named so far have certificates of these names.
    pub(crate) fn with_names(mut self, names: &str) -> Self {
        self.services = self.services.replace("spec:\n", &format!("spec:\n  subjectAltNames: [{names}]\n"));
        self
    }

    /// Istio documents: rules, and whatever else.
    pub(crate) fn rules(mut self, yaml: impl AsRef<str>) -> Self {
        self.rules += yaml.as_ref();
        self.rules += "\n---\n";
        self
    }

    /// A `VirtualService` for `web` with these `http` entries.
    pub(crate) fn routes(self, http: &str) -> Self {
        self.rules(virtual_service("web", http))
    }

    /// A `DestinationRule` for `web` with this traffic policy.
    pub(crate) fn policy(self, policy: &str) -> Self {
        self.rules(destination_rule("web", policy))
    }

    /// Mesh settings beside the access log, as in the ConfigMap `istio`.
    pub(crate) fn settings(mut self, yaml: &str) -> Self {
        self.settings += yaml;
        self.settings += "\n";
        self
    }

    /// Istio's default text instead of JSON.
    pub(crate) fn text_log(mut self) -> Self {
        self.text_log = true;
        self
    }

    pub(crate) fn workers(mut self, count: usize) -> Self {
        self.concurrency = count;
        self
    }

    /// How the proxy ends; without it, as fast as it can.
    pub(crate) fn drain(mut self, times: DrainTimes) -> Self {
        self.drain = Some(times);
        self
    }

    /// Questions for addresses come to the proxy, too.
    pub(crate) fn dns_capture(mut self) -> Self {
        self.dns_capture = true;
        self
    }

    /// What the environment says about telemetry.
    pub(crate) fn otel(mut self, otel: Otel) -> Self {
        self.otel = otel;
        self
    }

    /// The application beside it, by these of Istio's variables.
    pub(crate) fn application(mut self, variables: &[(&str, &str)]) -> Self {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
        self.application = Application::from_environment(find, &[]).unwrap_or_else(|error| panic!("{error}"));
        self
    }

    /// Where the memory of the proxy is accounted.
    pub(crate) fn cgroups(mut self, cgroups: Cgroups) -> Self {
        self.cgroups = cgroups;
        self
    }

    /// Starts the proxy; the listeners are bound when this returns.
    pub(crate) async fn start(self) -> Proxy {
        watch_for_panics();
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config");
        std::fs::create_dir(&config).unwrap();
        std::fs::write(config.join("services.yaml"), self.documents()).unwrap();
        let rules = config.join("rules.yaml");
        std::fs::write(&rules, &self.rules).unwrap();
        let log = folder.path().join("access.log");
        let mesh = folder.path().join("mesh.yaml");
        let encoding = if self.text_log { "TEXT" } else { "JSON" };
        let settings =
            format!("accessLogFile: {}\naccessLogEncoding: {encoding}\n{}", log.display(), self.settings);
        std::fs::write(&mesh, settings).unwrap();

        let mut options = Options {
            mesh_config: Some(mesh),
            node: Node { dns_capture: self.dns_capture, ..node(self.namespace) },
            concurrency: NonZeroUsize::new(self.concurrency).unwrap(),
            otel: self.otel.clone(),
            application: self.application.clone(),
            cgroups: self.cgroups.clone(),
            identity: self.identity.clone(),
            ..Options::ephemeral(vec![config])
        };
        options.drain = self.drain.unwrap_or(options.drain);
        let running = App::start(options).unwrap_or_else(|error| panic!("{error}"));
        Proxy { running: Some(running), rules, log, _folder: folder }
    }

    fn documents(&self) -> String {
        let mut text = self.services.clone();
        let egress = self.egress && !self.ports.is_empty();
        if egress || !self.ingress.is_empty() {
            text += "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: { name: default }\nspec:\n";
        }
        for (at, (port, protocol, origin)) in self.ingress.iter().enumerate() {
            text += if at == 0 { "  ingress:\n" } else { "" };
            text += &format!(
                "  - port: {{ number: {port}, name: in-{port}, protocol: {protocol} }}\n    bind: 127.0.0.1\n    defaultEndpoint: '{origin}'\n"
            );
            if let Some(fields) = &self.ingress_tls {
                text += &format!("    tls: {{ {fields} }}\n");
            }
        }
        if egress {
            text += "  egress:\n";
            for (port, protocol) in &self.ports {
                text += &format!(
                    "  - port: {{ number: {port}, name: port-{port}, protocol: {protocol} }}\n    bind: 127.0.0.1\n    captureMode: NONE\n    hosts: [\"./*\"]\n"
                );
            }
        }
        text
    }
}

fn node(namespace: &str) -> Node {
    Node {
        namespace: namespace.into(),
        name: "client-0".into(),
        workload: "client".into(),
        cluster: "Kubernetes".into(),
        labels: [("app", "client"), ("version", "v7")].map(|(k, v)| (Arc::from(k), Arc::from(v))).into(),
        ..Node::default()
    }
}

/// A `ServiceEntry` for `NAME.default.svc.cluster.local` with its endpoints and their `version` labels.
pub(crate) fn service_entry(
    name: &str,
    port: u16,
    protocol: &str,
    endpoints: &[(SocketAddr, &str)],
) -> String {
    let mut text = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n  hosts: [{name}.default.svc.cluster.local]\n  \
         location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{ number: {port}, name: main, protocol: {protocol} }}]\n"
    );
    if !endpoints.is_empty() {
        text += "  endpoints:\n";
    }
    for (address, version) in endpoints {
        text += &format!(
            "  - {{ address: {}, ports: {{ main: {} }}, labels: {{ app: {name}, version: {version} }} }}\n",
            address.ip(),
            address.port()
        );
    }
    text
}

/// `http` entries, each beginning with `- ` in the first column, for a host.
pub(crate) fn virtual_service(host: &str, http: &str) -> String {
    let http = indent(http, 2);
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: {host} }}\nspec:\n  hosts: [{host}]\n  http:\n{http}"
    )
}

/// A traffic policy in block style from the first column, with the subsets v1 and v2, for a host.
pub(crate) fn destination_rule(host: &str, policy: &str) -> String {
    let policy =
        if policy.is_empty() { String::new() } else { format!("  trafficPolicy:\n{}", indent(policy, 4)) };
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: {host} }}\nspec:\n  host: {host}\n{policy}\n  subsets:\n  \
         - {{ name: v1, labels: {{ version: v1 }} }}\n  - {{ name: v2, labels: {{ version: v2 }} }}\n"
    )
}

fn indent(text: &str, by: usize) -> String {
    let lines = text.trim_matches('\n').lines();
    lines.map(|line| format!("{:by$}{line}\n", "")).collect()
}

/// What panicked on a thread of a proxy, a task that nobody waits for included.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn watch_for_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            // Tests run on threads that are named after them, `module::test`.
            if thread.name().is_some_and(|name| !name.contains("::") && name != "main") {
                PANICS.lock().unwrap().push(info.to_string());
            }
            print(info);
        }));
    });
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.running.take());
        if !std::thread::panicking() {
            let panics = PANICS.lock().unwrap();
            assert!(panics.is_empty(), "a proxy of this process panicked: {panics:#?}");
        }
    }
}

/// A running proxy; it stops when it is dropped.
pub(crate) struct Proxy {
    running: Option<Running>,
    rules: PathBuf,
    log: PathBuf,
    _folder: TempDir,
}

impl Proxy {
    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    #[track_caller]
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        let found = self.running().address(name);
        found.unwrap_or_else(|| panic!("no listener {name}: {:?}", self.running().addresses()))
    }

    /// The outbound listener of HTTP services.
    pub(crate) fn http(&self) -> SocketAddr {
        self.address("127.0.0.1_8080")
    }

    /// The outbound listener of gRPC services.
    pub(crate) fn grpc(&self) -> SocketAddr {
        self.address("127.0.0.1_9090")
    }

    /// The outbound listener of services that are passed on as bytes.
    pub(crate) fn tcp(&self) -> SocketAddr {
        self.address("127.0.0.1_7000")
    }

    /// GET on the HTTP listener, on a connection of its own.
    pub(crate) async fn get(&self, host: &str, path: &str) -> Answer {
        ask(self.http(), client::get(host, path, &[])).await
    }

    /// The same with headers.
    pub(crate) async fn get_with(&self, host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        ask(self.http(), client::get(host, path, headers)).await
    }

    /// One gRPC call on a connection of its own.
    pub(crate) async fn call(&self, host: &str, path: &str, message: &[u8]) -> Answer {
        Client::http2(self.grpc()).await.send(client::grpc(host, path, message)).await
    }

    /// A page of the admin server.
    pub(crate) async fn admin(&self, path: &str) -> Answer {
        ask(self.address("admin"), client::get("localhost", path, &[])).await
    }

    /// A request to the admin server with another method.
    pub(crate) async fn admin_as(&self, method: &str, path: &str) -> Answer {
        ask(
            self.address("admin"),
            client::request(method, "localhost", path).body(Payload::default()).unwrap(),
        )
        .await
    }

    /// A page of Istio's agent.
    pub(crate) async fn agent(&self, method: &str, path: &str) -> Answer {
        let request = client::request(method, "localhost", path).body(Payload::default()).unwrap();
        ask(self.address("metrics"), request).await
    }

    /// The value of `CLUSTER::HOST::KEY` (or of `CLUSTER::KEY` without a host) on `/clusters`.
    pub(crate) async fn cluster(&self, cluster: &str, host: Option<SocketAddr>, key: &str) -> Option<String> {
        let page = self.admin("/clusters").await;
        let host = host.map(|host| format!("{host}::")).unwrap_or_default();
        let prefix = format!("{cluster}::{host}{key}::");
        page.text().lines().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
    }

    /// A counter or gauge of `/stats` as a number; 0 if it is not there.
    pub(crate) async fn sum(&self, series: &str, labels: &[&str]) -> f64 {
        let page = ask(self.address("metrics"), client::get("localhost", "/metrics", &[])).await;
        assert_eq!(page.status, 200);
        let lines = page.text().lines().filter(|line| {
            // A counter may be exposed under either name.
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            (name == series || name.strip_suffix("_total") == Some(series))
                && labels.iter().all(|label| line.contains(label))
        });
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Waits until a series has a sum.
    pub(crate) async fn metric(&self, series: &str, labels: &[&str], value: f64) {
        eventually(&format!("{series} {labels:?} = {value}"), async || {
            (self.sum(series, labels).await == value).then_some(())
        })
        .await;
    }

    /// The access log as it stands, one value a line (a string where the log is text).
    pub(crate) fn log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.into())).collect()
    }

    /// Waits for the access log to have at least that many lines.
    pub(crate) async fn logged(&self, lines: usize) -> Vec<Value> {
        until(&format!("{lines} lines of access log"), || Some(self.log()).filter(|log| log.len() >= lines))
            .await
    }

    /// The first line of the access log.
    pub(crate) async fn logged_one(&self) -> Value {
        self.logged(1).await.swap_remove(0)
    }

    /// Replaces the rules (not the services), as an editor does: by renaming.
    pub(crate) fn rewrite(&self, rules: impl AsRef<str>) {
        let fresh = self.rules.with_extension("fresh");
        std::fs::write(&fresh, rules.as_ref()).unwrap();
        std::fs::rename(fresh, &self.rules).unwrap();
    }

    /// The version of the published configuration.
    pub(crate) async fn version(&self) -> String {
        let dump: Value = serde_json::from_slice(&self.admin("/config_dump").await.body).unwrap();
        find(&dump, "version_info").unwrap_or_else(|| panic!("no version_info in {dump:#}"))
    }

    /// Replaces the rules and waits until they are published.
    pub(crate) async fn reload(&self, rules: impl AsRef<str>) {
        let old = self.version().await;
        self.rewrite(rules);
        eventually("the new configuration", async || (self.version().await != old).then_some(())).await;
    }

    /// Replaces the rules and asks for a reload at once, as SIGHUP does; waits until `done` with what `/config_dump` says
    /// of this process.
    pub(crate) async fn reload_until(&self, rules: impl AsRef<str>, done: impl Fn(&Value) -> bool) {
        self.rewrite(rules);
        self.running().reload();
        eventually("the reload", async || {
            let dump: Value = serde_json::from_slice(&self.admin("/config_dump").await.body).unwrap();
            done(&dump["outrigger"]).then_some(())
        })
        .await;
    }

    /// Begins the drain, as SIGTERM does.
    pub(crate) fn shut_down(&self) {
        self.running().drain();
    }

    /// Waits for the end of the drain; one that does not come fails the test, and keeps nobody waiting.
    pub(crate) async fn ended(self) {
        until("the end of the drain", || self.running().is_finished().then_some(())).await;
    }
}

/// The first string under this key, depth first.
fn find(value: &Value, key: &str) -> Option<String> {
    match value {
        Value::Object(map) => match map.get(key) {
            Some(Value::String(found)) => Some(found.clone()),
            _ => map.values().find_map(|inner| find(inner, key)),
        },
        Value::Array(items) => items.iter().find_map(|inner| find(inner, key)),
        _ => None,
    }
}
