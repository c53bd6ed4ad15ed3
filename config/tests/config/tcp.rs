//! Raw connections: which services a listener carries, and which routes take what.

use outrigger_config::{
    decide::{ConnectionView, decide_tcp},
    report::Code,
    snapshot::{Carried, ClusterRef, Snapshot, TcpRoute, TcpRoutes},
};

use crate::support::{codes, findings, loaded, snapshot};

/// Three services with a port 7000, each with one endpoint, and a listener for it.
pub(crate) fn mesh(protocol: &str) -> String {
    let service = |name: &str, last: u8| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n  \
             hosts: [{name}.example.com]\n  resolution: STATIC\n  \
             ports: [{{ number: 7000, name: raw, protocol: {protocol} }}]\n  \
             endpoints: [{{ address: 10.0.0.{last}, labels: {{ version: v1 }} }}]\n---\n"
        )
    };
    format!("{}{}{}{}", service("a", 1), service("b", 2), service("c", 3), listener(protocol, ""))
}

fn listener(protocol: &str, more: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: default }}\nspec:\n{more}  egress:\n  \
         - {{ port: {{ number: 7000, name: raw, protocol: {protocol} }}, captureMode: NONE, hosts: ['*/*'] }}\n"
    )
}

/// The mesh without its services b and c.
fn lone(protocol: &str) -> String {
    let mesh = mesh(protocol);
    let parts: Vec<_> = mesh.split("---\n").collect();
    [parts[0], parts[3]].join("---\n")
}

fn routes(snapshot: &Snapshot) -> &TcpRoutes {
    match &snapshot.listeners[0].carried {
        Carried::Tcp(routes) => routes,
        Carried::Http(_) | Carried::Captured(_) => panic!("it carries requests"),
    }
}

fn route<'s>(snapshot: &'s Snapshot, destination: &str, server_name: Option<&str>) -> &'s TcpRoute {
    let view = ConnectionView { destination: destination.parse().unwrap(), server_name };
    decide_tcp(routes(snapshot), view, || 0).unwrap().0
}

/// Name of the cluster that takes a connection.
fn taken(snapshot: &Snapshot, destination: &str, server_name: Option<&str>, draw: u64) -> String {
    let view = ConnectionView { destination: destination.parse().unwrap(), server_name };
    match &decide_tcp(routes(snapshot), view, || draw).unwrap().1.cluster {
        ClusterRef::Known(id) => snapshot[*id].name.to_string(),
        ClusterRef::Missing(name) => format!("missing {name}"),
    }
}

fn of(name: &str) -> String {
    format!("outbound|7000||{name}.example.com")
}

#[test]
fn a_tcp_listener_goes_to_the_service_of_its_port() {
    for protocol in ["TCP", "MONGO", "MYSQL", "REDIS"] {
        let loaded = loaded(&[&lone(protocol)]);
        assert_eq!(codes(&loaded.warnings), []);
        let snapshot = loaded.snapshot;
        assert!(!routes(&snapshot).by_server_name, "nobody asks for the hello");
        assert_eq!(taken(&snapshot, "127.0.0.1", None, 0), of("a"), "{protocol}");
        let route = route(&snapshot, "127.0.0.1", None);
        assert_eq!(route.idle_timeout, Some(std::time::Duration::from_secs(3600)));
    }
}

#[test]
fn a_tls_listener_tells_services_by_the_server_name() {
    for protocol in ["TLS", "HTTPS"] {
        let loaded = loaded(&[&mesh(protocol)]);
        assert_eq!(codes(&loaded.warnings), []);
        let snapshot = loaded.snapshot;
        assert!(routes(&snapshot).by_server_name);
        for name in ["a", "b", "c"] {
            assert_eq!(taken(&snapshot, "127.0.0.1", Some(&format!("{name}.example.com")), 0), of(name));
        }
        assert_eq!(taken(&snapshot, "127.0.0.1", Some("d.example.com"), 0), "PassthroughCluster");
        assert_eq!(taken(&snapshot, "127.0.0.1", None, 0), "PassthroughCluster");
    }
}

