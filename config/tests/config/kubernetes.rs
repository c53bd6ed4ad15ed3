//! Kubernetes documents as a registry. The documents are cut from what `kubectl get -o yaml` writes.

use outrigger_config::{
    decide::{ConnectionView, decide_tcp},
    report::Code,
    snapshot::{Carried, ClusterRef, Discovery, Locality, Protocol, Snapshot, Target},
};

use crate::support::{Request, cluster, codes, findings, loaded, options, snapshot, table, try_load};

pub(crate) const SERVICE: &str = "apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  resourceVersion: '77'
spec:
  clusterIP: 10.96.0.7
  clusterIPs: [10.96.0.7, 'fd00::7']
  internalTrafficPolicy: Cluster
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  ports:
  - { name: http, port: 80, protocol: TCP, targetPort: web }
  - { name: api, port: 81, protocol: TCP, targetPort: 8081, appProtocol: kubernetes.io/h2c }
  selector: { app: web }
  sessionAffinity: None
  type: ClusterIP
status: { loadBalancer: {} }
";

pub(crate) const SLICE: &str = "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-abcde
  namespace: shop
  labels: { kubernetes.io/service-name: web }
addressType: IPv4
endpoints:
- addresses: [10.1.0.1]
  conditions: { ready: true, serving: true, terminating: false }
  nodeName: node-1
  targetRef: { kind: Pod, name: web-1, namespace: shop, uid: 0ee2 }
  zone: zone-a
- addresses: [10.1.0.2]
  conditions: { ready: false, serving: true, terminating: true }
- addresses: [10.1.0.3]
ports:
- { name: api, port: 8081, protocol: TCP }
- { name: http, port: 8080, protocol: TCP }
";

