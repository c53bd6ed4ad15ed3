//! The process as a whole, from outside: pages, reload, drain. Requests have tests of their own.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use super::{App, DrainTimes, Options, Ports, Running, StartError};
use crate::testing::reserved_address;

const SERVICE: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: echo }
spec:
  hosts: [echo.default.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{ number: 8080, name: http, protocol: HTTP }, { number: 8081, name: http-b, protocol: HTTP }]
  endpoints: [{ address: 127.0.0.1 }]
"#;

/// A `Sidecar` that listens on the given ports.
fn sidecar(ports: &[u16]) -> String {
    let listener = |port: &u16| {
        format!(
            "  - port: {{ number: {port}, name: http-{port}, protocol: HTTP }}\n    bind: 127.0.0.1\n    \
             captureMode: NONE\n    hosts: [\"./*\"]\n"
        )
    };
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: default }}\nspec:\n  egress:\n{}",
        ports.iter().map(listener).collect::<String>()
    )
}

struct Bench {
    running: Running,
    folder: TempDir,
}

impl Bench {
    fn start() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Options)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), format!("{SERVICE}{}", sidecar(&[8080]))).unwrap();
        let mut options = Options::ephemeral(vec![folder.path().to_owned()]);
        change(&mut options);
        Self { running: App::start(options).unwrap(), folder }
    }

    /// Listens at this very port.
    fn listening(port: u16, change: impl FnOnce(&mut Options)) -> Self {
        Self::with(|options| {
            let file = options.config[0].join("a.yaml");
            fs::write(file, format!("{SERVICE}{}", sidecar(&[port]))).unwrap();
            options.ports = Ports::Configured;
            change(options);
        })
    }

    fn write(&self, text: &str) {
        let file = self.folder.path().join("next");
        fs::write(&file, text).unwrap();
        fs::rename(file, self.folder.path().join("a.yaml")).unwrap();
    }

    fn ask(&self, listener: &str, request: &str) -> (u16, String) {
        exchange(self.running.address(listener).unwrap(), request)
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.ask("admin", &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n"))
    }

    fn post(&self, path: &str) -> (u16, String) {
        self.ask("admin", &format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"))
    }

    fn json(&self, path: &str) -> Value {
        let (_, answer) = self.get(path);
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    fn listeners(&self) -> Vec<String> {
        let (_, answer) = self.get("/listeners");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let mut names: Vec<_> =
            body.lines().map(|line| line.split_once("::").unwrap().0.to_owned()).collect();
        names.sort();
        names
    }
}

/// Status and the whole answer.
fn exchange(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(format!("{request}Connection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn a_started_proxy_is_ready_and_shows_what_is_in_force() {
    let bench = Bench::start();
    let (status, answer) = bench.ask("health", "GET /healthz/ready HTTP/1.1\r\nHost: any\r\n");
    assert_eq!(status, 200, "{answer}");
    let (_, answer) = bench.get("/ready");
    assert!(answer.ends_with("\r\n\r\nLIVE\n"), "{answer}");
    assert!(answer.contains("cache-control: no-cache, max-age=0\r\n"), "{answer}");
    assert!(answer.contains("x-content-type-options: nosniff\r\n"), "{answer}");
    assert_eq!(bench.listeners(), ["127.0.0.1_8080"]);
    let (_, clusters) = bench.get("/clusters");
    let host = "outbound|8080||echo.default.svc.cluster.local::127.0.0.1:8080";
    for line in ["health_flags::healthy", "rq_total::0", "weight::1"] {
        assert!(clusters.contains(&format!("{host}::{line}\n")), "{clusters}");
    }
    let clusters = bench.json("/clusters?format=json");
    assert_eq!(clusters.pointer("/cluster_statuses/1/host_statuses/0/weight"), Some(&1.into()), "{clusters}");
    let dump = bench.json("/config_dump");
    assert_eq!(dump.pointer("/configs/2/dynamic_listeners/0/name"), Some(&"127.0.0.1_8080".into()));
    assert!(dump.pointer("/configs/3/dynamic_route_configs/0/route_config/virtual_hosts/0").is_some());
    assert_eq!(bench.json("/server_info")["state"], "LIVE");
    let stats = bench.get("/stats?filter=8080%5C%7C.*membership_total").1;
    let stat = "cluster.outbound|8080||echo.default.svc.cluster.local.membership_total: 1\n";
    assert!(stats.ends_with(&format!("\r\n\r\n{stat}")), "{stats}");
}

#[test]
fn the_scrape_comes_in_both_formats() {
    let bench = Bench::start();
    let scrape = |headers: &str| {
        let (status, page) =
            bench.ask("metrics", &format!("GET /metrics HTTP/1.1\r\nHost: any\r\n{headers}"));
        assert_eq!(status, 200);
        page
    };
    let classic = scrape("");
    assert!(classic.contains("content-type: text/plain; version=0.0.4"), "{classic}");
    assert!(classic.contains("# TYPE outrigger_config_applied_total counter\n"), "{classic}");
    let cluster = "{cluster_name=\"outbound|8080||echo.default.svc.cluster.local\"}";
    for line in [
        format!("envoy_cluster_outlier_detection_ejections_active{cluster} 0"),
        format!("envoy_cluster_upstream_rq_total{cluster} 0"),
        format!("envoy_cluster_upstream_rq_pending_overflow{cluster} 0"),
        format!("envoy_cluster_circuit_breakers_default_cx_open{cluster} 0"),
        "istio_build{component=\"proxy\",tag=".to_owned(),
        "envoy_server_live 1".to_owned(),
        "process_resident_memory_bytes ".to_owned(),
    ] {
        assert!(classic.contains(&line), "{line} is not in {classic}");
    }
    let class = "envoy_cluster_upstream_rq{cluster_name=\"outbound|8080||echo.default.svc.cluster.local\",\
        response_code_class=\"5xx\"} 0";
    assert!(classic.contains(class), "{classic}");
    let open = scrape("Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n");
    assert!(open.contains("content-type: application/openmetrics-text"), "{open}");
    assert!(open.ends_with("# EOF\n"), "{open}");
}

#[test]
fn further_ports_have_the_metrics_of_the_sidecar_and_nothing_else() {
    let bench = Bench::with(|options| options.metrics.push(options.admin));
    let (name, _) =
        bench.running.addresses().into_iter().find(|(name, _)| name.starts_with("metrics_")).unwrap();
    let ask = |method: &str, path: &str| {
        bench.ask(&name, &format!("{method} {path} HTTP/1.1\r\nHost: any\r\nContent-Length: 0\r\n")).0
    };
    assert_eq!((ask("GET", "/metrics"), ask("GET", "/stats/prometheus")), (200, 200));
    for (method, path) in [
        ("GET", "/healthz/ready"),
        ("POST", "/quitquitquit"),
        ("POST", "/drain"),
        ("GET", "/app-health/a/livez"),
    ] {
        assert_eq!(ask(method, path), 404, "{path}");
    }
}

#[test]
fn changes_need_post_and_unknown_paths_show_the_list() {
    let bench = Bench::start();
    for path in ["/quitquitquit", "/drain_listeners", "/healthcheck/fail", "/healthcheck/ok", "/reload"] {
        let (status, answer) = bench.get(path);
        assert_eq!(status, 405, "{path}");
        assert!(answer.ends_with("\r\n\r\nMethod GET not allowed, POST required."), "{answer}");
    }
    let (status, answer) = bench.get("/nowhere");
    assert_eq!(status, 404);
    assert!(answer.contains("\r\n\r\ninvalid path. admin commands are:\n  /certs: "), "{answer}");
    assert_eq!(bench.get("/stats?filter=(").0, 400);
    assert_eq!(bench.post("/drain_listeners?inboundonly").0, 400);
}

#[test]
fn another_host_name_cannot_reach_the_admin_port() {
    let bench = Bench::start();
    assert_eq!(bench.ask("admin", "GET /ready HTTP/1.1\r\nHost: evil.example:15000\r\n").0, 403);
    assert_eq!(bench.ask("admin", "GET /ready HTTP/1.1\r\nHost: 127.0.0.1:15000\r\n").0, 200);
}

#[test]
fn a_failed_health_check_is_unready_until_it_is_ok_again() {
    let bench = Bench::start();
    assert_eq!(bench.post("/healthcheck/fail").0, 200);
    let (status, answer) = bench.get("/ready");
    assert_eq!(status, 503);
    assert!(answer.ends_with("\r\n\r\nDRAINING\n"), "{answer}");
    assert_eq!(bench.post("/healthcheck/ok").0, 200);
    assert_eq!(bench.get("/ready").0, 200);
}

#[test]
fn a_broken_change_keeps_the_old_configuration_and_says_why() {
    let bench = Bench::start();
    let before = bench.json("/config_dump")["outrigger"]["version"].clone();
    bench.write(&format!("{SERVICE}{}", sidecar(&[8080]).replace("egress", "egres: [")));
    eventually("rejected", || bench.json("/config_dump")["outrigger"]["config_rejected"] == 1);
    let status = bench.json("/config_dump")["outrigger"].clone();
    assert_eq!(status["version"], before);
    assert!(status["last_rejection"].as_str().unwrap().contains("a.yaml"), "{status}");
    assert_eq!(bench.listeners(), ["127.0.0.1_8080"]);
    assert_eq!(bench.get("/ready").0, 200);
    bench.write(&format!("{SERVICE}{}# good again\n", sidecar(&[8080])));
    eventually("applied", || bench.json("/config_dump")["outrigger"]["config_applied"] == 2);
    assert!(bench.json("/config_dump")["outrigger"]["last_rejection"].is_null());
}

#[test]
fn listeners_follow_the_configuration() {
    let bench = Bench::start();
    let kept = bench.running.address("127.0.0.1_8080").unwrap();
    bench.write(&format!("{SERVICE}{}", sidecar(&[8080, 8081])));
    eventually("added", || bench.listeners() == ["127.0.0.1_8080", "127.0.0.1_8081"]);
    assert_eq!(bench.running.address("127.0.0.1_8080"), Some(kept), "not bound anew");
    bench.write(&format!("{SERVICE}{}", sidecar(&[8081])));
    eventually("removed", || bench.listeners() == ["127.0.0.1_8081"]);
    eventually("closed", || TcpStream::connect(kept).is_err());
}

const HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nHost: echo.default.svc.cluster.local:8080\r\n\r\n";

/// A connection of the listener on 8080 that stays open, and its first answer.
fn kept(bench: &Bench) -> (TcpStream, String) {
    let mut client = TcpStream::connect(bench.running.address("127.0.0.1_8080").unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client.write_all(HEAD).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let answer = String::from_utf8(head).unwrap();
    assert!(!answer.contains("connection: close"), "{answer}");
    (client, answer)
}

/// The next answer is routed as that one was, and ends the connection.
fn is_last_and_like(client: &mut TcpStream, before: &str) {
    client.write_all(HEAD).unwrap();
    let mut after = String::new();
    client.read_to_string(&mut after).unwrap();
    assert_eq!(after.lines().next(), before.lines().next(), "routed as before");
    assert!(!after.starts_with("HTTP/1.1 404"), "{after}");
    assert!(after.contains("connection: close\r\n"), "{after}");
}

#[test]
fn a_connection_of_a_listener_that_left_has_a_last_answer_by_its_old_routes() {
    let bench = Bench::start();
    let (mut client, before) = kept(&bench);
    bench.write(&format!("{SERVICE}{}", sidecar(&[8081])));
    eventually("removed", || bench.listeners() == ["127.0.0.1_8081"]);
    is_last_and_like(&mut client, &before);
}

#[test]
fn a_connection_of_a_listener_that_carries_no_requests_any_more_has_a_last_answer_by_its_old_routes() {
    let bench = Bench::start();
    let applied = |times| {
        eventually("applied", || bench.json("/config_dump")["outrigger"]["config_applied"] == times);
    };
    let (mut client, before) = kept(&bench);
    let raw = sidecar(&[8080]).replace("protocol: HTTP }\n    bind", "protocol: TCP }\n    bind");
    bench.write(&format!("{SERVICE}{raw}"));
    applied(2);
    is_last_and_like(&mut client, &before);
    bench.write(&format!("{SERVICE}{}", sidecar(&[8080])));
    applied(3);
    let (_again, answer) = kept(&bench);
    assert_eq!(answer.lines().next(), before.lines().next(), "new connections stay");
}

#[test]
fn a_configuration_is_tried_again_when_its_address_was_in_use() {
    let [first, second] = [reserved_address(), reserved_address()].map(|address| address.port());
    let taken = TcpListener::bind(("127.0.0.1", second)).unwrap();
    let bench = Bench::listening(first, |_| {});
    bench.write(&format!("{SERVICE}{}", sidecar(&[first, second])));
    eventually("rejected", || bench.json("/config_dump")["outrigger"]["config_rejected"] == 1);
    drop(taken);
    eventually("applied", || bench.json("/config_dump")["outrigger"]["config_applied"] == 2);
    assert!(bench.json("/config_dump")["outrigger"]["last_rejection"].is_null());
    assert_eq!(bench.running.address(&format!("127.0.0.1_{second}")).unwrap().port(), second);
}

#[test]
fn a_file_that_comes_back_unchanged_is_in_force_again() {
    let bench = Bench::start();
    // A link to nowhere cannot be read.
    let lost = bench.folder.path().join("b.yaml");
    std::os::unix::fs::symlink("nowhere", &lost).unwrap();
    eventually("rejected", || bench.json("/config_dump")["outrigger"]["config_rejected"] == 1);
    fs::remove_file(lost).unwrap();
    eventually("applied", || bench.json("/config_dump")["outrigger"]["config_applied"] == 2);
    assert!(bench.json("/config_dump")["outrigger"]["last_rejection"].is_null());
}

#[test]
fn an_address_that_overlaps_an_open_listener_asks_for_a_restart() {
    let port = reserved_address().port();
    let bench = Bench::listening(port, |_| {});
    bench.write(&format!("{SERVICE}{}", sidecar(&[port]).replace("bind: 127.0.0.1", "bind: 0.0.0.0")));
    eventually("rejected", || bench.json("/config_dump")["outrigger"]["config_rejected"] == 1);
    let why = bench.json("/config_dump")["outrigger"]["last_rejection"].clone();
    let part = format!("overlaps the open listener 127.0.0.1_{port} at 127.0.0.1:{port}; restart the proxy");
    assert!(why.as_str().unwrap().contains(&part), "{why}");
    assert_eq!(bench.listeners(), [format!("127.0.0.1_{port}")]);
}

#[test]
fn a_reload_can_be_asked_for() {
    let bench = Bench::start();
    bench.running.reload();
    eventually("applied", || bench.json("/config_dump")["outrigger"]["config_applied"] == 2);
}

#[test]
fn a_drain_does_not_wait_for_a_change_of_the_configuration() {
    // It takes the compiler far longer than asking for the drain takes us.
    let large: String = (0..2000).map(|at| SERVICE.replace("echo", &format!("echo-{at}")) + "---").collect();
    let good = format!("{large}{SERVICE}{}", sidecar(&[8080]));
    // One is taken after a wait for names, the other is refused as soon as it is compiled.
    for text in [good.clone(), format!("{good}---\nkind: [")] {
        let bench = Bench::with(|options| {
            options.drain = DrainTimes { announce: Duration::from_secs(600), ..DrainTimes::default() };
        });
        bench.write(&text);
        bench.running.reload();
        // Answered by the thread that has begun to compile.
        assert_eq!(bench.get("/ready").0, 200);
        bench.running.drain();
        eventually("unready", || bench.get("/ready").0 == 503);
        let told = &bench.json("/config_dump")["outrigger"];
        assert_eq!(
            (&told["config_applied"], &told["config_rejected"]),
            (&1.into(), &0.into()),
            "nothing was waited for"
        );
        bench.running.drain();
        bench.running.join();
    }
}

#[test]
fn a_drain_is_unready_at_once_keeps_accepting_and_ends() {
    let listener = reserved_address();
    let bench = Bench::listening(listener.port(), |options| {
        options.drain = DrainTimes { announce: Duration::from_secs(600), ..DrainTimes::default() };
    });
    bench.running.drain();
    eventually("unready", || bench.get("/ready").0 == 503);
    assert_eq!(bench.json("/server_info")["state"], "DRAINING");
    assert!(TcpStream::connect(listener).is_ok(), "still accepting");
    assert!(!bench.running.is_finished());
    bench.running.drain();
    bench.running.join();
    assert!(TcpStream::connect(listener).is_err());
}

#[test]
fn a_drain_until_idle_without_a_least_time_ends_with_the_last_connection() {
    let patient = DrainTimes {
        announce: Duration::from_secs(600),
        until_idle: Some(Duration::ZERO),
        ..DrainTimes::default()
    };
    let bench = Bench::with(|options| options.drain = patient);
    let (client, _) = kept(&bench);
    bench.running.drain();
    eventually("unready", || bench.get("/ready").0 == 503);
    assert!(!bench.running.is_finished());
    drop(client);
    bench.running.join();
}

#[test]
fn listeners_close_during_a_drain_if_that_was_asked_for() {
    let patient = DrainTimes {
        announce: Duration::from_secs(1),
        until_idle: Some(Duration::from_secs(600)),
        ..DrainTimes::default()
    };
    for before in [true, false] {
        let listener = reserved_address();
        let bench = Bench::listening(listener.port(), |options| options.drain = patient);
        // Who asks for no close afterwards does not take it back.
        let close = || {
            assert_eq!(bench.post("/drain_listeners?graceful").0, 200);
            assert_eq!(bench.post("/drain_listeners?graceful&skip_exit").0, 200);
        };
        if before {
            close();
        }
        bench.running.drain();
        if !before {
            eventually("unready", || bench.get("/ready").0 == 503);
            close();
        }
        eventually("closed", || TcpStream::connect(listener).is_err());
        assert!(!bench.running.is_finished());
        bench.running.drain();
        bench.running.join();
    }
}

#[test]
fn a_drain_ends_by_itself_when_its_time_is_over() {
    let bench = Bench::start();
    bench.running.drain();
    bench.running.join();
}

#[test]
fn quitquitquit_skips_the_drain() {
    let bench = Bench::with(|options| options.drain.announce = Duration::from_secs(600));
    assert_eq!(bench.post("/quitquitquit").0, 200);
    bench.running.join();
}

#[test]
fn dropping_it_ends_it_whatever_else_was_asked_for() {
    let admin = reserved_address();
    let bench = Bench::with(|options| {
        options.admin = admin;
        options.drain.announce = Duration::from_secs(600);
    });
    for _ in 0..100 {
        bench.running.reload();
    }
    drop(bench.running);
    assert!(TcpStream::connect(admin).is_err());
}

#[test]
fn drained_listeners_close_and_the_process_stays() {
    let bench = Bench::start();
    let listener = bench.running.address("127.0.0.1_8080").unwrap();
    assert_eq!(bench.post("/drain_listeners?graceful").0, 200);
    eventually("closed", || TcpStream::connect(listener).is_err());
    assert!(bench.listeners().is_empty());
    assert_eq!(bench.get("/ready").0, 503);
}

#[test]
fn a_reload_opens_no_listener_that_a_drain_has_closed() {
    let bench = Bench::start();
    let listener = bench.running.address("127.0.0.1_8080").unwrap();
    assert_eq!(bench.post("/drain_listeners").0, 200);
    eventually("closed", || TcpStream::connect(listener).is_err());
    bench.write(&format!("{SERVICE}{}", sidecar(&[8080, 8081])));
    eventually("applied", || bench.json("/config_dump")["outrigger"]["config_applied"] == 2);
    assert!(bench.listeners().is_empty(), "{:?}", bench.listeners());
}

fn refused(options: Options) -> StartError {
    App::start(options).map(|_| ()).unwrap_err()
}

#[test]
fn what_keeps_it_from_starting_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("a.yaml");
    let missing = refused(Options::ephemeral(vec![file.clone()]));
    assert!(matches!(missing, StartError::Unreadable(_)), "{missing}");

    fs::write(&file, format!("{SERVICE}{}", sidecar(&[8080]).replace("number: 8080", "number: x"))).unwrap();
    let broken = refused(Options::ephemeral(vec![file.clone()]));
    assert!(matches!(&broken, StartError::Config(_)), "{broken}");
    assert!(broken.to_string().contains("a.yaml:"), "{broken}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    fs::write(&file, format!("{SERVICE}{}", sidecar(&[address.port()]))).unwrap();
    let options = Options { ports: Ports::Configured, ..Options::ephemeral(vec![file]) };
    let in_use = refused(options);
    assert!(in_use.to_string().contains(&format!("at {address}: ")), "{in_use}");
    assert!(matches!(in_use, StartError::Bind { .. }));
}

#[test]
fn pages_at_every_address_answer_over_ipv6_too() {
    if TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let bench = Bench::with(|options| {
        let everywhere = "0.0.0.0:0".parse().unwrap();
        (options.health, options.metrics) = (everywhere, vec![everywhere, everywhere]);
    });
    for name in ["health", "metrics"] {
        let port = bench.running.address(name).unwrap().port();
        for host in ["127.0.0.1", "::1"] {
            let reached = TcpStream::connect((host, port));
            assert!(reached.is_ok(), "{name} at {host}: {reached:?}");
        }
    }
}
