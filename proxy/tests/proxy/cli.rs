//! The program from outside: arguments, diagnostics, exit codes, signals.

use std::{
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

use crate::support::{
    client::{self, ask},
    mesh::virtual_service,
    ports::reserved_address,
    wait::until,
};

const SEED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/seed");

/// The program without this machine's own settings.
pub(crate) fn outrigger(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    for (name, _) in std::env::vars() {
        if ["OUTRIGGER_", "ISTIO_", "OTEL_", "POD_", "INSTANCE_IP", "TERMINATION_", "PROXY_CONFIG"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    command.args(args);
    command
}

pub(crate) fn run(args: &[&str]) -> Output {
    outrigger(args).output().unwrap()
}

pub(crate) fn all(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub(crate) fn seed(file: &str) -> String {
    format!("{SEED}/{file}.yaml")
}

pub(crate) fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn both_readings_of_the_seed_are_valid_with_their_warnings() {
    for reading in ["virtual-service", "weighted"] {
        let output = run(&[
            "validate",
            &seed("registry"),
            &seed("destination-rule"),
            &seed(reading),
            "--namespace",
            "observability",
        ]);
        assert_eq!(output.status.code(), Some(0), "{reading}: {}", all(&output));
        let text = all(&output);
        assert!(text.contains("consecutiveErrors"), "the deprecated field is named: {text}");
        assert_eq!(text.contains("weight"), reading == "virtual-service", "a lone weight: {text}");
    }
    let output = run(&[
        "validate",
        &seed("registry"),
        &seed("destination-rule"),
        &seed("weighted"),
        "--namespace",
        "observability",
        "--failure-threshold",
        "warning",
    ]);
    assert_eq!(output.status.code(), Some(79), "{}", all(&output));
}

#[test]
fn an_error_names_its_place_and_exits_79() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = virtual_service(
        "web",
        "- route: [{ destination: { host: web } }]\n  timout: 1s\n  match: [{ uri: { regex: '(' } }]",
    );
    let path = write(folder.path(), "bad.yaml", &yaml);
    let output = run(&["validate", &path]);
    assert_eq!(output.status.code(), Some(79), "{}", all(&output));
    let text = all(&output);
    assert!(text.contains("bad.yaml:9:") || text.contains("bad.yaml:8:"), "file, line and column: {text}");
    assert!(text.contains("timeout"), "did you mean: {text}");
    assert!(text.contains("OUT"), "a code: {text}");

    let output = run(&["validate", "-o", "json", &path]);
    assert_eq!(output.status.code(), Some(79));
    let findings: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(findings.len() >= 2, "every error is collected: {findings:?}");
    assert!(findings.iter().all(|finding| finding.to_string().contains("bad.yaml")), "{findings:?}");
}

#[test]
fn a_code_is_explained_by_its_page() {
    let output = run(&["validate", "--explain", "OUT0107"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("## OUT0107: the weight of a lone destination has no effect\n"), "{text}");
    for part in ["A **warning**", "Example:", "Instead:", "weight: 10"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let output = run(&["validate", "--explain", "IST0101"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("## OUT0101") && text.contains("## OUT0102"),
        "one of Istio's, several of ours: {text}"
    );
}

#[test]
fn the_environment_allows_envoy_filters_too() {
    let folder = tempfile::tempdir().unwrap();
    let filter =
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: { name: lua }\nspec: {}\n";
    let path = write(folder.path(), "filter.yaml", filter);
    let exit = |allow: &str| {
        let mut command = outrigger(&["validate", &path]);
        command.env("OUTRIGGER_ALLOW_ENVOYFILTER", allow).output().unwrap().status.code()
    };
    assert_eq!((exit("false"), exit("true")), (Some(79), Some(0)));
}

#[test]
fn unreadable_input_wrong_usage_and_broken_yaml_have_their_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "broken.yaml", "kind: [\n");
    for (args, code) in [
        (vec!["validate", "/no/such/file.yaml"], 65),
        (vec!["validate", path.as_str()], 79),
        (vec!["validate"], 64),
        (vec!["no-such-verb"], 64),
        (vec!["proxy", "--no-such-flag"], 64),
        (vec!["proxy", "--config", path.as_str()], 65),
        (vec!["proxy", "--config", "/no/such/folder"], 65),
    ] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", all(&output));
        assert!(!output.stderr.is_empty() || !output.stdout.is_empty(), "{args:?} says why");
    }
}

#[test]
fn a_port_in_use_exits_69() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "empty.yaml", &sidecar(0));
    let output = run(&["proxy", "--config", &path, "--admin", &address, "--metrics", ANY, "--health", ANY]);
    assert_eq!(output.status.code(), Some(69), "{}", all(&output));
    assert!(all(&output).contains(&address), "{}", all(&output));
}

const ANY: &str = "127.0.0.1:0";
const LISTENER: &str = "127.0.0.1_8080";

/// A proxy whose every port is the system's choice.
pub(crate) fn on_free_ports(config: &str) -> Vec<&str> {
    with_health(config, ANY)
}

fn with_health<'a>(config: &'a str, health: &'a str) -> Vec<&'a str> {
    [
        ["proxy", "--config", config].as_slice(),
        &["--ports", "ephemeral", "--concurrency", "1"],
        &["--admin", ANY, "--metrics", ANY, "--health", health],
    ]
    .concat()
}

/// One listener, `LISTENER`. An origin at `upstream`, or none.
fn sidecar(upstream: u16) -> String {
    let endpoint = if upstream == 0 {
        String::new()
    } else {
        format!("  endpoints: [{{ address: 127.0.0.1, ports: {{ main: {upstream} }} }}]\n")
    };
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: web }}\nspec:\n  hosts: [web.default.svc.cluster.local]\n  \
         resolution: STATIC\n  ports: [{{ number: 8080, name: main, protocol: HTTP }}]\n{endpoint}---\n\
         apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: default }}\nspec:\n  egress:\n  \
         - {{ port: {{ number: 8080, name: main, protocol: HTTP }}, bind: 127.0.0.1, captureMode: NONE, hosts: ['./*'] }}\n"
    )
}

