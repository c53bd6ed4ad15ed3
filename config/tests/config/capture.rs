//! What `virtualOutbound` and `virtualInbound` carry.

use std::{net::SocketAddr, time::Duration};

use outrigger_config::{
    LoadOptions, Loader, Source,
    decide::{ConnectionView, Decision, decide, decide_tcp},
    diff::diff,
    report::Code,
    snapshot::{
        Captured, Chain, ClusterRef, Direction, Discovery, InboundTls, Interception, Listener, Silent,
        Snapshot, Source as Bound,
    },
};

use crate::support::{Request, cluster, codes, options, source, try_load};

fn captured() -> LoadOptions {
    let mut options = options();
    options.node.interception = Interception::Redirect;
    options.node.address = "10.5.0.5".into();
    options
}

fn load(texts: &[&str]) -> Snapshot {
    try_load(texts, &captured()).unwrap_or_else(|report| panic!("{report}")).snapshot
}

/// `more` are fields of the spec.
fn entry(name: &str, port: u16, protocol: &str, more: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n  \
         hosts: [{name}.observability.svc.cluster.local]\n  resolution: STATIC\n  \
         ports: [{{ number: {port}, name: main, protocol: {protocol} }}]\n  \
         endpoints: [{{ address: 10.1.0.1 }}]\n{more}\n---\n"
    )
}

fn listener<'s>(snapshot: &'s Snapshot, name: &str) -> &'s Listener {
    snapshot.listeners.iter().find(|listener| &*listener.name == name).expect("a listener of that name")
}

fn outbound(snapshot: &Snapshot) -> &Captured {
    listener(snapshot, "virtualOutbound").captured().unwrap()
}

fn inbound(snapshot: &Snapshot) -> &Captured {
    listener(snapshot, "virtualInbound").captured().unwrap()
}

