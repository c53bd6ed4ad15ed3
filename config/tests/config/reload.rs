//! One loader, several loads: each says what a new loader would say of the same text.

use outrigger_config::{Loader, Source, report::Report, snapshot::TelemetryDefaults};
use proptest::prelude::*;

use crate::support::{MESH, options, rule, rules, source, try_load};

fn loader() -> Loader {
    Loader::new(options().node, TelemetryDefaults::default())
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
spec: { address: 10.9.0.1, weight: 3 }
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
"#;
    let policy = "  trafficPolicy:\n    loadBalancer: { consistentHash: { httpHeaderName: x-id } }\n    \
        outlierDetection: { consecutive5xxErrors: 3, maxEjectionPercent: 10 }\n  \
        subsets:\n  - { name: v1, labels: { version: v1 } }\n  - { name: v2, labels: { version: v2 } }";
    let http = "  - match: [{ uri: { prefix: /a } }]\n    route:\n    - { destination: { host: reviews, subset: v1 }, weight: 4 }\n    \
        - { destination: { host: reviews, subset: v2 }, weight: 6 }\n  - route: [{ destination: { host: reviews, subset: v3 } }]";
    vec![MESH.to_owned(), rule(policy), rules(http), MORE.to_owned()]
}

/// What is changed in a file: a line out, a line doubled, a word replaced.
const WORDS: [(&str, &str); 12] = [
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
    ("10.", "10.200.0.1, ports: { http: 81 } }\n  - { address: 10."),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_loader_says_the_same_whatever_it_has_seen(
        edits in prop::collection::vec(
            (0..4_usize, any::<prop::sample::Index>(), 0_usize..14, any::<bool>()),
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
            prop_assert_eq!(told(loader.load(&sources, None)), told(try_load(&named, &options())));
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
