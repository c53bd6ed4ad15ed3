//! Where to listen.

use std::collections::BTreeMap;

use outrigger_config::{
    report::Code,
    snapshot::{Direction, Protocol},
};

use crate::support::{
    MESH, RATINGS, REVIEWS, Request, cluster, codes, findings, loaded, options, outbound, rule, snapshot,
    table, try_load,
};

fn sidecar(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: {name} }}\nspec:\n{spec}\n"
    )
}

fn services() -> &'static str {
    MESH.rsplit_once("---").unwrap().0
}

#[test]
fn an_ingress_listener_forwards_to_its_endpoint() {
    let ingress = sidecar(
        "in",
        "  ingress:\n  - { port: { number: 7070, name: http }, defaultEndpoint: '127.0.0.1:70' }\n  \
         - { port: { number: 7071, name: grpc }, bind: 127.0.0.1, defaultEndpoint: '0.0.0.0:71' }",
    );
    let mut options = options();
    options.node.address = "10.5.0.5".into();
    options.node.workload = "me".into();
    let loaded = try_load(&[&ingress], &options).unwrap();
    assert_eq!(codes(&loaded.warnings), []);
    let listeners = &loaded.snapshot.listeners;
    assert_eq!((&*listeners[0].name, &*listeners[1].name), ("0.0.0.0_7070", "127.0.0.1_7071"));
    assert_eq!(listeners[0].direction, Direction::Inbound);
    let http = cluster(&loaded.snapshot, "inbound|7070||");
    assert_eq!(
        (&*http.endpoints[0].key, http.protocol, &*http.service.name),
        ("127.0.0.1:70", Protocol::Http1, "me")
    );
    let grpc = cluster(&loaded.snapshot, "inbound|7071||");
    assert_eq!((&*grpc.endpoints[0].key, grpc.protocol), ("10.5.0.5:71", Protocol::Http2));
    assert_eq!(Request::to("anything").answer(&loaded.snapshot, "inbound|7070||", 0), "inbound|7070||");
    insta::assert_json_snapshot!("inbound", loaded.snapshot.to_json()["routes"]);
}

#[test]
fn the_selecting_sidecar_wins() {
    let listener =
        |port: u16| format!("  egress: [{{ port: {{ number: {port}, name: http }}, hosts: ['*/*'] }}]");
    let plain = sidecar("plain", &listener(8080));
    let chosen =
        sidecar("chosen", &format!("  workloadSelector: {{ labels: {{ app: me }} }}\n{}", listener(9090)));
    let root = sidecar("root", &listener(8080)).replace("name: root", "name: root, namespace: istio-system");
    let ports = |texts: &[&str], options| -> Vec<u16> {
        let loaded = try_load(texts, &options).unwrap();
        loaded.snapshot.listeners.iter().map(|listener| listener.bind.port()).collect()
    };
    let mut me = options();
    me.node.labels = BTreeMap::from([("app".into(), "me".into())]);
    assert_eq!(ports(&[services(), &plain, &chosen], me), [9090]);
    assert_eq!(ports(&[services(), &plain, &chosen], options()), [8080]);
    assert_eq!(ports(&[services(), &root], options()), [8080]);
    assert_eq!(ports(&[services(), &chosen], options()), [0_u16; 0]);
    let two = findings(&[services(), &plain, &sidecar("second", &listener(9090))]);
    assert_eq!(codes(&two), [Code::SeveralSidecars]);
}

#[test]
fn egress_hosts_limit_what_a_listener_carries() {
    let answer = |hosts: &str| {
        let text =
            sidecar("a", &format!("  egress: [{{ port: {{ number: 8080, name: http }}, hosts: {hosts} }}]"));
        let snapshot = snapshot(&[services(), &text]);
        let to = |host: &str| Request::to(host).answer(&snapshot, "8080", 0) != "PassthroughCluster";
        (to("reviews"), to("ratings.other"))
    };
    assert_eq!(answer("['*/*']"), (true, true));
    assert_eq!(answer("['./*']"), (true, false));
    assert_eq!(answer("['other/*']"), (false, true));
    assert_eq!(answer(&format!("['*/{RATINGS}']")), (false, true));
    assert_eq!(answer("['*/*.other.svc.cluster.local']"), (false, true));
    assert_eq!(answer("['~/*']"), (false, false));
    assert_eq!(answer("['*/*', '~other/*']"), (true, false));
    assert_eq!(answer("['~./reviews.observability.svc.cluster.local', '*/*']"), (false, true));
    assert_eq!(answer("['*/*', '~*/*.svc.cluster.local']"), (false, false));
    assert_eq!(answer("['~other/*']"), (false, false), "an exclusion takes nothing by itself");
}