#[test]
fn services_that_cannot_be_told_apart_are_reported() {
    let loaded = loaded(&[&mesh("TCP").replace("name: a }", "name: z }")]);
    assert_eq!(codes(&loaded.warnings), [Code::ConnectionsTaken, Code::ConnectionsTaken]);
    // As old as the others, it comes last by its name.
    assert_eq!(taken(&loaded.snapshot, "127.0.0.1", None, 0), of("b"));
    // Nor can two hosts of one resource, which Istio takes for connections that keep where they were going.
    let two = lone("TCP").replace("[a.example.com]", "[a.example.com, b.example.com]");
    let two = two
        .replace("STATIC", "NONE")
        .replace("endpoints: [{ address: 10.0.0.1, labels: { version: v1 } }]", "");
    assert_eq!(codes(&findings(&[&two])), [Code::ConnectionsTaken, Code::NotResolved]);
}

#[test]
fn connections_that_nobody_takes_follow_the_outbound_policy() {
    let last = |more: &str| {
        let snapshot =
            snapshot(&[&mesh("TLS").replace("spec:\n  egress", &format!("spec:\n{more}  egress"))]);
        taken(&snapshot, "127.0.0.1", None, 0)
    };
    assert_eq!(last(""), "PassthroughCluster");
    assert_eq!(last("  outboundTrafficPolicy: { mode: ALLOW_ANY }\n"), "PassthroughCluster");
    assert_eq!(last("  outboundTrafficPolicy: { mode: REGISTRY_ONLY }\n"), "BlackHoleCluster");
}

#[test]
fn a_tcp_ingress_listener_forwards_to_its_endpoint() {
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: { name: default }\nspec:\n  \
                   ingress: [{ port: { number: 7000, name: tcp }, defaultEndpoint: '127.0.0.1:70' }]\n";
    let loaded = loaded(&[sidecar]);
    assert_eq!(codes(&loaded.warnings), []);
    assert_eq!(taken(&loaded.snapshot, "10.1.1.1", None, 0), "inbound|7000||");
    assert_eq!(&*loaded.snapshot.clusters[0].endpoints[0].key, "127.0.0.1:70");
}

#[test]
fn udp_is_not_carried() {
    let report = findings(&[&lone("UDP")]);
    assert_eq!(codes(&report), [Code::NoListener, Code::NotHonoured]);
}

#[test]
fn policies_reach_connections() {
    let rule = |policy: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: a }}\nspec:\n  \
             host: a.example.com\n  trafficPolicy: {policy}\n"
        )
    };
    let with = |policy: &str| {
        let snapshot = snapshot(&[&lone("TCP"), &rule(policy)]);
        let route = route(&snapshot, "127.0.0.1", None);
        (route.idle_timeout.map(|timeout| timeout.as_secs()), route.hash_source_ip)
    };
    assert_eq!(with("{ connectionPool: { tcp: { idleTimeout: 7s } } }"), (Some(7), false));
    assert_eq!(with("{ connectionPool: { tcp: { idleTimeout: 0s } } }"), (None, false));
    // The idle timeout of HTTP is none of its business.
    let both = "{ connectionPool: { tcp: { idleTimeout: 7s }, http: { idleTimeout: 9s } } }";
    assert_eq!(with(both), (Some(7), false));
    let hash = |key: &str| with(&format!("{{ loadBalancer: {{ consistentHash: {{ {key} }} }} }}")).1;
    assert!(hash("useSourceIp: true"));
    assert!(!hash("httpHeaderName: x"));
    let port =
        "{ portLevelSettings: [{ port: { number: 7000 }, connectionPool: { tcp: { idleTimeout: 8s } } }] }";
    assert_eq!(with(port), (Some(8), false));
}

#[test]
fn the_routes_of_connections_are_dumped() {
    let snapshot = snapshot(&[&mesh("TLS")]);
    insta::assert_json_snapshot!("tls", snapshot.to_json()["listeners"]);
}

/// A `VirtualService` for these hosts with this block, each line indented by two.
fn virtual_service(hosts: &str, block: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: raw }}\nspec:\n  \
         hosts: {hosts}\n{block}\n"
    )
}

fn to(name: &str) -> String {
    format!("route: [{{ destination: {{ host: {name}.example.com }} }}]")
}