fn to(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The cluster of a request to `destination`, or its answer.
fn requests(snapshot: &Snapshot, captured: &Captured, destination: &str, host: &str) -> String {
    let Some(table) = captured.chain(to(destination)).requests() else { return "no requests".to_owned() };
    let request = Request::to(host);
    match decide(&snapshot[table], &request.view(), || 0) {
        Decision::Forward { destination, .. } => name(snapshot, &destination.cluster),
        Decision::Direct { response, .. } => response.status.as_str().to_owned(),
        other => panic!("{other:?}"),
    }
}

fn bytes(snapshot: &Snapshot, captured: &Captured, destination: &str, server_name: Option<&str>) -> String {
    let Some(routes) = captured.chain(to(destination)).bytes() else { return "no bytes".to_owned() };
    let view = ConnectionView { destination: to(destination).ip(), server_name };
    name(snapshot, &decide_tcp(routes, view, || 0).unwrap().1.cluster)
}

fn name(snapshot: &Snapshot, cluster: &ClusterRef) -> String {
    match cluster {
        ClusterRef::Known(id) => snapshot[*id].name.to_string(),
        ClusterRef::Missing(name) => format!("missing {name}"),
    }
}

fn of(port: u16, name: &str) -> String {
    format!("outbound|{port}||{name}.observability.svc.cluster.local")
}

#[test]
fn capture_needs_no_sidecar() {
    let web = entry("web", 80, "HTTP", "  addresses: [10.9.0.1]");
    let loaded = try_load(&[&web], &captured()).unwrap();
    assert_eq!(codes(&loaded.warnings), []);
    let bound: Vec<_> = loaded
        .snapshot
        .listeners
        .iter()
        .map(|listener| (&*listener.name, listener.bind.to_string(), listener.direction))
        .collect();
    assert_eq!(
        bound,
        [
            ("virtualOutbound", "0.0.0.0:15001".to_owned(), Direction::Outbound),
            ("virtualInbound", "0.0.0.0:15006".to_owned(), Direction::Inbound),
        ]
    );
    let without = try_load(&[&web], &options()).unwrap();
    assert_eq!(codes(&without.warnings), [Code::NoListener]);
    assert!(without.snapshot.listeners.is_empty());
}

#[test]
fn requests_go_by_port_and_host_and_the_rest_passes_through() {
    let snapshot = load(&[
        &entry("web", 80, "HTTP", "  addresses: [10.9.0.1]"),
        &entry("api", 80, "GRPC", "  addresses: [10.9.0.2]"),
        &entry("other", 81, "HTTP", ""),
    ]);
    let captured = outbound(&snapshot);
    let asked = |destination, host| requests(&snapshot, captured, destination, host);
    assert_eq!(asked("10.9.0.1:80", "web"), of(80, "web"));
    assert_eq!(asked("10.9.0.1:80", "api"), of(80, "api"), "the host decides");
    assert_eq!(asked("10.9.0.9:80", "10.9.0.2"), of(80, "api"));
    assert_eq!(asked("10.9.0.1:81", "web"), "PassthroughCluster", "another port's service");
    assert_eq!(asked("10.9.0.1:80", "nobody"), "PassthroughCluster");
    assert_eq!(asked("10.9.0.1:82", "web"), "no requests", "no service has the port");
    for destination in ["10.9.0.1:80", "10.9.0.1:82"] {
        assert_eq!(bytes(&snapshot, captured, destination, None), "PassthroughCluster");
    }
    assert_eq!(cluster(&snapshot, "PassthroughCluster").discovery, Discovery::OriginalDestination);
}

#[test]
fn bytes_go_by_address_and_port() {
    let snapshot = load(&[
        &entry("one", 3306, "TCP", "  addresses: [10.9.0.1, 'fd00::1']"),
        &entry("two", 3306, "MYSQL", "  addresses: [10.9.0.2]"),
        &entry("range", 3306, "TCP", "  addresses: [10.8.0.0/16]"),
        &entry("rest", 3307, "TCP", ""),
    ]);
    let captured = outbound(&snapshot);
    let passed = |destination| bytes(&snapshot, captured, destination, None);
    assert_eq!(passed("10.9.0.1:3306"), of(3306, "one"));
    assert_eq!(passed("[fd00::1]:3306"), of(3306, "one"));
    assert_eq!(passed("10.9.0.2:3306"), of(3306, "two"));
    assert_eq!(passed("10.8.3.4:3306"), of(3306, "range"));
    assert_eq!(passed("10.7.3.4:3306"), "PassthroughCluster");
    assert_eq!(passed("10.9.0.1:3307"), of(3307, "rest"), "without an address it has the port");
    assert!(matches!(captured.chain(to("10.9.0.1:3306")), Chain::Bytes(_)));
}

#[test]
fn tls_without_an_address_goes_by_its_server_name() {
    let snapshot = load(&[
        &entry("named", 443, "TLS", ""),
        &entry("addressed", 443, "HTTPS", "  addresses: [10.9.0.1]"),
    ]);
    let passed = |destination, name| bytes(&snapshot, outbound(&snapshot), destination, name);
    let host = "named.observability.svc.cluster.local";
    assert_eq!(passed("10.7.0.1:443", Some(host)), of(443, "named"));
    assert_eq!(passed("10.7.0.1:443", Some("else.where")), "PassthroughCluster");
    assert_eq!(passed("10.9.0.1:443", Some("else.where")), of(443, "addressed"), "its address says enough");
    assert_eq!(passed("10.9.0.1:443", None), of(443, "addressed"));
    let ranged = entry("ranged", 443, "TLS", "  addresses: [10.8.0.0/16]");
    let snapshot = load(&[&ranged]);
    let passed = |destination, name| bytes(&snapshot, outbound(&snapshot), destination, name);
    let host = "ranged.observability.svc.cluster.local";
    assert_eq!(passed("10.8.1.1:443", Some(host)), of(443, "ranged"));
    assert_eq!(
        passed("10.8.1.1:443", Some("else.where")),
        "PassthroughCluster",
        "a range is none of its own"
    );
    assert_eq!(passed("10.7.1.1:443", Some(host)), "PassthroughCluster");
}

#[test]
fn a_port_without_a_name_is_sniffed() {
    let snapshot = load(&[
        &entry("web", 9000, "''", "  addresses: [10.9.0.1]"),
        &entry("raw", 9000, "''", "  addresses: [10.9.0.2]"),
    ]);
    let captured = outbound(&snapshot);
    assert!(matches!(captured.chain(to("10.9.0.1:9000")), Chain::Sniffed { .. }));
    assert_eq!(requests(&snapshot, captured, "10.9.0.2:9000", "web"), of(9000, "raw"), "the address decides");
    assert_eq!(bytes(&snapshot, captured, "10.9.0.2:9000", None), of(9000, "raw"));
    assert_eq!(requests(&snapshot, captured, "10.9.0.3:9000", "web"), of(9000, "web"), "else the host does");

    let silent = |protocols: [&str; 2]| {
        let services = [entry("one", 9000, protocols[0], ""), entry("two", 9000, protocols[1], "")].concat();
        match outbound(&load(&[&services])).chain(to("10.9.0.3:9000")) {
            Chain::Sniffed { silent, .. } => *silent,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(silent(["HTTP", "GRPC"]), Silent::Requests, "the names say it");
    assert_eq!(silent(["HTTP", "''"]), Silent::Bytes);
    assert_eq!(silent(["HTTP", "TCP"]), Silent::Bytes);
}

#[test]
fn the_policy_says_what_becomes_of_strangers() {
    let mut options = captured();
    options.mesh = Some(source("mesh", "outboundTrafficPolicy: { mode: REGISTRY_ONLY }"));
    let snapshot = try_load(&[&entry("web", 80, "HTTP", "")], &options).unwrap().snapshot;
    let captured = outbound(&snapshot);
    assert_eq!(requests(&snapshot, captured, "10.9.0.1:80", "nobody"), "502");
    for destination in ["10.9.0.1:80", "10.9.0.1:82"] {
        assert_eq!(bytes(&snapshot, captured, destination, None), "BlackHoleCluster");
    }
    assert_eq!(bytes(&snapshot, inbound(&snapshot), "10.5.0.5:1", None), "InboundPassthroughCluster");
}

#[test]
fn the_mesh_says_how_long_protocols_are_sniffed() {
    let detection = |mesh: &str| {
        let mut options = captured();
        options.mesh = Some(source("mesh", mesh));
        outbound(&try_load(&[], &options).unwrap().snapshot).detection
    };
    assert_eq!(detection("enableTracing: true"), Some(Duration::from_secs(1)));
    assert_eq!(detection("protocolDetectionTimeout: 0.25s"), Some(Duration::from_millis(250)));
    assert_eq!(detection("protocolDetectionTimeout: 0s"), None, "for ever, as in Istio");
}

#[test]
fn own_ports_of_services_are_inbound() {
    let snapshot = load(&[
        &entry("web", 80, "HTTP", "").replace("10.1.0.1", "10.5.0.5, ports: { main: 8080 }"),
        &entry("db", 3306, "TCP", "").replace("10.1.0.1", "10.5.0.5"),
        &entry("odd", 9000, "''", "").replace("10.1.0.1", "10.5.0.5"),
        &entry("elsewhere", 7000, "HTTP", ""),
    ]);
    let captured = inbound(&snapshot);
    assert!(matches!(captured.chain(to("10.5.0.5:8080")), Chain::Requests(_)));
    assert!(matches!(captured.chain(to("10.5.0.5:3306")), Chain::Bytes(_)));
    assert!(matches!(captured.chain(to("10.5.0.5:9000")), Chain::Sniffed { .. }));
    assert_eq!(requests(&snapshot, captured, "10.5.0.5:8080", "any"), "inbound|8080||");
    assert_eq!(requests(&snapshot, captured, "10.5.0.5:7000", "any"), "InboundPassthroughCluster");
    let web = cluster(&snapshot, "inbound|8080||");
    assert_eq!((&web.discovery, web.source), (&Discovery::OriginalDestination, Bound::Inbound));
    assert_eq!(&*web.service.name, "web");
    let mut transparent = self::captured();
    transparent.node.interception = Interception::Tproxy;
    let snapshot = try_load(&[], &transparent).unwrap().snapshot;
    assert_eq!(cluster(&snapshot, "InboundPassthroughCluster").source, Bound::Client);
}

#[test]
fn an_ingress_listener_takes_its_port_of_captured_traffic() {
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: { name: default }\nspec:\n  ingress:\n  \
        - { port: { number: 7070, name: http }, defaultEndpoint: '127.0.0.1:70' }\n  \
        - { port: { number: 7071, name: tcp }, captureMode: NONE, defaultEndpoint: '127.0.0.1:71' }\n";
    let own = entry("web", 80, "HTTP", "").replace("10.1.0.1", "10.5.0.5");
    let snapshot = load(&[sidecar, &own]);
    let names: Vec<_> = snapshot.listeners.iter().map(|listener| &*listener.name).collect();
    assert_eq!(names, ["0.0.0.0_7071", "virtualOutbound", "virtualInbound"]);
    let captured = inbound(&snapshot);
    assert_eq!(requests(&snapshot, captured, "10.5.0.5:7070", "any"), "inbound|7070||");
    assert_eq!(cluster(&snapshot, "inbound|7070||").source, Bound::System);
    assert_eq!(
        requests(&snapshot, captured, "10.5.0.5:80", "any"),
        "InboundPassthroughCluster",
        "ingress listeners take the place of services"
    );
}

#[test]
fn egress_listeners_limit_what_is_captured() {
    let sidecar = |egress: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: default }}\nspec:\n  egress:\n{egress}"
        )
    };
    let services =
        [entry("web", 80, "HTTP", ""), entry("api", 80, "HTTP", ""), entry("db", 81, "HTTP", "")].concat();
    let port = "  - { port: { number: 80, name: http }, hosts: ['*/web.observability.svc.cluster.local'] }\n";
    let explicit =
        "  - { port: { number: 8080, name: http }, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*'] }\n";
    let asked = |egress: &str, destination: &str, host: &str| {
        let snapshot = load(&[&sidecar(egress), &services]);
        requests(&snapshot, outbound(&snapshot), destination, host)
    };
    assert_eq!(asked(port, "10.9.0.1:80", "web"), of(80, "web"));
    assert_eq!(asked(port, "10.9.0.1:80", "api"), "PassthroughCluster");
    assert_eq!(asked(port, "10.9.0.1:81", "db"), "no requests", "there is no listener for the rest");
    let rest = "  - { hosts: ['*/*'] }\n";
    let both = format!("{port}{rest}");
    assert_eq!(asked(&both, "10.9.0.1:80", "api"), "PassthroughCluster", "the port has its listener");
    assert_eq!(asked(&both, "10.9.0.1:81", "db"), of(81, "db"));
    assert_eq!(asked(explicit, "10.9.0.1:80", "web"), "no requests");
    let snapshot = load(&[&sidecar(&format!("{explicit}{rest}")), &services]);
    let names: Vec<_> = snapshot.listeners.iter().map(|listener| &*listener.name).collect();
    assert_eq!(names, ["127.0.0.1_8080", "virtualOutbound", "virtualInbound"]);
}

