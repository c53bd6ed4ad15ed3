//! One loader, several loads: each says what a new loader would say of the same text.

use std::sync::Arc;

use outrigger_config::{
    LoadOptions, Loader, Source,
    report::Report,
    snapshot::{Cluster, Locality, Snapshot, TelemetryDefaults},
};
use proptest::prelude::*;

use crate::support::{MESH, RATINGS, REVIEWS, cluster, options, outbound, rule, rules, source, try_load};

/// A proxy that knows where it runs.
fn here() -> LoadOptions {
    let mut options = options();
    options.node.locality = Locality::parse("r/z");
    options
}

fn loader() -> Loader {
    Loader::new(here().node, TelemetryDefaults::default())
}

/// All that a load says, and the report where it fails.
fn told(loaded: Result<outrigger_config::Loaded, Report>) -> (Report, Option<serde_json::Value>) {
    match loaded {
        Ok(loaded) => (loaded.warnings, Some(loaded.snapshot.to_json())),
        Err(report) => (report, None),
    }
}

/// Everything that a load shares with the next: services, rules, merged rules, wildcards, settings, telemetry.
fn files() -> Vec<String> {
    const MORE: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: reviews-more }
spec:
  host: reviews
  subsets: [{ name: v3, labels: { version: v3 } }]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: all }
spec:
  hosts: ["*.other.svc.cluster.local"]
  http:
  - route: [{ destination: { host: reviews } }, { destination: { host: ratings.other.svc.cluster.local }, weight: 2 }]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: picked }
spec:
  hosts: ["*.picked.example.com"]
  resolution: STATIC
  ports: [{ number: 8080, name: http }]
  workloadSelector: { labels: { app: picked } }
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: { name: one, labels: { app: picked } }
spec: { address: 10.9.0.1, weight: 3, locality: r/z/s }
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: { name: own }
spec:
  tracing: [{ randomSamplingPercentage: 50 }]
---
apiVersion: v1
kind: ConfigMap
metadata: { name: istio, namespace: istio-system }
data:
  mesh: |
    connectTimeout: 3s
    accessLogFile: /dev/stdout
    localityLbSetting: { failover: [{ from: r, to: q }] }
"#;
    const INSIDE: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: inside }
spec:
  clusterIP: 10.0.5.1
  selector: { app: inside }
  trafficDistribution: PreferClose
  ports: [{ name: http, port: 8080 }]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: inside-a, labels: { kubernetes.io/service-name: inside } }
addressType: IPv4
endpoints:
- { addresses: [10.1.5.1], targetRef: { kind: Pod, name: inside-1 } }
- { addresses: [10.1.5.2], zone: z }
ports: [{ name: http, port: 8080 }]
---
apiVersion: v1
kind: Pod
metadata: { name: inside-1, labels: { app: inside, version: v1 } }
status: { podIP: 10.1.5.1 }
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: inside }
spec:
  hosts: [inside]
  http:
  - match: [{ uri: { prefix: /a } }]
    delegate: { name: leaf }
  - redirect: { uri: /a }
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: leaf }
spec:
  http:
  - route: [{ destination: { host: reviews, subset: v1 } }]
    mirror: { host: inside }
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: raw }
spec:
  hosts: [raw.example.com]
  resolution: STATIC
  ports: [{ number: 5432, name: tcp, protocol: TCP }]
  endpoints: [{ address: 10.7.0.1 }, { address: 10.7.0.2 }]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: named }
spec:
  hosts: [named.example.com]
  resolution: DNS
  ports: [{ number: 8080, name: http }]
---
apiVersion: networking.istio.io/v1
kind: EnvoyFilter
metadata: { name: other }
spec: { workloadSelector: { labels: { app: other } } }
"#;
    let policy = "  trafficPolicy:\n    loadBalancer:\n      consistentHash: { httpHeaderName: x-id }\n      \
        localityLbSetting: { failoverPriority: [version] }\n    retryBudget: { percent: 30 }\n    \
        outlierDetection: { consecutive5xxErrors: 3, maxEjectionPercent: 10 }\n  \
        subsets:\n  - { name: v1, labels: { version: v1 } }\n  - name: v2\n    labels: { version: v2 }\n    \
        trafficPolicy: { loadBalancer: { warmup: { duration: 9s } } }";
    let http = "  - match: [{ uri: { prefix: /a } }]\n    route:\n    - { destination: { host: reviews, subset: v1 }, weight: 4 }\n    \
        - { destination: { host: reviews, subset: v2 }, weight: 6 }\n  - route: [{ destination: { host: reviews, subset: v3 } }]";
    let raw = "  - { port: { number: 5432, name: tcp, protocol: TCP }, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*'] }";
    let mesh = MESH.replacen("  egress:\n", &format!("  egress:\n{raw}\n"), 1);
    assert!(mesh.contains("5432"));
    vec![mesh, rule(policy), rules(http), MORE.to_owned(), INSIDE.to_owned()]
}