#[test]
fn tcp_routes_take_connections_by_address() {
    let rules = virtual_service(
        "[a.example.com]",
        &format!(
            "  tcp:\n  - match: [{{ destinationSubnets: [10.0.0.0/8, '::/16'] }}]\n    {}\n  \
             - match: [{{ destinationSubnets: [10.1.0.0/16] }}]\n    {}",
            to("b"),
            to("c")
        ),
    );
    let mesh = mesh("TCP");
    let loaded = loaded(&[&mesh, &rules]);
    // Services b and c are reached by rules; of their own they have no connection.
    assert_eq!(codes(&loaded.warnings), [Code::ConnectionsTaken; 2]);
    let to = |address: &str| taken(&loaded.snapshot, address, None, 0);
    assert_eq!(to("10.1.2.3"), of("c"), "the longest prefix, though it comes second");
    assert_eq!(to("10.2.2.3"), of("b"));
    assert_eq!(to("0:1::1"), of("b"));
    assert_eq!(to("11.2.2.3"), of("a"), "what no rule takes goes to the service itself");
    // The rule of the own service replaces it.
    let rules = virtual_service("[a.example.com]", &format!("  tcp:\n  - {}", self::to("b")));
    let snapshot = snapshot(&[&mesh, &rules]);
    assert_eq!(taken(&snapshot, "127.0.0.1", None, 0), of("b"));
}

#[test]
fn tcp_routes_split_by_weight() {
    let rules = virtual_service(
        "[a.example.com]",
        "  tcp:\n  - route:\n    - { destination: { host: b.example.com }, weight: 9 }\n    \
         - { destination: { host: c.example.com, port: { number: 7000 } }, weight: 1 }\n    \
         - { destination: { host: a.example.com }, weight: 0 }",
    );
    let snapshot = snapshot(&[&mesh("TCP"), &rules]);
    let draws: Vec<_> = (0..100).map(|draw| taken(&snapshot, "127.0.0.1", None, draw)).collect();
    assert_eq!(draws.iter().filter(|name| **name == of("b")).count(), 90);
    assert_eq!(draws.iter().filter(|name| **name == of("c")).count(), 10);
}

#[test]
fn the_first_destinations_idle_timeout_counts_and_any_source_ip() {
    let policy = |name: &str, policy: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: {name} }}\nspec:\n  \
             host: {name}.example.com\n  trafficPolicy: {policy}\n"
        )
    };
    let rules = virtual_service(
        "[a.example.com]",
        "  tcp:\n  - route:\n    - { destination: { host: b.example.com }, weight: 1 }\n    \
         - { destination: { host: c.example.com }, weight: 1 }",
    );
    let b = policy("b", "{ connectionPool: { tcp: { idleTimeout: 5s } } }");
    let c = policy(
        "c",
        "{ connectionPool: { tcp: { idleTimeout: 6s } }, loadBalancer: { consistentHash: { useSourceIp: true } } }",
    );
    let snapshot = snapshot(&[&mesh("TCP"), &rules, &b, &c]);
    let route = route(&snapshot, "127.0.0.1", None);
    assert_eq!(route.idle_timeout, Some(std::time::Duration::from_secs(5)));
    assert!(route.hash_source_ip);
}

#[test]
fn tls_routes_take_connections_by_server_name() {
    let rules = virtual_service(
        "['*.example.com']",
        &format!(
            "  tls:\n  - match: [{{ sniHosts: [A.example.com] }}]\n    {}\n  \
             - match: [{{ sniHosts: ['*.x.example.com', y.example.com] }}]\n    {}",
            to("b"),
            to("c")
        ),
    );
    // The rule is that of three services: Istio takes it once.
    let loaded = loaded(&[&mesh("TLS"), &rules]);
    assert_eq!(codes(&loaded.warnings), []);
    let to = |name: &str| taken(&loaded.snapshot, "127.0.0.1", Some(name), 0);
    assert_eq!(to("a.example.com"), of("b"));
    assert_eq!(to("q.x.example.com"), of("c"));
    assert_eq!(to("y.example.com"), of("c"));
    assert_eq!(to("b.example.com"), "PassthroughCluster", "a service with a rule has no route of its own");
    assert_eq!(taken(&loaded.snapshot, "127.0.0.1", None, 0), "PassthroughCluster");
}