#[test]
fn the_protocol_of_a_captured_egress_listener_goes_for_all_its_services() {
    let services = [
        entry("web", 80, "HTTP", ""),
        entry("wire", 80, "TCP", ""),
        entry("own", 80, "TCP", "  addresses: [10.9.0.2]"),
        entry("sniffed", 81, "''", ""),
    ]
    .concat();
    let with = |port: u16, protocol: &str| {
        let sidecar = format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: default }}\nspec:\n  egress:\n  \
             - {{ port: {{ number: {port}, name: p, protocol: {protocol} }}, hosts: ['*/*'] }}\n"
        );
        try_load(&[&sidecar, &services], &captured()).unwrap_or_else(|report| panic!("{report}"))
    };
    let http = with(80, "HTTP").snapshot;
    assert_eq!(requests(&http, outbound(&http), "10.9.0.2:80", "web"), of(80, "web"));
    assert!(
        matches!(
            outbound(&http).chain(to("10.9.0.2:80")),
            Chain::Sniffed { silent: Silent::Requests, bytes, .. } if bytes.routes.len() == 1
        ),
        "no service of bytes is carried"
    );
    let tcp = with(80, "TCP").snapshot;
    assert_eq!(requests(&tcp, outbound(&tcp), "10.9.0.1:80", "web"), "no requests");
    assert_eq!(bytes(&tcp, outbound(&tcp), "10.9.0.2:80", None), of(80, "own"));
    assert_eq!(bytes(&tcp, outbound(&tcp), "10.9.0.1:80", None), of(80, "web"), "as bytes");
    let named = with(81, "HTTP").snapshot;
    assert!(matches!(
        outbound(&named).chain(to("10.9.0.1:81")),
        Chain::Sniffed { silent: Silent::Requests, .. }
    ));
    let udp = with(80, "UDP");
    assert_eq!(udp.warnings.diagnostics.iter().filter(|found| found.code == Code::NotHonoured).count(), 1);
    assert_eq!(bytes(&udp.snapshot, outbound(&udp.snapshot), "10.9.0.2:80", None), "PassthroughCluster");
}