/// A running program; it is killed when it is dropped.
pub(crate) struct Program {
    child: Child,
    listeners: Vec<(String, SocketAddr)>,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// Starts `outrigger proxy` and reads its listener lines until all of them have come.
    pub(crate) fn start(args: &[&str], names: &[&str]) -> Self {
        let mut program = Self::spawn(args);
        program.read_listeners(names);
        program
    }

    fn spawn(args: &[&str]) -> Self {
        Self::spawn_with(args, &[])
    }

    /// The same with more environment.
    fn spawn_with(args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = outrigger(args);
        command.envs(variables.iter().copied());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, listeners: vec![] }
    }

    fn read_listeners(&mut self, names: &[&str]) {
        let mut lines = BufReader::new(self.child.stdout.take().unwrap());
        let listeners = &mut self.listeners;
        while !names.iter().all(|name| listeners.iter().any(|(found, _)| found == name)) {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap() == 0 {
                let mut errors = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
                panic!("ended after {listeners:?}: {errors}");
            }
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let text = |key: &str| line[key].as_str().map(str::to_owned);
            if let (Some(name), Some(address)) = (text("name"), text("address")) {
                listeners.push((name, address.parse().unwrap()));
            }
        }
        // Whatever else it prints must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    }

    fn address(&self, name: &str) -> SocketAddr {
        self.listeners.iter().find(|(found, _)| found == name).unwrap().1
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }
}

