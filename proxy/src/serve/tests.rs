//! Captured connections through one worker. No rule of the kernel leads them here: a test accepts its client itself, and
//! hands the connection off with the destination of its choice, as the accept loop does with the one that it is told.

use std::{net::SocketAddr, path::PathBuf};

use arc_swap::ArcSwap;
use outrigger_config::{
    LoadOptions,
    snapshot::{Direction, Interception, Node},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::spawn_local,
    time::{sleep, timeout},
};

#[path = "../../tests/proxy/support/certs.rs"]
#[expect(dead_code, reason = "shared with the tests of a whole proxy")]
mod certs;

use super::*;
use crate::{
    drain::{Departure, Drain},
    net::{
        listen::{ListenerInfo, Workers},
        tls::{Identity, Secrets},
    },
    telemetry::{Bounds, LogQueue, Outbox, Queues, Requests, Shard},
    upstream::Upstreams,
    worker::{Settings, WorkerStats},
};

/// Far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A worker for captured traffic.
struct Sidecar {
    workers: Workers,
    stats: Arc<WorkerStats>,
    listeners: [Arc<ListenerInfo>; 2],
    log: PathBuf,
    /// Dropped, it would end the worker.
    _drain: Drain,
    _upstreams: Upstreams,
    _folder: tempfile::TempDir,
}

impl Sidecar {
    fn start(documents: &str, settings: &str) -> Self {
        Self::start_as(None, documents, settings)
    }

    /// With the identity of this folder.
    fn start_as(identity: Option<PathBuf>, documents: &str, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let source = |name: &str, text: String| outrigger_config::Source { name: name.into(), text };
        let mesh = format!("accessLogFile: {}\naccessLogEncoding: JSON\n{settings}\n", log.display());
        let options = LoadOptions {
            node: Node {
                namespace: "default".into(),
                address: "127.0.0.1".into(),
                interception: Interception::Redirect,
                ..Node::default()
            },
            mesh: Some(source("mesh.yaml", mesh)),
            ..LoadOptions::default()
        };
        let loaded = outrigger_config::load(&[source("mesh", documents.to_owned())], &options);
        let snapshot = loaded.unwrap_or_else(|report| panic!("{report}")).snapshot;
        let upstreams = Upstreams::with(Arc::new(Secrets::new(identity.map(Identity::new))));
        let published = Arc::new(ArcSwap::new(upstreams.publish(Arc::new(snapshot))));
        let (log_queue, writer) = LogQueue::new();
        std::thread::spawn(move || writer.run());
        let ((spans, _), (records, _)) = (Outbox::new(Bounds::default()), Outbox::new(Bounds::default()));
        let queues = Queues { log: log_queue, spans, records, resource: Arc::default() };
        let shard = Shard::new(0, Requests::new(1), queues);
        let (drain, stats) = (Drain::default(), Arc::<WorkerStats>::default());
        let worker = Worker::new(
            published,
            shard,
            drain.watch(),
            Arc::default(),
            Arc::clone(&stats),
            Settings::default(),
            1,
        );
        let (workers, mut lanes) = Workers::new(1, 1000, Arc::default());
        spawn_local(serve(lanes.remove(0), worker));
        let info = |name: &str, direction| {
            Arc::new(ListenerInfo {
                name: name.into(),
                direction,
                address: "127.0.0.1:1".parse().unwrap(),
                capture: None,
                departure: Departure::default(),
            })
        };
        let listeners =
            [info("virtualOutbound", Direction::Outbound), info("virtualInbound", Direction::Inbound)];
        Self { workers, stats, listeners, log, _drain: drain, _upstreams: upstreams, _folder: folder }
    }