/// A headless service of Kubernetes with one pod.
fn headless(pod: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: db }}\nspec: {{ clusterIP: None, \
         ports: [{{ name: tcp, port: 3306 }}] }}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{ name: db-1, labels: {{ kubernetes.io/service-name: db }} }}\naddressType: IPv4\n\
         endpoints: [{{ addresses: [{pod}] }}]\nports: [{{ name: tcp, port: 3306 }}]\n"
    )
}

#[test]
fn a_pod_of_a_headless_service_is_reached_by_its_address_also_when_pods_change() {
    let mut loader = Loader::new(captured().node, Default::default());
    let mut load = |pod: &str| {
        let source = Source { name: "0.yaml".into(), text: headless(pod) };
        loader.load(&[source], None).unwrap_or_else(|report| panic!("{report}")).snapshot
    };
    for pod in ["10.2.0.1", "10.2.0.2"] {
        let snapshot = load(pod);
        let passed = |ip: &str| bytes(&snapshot, outbound(&snapshot), &format!("{ip}:3306"), None);
        assert_eq!(passed(pod), of(3306, "db"));
        assert_eq!(passed("10.2.0.9"), "PassthroughCluster");
        let db = cluster(&snapshot, &of(3306, "db"));
        assert_eq!((&db.discovery, db.endpoints.len()), (&Discovery::OriginalDestination, 1));
    }
}

