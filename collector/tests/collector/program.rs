//! The program: what it prints, its exit codes, and its signals.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use crate::support::{Backend, Sender, reserved_port, spans, until, yaml};

const ANY_PORT: [(&str, &str); 4] = [
    ("OUTRIGGER__receivers__otlp__protocols__grpc__endpoint", "127.0.0.1:0"),
    ("OUTRIGGER__receivers__otlp__protocols__http__endpoint", "127.0.0.1:0"),
    ("OUTRIGGER__service__telemetry__metrics__address", "127.0.0.1:0"),
    ("OUTRIGGER__extensions__health_check__endpoint", "127.0.0.1:0"),
];

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_otlp-collector"));
    command.env_clear().stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Reads the log until every listener has been named.
fn addresses(child: &mut Child) -> Vec<(String, SocketAddr)> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut found = Vec::new();
    while found.len() < 4 {
        let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        if line["msg"] == "listening" {
            assert_eq!(line["level"], "info");
            let text = |name: &str| line[name].as_str().unwrap().to_owned();
            found.push((text("name"), text("address").parse().unwrap()));
        }
    }
    // Read on, or the program's next line has nowhere to go.
    std::thread::spawn(move || lines.for_each(drop));
    found
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[tokio::test]
async fn it_runs_from_the_environment_and_drains_on_a_signal() {
    let backend = Backend::start().await;
    let mut command = program();
    command.envs(ANY_PORT).env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", backend.address));
    let mut child = command.spawn().unwrap();
    let addresses = addresses(&mut child);
    let names: Vec<&str> = addresses.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["otlp_grpc", "otlp_http", "metrics", "health"]);
    let sender = Sender::new(addresses[1].1, false);
    for request in 0..20 {
        assert_eq!(sender.traces(&spans(&format!("r{request}"), 5)).await.status.as_u16(), 200);
    }
    signal(&child, "TERM");
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(backend.ledger().len(), 100);
}

#[tokio::test]
async fn what_cannot_be_delivered_in_time_is_exit_code_3() {
    let backend = Backend::start().await;
    backend.stop();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.yaml");
    let text =
        yaml(&[("otlp_http", &backend.http(""))]).replace("flush_timeout: 10s", "flush_timeout: 100ms");
    std::fs::write(&path, text).unwrap();
    let mut child = program().arg("run").arg("--config").arg(&path).spawn().unwrap();
    let addresses = addresses(&mut child);
    assert_eq!(Sender::new(addresses[1].1, false).traces(&spans("a", 1)).await.status.as_u16(), 200);
    signal(&child, "TERM");
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(3));
}

#[tokio::test]
async fn the_health_check_tells_ready_from_draining_and_from_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.yaml");
    // Still the test's own when the program is gone.
    let port = reserved_port();
    let health = port.local_addr().unwrap();
    // The delay is long enough that only the signal below ends it.
    let text = yaml(&[("nop", "{}")])
        .replace(
            "health_check: { endpoint: 127.0.0.1:0 }",
            &format!("health_check: {{ endpoint: {health} }}"),
        )
        .replace("in_flight_timeout: 2s", "delay: 1m, in_flight_timeout: 2s");
    std::fs::write(&path, text).unwrap();
    let mut child = program().arg("--config").arg(&path).spawn().unwrap();
    assert_eq!(addresses(&mut child)[3].1, health);
    let ask = || {
        let output = program().args(["healthcheck", "--address", &health.to_string()]).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    // Its own limit is short: on a machine that stands still it may have to be asked again.
    let silent = |(_, text): &(i32, String)| text.contains("no answer within");
    let check = || (0..10).map(|_| ask()).find(|said| !silent(said)).expect("an answer");
    assert_eq!(check(), (0, String::new()));
    signal(&child, "TERM");
    let refused = format!("not ready: {health}: /health/ready answers 503 Service Unavailable\n");
    until("it says that it is draining", || check() == (1, refused.clone())).await;
    signal(&child, "TERM");
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(3));
    let (code, text) = check();
    assert_eq!(code, 1);
    assert!(text.starts_with(&format!("not ready: {health}: Connection refused")), "{text}");
}

#[test]
fn exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good.yaml"), folder.path().join("bad.yaml"));
    std::fs::write(&good, yaml(&[("nop", "{}")])).unwrap();
    std::fs::write(&bad, "recievers: {}\n").unwrap();
    let run = |arguments: &[&str]| {
        let output = program().args(arguments).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), text)
    };
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    assert_eq!(run(&["--no-such-flag"]).0, 64);
    assert_eq!(run(&["validate", "--config", good]).0, 0);
    let (code, text) = run(&["validate", "--config", bad]);
    assert_eq!(code, 65);
    assert!(text.contains("bad.yaml:1: recievers: unknown key (did you mean receivers?)"), "{text}");
    assert_eq!(run(&["--config", bad]).0, 65);
    assert_eq!(run(&["validate", "--config", "/no/such/file"]).0, 65);
    let (code, text) = run(&["print-config", "--config", good]);
    assert_eq!(code, 0);
    assert!(text.contains("receivers:\n  otlp:\n    protocols:\n"), "{text}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = program();
    command.envs(ANY_PORT).env(ANY_PORT[0].0, taken.local_addr().unwrap().to_string());
    assert_eq!(command.output().unwrap().status.code(), Some(69));
}
