//! Endpoints that are host names: who has them, and what becomes of them in a snapshot.

use std::time::Duration;

use outrigger_config::{
    decide::Peers,
    diff::diff,
    explain::{Verdict, explain},
    report::Code,
    snapshot::{Cluster, Discovery, Dns, Snapshot, Target},
};

use crate::support::{
    MESH, RATINGS, REVIEWS, Request, cluster, codes, complaints, findings, loaded, otel, outbound, quiet,
    rule, snapshot, try_load, with_mesh,
};

/// A `ServiceEntry` of `web.example.com` on port 8080 with more of a spec in flow style.
fn web(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: web }}\n\
         spec: {{ hosts: [web.example.com], ports: [{{ number: 8080, name: http, protocol: HTTP }}], {spec} }}\n"
    )
}

/// A `WorkloadEntry` with this address.
fn workload(address: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{ name: one }}\n\
         spec: {{ address: {address}, labels: {{ app: web }} }}\n"
    )
}

const SELECTED: &str = "workloadSelector: { labels: { app: web } }";

fn dns(cluster: &Cluster) -> &Dns {
    assert!(cluster.endpoints.is_empty(), "they are looked up");
    match &cluster.discovery {
        Discovery::Dns(dns) => dns,
        other => panic!("{other:?}"),
    }
}

/// What a cluster of port 8080 looks up, or the addresses that it lists.
fn targets(snapshot: &Snapshot, subset: &str, host: &str) -> Vec<String> {
    let cluster = cluster(snapshot, &outbound(8080, subset, host));
    match &cluster.discovery {
        Discovery::Dns(_) => dns(cluster).targets.iter().map(target).collect(),
        Discovery::Static => cluster.endpoints.iter().map(|endpoint| endpoint.key.to_string()).collect(),
        Discovery::OriginalDestination => vec!["original".to_owned()],
    }
}

fn target(target: &Target) -> String {
    match target {
        Target::Address(endpoint) => format!("{}*{}", endpoint.key, endpoint.weight),
        Target::Name(named) => format!("{}:{}*{}", named.name, named.port, named.weight),
    }
}

#[test]
fn each_resolution_finds_endpoints_in_its_own_way() {
    let of = |spec: &str| targets(&snapshot(&[MESH, &web(spec)]), "", "web.example.com");
    assert_eq!(of("resolution: DNS"), ["web.example.com:8080*1"], "the host itself");
    assert_eq!(of("resolution: DNS, endpoints: []"), ["web.example.com:8080*1"]);
    let written =
        "endpoints: [{ address: 10.3.0.1 }, { address: A.Example.Com, ports: { http: 81 }, weight: 7 }]";
    assert_eq!(of(&format!("resolution: DNS, {written}")), ["10.3.0.1:8080*1", "a.example.com:81*7"]);
    let addresses = "endpoints: [{ address: 10.3.0.1 }, { address: 'fd00::1' }]";
    for resolution in ["STATIC", "DNS"] {
        let spec = format!("resolution: {resolution}, {addresses}");
        assert_eq!(of(&spec), ["10.3.0.1:8080", "[fd00::1]:8080"], "nothing is looked up");
    }
    assert_eq!(of("resolution: NONE"), ["original"]);
    let dynamic = loaded(&[MESH, &web("resolution: DYNAMIC_DNS")]);
    assert_eq!(codes(&dynamic.warnings), [Code::NotResolved]);
    assert_eq!(Request::to("web.example.com").answer(&dynamic.snapshot, "8080", 0), "PassthroughCluster");
}

#[test]
fn each_host_is_looked_up_at_the_target_port() {
    let two = web("resolution: DNS")
        .replace("[web.example.com]", "[web.example.com, www.example.com.]")
        .replace("protocol: HTTP", "protocol: HTTP, targetPort: 80");
    let snapshot = quiet(&[&two], &crate::support::options());
    assert_eq!(targets(&snapshot, "", "web.example.com"), ["web.example.com:80*1"]);
    assert_eq!(targets(&snapshot, "", "www.example.com."), ["www.example.com.:80*1"]);
}

#[test]
fn round_robin_takes_the_first_address_of_one_name() {
    let snapshot =
        snapshot(&[MESH, &web("resolution: DNS_ROUND_ROBIN, endpoints: [{ address: a.example.com }]")]);
    let found = cluster(&snapshot, &outbound(8080, "", "web.example.com"));
    assert!(dns(found).first_only);
    let all = quiet(&[&web("resolution: DNS")], &crate::support::options());
    assert!(!dns(cluster(&all, &outbound(8080, "", "web.example.com"))).first_only);
}

#[test]
fn subsets_select_among_names_by_their_labels() {
    let mesh = MESH
        .replacen("resolution: STATIC", "resolution: DNS", 1)
        .replace("address: 10.1.0.2", "address: b.example.com")
        .replace("address: 10.1.0.3", "address: c.example.com");
    let subsets = |version: &str| {
        rule(&format!(
            "  trafficPolicy: {{ outlierDetection: {{ maxEjectionPercent: 1 }} }}\n  \
             subsets: [{{ name: v1, labels: {{ version: v1 }} }}, {{ name: v2, labels: {{ version: {version} }} }}]"
        ))
    };
    let loaded = loaded(&[&mesh, &subsets("v2")]);
    assert_eq!(codes(&loaded.warnings), [], "how many endpoints there are is not known");
    assert_eq!(
        targets(&loaded.snapshot, "", REVIEWS),
        ["10.1.0.1:8080*1", "b.example.com:8080*1", "c.example.com:8080*1"]
    );
    assert_eq!(targets(&loaded.snapshot, "v1", REVIEWS), ["10.1.0.1:8080*1", "b.example.com:8080*1"]);
    assert_eq!(targets(&loaded.snapshot, "v2", REVIEWS), ["c.example.com:8080*1"]);
    assert_eq!(codes(&findings(&[&mesh, &subsets("v3")])), [Code::EmptySubset]);
    let named = mesh.replacen("resolution: DNS", "resolution: STATIC", 1);
    assert_eq!(codes(&findings(&[&named])), [Code::InvalidEndpoint; 2], "static endpoints are addresses");
}

