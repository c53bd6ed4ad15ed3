//! Where to listen.

use std::collections::BTreeMap;

use outrigger_config::{
    report::Code,
    snapshot::{Direction, Protocol},
};

use crate::support::{
    MESH, RATINGS, Request, cluster, codes, findings, loaded, options, outbound, snapshot, table, try_load,
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