    /// A client that was going to `destination`.
    async fn connect(&self, direction: Direction, destination: SocketAddr) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let info = &self.listeners[usize::from(direction == Direction::Inbound)];
        self.workers.hand_off(stream.into_std().unwrap(), peer, Some(destination), info).await;
        client
    }

    async fn outbound(&self, destination: SocketAddr) -> TcpStream {
        self.connect(Direction::Outbound, destination).await
    }

    /// All that comes back for `bytes`; the client's side is closed behind them.
    async fn exchange(&self, direction: Direction, destination: SocketAddr, bytes: &str) -> String {
        let mut client = self.connect(direction, destination).await;
        client.write_all(bytes.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        rest(&mut client).await
    }

    /// The answer to a request.
    async fn ask(&self, direction: Direction, destination: SocketAddr, host: &str) -> String {
        let mut client = self.connect(direction, destination).await;
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        rest(&mut client).await
    }

    /// The access log's line number `number`, from 0.
    async fn line(&self, number: usize) -> Value {
        let found = async {
            loop {
                let text = std::fs::read_to_string(&self.log).unwrap_or_default();
                if let Some(line) = text.split_inclusive('\n').nth(number).filter(|line| line.ends_with('\n'))
                {
                    break serde_json::from_str(line).unwrap();
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, found).await.expect("a line of the access log")
    }
}

async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    // A reset ends it as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut text)).await.expect("the connection ends");
    String::from_utf8_lossy(&text).into_owned()
}

/// Answers each request with its name and who asked, and keeps the connection.
async fn http_origin(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            spawn_local(async move {
                let mut read = Vec::new();
                while stream.read_buf(&mut read).await.is_ok_and(|count| count > 0) {
                    if read.ends_with(b"\r\n\r\n") {
                        read.clear();
                        let body = format!("{name} {peer}");
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    address
}

/// Greets, sends back what comes, and says who asked once the client has closed its side.
async fn raw_origin(greeting: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            spawn_local(async move {
                let _ = stream.write_all(greeting.as_bytes()).await;
                let mut read = Vec::new();
                let _ = stream.read_to_end(&mut read).await;
                read.extend(format!(" from {}", peer.ip()).bytes());
                let _ = stream.write_all(&read).await;
            });
        }
    });
    address
}

fn service(name: &str, address: &str, port: u16, protocol: &str, endpoint: SocketAddr) -> String {
    let addresses = if address.is_empty() { String::new() } else { format!("  addresses: [{address}]\n") };
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n  \
         hosts: [{name}.default.svc.cluster.local]\n{addresses}  resolution: STATIC\n  \
         ports: [{{ number: {port}, name: main, protocol: {protocol} }}]\n  \
         endpoints: [{{ address: {}, ports: {{ main: {} }} }}]\n---\n",
        endpoint.ip(),
        endpoint.port()
    )
}

const NOWHERE: &str = "10.99.0.1";

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

#[tokio::test(flavor = "local")]
async fn captured_requests_go_by_their_host() {
    let (a, b) = (http_origin("a").await, http_origin("b").await);
    let mesh = service("a", "10.9.0.1", 80, "HTTP", a) + &service("b", "10.9.0.2", 80, "HTTP", b);
    let sidecar = Sidecar::start(&mesh, "");
    for (host, expected) in [("a", "a "), ("b.default", "b "), ("10.9.0.2", "b ")] {
        let answer = sidecar.ask(Direction::Outbound, at("10.9.0.1", 80), host).await;
        assert!(answer.contains(&format!("\r\n\r\n{expected}")), "{host}: {answer}");
    }
    let line = sidecar.line(0).await;
    assert_eq!(line["downstream_local_address"], "10.9.0.1:80");
    assert_eq!(line["upstream_cluster"], "outbound|80||a.default.svc.cluster.local");
}

#[tokio::test(flavor = "local")]
async fn captured_bytes_go_by_their_address() {
    let (a, b) = (raw_origin("a").await, raw_origin("b").await);
    let mesh = service("a", "10.9.0.1", 3306, "TCP", a) + &service("b", "10.9.0.2", 3306, "TCP", b);
    let sidecar = Sidecar::start(&mesh, "");
    for (ip, expected) in [("10.9.0.1", "axyz from 127.0.0.1"), ("10.9.0.2", "bxyz from 127.0.0.1")] {
        assert_eq!(sidecar.exchange(Direction::Outbound, at(ip, 3306), "xyz").await, expected);
    }
    let line = sidecar.line(0).await;
    assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&3.into(), &19.into()));
    assert_eq!(line["downstream_local_address"], "10.9.0.1:3306");
}

#[tokio::test(flavor = "local")]
async fn a_raw_connection_keeps_nothing_of_its_listener_s_past() {
    let origin = raw_origin("hi").await;
    let sidecar = Sidecar::start(&service("a", "10.9.0.1", 3306, "TCP", origin), "");
    let mut client = sidecar.outbound(at("10.9.0.1", 3306)).await;
    timeout(PATIENCE, client.read_exact(&mut [0; 2])).await.expect("a greeting").unwrap();
    let [listener, _] = &sidecar.listeners;
    assert_eq!(Arc::strong_count(listener), 1, "it would keep old configurations for days");
}