#[test]
fn the_mesh_says_how_long_a_name_without_an_answer_waits() {
    let of = |settings: &str| {
        let snapshot = quiet(&[&web("resolution: DNS")], &with_mesh(settings));
        dns(cluster(&snapshot, &outbound(8080, "", "web.example.com"))).refresh
    };
    assert_eq!(of("{}"), Duration::from_secs(60));
    assert_eq!(of("dnsRefreshRate: 5s"), Duration::from_secs(5));
    let zero = try_load(&[MESH], &with_mesh("dnsRefreshRate: 0s")).unwrap_err();
    assert_eq!(codes(&zero), [Code::InvalidValue]);
}

#[test]
fn what_is_neither_an_address_nor_a_name_is_no_endpoint() {
    for (address, code) in [
        ("a_b.example.com", Code::InvalidHost),
        ("10.0.0", Code::InvalidHost),
        ("'*.example.com'", Code::InvalidEndpoint),
        ("unix:///tmp/socket", Code::InvalidEndpoint),
    ] {
        let entry = web(&format!("resolution: DNS, endpoints: [{{ address: {address} }}]"));
        assert_eq!(codes(&findings(&[MESH, &entry])), [code], "{address}");
        assert_eq!(codes(&findings(&[MESH, &workload(address)])), [code], "{address}");
    }
}

#[test]
fn a_workload_by_name_counts_where_names_are_looked_up() {
    let entry = web(&format!("resolution: DNS, {SELECTED}"));
    let selected = loaded(&[MESH, &(entry.clone() + &workload("a.example.com"))]);
    // Istio takes it, and warns of a selector beside DNS.
    assert_eq!(codes(&selected.warnings), [Code::SchemaWarning]);
    assert_eq!(targets(&selected.snapshot, "", "web.example.com"), ["a.example.com:8080*1"]);
    let nobody = snapshot(&[MESH, &entry]);
    assert_eq!(targets(&nobody, "", "web.example.com"), [""; 0], "with a selector the host is no endpoint");

    let fixed = entry.replace("DNS", "STATIC")
        + &workload("a.example.com")
        + &workload("10.3.0.1").replace("one", "two");
    let fixed = loaded(&[MESH, &fixed]);
    assert_eq!(codes(&fixed.warnings), [Code::NamedWorkload]);
    assert_eq!(targets(&fixed.snapshot, "", "web.example.com"), ["10.3.0.1:8080"]);
    let kubernetes = "---\napiVersion: v1\nkind: Service\nmetadata: { name: kube }\n\
                      spec: { selector: { app: web }, ports: [{ port: 8080, name: http }] }\n";
    let report = findings(&[MESH, &(workload("a.example.com") + kubernetes)]);
    assert_eq!(codes(&report), [Code::NamedWorkload, Code::NoEndpoints], "{report}");
}

#[test]
fn a_receiver_by_name_is_reached_through_its_cluster() {
    let mesh = MESH.replace("endpoints: [{ address: 10.2.0.1,", "endpoints: [{ address: otlp.example.com,");
    let mesh = mesh.replace("resolution: STATIC\n  ports: [", "resolution: DNS\n  ports: [");
    let loaded = try_load(&[&mesh], &with_mesh(&otel(""))).unwrap();
    assert_eq!(complaints(&loaded.warnings), []);
    let report = loaded.snapshot.outbound.tracing.report.as_ref().unwrap();
    let found = &loaded.snapshot[report.cluster.unwrap()];
    assert_eq!(&*found.name, outbound(8080, "", RATINGS));
    assert_eq!(dns(found).targets.len(), 1);
}

#[test]
fn names_are_dumped_explained_and_compared() {
    let of = |name: &str, resolution: &str| {
        snapshot(&[MESH, &web(&format!("resolution: {resolution}, endpoints: [{{ address: {name} }}]"))])
    };
    let old = of("a.example.com", "DNS");
    let name = outbound(8080, "", "web.example.com");
    let dumped = cluster(&old, &name).to_json();
    assert_eq!((&dumped["type"], &dumped["dns_failure_refresh_rate"]), (&"STRICT_DNS".into(), &"60s".into()));
    assert_eq!(dumped["endpoints"][0]["address"], "a.example.com:8080");

    let listener = old.listeners.iter().find(|listener| listener.bind.port() == 8080).unwrap();
    let peers = Peers { remote: "10.9.0.7:1".parse().unwrap(), local: listener.bind };
    let request = Request::to("web.example.com");
    let explained = explain(&old, listener, &request.view(), peers, None).unwrap();
    assert_eq!(explained.verdict(), Verdict::Forward { cluster: &name, endpoint: None });
    let text = explained.to_string();
    assert!(
        text.contains("its endpoints are the addresses of `a.example.com`, looked up while the proxy runs"),
        "{text}"
    );
    assert_eq!(explained.to_json()["route"]["forward"]["destinations"][0]["looked_up"][0], "a.example.com");

    let changed = diff(&old, &of("b.example.com", "DNS_ROUND_ROBIN")).to_string();
    for part in ["STRICT_DNS", "LOGICAL_DNS", "a.example.com:8080", "b.example.com:8080"] {
        assert!(changed.contains(part), "{part}\n{changed}");
    }
}
