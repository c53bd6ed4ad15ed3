//! What cannot be injected is told with its place, and nothing is printed.

use outrigger_inject::Options;

use crate::inject_with;

fn refused(text: &str) -> String {
    let errors = inject_with(&Options::default(), text).expect_err(text);
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn pod(annotations: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    {annotations}\nspec:\n  containers:\n  - name: app\n    {container}\n"
    )
}

#[test]
fn a_wrong_annotation_is_shown_at_its_place() {
    assert_eq!(
        refused(&pod("sidecar.istio.io/proxyCPU: much", "image: a")),
        "error: \"much\" is no value of this annotation
 --> pods.yaml:6:32
  |
6 |     sidecar.istio.io/proxyCPU: much
  |                                ^^^^
  = field: metadata.annotations[\"sidecar.istio.io/proxyCPU\"]
  = help: a quantity such as \"100m\", \"0.5\" or \"128Mi\"
"
    );
}

#[test]
fn each_annotation_refuses_what_it_cannot_mean() {
    for annotation in [
        "sidecar.istio.io/inject: true",
        "sidecar.istio.io/logLevel: loud",
        "sidecar.istio.io/interceptionMode: redirect",
        "sidecar.istio.io/nativeSidecar: maybe",
        "sidecar.istio.io/userVolume: '[]'",
        "sidecar.istio.io/proxyMemory: 1Zi",
        "traffic.sidecar.istio.io/includeInboundPorts: '80;81'",
        "traffic.sidecar.istio.io/excludeInboundPorts: '*'",
        "traffic.sidecar.istio.io/excludeOutboundPorts: '70000'",
        "traffic.sidecar.istio.io/includeOutboundIPRanges: 10.0.0.0/33",
        "traffic.sidecar.istio.io/excludeInterfaces: 'eth0 eth1'",
        "traffic.sidecar.istio.io/excludeInterfaces: '--cleanup'",
        "istio.io/reroute-virtual-interfaces: abcdefghijklmnop",
        "istio.io/reroute-virtual-interfaces: '+'",
        "proxy.istio.io/config: 'a: ['",
        "proxy.istio.io/config: '5'",
        "proxy.istio.io/config: 'interceptionMode: SOME'",
        "proxy.istio.io/config: 'proxyMetadata: {A: [1]}'",
        "status.sidecar.istio.io/port: '99999'",
        "readiness.status.sidecar.istio.io/periodSeconds: soon",
        "sidecar.istio.io/status: '{\"outrigger\":5}'",
        "outrigger.dev/mergeMetrics: often",
    ] {
        let error = refused(&pod(annotation, "image: a"));
        assert!(error.contains("pods.yaml:6:"), "{annotation}: {error}");
        assert!(error.contains("= help: "), "{annotation}: {error}");
    }
}

#[test]
fn a_probe_of_an_unknown_port_is_shown_at_its_place() {
    let error = refused(&pod("a: b", "livenessProbe: {httpGet: {port: web}}"));
    assert!(
        error.starts_with("error: no port of the container is named `web`\n  --> pods.yaml:10:37\n"),
        "{error}"
    );
    assert!(error.contains("field: spec.containers[0].livenessProbe.httpGet.port"), "{error}");
}

#[test]
fn broken_yaml_and_every_wrong_workload_are_reported_together() {
    let wrong = pod("sidecar.istio.io/inject: yes", "image: a");
    let error = refused(&format!("{wrong}---\n{wrong}"));
    assert_eq!(error.matches("error: ").count(), 2);
    assert!(error.contains("pods.yaml:6:") && error.contains("pods.yaml:17:"), "{error}");
    assert!(refused("a: [").contains("pods.yaml:1:"));
}

#[test]
fn a_pod_without_application_or_with_odd_fields_is_refused() {
    let only_proxy = "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: istio-proxy, image: auto}]}\n";
    assert!(refused(only_proxy).contains("no container of an application"));
    assert!(refused("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n").contains("no spec"));
    let labels = "apiVersion: v1\nkind: Pod\nmetadata: {labels: [a]}\nspec: {containers: [{name: a}]}\n";
    assert!(refused(labels).contains("`labels` is a list"));
    let nameless = "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: a}]}\n";
    assert!(refused(nameless).contains("the container has no name"));
}
