//! Services and their endpoints.

use std::collections::BTreeMap;

use outrigger_config::{report::Code, snapshot::Discovery};

use crate::support::{MESH, REVIEWS, Request, cluster, codes, findings, loaded, outbound, snapshot};

fn keys(texts: &[&str], port: u16) -> Vec<String> {
    let snapshot = snapshot(texts);
    let cluster = cluster(&snapshot, &outbound(port, "", REVIEWS));
    cluster.endpoints.iter().map(|endpoint| format!("{}*{}", endpoint.key, endpoint.weight)).collect()
}

#[test]
fn target_ports_and_endpoint_ports_decide_where_to_connect() {
    let mesh = MESH
        .replace("{ number: 8080, name: http }\n", "{ number: 8080, name: http, targetPort: 80 }\n")
        .replace("{ address: 10.1.0.2, ", "{ address: 10.1.0.2, ports: { http: 81 }, ");
    assert_eq!(keys(&[&mesh], 8080), ["10.1.0.1:80*1", "10.1.0.2:81*1", "10.1.0.3:80*1"]);
    assert_eq!(keys(&[&mesh], 9090), ["10.1.0.1:9090*1", "10.1.0.2:9090*1", "10.1.0.3:9090*1"]);
}

#[test]
fn endpoint_weights_are_kept() {
    let mesh = MESH
        .replace("{ address: 10.1.0.2, ", "{ weight: 5, address: 10.1.0.2, ")
        .replace("{ address: 10.1.0.3, ", "{ weight: 0, address: '::1', ");
    assert_eq!(keys(&[&mesh], 8080), ["10.1.0.1:8080*1", "10.1.0.2:8080*5", "[::1]:8080*1"]);
}

#[test]
fn workload_entries_are_selected_by_label() {
    let from = MESH.find("  endpoints:\n").unwrap();
    let to = MESH.find("---").unwrap();
    let mesh =
        format!("{}  workloadSelector: {{ labels: {{ app: reviews }} }}\n{}", &MESH[..from], &MESH[to..]);
    let workload = |name: &str, namespace: &str, labels: &str, of_meta: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n\
             metadata: {{ name: {name}, namespace: {namespace}, labels: {of_meta} }}\n\
             spec: {{ address: 10.9.0.{name}, labels: {labels} }}\n"
        )
    };
    let workloads = [
        workload("1", "observability", "{ app: reviews }", "{}"),
        workload("2", "observability", "{ app: ratings }", "{}"),
        workload("3", "other", "{ app: reviews }", "{}"),
        workload("4", "observability", "{ version: v1 }", "{ app: reviews }"),
    ];
    assert_eq!(keys(&[&mesh, &workloads.concat()], 8080), ["10.9.0.1:8080*1", "10.9.0.4:8080*1"]);
}

#[test]
fn a_service_that_cannot_be_resolved_is_left_out_and_said_so() {
    let with = |resolution: &str| MESH.replacen("resolution: STATIC", resolution, 1);
    let dns = with("resolution: DNS");
    assert_eq!(keys(&[&dns], 8080).len(), 3, "addresses need no lookup");
    let named = dns.replace("address: 10.1.0.2", "address: reviews.example.com");
    let loaded = loaded(&[&named]);
    assert_eq!(codes(&loaded.warnings), [Code::NotResolved, Code::IdleListener]);
    assert_eq!(Request::to("reviews").answer(&loaded.snapshot, "8080", 0), "PassthroughCluster");
}

#[test]
fn an_original_destination_has_no_endpoint_and_that_is_said() {
    let none = MESH.replacen("resolution: STATIC", "resolution: NONE", 1);
    assert_eq!(
        codes(&findings(&[&none])),
        [Code::NotResolved, Code::InvalidEndpoint],
        "no endpoints beside it"
    );
    let from = none.find("  endpoints:\n").unwrap();
    let bare = format!("{}{}", &none[..from], &none[none.find("---").unwrap()..]);
    let loaded = loaded(&[&bare]);
    assert_eq!(codes(&loaded.warnings), [Code::NotResolved]);
    assert_eq!(loaded.warnings.diagnostics[0].label, "its requests get 503 with the flag UH");
    let name = outbound(8080, "", REVIEWS);
    assert_eq!(Request::to("reviews").answer(&loaded.snapshot, "8080", 0), name, "not the last resort");
    let cluster = cluster(&loaded.snapshot, &name);
    assert_eq!((cluster.discovery, cluster.endpoints.len()), (Discovery::OriginalDestination, 0));
}