/// `name` is the only rule, of this namespace.
fn virtual_service(namespace: &str, host: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: vs, namespace: {namespace} }}\n\
         spec:\n  hosts: ['{host}']\n  http: [{{ name: vs, route: [{{ destination: {{ host: {RATINGS} }} }}] }}]\n"
    )
}

fn egress(hosts: &str) -> String {
    sidecar("a", &format!("  egress: [{{ port: {{ number: 8080, name: http }}, hosts: {hosts} }}]"))
}

#[test]
fn virtual_services_and_services_are_taken_by_their_own_namespaces() {
    let route = |hosts: &str, vs: &str| {
        let snapshot = snapshot(&[services(), vs, &egress(hosts)]);
        Request::to("reviews").route(table(&snapshot, "8080")).unwrap().to_owned()
    };
    let foreign = virtual_service("third", REVIEWS);
    assert_eq!(route("['*/*']", &foreign), "vs");
    assert_eq!(route("['./*']", &foreign), "default", "the service is taken, its virtual service is not");
    assert_eq!(route("['./*', 'third/*']", &foreign), "vs");
    assert_eq!(route("['./*', 'third/ratings.other.svc.cluster.local']", &foreign), "default");
    assert_eq!(
        route("['third/*']", &foreign),
        "allow_any",
        "the virtual service is taken, its service is not"
    );
    assert_eq!(route("['./*', 'third/*', '~third/*']", &foreign), "default");
    let wide = virtual_service("third", "*.observability.svc.cluster.local");
    assert_eq!(
        route(&format!("['./*', 'third/{REVIEWS}']"), &wide),
        "vs",
        "a wildcard meets the names below it"
    );
}

#[test]
fn a_service_with_a_wildcard_host_is_not_taken_by_a_name_below_it() {
    let wild = services()
        .replace("hosts: [ratings.other", "hosts: ['*.example.com', ratings.other")
        .replace("name: http }", "name: http, protocol: HTTP }");
    let known = |hosts: &str| {
        let snapshot = snapshot(&[&wild, &egress(hosts)]);
        Request::to("a.example.com").answer(&snapshot, "8080", 0) == outbound(8080, "", "*.example.com")
    };
    assert!(known("['*/*']") && known("['other/*.com']"));
    assert!(!known("['other/a.example.com']"));
}

#[test]
fn a_sidecar_keeps_only_what_is_reachable() {
    let clusters = |hosts: &str, more: &str| {
        let snapshot = snapshot(&[services(), &egress(hosts), more]);
        snapshot.clusters.iter().map(|cluster| cluster.name.to_string()).collect::<Vec<_>>()
    };
    let (reviews, ratings) = (outbound(8080, "", REVIEWS), outbound(8080, "", RATINGS));
    assert_eq!(clusters("['*/*']", "---"), [&*reviews, &*ratings, "PassthroughCluster"]);
    assert_eq!(clusters("['./*']", "---"), [&*reviews, "PassthroughCluster"]);
    assert_eq!(clusters("['~/*']", "---"), ["PassthroughCluster"]);
    let vs = virtual_service("observability", REVIEWS);
    let reached = [&*reviews, &*ratings, "PassthroughCluster"];
    assert_eq!(clusters("['./*']", &vs), reached, "destinations of what is taken are reached, as in Istio");
}

#[test]
fn of_two_definitions_of_a_host_the_imported_one_is_used() {
    let twin = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: twin, namespace: third }}\n\
         spec:\n  hosts: [{RATINGS}]\n  resolution: STATIC\n  ports: [{{ number: 8080, name: http }}]\n  \
         endpoints: [{{ address: 10.8.0.1 }}]\n"
    );
    let key = |hosts: &str| {
        let snapshot = snapshot(&[services(), &twin, &egress(hosts)]);
        cluster(&snapshot, &outbound(8080, "", RATINGS)).endpoints[0].key.to_string()
    };
    assert_eq!(key("['*/*']"), "10.2.0.1:8080", "the first");
    assert_eq!(key("['third/*']"), "10.8.0.1:8080");
    assert_eq!(key("['other/*']"), "10.2.0.1:8080");
}

