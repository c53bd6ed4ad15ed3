//! What is printed for the documents in `cases/`, to be read like code. Renew with `INSTA_UPDATE=always`.

use std::fmt::Write as _;

use outrigger_inject::{FailurePolicy, Format, OnFailure, Options, Outcome, Verb, change, manifests};

use crate::{inject, inject_with, source, uninject};

/// The documents after injection, and what was done to each workload.
fn golden(case: &str, options: &Options) -> String {
    let file = format!("{}/tests/inject/cases/{case}.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(file).unwrap();
    let changed = inject_with(options, &text).unwrap();
    // Twice is once, and the way back leads to the same documents.
    assert_eq!(inject_with(options, &changed.text).unwrap().text, changed.text, "{case}: injected twice");
    let json = |text: &str| change(&source(text), Verb::Uninject, Format::Json).unwrap().text;
    assert_eq!(json(&changed.text), json(&text), "{case}: taken out again");
    let mut out = String::new();
    for done in &changed.workloads {
        writeln!(out, "# {} {}: {:?}", done.workload.kind, done.workload.name, done.outcome).unwrap();
    }
    out + &changed.text
}

#[test]
fn every_case_is_injected_as_its_golden_file_says() {
    let options = Options::default();
    for case in ["deployment", "kinds", "annotations", "ours", "classic", "merged", "decisions"] {
        insta::assert_snapshot!(case, golden(case, &options));
    }
}

#[test]
fn options_say_what_is_injected() {
    let options = Options {
        image: "registry.example.com/outrigger:1".to_owned(),
        pull_policy: Some("Always".to_owned()),
        mesh_config_map: "mesh".to_owned(),
        certificates_secret: Some("identity".to_owned()),
        revision: "canary".to_owned(),
        namespace: Some("shop".to_owned()),
        cluster_domain: "example.local".to_owned(),
        trust_domain: "example.org".to_owned(),
        cluster_id: "east".to_owned(),
        proxy_metadata: vec![("ISTIO_META_DNS_CAPTURE".to_owned(), "true".to_owned())],
        native: false,
        by_default: true,
    };
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: app, image: a}]}\n";
    insta::assert_snapshot!("options", inject_with(&options, pod).unwrap().text);
    let asked = Options { by_default: false, ..options };
    assert_eq!(inject_with(&asked, pod).unwrap().text, pod, "it does not ask");
    let asks = pod.replace("{name: p}", "{name: p, labels: {sidecar.istio.io/inject: \"true\"}}");
    assert!(inject_with(&asked, &asks).unwrap().text.contains("istio-proxy"));
}

#[test]
fn new_options_renew_the_sidecar_of_an_injected_document() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: app, image: a}]}\n";
    let newer = Options { image: "outrigger:2".to_owned(), ..Options::default() };
    let renewed = inject_with(&newer, &inject(pod)).unwrap().text;
    assert_eq!(renewed, inject_with(&newer, pod).unwrap().text);
    assert_eq!(renewed.matches("name: istio-proxy").count(), 1);
}

#[test]
fn what_a_user_changed_after_injection_stays_when_the_sidecar_goes() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: app\n    image: a\n    livenessProbe: {httpGet: {port: 80}}\n";
    let injected = inject(pod)
        .replace("image: a\n", "image: b\n")
        .replace("port: 15020\n        path: /app-health/app/livez", "port: 81\n        path: /own")
        .replace("canonical-revision: latest", "canonical-revision: v7")
        .replace("  annotations:\n", "  annotations:\n    mine: \"1\"\n");
    let out = uninject(&injected);
    assert_eq!(
        out,
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  labels:\n    service.istio.io/canonical-revision: v7\n  annotations:\n    mine: \"1\"\nspec:\n  containers:\n  - name: app\n    image: b\n    livenessProbe:\n      httpGet:\n        port: 81\n        path: /own\n"
    );
}

/// The text of the init container, and that of the proxy.
fn containers(options: &Options, config: &str) -> [String; 2] {
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, annotations: {{proxy.istio.io/config: '{config}'}}}}\nspec: {{containers: [{{name: app, image: a}}]}}\n"
    );
    let changed = inject_with(options, &pod).unwrap();
    assert_eq!(changed.workloads[0].outcome, Outcome::Injected { notes: Vec::new() });
    let (_, init) = changed.text.split_once("name: istio-init").unwrap();
    let (init, proxy) = init.split_once("name: istio-proxy").unwrap();
    [init.to_owned(), proxy.to_owned()]
}

const CAPTURED: &str = "name: ISTIO_META_DNS_CAPTURE\n      value: \"true\"\n";

#[test]
fn both_containers_are_told_to_capture_dns() {
    for container in containers(&Options::default(), "proxyMetadata: {ISTIO_META_DNS_CAPTURE: true}") {
        assert!(container.contains(CAPTURED), "{container}");
    }
}

#[test]
fn variables_of_all_sidecars_are_refined_by_the_pod() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let proxy_metadata = vec![pair("ISTIO_META_DNS_CAPTURE", "true"), pair("A", "all")];
    let options = Options { proxy_metadata, ..Options::default() };
    for container in containers(&options, "proxyMetadata: {A: mine}") {
        assert!(container.contains(CAPTURED), "{container}");
        assert!(
            container.contains("name: A\n      value: mine\n") && !container.contains("value: all"),
            "{container}"
        );
    }
    for container in containers(&options, "concurrency: 2") {
        assert!(container.contains("name: A\n      value: all\n"), "{container}");
    }
}

