//! What the proxy answers by DNS, and the addresses that it makes up for services without one.

use std::net::{IpAddr, SocketAddr};

use outrigger_config::{
    LoadOptions, Loader,
    decide::{ConnectionView, decide_tcp},
    snapshot::{ClusterRef, HostNames, Interception, Snapshot, TelemetryDefaults},
};

use crate::support::{Request, options, source, try_load};

fn capturing() -> LoadOptions {
    let mut options = options();
    options.node.interception = Interception::Redirect;
    options.node.address = "10.5.0.5".into();
    options.node.dns_capture = true;
    options
}

fn load(texts: &[&str]) -> Snapshot {
    try_load(texts, &capturing()).unwrap_or_else(|report| panic!("{report}")).snapshot
}

/// `metadata` and `spec` are further fields in flow style.
fn entry(host: &str, metadata: &str, spec: &str) -> String {
    let name = host.replace("*.", "all.").replace('.', "-");
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name}{metadata} }}\nspec: {{ \
         hosts: ['{host}'], ports: [{{ number: 3306, name: tcp-db, protocol: TCP }}], {spec} }}\n---\n"
    )
}

const STATIC: &str = "resolution: STATIC, endpoints: [{ address: 10.1.0.1 }]";

fn addresses(names: &HostNames, name: &str) -> Vec<String> {
    names.find(name).map(|found| found.iter().map(ToString::to_string).collect()).unwrap_or_default()
}

fn only(names: &HostNames, name: &str) -> IpAddr {
    let found = names.find(name).unwrap_or_else(|| panic!("{name} is not known"));
    assert_eq!(found.len(), 1);
    found[0]
}

/// The cluster of a connection to there.
fn reaches(snapshot: &Snapshot, destination: SocketAddr) -> String {
    let outbound = snapshot.listeners.iter().find(|listener| &*listener.name == "virtualOutbound").unwrap();
    let routes = outbound.captured().unwrap().chain(destination).bytes().unwrap();
    let view = ConnectionView { destination: destination.ip(), server_name: None };
    match &decide_tcp(routes, view, || 0).unwrap().1.cluster {
        ClusterRef::Known(id) => snapshot[*id].name.to_string(),
        ClusterRef::Missing(name) => format!("missing {name}"),
    }
}

#[test]
fn services_without_an_address_get_one_by_which_their_connections_are_told_apart() {
    let dns = "resolution: DNS";
    let snapshot = load(&[&entry("one.example.com", "", STATIC), &entry("two.example.com", "", dns)]);
    let names = &snapshot.host_names;
    let [one, two] = ["one.example.com", "two.example.com"].map(|name| only(names, name));
    assert_ne!(one, two);
    for (address, host) in [(one, "one"), (two, "two")] {
        assert!(address.to_string().starts_with("240.240."), "{address}");
        assert_eq!(reaches(&snapshot, (address, 3306).into()), format!("outbound|3306||{host}.example.com"));
    }
    assert_eq!(reaches(&snapshot, ([240, 240, 255, 255], 3306).into()), "PassthroughCluster");
}

#[test]
fn a_request_may_name_the_address_of_its_service() {
    let web = entry("web.example.com", "", STATIC).replace("tcp-db, protocol: TCP", "web, protocol: HTTP");
    let snapshot = load(&[&web]);
    let address = only(&snapshot.host_names, "web.example.com");
    let asked = Request::to(&address.to_string()).answer(&snapshot, "3306", 0);
    assert_eq!(asked, "outbound|3306||web.example.com");
}

#[test]
fn a_pod_with_an_address_of_ipv6_gets_such_addresses() {
    let mut options = capturing();
    options.node.address = "fd00::5".into();
    let loaded = try_load(&[&entry("one.example.com", "", STATIC)], &options).unwrap();
    let address = only(&loaded.snapshot.host_names, "one.example.com");
    assert!(address.to_string().starts_with("2001:2::f0f0:"), "{address}");
    assert_eq!(reaches(&loaded.snapshot, (address, 3306).into()), "outbound|3306||one.example.com");
}

#[test]
fn what_needs_no_address_or_refuses_it_gets_none() {
    let label = "networking.istio.io/enable-autoallocate-ip";
    for (why, text) in [
        ("the label refuses", entry("one.example.com", &format!(", labels: {{ {label}: 'False' }}"), STATIC)),
        ("it goes where the client was going", entry("one.example.com", "", "resolution: NONE")),
        ("it has a range", entry("one.example.com", "", &format!("{STATIC}, addresses: [10.9.0.0/16]"))),
        ("it is many names", entry("*.example.com", "", STATIC)),
    ] {
        assert_eq!(addresses(&load(&[&text]).host_names, "one.example.com"), [""; 0], "{why}");
    }
    let written =
        load(&[&entry("one.example.com", "", &format!("{STATIC}, addresses: [10.9.0.1, 'fd09::1']"))]);
    assert_eq!(addresses(&written.host_names, "one.example.com"), ["10.9.0.1", "fd09::1"]);
    let allowed = load(&[&entry("one.example.com", &format!(", labels: {{ {label}: 'true' }}"), STATIC)]);
    assert_eq!(addresses(&allowed.host_names, "one.example.com").len(), 1);

    let mut options = capturing();
    options.node.dns_capture = false;
    let loaded = try_load(&[&entry("one.example.com", "", STATIC)], &options).unwrap();
    assert_eq!(loaded.snapshot.host_names.all().count(), 0, "DNS is not captured");
}