/// What is changed in a file: a line out, a line doubled, a word replaced.
const WORDS: [(&str, &str); 17] = [
    ("v1", "v2"),
    ("127.0.0.1", "127.0.0.9"),
    ("8080", "9090"),
    ("weight: ", "weight: 1"),
    ("x-id", "x-other"),
    ("reviews", "ratings"),
    ("observability", "elsewhere"),
    ("---\n", "---\n# moved\n"),
    ("spec:", "spec: {"),
    ("hosts:", "host:"),
    ("STATIC", "NONE"),
    ("locality: r/z", "locality: q/z"),
    ("zone: z", "zone: y"),
    ("PreferClose", "PreferFar"),
    ("percent: 30", "percent: 40"),
    ("duration: 9s", "duration: 8s"),
    ("10.", "10.200.0.1, ports: { http: 81 } }\n  - { address: 10."),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_loader_says_the_same_whatever_it_has_seen(
        edits in prop::collection::vec(
            (0..files().len(), any::<prop::sample::Index>(), 0..WORDS.len() + 2, any::<bool>()),
            1..6,
        ),
    ) {
        let mut loader = loader();
        let mut texts = files();
        let sources: Vec<_> = texts.iter().map(|text| source("same.yaml", text)).collect();
        loader.load(&sources, None).unwrap();
        for (file, at, what, keep) in edits {
            let before = texts.clone();
            let text = &mut texts[file];
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            let line = at.index(lines.len().max(1)).min(lines.len());
            match WORDS.get(what) {
                Some((word, other)) => *text = text.replacen(word, other, 1),
                None if what % 2 == 0 && line < lines.len() => {
                    lines.remove(line);
                    *text = lines.join("\n");
                }
                None => {
                    let double = lines.get(line).cloned().unwrap_or_default();
                    lines.insert(line, double);
                    *text = lines.join("\n");
                }
            }
            let named: Vec<&str> = texts.iter().map(String::as_str).collect();
            let sources: Vec<Source> =
                named.iter().enumerate().map(|(index, text)| source(&format!("{index}.yaml"), text)).collect();
            prop_assert_eq!(told(loader.load(&sources, None)), told(try_load(&named, &here())));
            if !keep {
                texts = before;
            }
        }
    }
}

#[test]
fn origins_and_field_paths_follow_a_document_that_moves() {
    let vs = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: reviews }\nspec:\n  \
        hosts: [reviews]\n  http:\n  - route: [{ destination: { host: nowhere } }]\n";
    let mut loader = loader();
    for lines in [0, 3, 1] {
        let sources = [source("mesh.yaml", MESH), source("vs.yaml", &("#\n".repeat(lines) + vs))];
        let loaded = loader.load(&sources, None).unwrap();
        let found = loaded.warnings.diagnostics.iter().find(|found| &*found.place.file == "vs.yaml").unwrap();
        assert_eq!(found.path, "spec.http[0].route[0].destination.host");
        assert_eq!(found.place.line as usize, lines + 7);
        let json = loaded.snapshot.to_json().to_string();
        let origin = format!("VirtualService observability/reviews (vs.yaml:{})", lines + 7);
        assert!(json.contains(&origin), "{origin} is not in {json}");
    }
}

#[test]
fn what_an_unchanged_document_says_is_not_written_anew() {
    let vs = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: reviews }\nspec:\n  \
        hosts: [reviews]\n  http:\n  - match: [{ uri: { prefix: /api } }]\n    route: [{ destination: { host: reviews } }]\n";
    let mut loader = loader();
    let mut load = |other: &str| {
        let sources = [source("mesh.yaml", MESH), source("vs.yaml", vs), source("x.yaml", other)];
        let loaded = loader.load(&sources, None).unwrap();
        let mut found = loaded.warnings.diagnostics.into_iter();
        found.find(|found| &*found.place.file == "vs.yaml").unwrap()
    };
    assert!(Arc::ptr_eq(&load(""), &load("apiVersion: v1\nkind: Pod\nmetadata: { name: a }\n")));
}

/// The clusters of a load that the one before did not have as the same object.
fn rebuilt(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let shared = |new: &&Arc<Cluster>| before.clusters.iter().any(|old| Arc::ptr_eq(old, new));
    let names =
        after.clusters.iter().filter(|cluster| !shared(cluster)).map(|cluster| cluster.name.to_string());
    names.collect()
}