#[test]
fn tls_routes_take_connections_by_address_too() {
    let rules = virtual_service(
        "[a.example.com]",
        &format!(
            "  tls:\n  - match: [{{ sniHosts: [a.example.com], destinationSubnets: [10.0.0.0/8] }}]\n    {}\n  \
             - match: [{{ sniHosts: [a.example.com] }}]\n    {}",
            to("b"),
            to("c")
        ),
    );
    let loaded = loaded(&[&mesh("TLS"), &rules]);
    let to = |address: &str, name| taken(&loaded.snapshot, address, name, 0);
    assert_eq!(to("10.1.1.1", Some("a.example.com")), of("b"));
    assert_eq!(to("127.0.0.1", Some("a.example.com")), of("c"));
    assert_eq!(
        to("10.1.1.1", Some("b.example.com")),
        "PassthroughCluster",
        "the range decides, without a way back"
    );
    assert_eq!(to("127.0.0.1", Some("b.example.com")), of("b"));
}

#[test]
fn static_conditions_of_connections_are_decided_when_compiling() {
    for (condition, applies) in [
        ("port: 7000", true),
        ("port: 7001", false),
        ("sourceLabels: { app: me }", false),
        ("sourceNamespace: observability", true),
        ("sourceNamespace: other", false),
        ("gateways: [mesh]", true),
        ("gateways: [edge]", false),
        ("gateways: [mesh], port: 7001", false),
    ] {
        let expected = if applies { of("b") } else { of("a") };
        let tcp = format!("  tcp:\n  - match: [{{ {condition} }}]\n    {}", to("b"));
        let snapshot_of = |protocol: &str, rules: &str| {
            snapshot(&[&mesh(protocol), &virtual_service("[a.example.com]", rules)])
        };
        assert_eq!(taken(&snapshot_of("TCP", &tcp), "127.0.0.1", None, 0), expected, "{condition}");
        let tls =
            format!("  tls:\n  - match: [{{ sniHosts: [a.example.com], {condition} }}]\n    {}", to("b"));
        let found = taken(&snapshot_of("TLS", &tls), "127.0.0.1", Some("a.example.com"), 0);
        assert_eq!(found, expected, "{condition}");
    }
}

#[test]
fn rules_of_the_other_kind_of_port_do_not_apply() {
    let both = |protocol: &str| {
        let rules = format!(
            "  tcp:\n  - {}\n  tls:\n  - match: [{{ sniHosts: [a.example.com] }}]\n    {}",
            to("b"),
            to("c")
        );
        snapshot(&[&mesh(protocol), &virtual_service("[a.example.com]", &rules)])
    };
    assert_eq!(taken(&both("TCP"), "127.0.0.1", Some("a.example.com"), 0), of("b"));
    assert_eq!(taken(&both("TLS"), "127.0.0.1", Some("a.example.com"), 0), of("c"));
}

#[test]
fn a_dangling_destination_of_a_connection_is_missing() {
    let rules =
        virtual_service("[a.example.com]", "  tcp:\n  - route: [{ destination: { host: d.example.com } }]");
    let loaded = loaded(&[&lone("TCP"), &rules]);
    assert_eq!(codes(&loaded.warnings), [Code::UnknownHost]);
    assert_eq!(loaded.warnings.diagnostics[0].label, "its connections are closed with the flag NC");
    assert_eq!(taken(&loaded.snapshot, "127.0.0.1", None, 0), "missing outbound|7000||d.example.com");
}