pub(crate) const PODS: &str = "---
apiVersion: v1
kind: Pod
metadata: { name: web-1, namespace: shop, labels: { app: web, version: v1 } }
spec: { containers: [{ name: web, image: web }], hostNetwork: true }
status: { phase: Running, podIP: 10.1.0.9, podIPs: [{ ip: 10.1.0.9 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: web-3, namespace: shop, labels: { app: web, version: v2 } }
status: { podIP: 10.1.0.3 }
";

/// A proxy's listeners for both ports.
const SIDECAR: &str = "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: { name: default, namespace: observability }
spec:
  egress:
  - { port: { number: 80, name: http }, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*'] }
  - { port: { number: 81, name: http }, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*'] }
";

/// All of it as one text; the pods come last.
pub(crate) fn mesh() -> String {
    [SIDECAR, SERVICE, SLICE].join("---\n") + PODS
}

const HOST: &str = "web.shop.svc.cluster.local";

fn keys(texts: &[&str], port: u16) -> Vec<String> {
    let snapshot = snapshot(texts);
    let cluster = cluster(&snapshot, &format!("outbound|{port}||{HOST}"));
    cluster.endpoints.iter().map(|endpoint| endpoint.key.to_string()).collect()
}

/// Compiles, with nothing to complain of.
fn quiet(texts: &[&str]) -> Snapshot {
    let loaded = loaded(texts);
    assert_eq!(codes(&loaded.warnings), [], "{}", loaded.warnings);
    loaded.snapshot
}

fn subsets(name_and_label: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: web, namespace: shop }}\n\
         spec:\n  host: web\n  subsets: [{{ name: v2, labels: {name_and_label} }}]\n"
    )
}

#[test]
fn endpoints_come_from_slices_by_the_name_of_the_port() {
    let mesh = mesh();
    assert_eq!(keys(&[&mesh], 80), ["10.1.0.1:8080", "10.1.0.3:8080"]);
    assert_eq!(keys(&[&mesh], 81), ["10.1.0.1:8081", "10.1.0.3:8081"]);
    let unserved = mesh.replace("- { name: api, port: 8081, protocol: TCP }\n", "");
    assert_eq!(keys(&[&unserved], 81), [""; 0], "no number is guessed");
    let unnamed =
        mesh.replace("name: http, port: 80", "port: 80").replace("name: http, port: 8080", "port: 8080");
    assert_eq!(keys(&[&unnamed], 80), ["10.1.0.1:8080", "10.1.0.3:8080"]);
    let second = SLICE.replace("web-abcde", "web-fghij").replace("10.1.0.1", "10.1.0.4");
    assert_eq!(keys(&[&mesh, &second], 80), ["10.1.0.1:8080", "10.1.0.3:8080", "10.1.0.4:8080"], "each once");
}

#[test]
fn documents_of_a_list_count_as_if_they_stood_alone() {
    let items = [SERVICE, SLICE].map(|text| {
        let lines = text.lines().enumerate();
        lines.map(|(n, line)| format!("{}{line}\n", if n == 0 { "- " } else { "  " })).collect::<String>()
    });
    let list = format!("apiVersion: v1\nkind: List\nmetadata: {{}}\nitems:\n{}", items.concat());
    assert_eq!(keys(&[SIDECAR, &list], 80), ["10.1.0.1:8080", "10.1.0.3:8080"]);
}

#[test]
fn only_ready_endpoints_of_a_slice_are_used() {
    let all = mesh().replace("ready: false", "ready: true");
    assert_eq!(keys(&[&all], 80), ["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080"]);
    let none =
        mesh().replace("- addresses: [10.1.0.3]", "- addresses: [10.1.0.3]\n  conditions: { ready: false }");
    assert_eq!(keys(&[&none], 80), ["10.1.0.1:8080"]);
}

#[test]
fn labels_of_endpoints_are_those_of_their_pods() {
    let mesh = mesh();
    let snapshot = quiet(&[&mesh, &subsets("{ version: v2 }")]);
    let whole = cluster(&snapshot, &format!("outbound|80||{HOST}"));
    let version = |index: usize| &*whole.endpoints[index].labels["version"];
    assert_eq!((version(0), version(1)), ("v1", "v2"), "one by its reference, one by its address");
    let v2 = cluster(&snapshot, &format!("outbound|80|v2|{HOST}"));
    assert_eq!(v2.endpoints.iter().map(|endpoint| &*endpoint.key).collect::<Vec<_>>(), ["10.1.0.3:8080"]);
}

#[test]
fn a_subset_says_that_its_pods_are_not_known() {
    let mesh = mesh();
    let without =
        mesh.replace("name: web-1, namespace: shop, labels", "name: web-2, namespace: shop, labels");
    let report = findings(&[&without, &subsets("{ version: v2 }")]);
    assert_eq!(codes(&report), [Code::UnlabelledEndpoints]);
    assert_eq!(report.diagnostics[0].label, "1 of 2 endpoints have no Pod document");
    assert_eq!(codes(&findings(&[&without, &subsets("{}")])), [], "all endpoints need no labels");
    assert_eq!(codes(&findings(&[&mesh, &subsets("{ version: v9 }")])), [Code::EmptySubset]);
}

#[test]
fn a_kubernetes_service_answers_to_its_names_and_addresses() {
    let snapshot = snapshot(&[&mesh()]);
    let known = |host: &str| Request::to(host).answer(&snapshot, "80", 0) == format!("outbound|80||{HOST}");
    for host in [HOST, "web.shop", "web.shop.svc", "10.96.0.7:80", "[fd00::7]"] {
        assert!(known(host), "{host}");
    }
    for host in ["web", "a.web.shop", "10.1.0.1"] {
        assert!(!known(host), "{host}");
    }
    let lone = mesh().replace("  clusterIPs: [10.96.0.7, 'fd00::7']\n", "");
    let snapshot = crate::support::snapshot(&[&lone]);
    assert_eq!(Request::to("10.96.0.7").route(table(&snapshot, "80")), Some("default"));
}

#[test]
fn a_headless_service_answers_to_the_names_of_its_pods() {
    let headless = mesh().replace("10.96.0.7, 'fd00::7'", "None").replace("10.96.0.7", "None");
    let snapshot = quiet(&[&headless]);
    for host in [HOST, "web-0.web.shop", "web-0.web.shop.svc.cluster.local", "web-0.web.shop.svc:80"] {
        assert_eq!(Request::to(host).answer(&snapshot, "80", 0), format!("outbound|80||{HOST}"), "{host}");
    }
    assert_eq!(Request::to("None").route(table(&snapshot, "80")), Some("allow_any"));
}

#[test]
fn the_protocol_of_a_kubernetes_port_is_istios() {
    let snapshot = snapshot(&[&mesh()]);
    let protocol = |port: u16| cluster(&snapshot, &format!("outbound|{port}||{HOST}")).protocol;
    assert_eq!((protocol(80), protocol(81)), (Protocol::Http1, Protocol::Http2));
    let both = mesh().replace(
        "  - { name: http, port: 80,",
        "  - { name: quic, port: 80, protocol: UDP }\n  - { name: http, port: 80,",
    );
    assert_eq!(keys(&[&both], 80), ["10.1.0.1:8080", "10.1.0.3:8080"], "UDP hides no TCP of its number");
}

#[test]
fn raw_ports_of_a_kubernetes_service_are_carried_by_raw_listeners() {
    // Without a known name the number says that it is a database.
    for (port, listener) in [
        ("{ name: db, port: 3306, protocol: TCP }", "tcp"),
        ("{ name: tcp, port: 3306, protocol: TCP }", "mysql"),
        ("{ name: db, port: 3306, appProtocol: kubernetes.io/wss }", "tls"),
    ] {
        let mesh = mesh()
            .replace(
                "{ name: api, port: 81, protocol: TCP, targetPort: 8081, appProtocol: kubernetes.io/h2c }",
                port,
            )
            .replace("{ name: api, port: 8081, protocol: TCP }", &port.replace("port: 3306", "port: 3307"))
            .replace("number: 81, name: http", &format!("number: 3306, name: {listener}"));
        let snapshot = quiet(&[&mesh]);
        let Carried::Tcp(routes) = &snapshot.listeners[1].carried else { panic!("{port}") };
        let view = ConnectionView { destination: "127.0.0.1".parse().unwrap(), server_name: Some(HOST) };
        let (route, to) = decide_tcp(routes, view, || 0).unwrap();
        assert_eq!(&*route.origin.resource, "Service shop/web", "{port}");
        let ClusterRef::Known(id) = to.cluster else { panic!("{port}") };
        let keys: Vec<_> = snapshot[id].endpoints.iter().map(|endpoint| &*endpoint.key).collect();
        assert_eq!(keys, ["10.1.0.1:3307", "10.1.0.3:3307"], "{port}");
    }
}

#[test]
fn an_annotation_says_who_sees_a_kubernetes_service() {
    let seen = |to: &str| {
        let mesh = mesh().replace(
            "  resourceVersion: '77'\n",
            &format!("  annotations: {{ networking.istio.io/exportTo: '{to}' }}\n"),
        );
        Request::to("web.shop").route(table(&snapshot(&[&mesh]), "80")) == Some("default")
    };
    assert!(seen("*") && seen("a, observability") && seen(""));
    assert!(!seen(".") && !seen("~") && !seen("a"));
}

#[test]
fn slices_of_the_first_ip_family_count() {
    let six = SLICE.replace("web-abcde", "web-6").replace("IPv4", "IPv6").replace("10.1.0.", "fd00::");
    let both = mesh().replace("ipFamilies: [IPv4]", "ipFamilies: [IPv6, IPv4]");
    assert_eq!(keys(&[&mesh(), &six], 80), ["10.1.0.1:8080", "10.1.0.3:8080"]);
    assert_eq!(keys(&[&both, &six], 80), ["[fd00::1]:8080", "[fd00::3]:8080"]);
}

#[test]
fn slices_of_names_are_left_out_and_said_so() {
    let names =
        SLICE.replace("web-abcde", "web-names").replace("IPv4", "FQDN").replace("10.1.0.", "web.example.");
    let loaded = loaded(&[&mesh(), &names]);
    assert_eq!(codes(&loaded.warnings), [Code::NotResolved]);
    assert_eq!(keys(&[&mesh(), &names], 80).len(), 2);
}

#[test]
fn an_alias_is_looked_up() {
    let alias = |spec: &str| {
        format!(
            "{}---\napiVersion: v1\nkind: Service\nmetadata: {{ name: alias, namespace: shop }}\n\
             spec: {{ type: ExternalName, {spec} }}\n",
            mesh()
        )
    };
    let ports = "ports: [{ port: 80, targetPort: 8080 }]";
    let dns = loaded(&[&alias(&format!("externalName: WWW.example.com., {ports}"))]);
    assert_eq!(codes(&dns.warnings), []);
    let name = "outbound|80||alias.shop.svc.cluster.local";
    assert_eq!(Request::to("alias.shop").answer(&dns.snapshot, "80", 0), name);
    let Discovery::Dns(found) = &cluster(&dns.snapshot, name).discovery else { panic!("it is by DNS") };
    let Target::Name(target) = &found.targets[0] else { panic!("it is a name") };
    assert_eq!((&*target.name, target.port, found.targets.len()), ("www.example.com.", 80, 1));

    let fixed = loaded(&[&alias(&format!("externalName: 10.9.0.1, {ports}"))]);
    assert_eq!(cluster(&fixed.snapshot, name).endpoints[0].key.as_ref(), "10.9.0.1:80");
    let report = |spec: &str| codes(&findings(&[&alias(spec)]));
    assert_eq!(report("externalName: www.example.com"), [Code::NotResolved], "no listener carries it");
    assert_eq!(report(ports), [Code::MissingField]);
    assert_eq!(report(&format!("externalName: a_b, {ports}")), [Code::InvalidHost]);
    let own = format!("externalName: web.shop.svc.cluster.local, {ports}");
    assert_eq!(report(&own), [Code::AliasOfService]);
}

#[test]
fn a_kubernetes_service_selects_workload_entries() {
    let entry = |name: &str, namespace: &str, spec: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n\
             metadata: {{ name: {name}, namespace: {namespace} }}\nspec: {{ labels: {{ app: web }}, {spec} }}\n"
        )
    };
    let mesh = mesh()
        + &entry("a", "shop", "address: 10.9.0.1, ports: { web: 7000, api: 7001 }")
        + &entry("b", "shop", "address: 10.9.0.2")
        + &entry("c", "other", "address: 10.9.0.3, ports: { web: 7000 }")
        + &entry("d", "shop", "address: 10.9.0.4, ports: { web: 7000 }").replace("app: web", "app: db");
    assert_eq!(keys(&[&mesh], 80)[2..], ["10.9.0.1:7000"], "a named target is a port of the workload");
    assert_eq!(
        keys(&[&mesh], 81)[2..],
        ["10.9.0.1:8081", "10.9.0.2:8081"],
        "a number is one of every workload"
    );
    let same = mesh.replace(", targetPort: 8081", "");
    assert_eq!(keys(&[&same], 81)[2..], ["10.9.0.1:7001", "10.9.0.2:81"]);
}