#[tokio::test(flavor = "local")]
async fn what_no_service_has_passes_through_to_where_it_was_going() {
    let (web, raw) = (http_origin("web").await, raw_origin("").await);
    // A service of the same port makes it one of requests.
    let mesh = service("a", "10.9.0.1", web.port(), "HTTP", raw);
    let sidecar = Sidecar::start(&mesh, "");
    let answer = sidecar.ask(Direction::Outbound, web, "elsewhere.example.com").await;
    assert!(answer.contains("\r\n\r\nweb "), "{answer}");
    assert_eq!(sidecar.exchange(Direction::Outbound, raw, "xyz").await, "xyz from 127.0.0.1");
    let (request, bytes) = (sidecar.line(0).await, sidecar.line(1).await);
    assert_eq!(
        (&request["upstream_cluster"], &bytes["upstream_cluster"]),
        (&"PassthroughCluster".into(), &"PassthroughCluster".into())
    );
    assert_eq!(request["upstream_host"], web.to_string());
    assert_eq!(request["route_name"], "allow_any");
}

#[tokio::test(flavor = "local")]
async fn connections_to_where_clients_were_going_are_kept() {
    let web = http_origin("web").await;
    let sidecar = Sidecar::start(&service("a", "10.9.0.1", web.port(), "HTTP", web), "");
    let first = sidecar.ask(Direction::Outbound, web, "elsewhere.example.com").await;
    let second = sidecar.ask(Direction::Outbound, web, "elsewhere.example.com").await;
    let who = |answer: &str| answer.rsplit("web ").next().unwrap().to_owned();
    assert_eq!(who(&first), who(&second), "one connection served both");
}

#[tokio::test(flavor = "local")]
async fn registry_only_refuses_what_no_service_has() {
    let (web, raw) = (http_origin("web").await, raw_origin("hello").await);
    let mesh = service("a", "10.9.0.1", web.port(), "HTTP", raw);
    let sidecar = Sidecar::start(&mesh, "outboundTrafficPolicy: { mode: REGISTRY_ONLY }");
    let answer = sidecar.ask(Direction::Outbound, web, "elsewhere.example.com").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(sidecar.exchange(Direction::Outbound, raw, "").await, "");
    let line = sidecar.line(1).await;
    assert_eq!(
        (&line["upstream_cluster"], &line["response_flags"]),
        (&"BlackHoleCluster".into(), &"UH".into())
    );
}

#[tokio::test(flavor = "local")]
async fn the_first_bytes_tell_on_a_port_without_a_name() {
    let (web, raw) = (http_origin("web").await, raw_origin("").await);
    let mesh = service("web", "10.9.0.1", 9000, "''", web) + &service("raw", "10.9.0.2", 9000, "''", raw);
    let sidecar = Sidecar::start(&mesh, "");
    // Whatever the host is called: the address is the service's own.
    let answer = sidecar.ask(Direction::Outbound, at("10.9.0.1", 9000), "x").await;
    assert!(answer.contains("\r\n\r\nweb "), "{answer}");
    let answer = sidecar.exchange(Direction::Outbound, at("10.9.0.2", 9000), "EHLO x\r\n").await;
    assert_eq!(answer, "EHLO x\r\n from 127.0.0.1");
    let answer = sidecar.exchange(Direction::Outbound, at("10.9.0.2", 9000), "half a li").await;
    assert_eq!(answer, "half a li from 127.0.0.1", "what is too little to tell is bytes once it ends");
    let line = sidecar.line(0).await;
    assert_eq!((&line["protocol"], &line["response_code"]), (&"HTTP/1.1".into(), &200.into()));
    assert_eq!(sidecar.stats.unclear.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "local")]
async fn a_server_that_speaks_first_is_heard_when_sniffing_ends() {
    let raw = raw_origin("220 ready\r\n").await;
    let mesh = service("raw", "10.9.0.1", 9000, "''", raw);
    let sidecar = Sidecar::start(&mesh, "protocolDetectionTimeout: 0.05s");
    let mut client = sidecar.outbound(at("10.9.0.1", 9000)).await;
    let mut greeting = [0; 11];
    timeout(PATIENCE, client.read_exact(&mut greeting)).await.expect("a greeting").unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    client.write_all(b"QUIT").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, "QUIT from 127.0.0.1");
    assert_eq!(sidecar.stats.unclear.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "local")]
async fn a_silent_client_of_a_port_that_is_named_http_is_waited_for() {
    let web = http_origin("web").await;
    let mesh = service("web", "10.9.0.1", 80, "HTTP", web);
    let sidecar = Sidecar::start(&mesh, "protocolDetectionTimeout: 0.05s");
    let mut client = sidecar.outbound(at("10.9.0.1", 80)).await;
    assert!(timeout(Duration::from_millis(150), client.read_u8()).await.is_err(), "it is kept");
    client.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(rest(&mut client).await.contains("\r\n\r\nweb "));
    assert_eq!(sidecar.line(0).await["upstream_cluster"], "outbound|80||web.default.svc.cluster.local");
    assert_eq!(sidecar.stats.unclear.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "local")]
