//! Services and their endpoints.

use std::collections::BTreeMap;

use outrigger_config::report::Code;

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
    assert_eq!(
        codes(&findings(&[&with("resolution: NONE")])),
        [Code::NotResolved, Code::InvalidEndpoint, Code::IdleListener]
    );
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
