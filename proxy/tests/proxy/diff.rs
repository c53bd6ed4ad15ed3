//! `outrigger diff`: its exit codes, and what it says of traffic.

use serde_json::{Value, json};

use crate::cli::{all, run, seed, write};

/// Compares the seed with one of other weights; `LOG` stands for ten requests, half of which it knows, and `--same` for
/// the seed twice.
fn compared(more: &[&str]) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| std::fs::read_to_string(seed(name)).unwrap();
    let both = |reading: &str| [&read("registry"), &read("destination-rule"), reading].join("\n---\n");
    let old = write(folder.path(), "old.yaml", &both(&read("weighted")));
    let new =
        write(folder.path(), "new.yaml", &both(&read("weighted").replace("90", "80").replace("10", "20")));
    let requests: String = (0..10)
        .map(|n| {
            let line = json!({
                "method": "POST",
                "path": "/x",
                "authority": if n < 5 { "otlp-collector:4317" } else { "elsewhere" },
                "downstream_local_address": "127.0.0.1:4317",
            });
            format!("{line}\n")
        })
        .collect();
    let traffic = write(folder.path(), "access.log", &requests);
    let more: Vec<&str> = more.iter().map(|word| if *word == "LOG" { &*traffic } else { word }).collect();
    let new = if more.contains(&"--same") { old.clone() } else { new };
    let mut args = vec!["diff", &old, &new, "--namespace", "observability"];
    args.extend(more.iter().filter(|word| **word != "--same"));
    run(&args)
}

#[test]
fn diff_exits_as_kubectl_diff_does() {
    let output = compared(&[]);
    assert_eq!(output.status.code(), Some(1), "{}", all(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("route.weighted_clusters["), "{text}");
    assert!(text.contains("weight: 90 -> 80") && text.contains("new.yaml:"), "{text}");
    let output = compared(&["--same"]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"no difference\n"[..]));
    assert_eq!(run(&["diff", "/no/such/file", "/nor/this"]).status.code(), Some(65));
    assert_eq!(run(&["diff", "/no/such/file"]).status.code(), Some(64));
    assert_eq!(compared(&["--max-moved", "5%"]).status.code(), Some(64), "of which traffic?");
    assert_eq!(compared(&["--traffic", "LOG", "--max-moved", "500%"]).status.code(), Some(64));
    assert_eq!(compared(&["--traffic", "/no/such/file"]).status.code(), Some(65));
}

#[test]
fn more_moved_traffic_than_is_allowed_fails() {
    for (max, code) in [("4.9%", 1), ("5.1%", 0), ("100", 0), ("0", 1)] {
        let output = compared(&["--traffic", "LOG", "--max-moved", max]);
        assert_eq!(output.status.code(), Some(code), "{max}: {}", all(&output));
    }
    let output = compared(&["--traffic", "LOG", "-o", "json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["traffic"]["requests"], &told["traffic"]["touched"]), (&json!(10), &json!(5)));
    let percent = told["traffic"]["moved_percent"].as_f64().unwrap();
    assert!((percent - 5.0).abs() < 1e-6, "a tenth of one half: {percent}");
    assert_eq!(told["traffic"]["groups"][0]["authority"], "otlp-collector:4317");
}

#[test]
fn routes_that_nothing_leads_to_are_not_called_the_same_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| std::fs::read_to_string(seed(name)).unwrap();
    let registry = read("registry");
    let service = registry.split("\n---\n").next().unwrap();
    let with = |weights: &str| [service, &read("destination-rule"), weights].join("\n---\n");
    let old = write(folder.path(), "old.yaml", &with(&read("weighted")));
    let new =
        write(folder.path(), "new.yaml", &with(&read("weighted").replace("90", "80").replace("10", "20")));
    let compare = |more: &[&str]| {
        let mut args = vec!["diff", &*old, &*new, "--namespace", "observability"];
        args.extend(more);
        run(&args)
    };
    let output = compare(&[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), said.contains("--interception-mode REDIRECT")),
        (Some(0), true),
        "{said}"
    );
    let output = compare(&["--interception-mode", "REDIRECT"]);
    assert_eq!((output.status.code(), &*output.stderr), (Some(1), &b""[..]), "as an injected pod runs");
}