#[test]
fn a_service_without_resolution_is_where_its_clients_go() {
    let text = entry("any", 443, "TLS", "")
        .replace("resolution: STATIC", "resolution: NONE")
        .replace("  endpoints: [{ address: 10.1.0.1 }]\n", "");
    let loaded = try_load(&[&text], &captured()).unwrap();
    assert_eq!(codes(&loaded.warnings), []);
    assert_eq!(cluster(&loaded.snapshot, &of(443, "any")).discovery, Discovery::OriginalDestination);
    assert!(codes(&try_load(&[&text], &options()).unwrap().warnings).contains(&Code::NotResolved));
}

#[test]
fn an_address_belongs_to_the_first_service() {
    let one = entry("one", 3306, "TCP", "  addresses: [10.9.0.1]");
    let two = entry("two", 3306, "TCP", "  addresses: [10.9.0.1]");
    let loaded = try_load(&[&one, &two], &captured()).unwrap();
    assert_eq!(codes(&loaded.warnings), [Code::DomainTaken]);
    assert_eq!(bytes(&loaded.snapshot, outbound(&loaded.snapshot), "10.9.0.1:3306", None), of(3306, "one"));
}

#[test]
fn captured_listeners_are_dumped_with_their_chains() {
    let snapshot = load(&[
        &entry("web", 80, "HTTP", "  addresses: [10.9.0.1]"),
        &entry("db", 3306, "TCP", "  addresses: [10.9.0.2]"),
        &entry("own", 90, "HTTP", "").replace("10.1.0.1", "10.5.0.5"),
    ]);
    insta::assert_json_snapshot!("captured", snapshot.to_json()["listeners"]);
}

#[test]
fn a_change_of_captured_routes_names_its_destination() {
    let web = entry("web", 80, "HTTP", "  addresses: [10.9.0.1]");
    let db = entry("db", 3306, "TCP", "  addresses: [10.9.0.2]");
    let (old, new) = (load(&[&web]), load(&[&web, &db]));
    let names: Vec<_> = diff(&old, &new).changes.iter().map(|change| change.name.clone()).collect();
    assert!(names.iter().any(|name| name.contains("virtualOutbound for 10.9.0.2:3306")), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("web")), "{names:?}");
    assert!(diff(&new, &new).changes.is_empty());
}

#[test]
fn captured_ports_are_taken_as_their_own_mode_says() {
    let policy = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: own }\nspec:\n  \
        selector: { matchLabels: { app: own } }\n  mtls: { mode: STRICT }\n  \
        portLevelMtls: { 9090: { mode: DISABLE }, 9091: { mode: PERMISSIVE } }\n";
    let mut options = captured();
    options.node.labels.insert("app".into(), "own".into());
    let snapshot = try_load(&[policy], &options).unwrap_or_else(|report| panic!("{report}")).snapshot;
    let whole = listener(&snapshot, "virtualInbound");
    assert!(matches!(whole.tls, InboundTls::Strict(_)), "{:?}", whole.tls);
    let apart = &inbound(&snapshot).tls;
    assert_eq!(apart.keys().copied().collect::<Vec<_>>(), [9090, 9091]);
    assert_eq!(apart[&9090], InboundTls::Off);
    assert!(matches!(apart[&9091], InboundTls::Permissive(_)));
    let outward = listener(&snapshot, "virtualOutbound");
    assert_eq!((&outward.tls, outbound(&snapshot).tls.len()), (&InboundTls::Off, 0));
}

#[test]
fn an_ingress_at_the_pods_own_address_is_called_from_istios() {
    let source = |endpoint: &str| {
        let sidecar = format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: own }}\nspec:\n  ingress:\n  \
             - {{ port: {{ number: 8080, name: http, protocol: HTTP }}, defaultEndpoint: '{endpoint}' }}\n"
        );
        cluster(&load(&[&sidecar]), "inbound|8080||").source
    };
    assert_eq!(source("0.0.0.0:9090"), Bound::Inbound, "it would be led back to the proxy");
    assert_eq!(source("127.0.0.1:9090"), Bound::System);
}