#[test]
fn a_service_without_slices_says_so() {
    assert_eq!(codes(&findings(&[SIDECAR, SERVICE])), [Code::NoEndpoints]);
    let stray = SLICE.replace("  labels: { kubernetes.io/service-name: web }\n", "");
    assert_eq!(codes(&findings(&[&mesh(), &stray.replace("web-abcde", "stray")])), [Code::StraySlice]);
}

#[test]
fn endpoints_are_read_from_slices_of_v1_alone() {
    let endpoints = "apiVersion: v1\nkind: Endpoints\nmetadata: { name: web, namespace: shop }\n\
                     subsets: [{ addresses: [{ ip: 10.1.0.8 }], ports: [{ name: http, port: 8080 }] }]\n";
    let old = SLICE.replace("web-abcde", "web-old").replace("/v1", "/v1beta1").replace("10.1.0.", "10.2.0.");
    for other in [endpoints, &*old] {
        let report = findings(&[&mesh(), other]);
        assert_eq!(codes(&report), [Code::KindNotHonoured]);
        assert!(report.to_string().contains("`discovery.k8s.io/v1`, which are read"), "{report}");
        assert_eq!(keys(&[&mesh(), other], 80).len(), 2);
    }
}

#[test]
fn of_two_definitions_that_of_kubernetes_is_used() {
    let entry = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: web, namespace: shop }}\n\
         spec:\n  hosts: [{HOST}]\n  resolution: STATIC\n  ports: [{{ number: 80, name: http }}]\n  \
         endpoints: [{{ address: 10.8.0.1 }}]\n"
    );
    assert_eq!(codes(&findings(&[&entry, &mesh()])), [Code::DuplicateService]);
    assert_eq!(keys(&[&entry, &mesh()], 80).len(), 2);
}