#[tokio::test]
async fn the_proxy_tells_where_it_listens_serves_and_ends_on_sigterm() {
    let origin = crate::support::origin::Origin::named("web").await;
    let folder = tempfile::tempdir().unwrap();
    let yaml = sidecar(origin.address().port());
    let path = write(folder.path(), "mesh.yaml", &yaml);
    let mut program = Program::start(&on_free_ports(&path), &[LISTENER, "admin", "metrics", "health"]);
    let answer = ask(program.address(LISTENER), client::get("web", "/", &[])).await;
    assert_eq!((answer.status, answer.text()), (200, "web"));
    let ready = ask(program.address("health"), client::get("h", "/healthz/ready", &[])).await;
    assert_eq!(ready.status, 200);
    program.signal("-TERM");
    let status = until("the end", || program.child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn sighup_reloads() {
    let origin = crate::support::origin::Origin::named("web").await;
    let folder = tempfile::tempdir().unwrap();
    let yaml = sidecar(origin.address().port());
    let path = write(folder.path(), "mesh.yaml", &yaml);
    let program = Program::start(&on_free_ports(&path), &[LISTENER, "admin"]);
    let rule = virtual_service(
        "web",
        "- match: [{ uri: { exact: /only } }]\n  route: [{ destination: { host: web } }]",
    );
    std::fs::write(&path, format!("{yaml}---\n{rule}")).unwrap();
    program.signal("-HUP");
    crate::support::wait::eventually("the new rule", async || {
        let answer = ask(program.address(LISTENER), client::get("web", "/other", &[])).await;
        (answer.status == 404).then_some(())
    })
    .await;
}

/// A configuration that is never read to its end: a pipe that nobody writes to.
fn endless(folder: &Path) -> String {
    let path = folder.join("endless.yaml");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn readiness_does_not_come_before_the_configuration() {
    let origin = crate::support::origin::Origin::named("web").await;
    let folder = tempfile::tempdir().unwrap();
    let path = endless(folder.path());
    let health = reserved_address();
    let address = health.to_string();
    let mut program = Program::spawn(&with_health(&path, &address));
    // It has come as far as its configuration.
    let pipe = tokio::net::unix::pipe::OpenOptions::new();
    let writer = until("somebody who reads", || pipe.open_sender(&path).ok()).await;
    for _ in 0..20 {
        let health = tokio::net::TcpStream::connect(health).await;
        assert!(health.is_err(), "nobody answers for a proxy without its configuration");
        tokio::task::yield_now().await;
    }
    let yaml = sidecar(origin.address().port());
    // Later looks are to find a file.
    let file = write(folder.path(), "next", &yaml);
    std::fs::rename(file, &path).unwrap();
    assert_eq!(writer.try_write(yaml.as_bytes()).unwrap(), yaml.len());
    drop(writer);
    program.read_listeners(&[LISTENER, "health"]);
    assert_eq!(ask(health, client::get("h", "/healthz/ready", &[])).await.status, 200);
}

#[tokio::test]
async fn sigterm_during_the_start_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = endless(folder.path());
    let mut program = Program::spawn(&on_free_ports(&path));
    let pipe = tokio::net::unix::pipe::OpenOptions::new();
    let _writer = until("somebody who reads", || pipe.open_sender(&path).ok()).await;
    program.signal("-TERM");
    let status = until("the end", || program.child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_second_sigterm_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "mesh.yaml", &sidecar(0));
    let settings = r#"{"terminationDrainDuration":"600s"}"#;
    let mut program = Program::spawn_with(&on_free_ports(&path), &[("PROXY_CONFIG", settings)]);
    program.read_listeners(&[LISTENER, "health"]);
    program.signal("-TERM");
    let health = program.address("health");
    crate::support::wait::eventually("the drain", async || {
        let ready = ask(health, client::get("h", "/healthz/ready", &[])).await;
        (ready.status == 503).then_some(())
    })
    .await;
    program.signal("-TERM");
    let status = until("the end", || program.child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_drain_fits_into_the_grace_period() {
    let origin = crate::support::origin::Origin::http1(|_| crate::support::origin::Reply::never()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "mesh.yaml", &sidecar(origin.address().port()));
    let settings = [
        ("PROXY_CONFIG", r#"{"terminationDrainDuration":"600s"}"#),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "4"),
    ];
    let mut program = Program::spawn_with(&on_free_ports(&path), &settings);
    program.read_listeners(&[LISTENER, "health"]);
    let address = program.address(LISTENER);
    let stuck = tokio::spawn(async move { ask(address, client::get("web", "/", &[])).await });
    until("the stuck request", || (origin.hits() == 1).then_some(())).await;
    program.signal("-TERM");
    // 2 s of announcement and 1 s for the stuck request, far within the patience of `until`; without it 600 s.
    let status = until("the end", || program.child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
    assert!(stuck.await.is_err(), "it was cut");
}

#[test]
fn an_interception_mode_is_one_of_istios() {
    let config = seed("registry");
    let validate = |mode: &str| {
        let mut command = outrigger(&["validate", "--failure-threshold", "error", &config]);
        command.env("ISTIO_META_INTERCEPTION_MODE", mode).output().unwrap()
    };
    for mode in ["REDIRECT", "TPROXY", "NONE", ""] {
        assert_eq!(validate(mode).status.code(), Some(0), "{mode}: {}", all(&validate(mode)));
    }
    let output = validate("IPTABLES");
    assert_eq!(output.status.code(), Some(64));
    assert!(all(&output).contains("write NONE, REDIRECT or TPROXY"), "{}", all(&output));
}