/// Loads the mesh as it is, and then with `edits`.
fn edited(edits: &[(usize, &str, &str)]) -> (Snapshot, Snapshot) {
    let mut loader = loader();
    let mut texts = files();
    let mut load = |texts: &[String]| {
        let sources: Vec<_> =
            texts.iter().enumerate().map(|(at, text)| source(&format!("{at}.yaml"), text)).collect();
        loader.load(&sources, None).unwrap().snapshot
    };
    let before = load(&texts);
    for (file, from, to) in edits {
        assert!(texts[*file].contains(from), "{from}");
        texts[*file] = texts[*file].replacen(from, to, 1);
    }
    (before, load(&texts))
}

#[test]
fn a_changed_endpoint_rebuilds_its_cluster_and_nothing_else() {
    let (before, after) = edited(&[(0, "10.2.0.1", "10.2.0.2")]);
    assert_eq!(rebuilt(&before, &after), [outbound(8080, "", RATINGS)]);
    assert_eq!(cluster(&after, &outbound(8080, "", RATINGS)).endpoints[0].key, "10.2.0.2:8080".into());
    assert!(Arc::ptr_eq(&before.route_tables, &after.route_tables));
    assert!(Arc::ptr_eq(&before.listeners, &after.listeners));
}

#[test]
fn a_subset_whose_endpoints_stay_is_not_rebuilt() {
    let (before, after) = edited(&[(0, "10.1.0.3", "10.1.0.4")]);
    let expected = [(8080, "v2"), (8080, ""), (9090, "v2"), (9090, "")];
    let mut names = rebuilt(&before, &after);
    names.sort();
    assert_eq!(names, expected.map(|(port, subset)| outbound(port, subset, REVIEWS)));
}

#[test]
fn a_changed_workload_rebuilds_the_cluster_that_selects_it() {
    let (before, after) = edited(&[(3, "address: 10.9.0.1", "address: 10.9.0.2")]);
    assert_eq!(rebuilt(&before, &after), [outbound(8080, "", "*.picked.example.com")]);
    assert!(Arc::ptr_eq(&before.route_tables, &after.route_tables));
}

#[test]
fn an_endpoint_that_moves_rebuilds_its_cluster() {
    for (file, from, to, name) in [
        (3, "locality: r/z/s", "locality: q", outbound(8080, "", "*.picked.example.com")),
        (4, "zone: z", "zone: y", outbound(8080, "", "inside.observability.svc.cluster.local")),
        (4, "PreferClose", "PreferFar", outbound(8080, "", "inside.observability.svc.cluster.local")),
    ] {
        let (before, after) = edited(&[(file, from, to)]);
        assert_eq!(rebuilt(&before, &after), [name], "{to}");
    }
}

#[test]
fn changed_routes_rebuild_no_cluster() {
    let (before, after) = edited(&[(2, "weight: 4", "weight: 5")]);
    assert_eq!(rebuilt(&before, &after), [""; 0]);
    assert!(!Arc::ptr_eq(&before.route_tables, &after.route_tables));
}

#[test]
fn a_changed_policy_rebuilds_the_clusters_of_its_host() {
    let (before, after) = edited(&[(1, "maxEjectionPercent: 10", "maxEjectionPercent: 20")]);
    let names = rebuilt(&before, &after);
    assert_eq!(names.len(), 8, "{names:?}");
    assert!(names.iter().all(|name| name.ends_with(REVIEWS)), "{names:?}");
}

#[test]
fn changed_settings_of_the_mesh_reach_every_cluster() {
    let (before, after) = edited(&[(3, "connectTimeout: 3s", "connectTimeout: 4s")]);
    assert_eq!(rebuilt(&before, &after).len(), after.clusters.len());
}

#[test]
fn a_refused_configuration_leaves_no_trace() {
    let mut loader = loader();
    let good = [source("mesh.yaml", MESH)];
    let before = loader.load(&good, None).unwrap().snapshot;
    let other = MESH.replace("10.2.0.1", "10.2.0.9");
    for broken in [other.replace("STATIC", "STATICS"), format!("{other}---\nkind: [")] {
        loader.load(&[source("mesh.yaml", &broken)], None).unwrap_err();
    }
    let after = loader.load(&good, None).unwrap().snapshot;
    assert_eq!(rebuilt(&before, &after), [""; 0]);
    assert!(Arc::ptr_eq(&before.route_tables, &after.route_tables));
}