#[test]
fn a_dot_is_the_proxys_namespace_in_a_root_sidecar_too() {
    let root = egress("['./*']").replace("name: a", "name: a, namespace: istio-system");
    let snapshot = snapshot(&[services(), &root]);
    assert_eq!(Request::to("reviews").route(table(&snapshot, "8080")), Some("default"));
    assert_eq!(Request::to("ratings.other").route(table(&snapshot, "8080")), Some("allow_any"));
}

#[test]
fn only_the_last_egress_listener_may_be_without_a_port() {
    let of =
        |entries: &str| codes(&findings(&[services(), &sidecar("a", &format!("  egress: [{entries}]"))]));
    let http = "{ port: { number: 8080, name: http }, hosts: ['./*'] }";
    assert_eq!(
        of(&format!("{http}, {{ hosts: ['*/*'] }}")),
        [Code::NotHonoured],
        "it needs captured traffic"
    );
    assert_eq!(of(&format!("{{ hosts: ['*/*'] }}, {http}")), [Code::ExclusiveFields]);
}

#[test]
fn inbound_pools_come_from_the_listener_the_sidecar_or_the_rule_of_the_own_service() {
    let pool = |connections: u32| format!("{{ tcp: {{ maxConnections: {connections} }} }}");
    let ingress = |of_listener: &str, of_all: &str| {
        let entry = "port: { number: 8080, name: http }, bind: 10.1.0.2, defaultEndpoint: '127.0.0.1:70'";
        sidecar("a", &format!("  ingress: [{{ {entry}{of_listener} }}]\n{of_all}"))
    };
    let of_listener = format!(", connectionPool: {}", pool(1));
    let of_all = format!("  inboundConnectionPool: {}", pool(2));
    let rule = rule(&format!(
        "  trafficPolicy: {{ connectionPool: {}, outlierDetection: {{ maxEjectionPercent: 100 }},\n    \
         portLevelSettings: [{{ port: {{ number: 9090 }}, connectionPool: {} }}] }}",
        pool(3),
        pool(4)
    ));
    let inbound = |texts: &[&str], address: &str| {
        let mut options = options();
        options.node.address = address.into();
        let snapshot = try_load(texts, &options).unwrap_or_else(|report| panic!("{report}")).snapshot;
        let cluster = snapshot.clusters.iter().find(|cluster| cluster.name.starts_with("inbound")).unwrap();
        assert_eq!(cluster.outlier, None, "only the pool counts");
        cluster.limits.max_connections
    };
    assert_eq!(inbound(&[services(), &rule, &ingress(&of_listener, &of_all)], ""), 1);
    assert_eq!(inbound(&[services(), &rule, &ingress("", &of_all)], ""), 2);
    assert_eq!(inbound(&[services(), &rule, &ingress("", "")], ""), 3, "bound to an endpoint of the service");
    assert_eq!(inbound(&[services(), &ingress("", "")], ""), u32::MAX);
    let anywhere = ingress("", "").replace("bind: 10.1.0.2, ", "");
    assert_eq!(inbound(&[services(), &rule, &anywhere], ""), u32::MAX);
    assert_eq!(
        inbound(&[services(), &rule, &anywhere], "10.1.0.3"),
        3,
        "the pod is an endpoint of the service"
    );
    let other_port = anywhere.replace("number: 8080", "number: 9090");
    assert_eq!(inbound(&[services(), &rule, &other_port], "10.1.0.3"), 4);
    let selecting = rule.replace("spec:\n", "spec:\n  workloadSelector: { matchLabels: {} }\n");
    assert_eq!(
        inbound(&[services(), &selecting, &anywhere], "10.1.0.3"),
        u32::MAX,
        "such rules are for clients"
    );
}