#[test]
fn only_a_pod_that_gets_a_certificate_is_said_to_take_mutual_tls() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, annotations: {}}\nspec: {containers: [{name: app, image: a}]}\n";
    let says_so = |options: &Options, pod: &str| {
        inject_with(options, pod).unwrap().text.contains("security.istio.io/tlsMode: istio\n")
    };
    let with_secret = Options { certificates_secret: Some("identity".to_owned()), ..Options::default() };
    assert!(says_so(&with_secret, pod));
    assert!(!says_so(&Options::default(), pod));
    let mounted = |at: &str| {
        let mount = format!("{{sidecar.istio.io/userVolumeMount: '{{\"c\":{{\"mountPath\":\"{at}\"}}}}'}}");
        says_so(&Options::default(), &pod.replace("annotations: {}", &format!("annotations: {mount}")))
    };
    assert!(mounted("/var/run/secrets/workload-spiffe-credentials"));
    assert!(!mounted("/certs"));
}

#[test]
fn a_named_port_of_prometheus_is_told_to_the_sidecar_by_its_number() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, annotations: {prometheus.io/port: metrics}}\nspec: {containers: [{name: app, image: a}, {name: b, ports: [{name: metrics, containerPort: 9100}]}]}\n";
    assert!(inject(pod).contains(r#"\"port\":\"9100\"}""#), "{}", inject(pod));
    let changed =
        inject_with(&Options::default(), &pod.replace("io/port: metrics", "io/port: other")).unwrap();
    assert!(!changed.text.contains("ISTIO_PROMETHEUS_ANNOTATIONS"), "{}", changed.text);
    let note = "the application is not scraped: no port of its containers is `other` (prometheus.io/port)";
    assert_eq!(changed.workloads[0].outcome, Outcome::Injected { notes: vec![note.to_owned()] });
}

#[test]
fn networks_and_interfaces_are_written_as_init_takes_them() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    traffic.sidecar.istio.io/excludeOutboundIPRanges: 192.0.2.1, fd00::1,10.0.0.0/8\n    traffic.sidecar.istio.io/excludeInterfaces: eth1, tap+\nspec: {containers: [{name: app, image: a}]}\n";
    let injected = inject(pod);
    assert!(injected.contains("- -x\n    - 192.0.2.1/32,fd00::1/128,10.0.0.0/8\n"), "{injected}");
    assert!(injected.contains("- -c\n    - eth1,tap+\n"), "{injected}");
}

#[test]
fn a_long_name_is_cut_to_what_a_label_holds() {
    let name = format!("{}.{}", "a".repeat(62), "b".repeat(20));
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: app, image: a}}]}}\n"
    );
    let injected = inject(&pod);
    assert!(injected.contains(&format!("canonical-name: {}\n", "a".repeat(62))), "{injected}");
}

#[test]
fn another_port_of_the_agent_is_told_to_all_who_ask_it() {
    let job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec: {template: {metadata: {annotations: {status.sidecar.istio.io/port: \"16020\", sidecar.istio.io/nativeSidecar: \"false\"}}, spec: {containers: [{name: app, image: a}]}}}\n";
    let changed = inject_with(&Options::default(), job).unwrap();
    let flat: String =
        changed.text.split_whitespace().filter(|word| *word != "-").collect::<Vec<_>>().join(" ");
    assert!(flat.contains("--metrics 0.0.0.0:16020 --metrics 0.0.0.0:15090 "), "{}", changed.text);
    assert!(flat.contains("/outrigger admin POST /drain --address 127.0.0.1:16020 "), "{}", changed.text);
    let Outcome::Injected { notes } = &changed.workloads[0].outcome else { panic!("{changed:?}") };
    assert!(notes[0].contains("`outrigger run --agent 127.0.0.1:16020 -- COMMAND`"), "{notes:?}");
    assert!(notes[0].contains("http://127.0.0.1:16020/quitquitquit"), "{notes:?}");
}

#[test]
fn several_texts_are_one_stream_of_documents() {
    let a = outrigger_config::Source { name: "a".into(), text: "kind: A".to_owned() };
    let b = outrigger_config::Source { name: "b".into(), text: "kind: B\n---\nkind: C\n".to_owned() };
    let sources = [a, b];
    let changed = |format| change(&sources, Verb::Uninject, format).unwrap();
    assert_eq!(changed(Format::Yaml).text, "kind: A\n---\nkind: B\n---\nkind: C\n");
    assert_eq!(changed(Format::Yaml).others, 3);
    let list: serde_json::Value = serde_json::from_str(&changed(Format::Json).text).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
}

#[test]
fn the_webhook_s_manifests_carry_its_options() {
    insta::assert_snapshot!(
        "manifests",
        manifests(&Options::default(), FailurePolicy::Fail, OnFailure::Allow)
    );
    // Istio's own revision is left to Istio.
    assert_eq!(Options::default().revision, "outrigger");
    let options = Options {
        revision: "canary".to_owned(),
        certificates_secret: Some("identity".to_owned()),
        proxy_metadata: [("A", "b"), ("C", "d=e")].map(|(name, value)| (name.into(), value.into())).into(),
        native: false,
        by_default: false,
        ..Options::default()
    };
    let text = manifests(&options, FailurePolicy::Ignore, OnFailure::Deny);
    for part in [
        "name: OUTRIGGER_REVISION\n          value: canary\n",
        "name: OUTRIGGER_CERTIFICATES_SECRET\n          value: identity\n",
        "name: OUTRIGGER_PROXY_METADATA\n          value: A=b,C=d=e\n",
        "name: OUTRIGGER_SIDECAR\n          value: classic\n",
        "name: OUTRIGGER_INJECTION_POLICY\n          value: disabled\n",
        "name: OUTRIGGER_ON_FAILURE\n          value: deny\n",
        "failurePolicy: Ignore\n",
        "      - canary\n",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}