async fn sniffing_without_an_end_waits_for_the_client() {
    let raw = raw_origin("220 ready\r\n").await;
    let mesh = service("raw", "10.9.0.1", 9000, "''", raw);
    let sidecar = Sidecar::start(&mesh, "protocolDetectionTimeout: 0s");
    let mut client = sidecar.outbound(at("10.9.0.1", 9000)).await;
    assert!(timeout(Duration::from_millis(100), client.read_u8()).await.is_err(), "nothing was said");
    client.write_all(b"QUIT\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, "220 ready\r\nQUIT\r\n from 127.0.0.1");
}

#[tokio::test(flavor = "local")]
async fn a_silent_client_of_tls_has_no_server_name() {
    let raw = raw_origin("hello").await;
    let mesh = service("a", "", 8443, "TLS", raw);
    let sidecar = Sidecar::start(&mesh, "protocolDetectionTimeout: 0.05s");
    // Without a name nothing but its own address is left.
    let mut client = sidecar.outbound(at("127.0.0.1", 8443)).await;
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(sidecar.line(0).await["upstream_cluster"], "PassthroughCluster");
    assert_eq!(sidecar.stats.unclear.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "local")]
async fn the_workload_sees_inbound_connections_come_from_istios_address() {
    let (web, raw, other) = (http_origin("web").await, raw_origin("").await, raw_origin("").await);
    let mesh = service("web", "10.9.0.1", 80, "HTTP", web) + &service("raw", "10.9.0.2", 70, "TCP", raw);
    let sidecar = Sidecar::start(&mesh, "");
    let answer = sidecar.ask(Direction::Inbound, web, "whatever").await;
    assert!(answer.contains("\r\n\r\nweb 127.0.0.6:"), "{answer}");
    assert_eq!(sidecar.exchange(Direction::Inbound, raw, "xyz").await, "xyz from 127.0.0.6");
    assert_eq!(sidecar.exchange(Direction::Inbound, other, "xyz").await, "xyz from 127.0.0.6");
    for (number, cluster) in [
        format!("inbound|{}||", web.port()),
        format!("inbound|{}||", raw.port()),
        "InboundPassthroughCluster".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(sidecar.line(number).await["upstream_cluster"], cluster);
    }
}

#[tokio::test(flavor = "local")]
async fn an_ingress_listener_leads_its_port_to_its_endpoint() {
    let web = http_origin("web").await;
    let sidecar = Sidecar::start(
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: default }}\nspec:\n  \
             ingress: [{{ port: {{ number: 7070, name: http }}, defaultEndpoint: '127.0.0.1:{}' }}]\n",
            web.port()
        ),
        "",
    );
    let answer = sidecar.ask(Direction::Inbound, at(NOWHERE, 7070), "me").await;
    assert!(answer.contains("\r\n\r\nweb 127.0.0.1:"), "{answer}");
    assert_eq!(sidecar.line(0).await["upstream_cluster"], "inbound|7070||");
}

const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: own }\n\
                      spec: { mtls: { mode: STRICT } }\n---\n";
const SERVER: &str = "spiffe://cluster.local/ns/default/sa/server";
const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";

/// The answer to a request within TLS, or what was left to read when the handshake failed. Bytes that are none end.
async fn ask_secured(
    sidecar: &Sidecar,
    to: SocketAddr,
    shows: Option<&certs::Pair>,
    protocols: &[&str],
) -> Option<String> {
    let client = sidecar.connect(Direction::Inbound, to).await;
    let connector = tokio_rustls::TlsConnector::from(certs::client(shows, protocols));
    let name = rustls::pki_types::ServerName::try_from("outbound_.80_._.own").unwrap();
    let mut client = connector.connect(name, client).await.ok()?;
    let request = b"GET / HTTP/1.1\r\nHost: own\r\nConnection: close\r\n\r\n";
    client.write_all(request).await.ok()?;
    if !protocols.contains(&"istio-http/1.1") {
        client.shutdown().await.ok()?;
    }
    Some(rest(&mut client).await)
}