#[test]
fn a_default_endpoint_is_the_workload() {
    let of = |endpoint: &str| {
        let text = sidecar(
            "a",
            &format!("  ingress: [{{ port: {{ number: 70, name: http }}, defaultEndpoint: '{endpoint}' }}]"),
        );
        let mut options = options();
        options.node.address = "fd00::5".into();
        let loaded = try_load(&[&text], &options).map_err(|report| *codes(&report).last().unwrap())?;
        Ok(cluster(&loaded.snapshot, "inbound|70||").endpoints[0].key.to_string())
    };
    assert_eq!(of("127.0.0.1:7"), Ok("127.0.0.1:7".to_owned()));
    assert_eq!(of("[::1]:7"), Ok("[::1]:7".to_owned()));
    assert_eq!(of("0.0.0.0:7"), Ok("[fd00::5]:7".to_owned()));
    assert_eq!(of("[::]:7"), Ok("[fd00::5]:7".to_owned()));
    assert_eq!(of("unix:///run/app.sock"), Err(Code::NotExecutable));
    for other in ["10.1.2.3:7", "127.0.0.1", "localhost:7"] {
        assert_eq!(of(other), Err(Code::InvalidEndpoint), "{other}");
    }
}

#[test]
fn unknown_hosts_follow_the_outbound_policy() {
    let of = |policy: &str| {
        let text = format!("{MESH}{policy}");
        let snapshot = snapshot(&[&text]);
        let route = Request::to("nowhere").route(table(&snapshot, "8080")).unwrap().to_owned();
        (route, Request::to("nowhere").answer(&snapshot, "8080", 0))
    };
    let any = ("allow_any".to_owned(), "PassthroughCluster".to_owned());
    let none = ("block_all".to_owned(), "502".to_owned());
    assert_eq!(of(""), any);
    assert_eq!(of("  outboundTrafficPolicy: { mode: ALLOW_ANY }\n"), any);
    assert_eq!(of("  outboundTrafficPolicy: { mode: REGISTRY_ONLY }\n"), none);
    let mesh = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: istio }\ndata:\n  \
                mesh: |-\n    outboundTrafficPolicy:\n      mode: REGISTRY_ONLY\n";
    assert_eq!(Request::to("nowhere").answer(&snapshot(&[MESH, mesh]), "8080", 0), "502");
    let own = format!("{MESH}  outboundTrafficPolicy: {{ mode: ALLOW_ANY }}\n");
    let answer = Request::to("nowhere").answer(&snapshot(&[&own, mesh]), "8080", 0);
    assert_eq!(answer, "PassthroughCluster", "the Sidecar's counts before the mesh's");
}

#[test]
fn the_last_resort_has_no_endpoint() {
    let snapshot = snapshot(&[MESH]);
    assert!(cluster(&snapshot, "PassthroughCluster").endpoints.is_empty());
}

#[test]
fn listeners_that_need_capture_are_left_out() {
    let listeners = |entry: &str| {
        let loaded =
            loaded(&[services(), &sidecar("a", &format!("  egress: [{{ {entry}, hosts: ['*/*'] }}]"))]);
        let names: Vec<_> =
            loaded.snapshot.listeners.iter().map(|listener| listener.name.to_string()).collect();
        (names, codes(&loaded.warnings))
    };
    let http = "port: { number: 8080, name: http }";
    let nothing = (vec![], vec![Code::NoListener, Code::NotHonoured]);
    assert_eq!(listeners(http), (vec!["127.0.0.1_8080".to_owned()], vec![]));
    assert_eq!(listeners(&format!("{http}, bind: 0.0.0.0")).0, ["0.0.0.0_8080"]);
    assert_eq!(listeners(&format!("{http}, bind: '::1'")).0, ["::1_8080"]);
    assert_eq!(listeners(&format!("{http}, captureMode: IPTABLES")), nothing);
    assert_eq!(listeners("bind: 127.0.0.1"), nothing);
}

#[test]
fn clusters_are_those_of_the_listeners() {
    let text = sidecar("a", "  egress: [{ port: { number: 9090, name: grpc }, hosts: ['*/*'] }]");
    let snapshot = snapshot(&[services(), &text]);
    let names: Vec<_> = snapshot.clusters.iter().map(|cluster| &*cluster.name).collect();
    assert_eq!(names, [&*outbound(9090, "", crate::support::REVIEWS), "PassthroughCluster"]);
}
