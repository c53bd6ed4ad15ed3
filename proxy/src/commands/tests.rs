//! Exit codes, as scripts rely on them.

use std::{fs, process::ExitCode};

use super::main;

const SERVICE: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: echo }
spec:
  hosts: [echo.default.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{ number: 8080, name: http, protocol: HTTP }]
  endpoints: [{ address: 127.0.0.1 }]
";

fn run(args: &[&str]) -> ExitCode {
    main(["outrigger"].iter().chain(args).map(Into::into))
}

fn is(code: ExitCode, expected: u8) -> bool {
    // `ExitCode` cannot be compared.
    format!("{code:?}") == format!("{:?}", ExitCode::from(expected))
}

#[test]
fn usage_errors_are_64_and_help_is_none() {
    assert!(is(run(&[]), 64));
    assert!(is(run(&["proxy"]), 64));
    assert!(is(run(&["validate"]), 64));
    assert!(is(run(&["validate", "x", "--failure-threshold", "sometimes"]), 64));
    assert!(is(run(&["validate", "x", "-S", "OUT9999"]), 64));
    assert!(is(run(&["validate", "x", "-o", "xml"]), 64));
    assert!(is(run(&["validate", "--explain", "OUT9999"]), 64));
    assert!(is(run(&["validate", "x", "--explain", "OUT0107"]), 64));
    assert!(is(run(&["proxy", "--config", "x", "--labels", "novalue"]), 64));
    assert!(is(run(&["proxy", "--config", "-"]), 64));
    assert!(is(run(&["init", "-b", "http"]), 64));
    for wrong in ["novalue", "=b", "1A=b", "A-B=c"] {
        assert!(is(run(&["webhook", "--print-manifests", "--proxy-metadata", wrong]), 64), "{wrong}");
    }
    assert!(is(run(&["webhook", "--print-manifests", "--proxy-metadata", "A_1=b=c,B="]), 0));
    assert!(is(run(&["--version"]), 0));
    assert!(is(run(&["proxy", "--help"]), 0));
    assert!(is(run(&["init", "-b", "*", "-i", "*", "--dry-run"]), 0));
}

#[test]
fn metrics_may_have_several_addresses() {
    let any = "127.0.0.1:0";
    // It comes as far as its configuration.
    assert!(is(run(&["proxy", "--config", "no-such-file", "--metrics", any, "--metrics", any]), 65));
    assert!(is(run(&["proxy", "--config", "no-such-file", "--metrics", any, "--metrics", "x"]), 64));
}

#[test]
fn manifests_refuse_flags_that_they_would_drop() {
    assert!(is(run(&["webhook", "--print-manifests", "--on-failure", "deny"]), 0));
    for [flag, value] in [["--namespace", "mesh"], ["--listen", "0.0.0.0:9443"], ["--configuration", "c"]] {
        assert!(is(run(&["webhook", "--print-manifests", flag, value]), 64), "{flag}");
    }
}

#[test]
fn validate_fails_from_its_threshold_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let path = file.to_str().unwrap();
    assert!(is(run(&["validate", path]), 65), "unreadable");
    // It loads, with the warning that no Sidecar listens.
    fs::write(&file, SERVICE).unwrap();
    assert!(is(run(&["validate", path]), 0));
    assert!(is(run(&["validate", path, "--failure-threshold", "warning"]), 79));
    fs::write(&file, SERVICE.replace("8080", "-1")).unwrap();
    assert!(is(run(&["validate", path]), 79));
    assert!(is(run(&["validate", path, "-o", "json"]), 79));
}

#[test]
fn a_proxy_with_bad_configuration_ends_with_65() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, "kind: [").unwrap();
    assert!(is(run(&["proxy", "--config", file.to_str().unwrap()]), 65));
    assert!(is(run(&["proxy", "--config", "/no/such/file.yaml"]), 65));
}

#[test]
fn an_envoy_filter_stops_both_verbs_unless_it_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let path = file.to_str().unwrap();
    let filter = "---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: { name: lua }\nspec: {}\n";
    fs::write(&file, format!("{SERVICE}{filter}")).unwrap();
    assert!(is(run(&["validate", path]), 79));
    assert!(is(run(&["validate", path, "--allow-envoyfilter"]), 0));
    assert!(is(run(&["proxy", "--config", path]), 65));
    // An address of no interface here: past the configuration, it fails to bind.
    let unbindable = ["proxy", "--config", path, "--allow-envoyfilter", "--admin", "192.0.2.1:1"];
    assert!(is(run(&unbindable), 69));
}

#[test]
fn suppressed_codes_do_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let path = file.to_str().unwrap();
    fs::write(&file, SERVICE.replace("8080", "-1")).unwrap();
    let validate = |more: &[&str]| run(&[&["validate", path, "--failure-threshold", "note"], more].concat());
    assert!(is(validate(&["-S", "OUT0012"]), 79), "no Sidecar listens");
    assert!(is(validate(&["-S", "OUT0012", "-S", "OUT0401"]), 0));
    assert!(is(validate(&["-S", "ist0106,OUT0401", "-o", "sarif"]), 0), "Istio's code of many of ours");
}

const POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: { name: p }\nspec: { containers: [{ name: app, image: a }] }\n";

#[test]
fn inject_and_uninject_end_with_0_or_65() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let path = file.to_str().unwrap();
    assert!(is(run(&["inject"]), 64));
    assert!(is(run(&["inject", "-f", path, "--sidecar", "sometimes"]), 64));
    assert!(is(run(&["inject", "-f", path]), 65), "unreadable");
    fs::write(&file, POD).unwrap();
    for verb in ["inject", "uninject"] {
        assert!(is(run(&[verb, "-f", path]), 0));
        assert!(is(run(&[verb, "-f", path, folder.path().to_str().unwrap(), "-o", "json"]), 0));
    }
    fs::write(&file, "kind: [").unwrap();
    assert!(is(run(&["inject", "-f", path]), 65));
    fs::write(&file, POD.replace("name: p", "name: p, annotations: { sidecar.istio.io/logLevel: loud }"))
        .unwrap();
    assert!(is(run(&["inject", "-f", path]), 65));
}