#[test]
fn a_node_local_service_says_that_all_nodes_are_used() {
    let local = mesh().replace("internalTrafficPolicy: Cluster", "internalTrafficPolicy: Local");
    assert_eq!(codes(&findings(&[&local])), [Code::NotHonoured]);
}

/// Address, locality and priority of the endpoints, as a proxy in zone-a of region r sees them.
fn places(text: &str) -> Vec<String> {
    let mut options = options();
    options.node.locality = Locality::parse("r/zone-a");
    let snapshot = try_load(&[text], &options).unwrap_or_else(|report| panic!("{report}")).snapshot;
    let endpoints = &cluster(&snapshot, &format!("outbound|80||{HOST}")).endpoints;
    endpoints.iter().map(|one| format!("{} {} {}", one.key, one.locality, one.priority)).collect()
}

#[test]
fn endpoints_of_slices_have_the_zone_of_the_slice() {
    assert_eq!(places(&mesh()), ["10.1.0.1:8080 r/zone-a 0", "10.1.0.3:8080  0"], "the region of the proxy");
    let elsewhere = mesh().replace("zone: zone-a", "zone: zone-b");
    assert_eq!(places(&elsewhere)[0], "10.1.0.1:8080 /zone-b 0", "of which nobody knows the region");
    let labelled =
        mesh().replace("version: v1", "topology.kubernetes.io/region: q, topology.kubernetes.io/zone: y");
    assert_eq!(places(&labelled)[0], "10.1.0.1:8080 q/y 0", "the pod says it");
    let istio = mesh().replace("version: v1", "istio-locality: q.y.x, topology.kubernetes.io/zone: z");
    assert_eq!(places(&istio)[0], "10.1.0.1:8080 q/y/x 0");
}

#[test]
fn a_kubernetes_service_prefers_what_is_close() {
    let close = |value: &str| {
        mesh().replace("  type: ClusterIP", &format!("  type: ClusterIP\n  trafficDistribution: {value}"))
    };
    let prefers = ["10.1.0.1:8080 r/zone-a 0", "10.1.0.3:8080  1"];
    for value in ["PreferClose", "PreferSameZone"] {
        assert_eq!(places(&close(value)), prefers, "without outlier detection");
        assert_eq!(codes(&findings(&[&close(value)])), codes(&findings(&[&mesh()])));
    }
    let node = findings(&[&close("PreferSameNode")]);
    assert!(codes(&node).contains(&Code::NotHonoured), "{node}");
    let rule = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: web }}\nspec:\n  \
         host: {HOST}\n  trafficPolicy: {{ loadBalancer: {{ localityLbSetting: {{ enabled: false }} }} }}\n"
    );
    assert_eq!(places(&(close("PreferClose") + &rule))[1], "10.1.0.3:8080  0", "a rule says otherwise");
}