#[test]
fn an_address_does_not_depend_on_the_order_of_files_nor_change_with_other_services() {
    let hosts: Vec<_> = (0..300).map(|number| format!("s{number}.example.com")).collect();
    let texts: Vec<_> = hosts.iter().map(|host| entry(host, "", STATIC)).collect();
    let mut texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let names = load(&texts).host_names;
    texts.reverse();
    let reversed = load(&texts).host_names;
    let mut seen = std::collections::HashSet::new();
    for host in &hosts {
        assert_eq!(only(&names, host), only(&reversed, host));
        assert!(seen.insert(only(&names, host)), "{host} shares its address");
    }

    // Whoever is told first keeps an address that the name of a later one leads to, too.
    let mut loader = Loader::new(capturing().node, TelemetryDefaults::default());
    let before = loader.load(&[source("a.yaml", texts[0])], None).unwrap().snapshot.host_names;
    let address = only(&before, &hosts[299]).to_string();
    let squatter = entry("squatter.example.com", "", &format!("{STATIC}, addresses: [{address}]"));
    let moved = loader.load(&[source("a.yaml", &format!("{}{squatter}", texts[0]))], None).unwrap();
    let moved = moved.snapshot.host_names;
    assert_eq!(only(&moved, "squatter.example.com").to_string(), address, "written is written");
    let elsewhere = only(&moved, &hosts[299]);
    assert_ne!(elsewhere.to_string(), address);
    let after = loader.load(&[source("a.yaml", texts[0])], None).unwrap().snapshot.host_names;
    assert_eq!(only(&after, &hosts[299]), elsewhere, "it stays though its first address is free again");
}

const CLUSTER: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: db, namespace: observability }
spec: { clusterIP: 10.96.0.7, ports: [{ port: 3306, name: tcp-db }] }
---
apiVersion: v1
kind: Service
metadata: { name: db, namespace: other }
spec: { clusterIPs: [10.96.0.8, "fd96::8"], ports: [{ port: 3306, name: tcp-db }] }
---
apiVersion: v1
kind: Service
metadata: { name: pods, namespace: other }
spec: { clusterIP: None, ports: [{ port: 3306, name: tcp-db }, { port: 3307, name: tcp-more }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: pods-1, namespace: other, labels: { kubernetes.io/service-name: pods } }
addressType: IPv4
ports: [{ name: tcp-db, port: 3306 }, { name: tcp-more, port: 3307 }]
endpoints: [{ addresses: [10.1.0.1] }, { addresses: [10.1.0.2] }, { addresses: [10.1.0.3], conditions: { ready: false } }]
---
apiVersion: v1
kind: Service
metadata: { name: alias, namespace: other }
spec: { type: ExternalName, externalName: db.example.com, ports: [{ port: 3306, name: tcp-db }] }
---
"#;

#[test]
fn services_answer_to_their_short_names_as_in_kubernetes() {
    let snapshot = load(&[CLUSTER]);
    let names = &snapshot.host_names;
    for name in ["db.observability.svc.cluster.local", "db.observability.svc", "db.observability", "db"] {
        assert_eq!(addresses(names, name), ["10.96.0.7"], "{name}");
    }
    for name in ["db.other.svc.cluster.local", "db.other.svc", "db.other"] {
        assert_eq!(addresses(names, name), ["10.96.0.8", "fd96::8"], "{name}");
    }
    for name in ["pods.other.svc.cluster.local", "pods.other"] {
        assert_eq!(addresses(names, name), ["10.1.0.1", "10.1.0.2"], "the ready pods themselves: {name}");
    }
    for name in ["pods", "alias.other.svc.cluster.local", "db.third", "x.pods.other.svc.cluster.local", ""] {
        assert_eq!(addresses(names, name), [""; 0], "{name} is left to the name servers");
    }
}

#[test]
fn a_host_may_end_in_a_dot() {
    let names = load(&[&entry("db.example.com.", "", STATIC).replace("name: db-example-com-", "name: db")])
        .host_names;
    assert_eq!(addresses(&names, "db.example.com").len(), 1);
}

#[test]
fn names_of_headless_services_follow_their_endpoints() {
    let mut loader = Loader::new(capturing().node, TelemetryDefaults::default());
    loader.load(&[source("a.yaml", CLUSTER)], None).unwrap();
    let more = CLUSTER.replace("10.1.0.2", "10.1.0.9");
    let names = loader.load(&[source("a.yaml", &more)], None).unwrap().snapshot.host_names;
    assert_eq!(addresses(&names, "pods.other"), ["10.1.0.1", "10.1.0.9"]);
}

#[test]
fn a_wildcard_answers_for_every_name_below_it() {
    let wide = entry("*.example.com", "", &format!("{STATIC}, addresses: [10.9.0.1]"));
    let narrow = entry("*.eu.example.com", "", &format!("{STATIC}, addresses: [10.9.0.2]"));
    let exact = entry("one.eu.example.com", "", &format!("{STATIC}, addresses: [10.9.0.3]"));
    let names = load(&[&wide, &narrow, &exact]).host_names;
    assert_eq!(addresses(&names, "a.b.example.com"), ["10.9.0.1"]);
    assert_eq!(addresses(&names, "a.eu.example.com"), ["10.9.0.2"]);
    assert_eq!(addresses(&names, "one.eu.example.com"), ["10.9.0.3"]);
    assert_eq!(addresses(&names, "example.com"), [""; 0]);
    assert_eq!(names.all().count(), 3);
}

#[test]
fn only_what_the_sidecar_imports_is_answered() {
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: { name: default }\nspec:\n  \
                   egress: [{ hosts: ['./*'] }]\n---\n";
    let names = load(&[CLUSTER, sidecar]).host_names;
    assert_eq!(addresses(&names, "db"), ["10.96.0.7"]);
    assert_eq!(addresses(&names, "db.other.svc.cluster.local"), [""; 0]);
}
