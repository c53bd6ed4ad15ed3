//! `outrigger inject` and `uninject` from outside: documents on standard output, what was done on standard error.

use serde_json::Value;

use crate::cli::{Program, on_free_ports, run, seed, write};

const DOCUMENTS: &str = "# mine
kind: Other
---
apiVersion: batch/v1
kind: Job
metadata: { name: once }
spec:
  template:
    metadata: { annotations: { sidecar.istio.io/nativeSidecar: \"false\" } }
    spec: { containers: [{ name: app, image: a }] }
---
apiVersion: v1
kind: Pod
metadata: { name: host }
spec: { hostNetwork: true, containers: [{ name: app, image: a }] }
";

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn documents_go_to_standard_output_and_the_report_to_standard_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "pods.yaml", DOCUMENTS);
    let output = run(&["inject", "-f", &file, "--image", "proxy:7"]);
    assert_eq!(
        text(output.stderr).replace(&file, "pods.yaml"),
        "√ job \"once\" injected (pods.yaml:4)
  ‼ the job does not end while its sidecar runs: start its command by `outrigger run -- COMMAND`, or have it POST to http://127.0.0.1:15020/quitquitquit at its end
‼ pod \"host\" skipped: it uses the network of its node (pods.yaml:12)
1 other document passed on
"
    );
    let injected = text(output.stdout);
    assert!(injected.starts_with("# mine\nkind: Other\n---\n"), "{injected}");
    assert_eq!(injected.matches("image: proxy:7").count(), 2, "{injected}");

    let file = write(folder.path(), "injected.yaml", &injected);
    let output = run(&["uninject", "-f", &file]);
    assert!(text(output.stderr).starts_with("√ job \"once\" uninjected "));
    assert!(!text(output.stdout).contains("istio-proxy"));
}

#[test]
fn a_wrong_document_prints_nothing_but_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = DOCUMENTS.replace("\"false\"", "perhaps");
    let file = write(folder.path(), "pods.yaml", &wrong);
    let output = run(&["inject", "-f", &file]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(65), 0));
    let error = text(output.stderr);
    assert!(error.contains("pods.yaml:9:64\n"), "{error}");
    assert!(error.ends_with("nothing was changed\n"), "{error}");
}

#[tokio::test]
async fn the_injected_container_is_one_that_this_program_starts_as() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "pods.yaml", DOCUMENTS);
    let output = run(&["inject", "-f", &file, "-o", "json"]);
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let container = &list["items"][1]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["name"], "istio-proxy");
    let arguments = container["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap());
    let rules = seed("registry");
    let mut arguments: Vec<&str> = arguments
        .map(|argument| match argument {
            "/etc/outrigger/config" => &*rules,
            "$(POD_NAMESPACE).svc.cluster.local" => "shop.svc.cluster.local",
            other => other,
        })
        .collect();
    arguments.extend(on_free_ports(&rules).into_iter().skip(3));
    Program::start(&arguments, &["admin"]);
}