/// One line for each thing that Istio's validation rejects.
#[test]
fn what_istio_rejects_of_tcp_and_tls_is_rejected() {
    let tls =
        |block: &str| virtual_service("[a.example.com, '*.b.com', short]", &format!("  tls:\n  - {block}"));
    let tcp = |block: &str| virtual_service("[a.example.com]", &format!("  tcp:\n  - {block}"));
    let named = |names: &str| tls(&format!("match: [{{ sniHosts: {names} }}]\n    {}", to("a")));
    for (text, code) in [
        (tls(&to("a")), Code::MissingField),
        (tls("match: [{ sniHosts: [a.example.com] }]"), Code::MissingField),
        (tls(&format!("match: [{{ port: 7000 }}]\n    {}", to("a"))), Code::MissingField),
        (named("[]"), Code::MissingField),
        (named("[b.example.com]"), Code::UncoveredServerName),
        (named("['*.example.com']"), Code::UncoveredServerName),
        (named("[b.com]"), Code::UncoveredServerName),
        (named("['a.*.b.com']"), Code::InvalidHost),
        (tcp("match: [{ port: 7000 }]"), Code::MissingField),
        (
            tcp(&format!("match: [{{ destinationSubnets: [10.0.0.0/33] }}]\n    {}", to("a"))),
            Code::InvalidSubnet,
        ),
        (tcp("route: [{ destination: { host: a.example.com }, weight: -1 }]"), Code::InvalidWeights),
        (tcp("route: [{ weight: 1 }]"), Code::MissingField),
    ] {
        let report =
            crate::support::try_load(&[&mesh("TLS"), &text], &crate::support::options()).expect_err(&text);
        assert!(codes(&report).contains(&code), "{text}\n{report}");
    }
    for names in ["[a.example.com]", "['*.c.b.com']", "[x.b.com]", "[short]"] {
        assert!(!findings(&[&mesh("TLS"), &named(names)]).has_errors(), "{names}");
    }
}

#[test]
fn a_tcp_rule_behind_one_for_everything_is_reported() {
    let rules = virtual_service("[a.example.com]", &format!("  tcp:\n  - {}\n  - {}", to("a"), to("a")));
    assert_eq!(codes(&findings(&[&lone("TCP"), &rules])), [Code::UnreachableRule]);
}

#[test]
fn a_tcp_destination_of_several_ports_names_the_one_that_it_has() {
    let two = |port: &str| {
        let mesh = mesh("TCP").replace(
            "hosts: [b.example.com]\n  resolution: STATIC\n  ports: [{ number: 7000, name: raw, protocol: TCP }]",
            "hosts: [b.example.com]\n  resolution: STATIC\n  ports: [{ number: 7001, name: tcp }, { number: 7002, name: tcp-b }]",
        );
        let rules = virtual_service(
            "[a.example.com]",
            &format!("  tcp:\n  - route: [{{ destination: {{ host: b.example.com{port} }} }}]"),
        );
        findings(&[&mesh, &rules])
    };
    let report = two("");
    let found = report.diagnostics.iter().find(|found| found.code == Code::PortNotChosen).unwrap();
    assert_eq!(found.label, "a connection to port 7000 is closed with the flag NC");
    assert!(!codes(&two(", port: { number: 7001 }")).contains(&Code::PortNotChosen));
}

#[test]
fn a_delegate_has_no_rules_for_connections() {
    let text = virtual_service("[]", &format!("  tcp:\n  - {}\n  tls:\n  - {}", to("a"), to("a")));
    let report = findings(&[&mesh("TCP"), &text]);
    let refused = report.diagnostics.iter().filter(|found| found.code == Code::ExclusiveFields);
    assert_eq!(refused.count(), 2, "{report}");
}

#[test]
fn names_and_labels_of_matches_are_checked() {
    for (condition, code) in [
        ("sourceLabels: { 'a b': c }", Code::InvalidValue),
        ("gateways: ['*']", Code::InvalidValue),
        ("gateways: [edge.infra.svc.cluster.local]", Code::Deprecated),
    ] {
        let tcp = format!("  tcp:\n  - match: [{{ {condition} }}]\n    {}", to("a"));
        let report = findings(&[&lone("TCP"), &virtual_service("[a.example.com]", &tcp)]);
        assert_eq!(codes(&report), [code], "{condition}");
    }
    let tls = format!("  tls:\n  - match: [{{ sniHosts: [10.0.0.1] }}]\n    {}", to("a"));
    let report = findings(&[&lone("TLS"), &virtual_service("[a.example.com, 10.0.0.1]", &tls)]);
    assert!(codes(&report).contains(&Code::SchemaWarning) && !report.has_errors(), "{report}");
}