#[tokio::test(flavor = "local")]
async fn under_strict_captured_ports_take_sidecars_of_the_mesh_alone() {
    let authority = certs::Authority::new();
    let identity = authority.identity(SERVER);
    let (web, other) = (http_origin("web").await, http_origin("other").await);
    // One port is of a service, and named; the other one's protocol is to be told.
    let documents = format!("{STRICT}{}", service("web", "", web.port(), "HTTP", web));
    let sidecar = Sidecar::start_as(Some(identity.path().into()), &documents, "");
    let (good, stranger) =
        (authority.workload(CLIENT), authority.workload("spiffe://other.domain/ns/default/sa/client"));
    for (to, name) in [(web, "web"), (other, "other")] {
        let answer = ask_secured(&sidecar, to, Some(&good), &["istio-http/1.1", "istio", "http/1.1"]).await;
        let answer = answer.expect("a workload of the mesh is taken");
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains(&format!("{name} 127.0.0.6")),
            "{answer}"
        );
        for (shows, who) in [(Some(&stranger), "another trust domain"), (None, "nobody")] {
            let answer = ask_secured(&sidecar, to, shows, &["istio-http/1.1", "istio"]).await;
            assert!(!answer.unwrap_or_default().contains("200"), "{who} is taken");
        }
        assert_eq!(sidecar.ask(Direction::Inbound, to, "own").await, "", "plain text is taken");
    }
    assert_eq!(sidecar.stats.plaintext_refused.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "local")]
async fn a_captured_port_ends_tls_of_its_own() {
    let authority = certs::Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let [chain, key] = authority.workload(SERVER).files(folder.path(), "server");
    let (web, other) = (http_origin("web").await, http_origin("other").await);
    let documents = format!(
        "{}apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: default }}\nspec:\n  ingress:\n  \
         - port: {{ number: 7443, name: https }}\n    defaultEndpoint: '127.0.0.1:{}'\n    \
         tls: {{ mode: SIMPLE, serverCertificate: {}, privateKey: {} }}\n",
        STRICT.replace("STRICT", "DISABLE"),
        web.port(),
        chain.display(),
        key.display()
    );
    let sidecar = Sidecar::start(&documents, "");
    let to = at(NOWHERE, 7443);
    let answer = ask_secured(&sidecar, to, None, &["istio-http/1.1", "http/1.1"]).await.unwrap_or_default();
    assert!(answer.contains("\r\n\r\nweb 127.0.0.1:"), "{answer}");
    assert_eq!(sidecar.ask(Direction::Inbound, to, "own").await, "", "plain text is taken");
    let answer = sidecar.ask(Direction::Inbound, other, "own").await;
    assert!(answer.contains("other 127.0.0.6"), "other ports are as they were: {answer}");
}

#[tokio::test(flavor = "local")]
async fn permissive_captured_ports_take_sidecars_and_plain_text() {
    let authority = certs::Authority::new();
    let identity = authority.identity(SERVER);
    let (web, raw) = (http_origin("web").await, raw_origin("").await);
    let sidecar = Sidecar::start_as(Some(identity.path().into()), "", "");
    let good = authority.workload(CLIENT);
    let answer = ask_secured(&sidecar, web, Some(&good), &["istio-http/1.1", "istio"]).await;
    assert!(answer.unwrap().starts_with("HTTP/1.1 200"), "the protocol is told by what the hello offers");
    let answer = ask_secured(&sidecar, raw, Some(&good), &["istio-peer-exchange", "istio"]).await;
    assert!(answer.unwrap().starts_with("GET / HTTP/1.1"), "bytes within TLS are passed on");
    assert!(sidecar.ask(Direction::Inbound, web, "own").await.starts_with("HTTP/1.1 200"));
    let text = sidecar.exchange(Direction::Inbound, raw, "hello").await;
    assert_eq!(text, "hello from 127.0.0.6");
}

#[tokio::test(flavor = "local")]
async fn a_silent_client_of_a_permissive_port_of_bytes_is_counted_as_unclear() {
    let identity = certs::Authority::new().identity(SERVER);
    let raw = raw_origin("220 ready\r\n").await;
    let mesh = service("raw", "", raw.port(), "TCP", raw);
    let sidecar = Sidecar::start_as(Some(identity.path().into()), &mesh, "protocolDetectionTimeout: 0.05s");
    let unclear = || sidecar.stats.unclear.load(std::sync::atomic::Ordering::Relaxed);
    let answer = sidecar.exchange(Direction::Inbound, raw, "HELO\r\n").await;
    assert_eq!((&*answer, unclear()), ("220 ready\r\nHELO\r\n from 127.0.0.6", 0), "plain text is clear");
    let mut client = sidecar.connect(Direction::Inbound, raw).await;
    let mut greeting = [0; 11];
    timeout(PATIENCE, client.read_exact(&mut greeting)).await.expect("a greeting").unwrap();
    assert_eq!((&greeting, unclear()), (b"220 ready\r\n", 1));
}