#[test]
fn a_range_of_addresses_is_no_name_but_a_range_of_one_is() {
    let mesh = MESH.replace(
        "addresses: [10.0.0.1]",
        "addresses: [10.0.0.0/24, 10.7.0.7/32, 'fd00::/64', 'fd00::7/128']",
    );
    let snapshot = snapshot(&[&mesh]);
    let known = |host: &str| Request::to(host).answer(&snapshot, "8080", 0) == outbound(8080, "", REVIEWS);
    assert!(known("10.7.0.7") && known("[fd00::7]"));
    assert!(!known("10.0.0.1") && !known("10.0.0.0") && !known("[fd00::1]"));
    for wrong in ["10.0.0.0/33", "'fd00::/129'", "10.0.0/8", "10.0.0.0/x"] {
        let mesh = MESH.replace("addresses: [10.0.0.1]", &format!("addresses: [{wrong}]"));
        assert_eq!(codes(&findings(&[&mesh])), [Code::InvalidValue], "{wrong}");
    }
}

#[test]
fn a_service_inside_the_mesh_selects_pods_too() {
    let from = MESH.find("  endpoints:\n").unwrap();
    let selecting = |location: &str| {
        let selector = "  workloadSelector: { labels: { app: reviews } }\n";
        format!("{}  location: {location}\n{selector}{}", &MESH[..from], &MESH[MESH.find("---").unwrap()..])
    };
    let pod = |name: &str, meta: &str, ready: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: p{name}, {meta} }}\nstatus: {{ podIP: 10.9.0.{name}, \
             conditions: [{{ type: Initialized, status: 'True' }}, {{ type: Ready, status: '{ready}' }}] }}\n"
        )
    };
    let labels = "labels: { app: reviews }";
    let pods = [
        pod("1", labels, "True"),
        pod("2", labels, "False"),
        pod("3", "labels: { app: ratings }", "True"),
        pod("4", &format!("namespace: other, {labels}"), "True"),
        pod("5", &format!("deletionTimestamp: '2026-01-01T00:00:00Z', {labels}"), "True"),
    ]
    .concat();
    assert_eq!(keys(&[&selecting("MESH_INTERNAL"), &pods], 8080), ["10.9.0.1:8080*1"]);
    assert_eq!(keys(&[&selecting("MESH_EXTERNAL"), &pods], 8080), [""; 0]);
}

#[test]
fn a_service_that_is_exported_to_none_is_not_seen() {
    let hidden = MESH.replacen("  hosts: [reviews", "  exportTo: ['~']\n  hosts: [reviews", 1);
    assert_eq!(Request::to("reviews").answer(&snapshot(&[&hidden]), "8080", 0), "PassthroughCluster");
    let both = hidden.replace("['~']", "['~', '.']");
    assert_eq!(codes(&findings(&[&both])), [Code::ExclusiveFields]);
}

#[test]
fn the_own_namespaces_definition_of_a_host_wins() {
    let twin = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: twin, namespace: other }}\n\
         spec:\n  hosts: [{REVIEWS}]\n  resolution: STATIC\n  ports: [{{ number: 8080, name: http }}]\n  \
         endpoints: [{{ address: 10.8.0.1 }}]\n"
    );
    for texts in [[&*twin, MESH], [MESH, &*twin]] {
        let loaded = loaded(&texts);
        assert_eq!(codes(&loaded.warnings), [Code::DuplicateService]);
        assert_eq!(cluster(&loaded.snapshot, &outbound(8080, "", REVIEWS)).endpoints.len(), 3);
    }
}

#[test]
fn labels_and_names_reach_the_metrics() {
    let snapshot = snapshot(&[MESH]);
    let cluster = cluster(&snapshot, &outbound(8080, "", REVIEWS));
    assert_eq!((&*cluster.service.name, &*cluster.service.namespace), ("reviews", "observability"));
    assert_eq!(cluster.endpoints[2].labels, BTreeMap::from([("version".into(), "v2".into())]));
}

#[test]
fn three_thousand_documents_load() {
    let many: String = (0..3000)
        .map(|n| {
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: s{n} }}\n\
                 spec:\n  hosts: [s{n}.example.com]\n  resolution: STATIC\n  \
                 ports: [{{ number: 8080, name: http }}]\n  endpoints: [{{ address: 10.3.0.1 }}]\n"
            )
        })
        .collect();
    let snapshot = snapshot(&[MESH, &many]);
    assert_eq!(
        Request::to("s2999.example.com").answer(&snapshot, "8080", 0),
        "outbound|8080||s2999.example.com"
    );
}

#[test]
fn equal_text_has_an_equal_version() {
    assert_eq!(snapshot(&[MESH]).version, snapshot(&[MESH]).version);
    assert_ne!(snapshot(&[MESH]).version, snapshot(&[MESH, "# a comment"]).version);
}
