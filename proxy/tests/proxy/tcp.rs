//! Raw connections: bytes both ways, how they end, and what they leave in the log and in the metrics.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    client::connect,
    mesh::{Mesh, Proxy, destination_rule},
    ports::reserved_address,
    wait::{soon, until},
};

const NAME: &str = "outbound|7000||raw.default.svc.cluster.local";

/// Accepts for ever, and does this with each connection.
async fn origin<F: Future<Output = ()> + Send>(
    serve: impl Fn(TcpStream) -> F + Send + Sync + Copy + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move { serve(stream).await });
        }
    });
    address
}

/// Sends back what comes, and `bye` when the client has ended.
async fn echo(mut stream: TcpStream) {
    let (mut from, mut to) = stream.split();
    if tokio::io::copy(&mut from, &mut to).await.is_ok() {
        let _ = to.write_all(b"bye").await;
    }
}

/// Waits for a byte and resets.
async fn resets(mut stream: TcpStream) {
    let _ = stream.read(&mut [0; 8]).await;
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

async fn raw(endpoint: SocketAddr) -> Proxy {
    Mesh::new().tcp("raw", "TCP", &[(endpoint, "v1")]).start().await
}

/// Sends this, and reads to the end; what came, and whether it ended by a reset.
async fn ask(address: SocketAddr, bytes: &[u8]) -> (String, bool) {
    let mut stream = connect(address).await;
    stream.write_all(bytes).await.unwrap();
    rest(&mut stream).await
}

async fn rest(stream: &mut TcpStream) -> (String, bool) {
    let mut got = Vec::new();
    let end = soon("the end", stream.read_to_end(&mut got)).await;
    (String::from_utf8_lossy(&got).into_owned(), end.is_err())
}

async fn read(stream: &mut TcpStream, count: usize) -> String {
    let mut got = vec![0; count];
    soon("bytes", stream.read_exact(&mut got)).await.unwrap();
    String::from_utf8(got).unwrap()
}

#[tokio::test]
async fn bytes_pass_both_ways_and_a_half_close_is_passed_on() {
    let proxy = raw(origin(echo).await).await;
    let mut stream = connect(proxy.tcp()).await;
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(read(&mut stream, 5).await, "hello");
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, ("bye".to_owned(), false), "the answer comes after our end");
    let line = proxy.logged_one().await;
    assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&5.into(), &8.into()));
    assert_eq!((&line["response_flags"], &line["upstream_cluster"]), (&"-".into(), &NAME.into()));
}

#[tokio::test]
async fn an_endpoint_that_speaks_first_is_heard() {
    let first = origin(async |mut stream: TcpStream| {
        let _ = stream.write_all(b"220 ready").await;
        let _ = stream.read(&mut [0; 8]).await;
    });
    let proxy = raw(first.await).await;
    let mut stream = connect(proxy.tcp()).await;
    assert_eq!(read(&mut stream, 9).await, "220 ready");
}

#[tokio::test]
async fn the_log_line_of_a_connection_is_envoys() {
    let endpoint = origin(echo).await;
    let refused = reserved_address();
    let proxy = Mesh::new().tcp("raw", "TCP", &[(endpoint, "v1")]).text_log().start().await;
    let mut stream = connect(proxy.tcp()).await;
    stream.write_all(b"abcd").await.unwrap();
    stream.shutdown().await.unwrap();
    rest(&mut stream).await;
    let line = proxy.logged_one().await;
    let line = line.as_str().unwrap().split_once("] ").unwrap().1;
    let (head, tail) = line.split_once(" - \"-\" \"-\" ").unwrap();
    assert!(head.starts_with("\"- - -\" 0 - - - \"-\" 4 7 "), "{line}");
    assert!(tail.starts_with(&format!("\"-\" \"-\" \"{endpoint}\" {NAME} 127.0.0.1:")), "{line}");
    assert!(tail.ends_with(&format!("{} {} - -", proxy.tcp(), stream.local_addr().unwrap())), "{line}");

    let proxy = Mesh::new().tcp("raw", "TCP", &[(refused, "v1")]).text_log().start().await;
    assert_eq!(ask(proxy.tcp(), b"x").await.0, "");
    let line = proxy.logged_one().await;
    let line = line.as_str().unwrap().split_once("] ").unwrap().1;
    let why = "delayed_connect_error:_Connection_refused";
    assert!(line.starts_with(&format!("\"- - -\" 0 UF,URX - - \"{why}\" 0 0 ")), "{line}");
}

#[tokio::test]
async fn who_cannot_be_served_is_closed_with_its_flag() {
    let (endpoint, refused) = (origin(echo).await, reserved_address());
    let limit = destination_rule("raw", "connectionPool: { tcp: { maxConnections: 1 } }");
    for (mesh, held, flags) in [
        (Mesh::new().tcp("raw", "TCP", &[(refused, "v1")]), 0, "UF,URX"),
        (Mesh::new().tcp("raw", "TCP", &[]), 0, "UH"),
        (Mesh::new().tcp("raw", "TCP", &[(endpoint, "v1")]).rules(limit), 1, "UO"),
    ] {
        let proxy = mesh.start().await;
        let mut open = Vec::new();
        for _ in 0..held {
            let mut stream = connect(proxy.tcp()).await;
            stream.write_all(b"x").await.unwrap();
            read(&mut stream, 1).await;
            open.push(stream);
        }
        assert_eq!(ask(proxy.tcp(), b"").await, (String::new(), false), "{flags}: a plain close");
        // What the client sends is not read: whether it sees a reset depends on who is faster, as with Envoy.
        assert_eq!(ask(proxy.tcp(), b"x").await.0, "", "{flags}");
        let lines = proxy.logged(2).await;
        assert!(lines.iter().all(|line| line["response_flags"] == flags), "{lines:?}");
        assert!(lines.iter().all(|line| line["upstream_cluster"] == NAME), "{lines:?}");
        let counted = format!("response_flags=\"{flags}\"");
        proxy.metric("istio_tcp_connections_opened_total", &[&counted], 2.0).await;
        proxy.metric("istio_tcp_connections_closed_total", &[&counted], 2.0).await;
        for mut stream in open {
            stream.shutdown().await.unwrap();
            rest(&mut stream).await;
        }
    }
}

#[tokio::test]
async fn a_reset_goes_through() {
    let proxy = raw(origin(resets).await).await;
    assert_eq!(ask(proxy.tcp(), b"x").await, (String::new(), true));
    assert_eq!(proxy.logged_one().await["response_flags"], "UR");
}

#[tokio::test]
async fn connections_count_with_istios_labels() {
    let proxy = raw(origin(echo).await).await;
    let mut stream = connect(proxy.tcp()).await;
    stream.write_all(b"hello").await.unwrap();
    read(&mut stream, 5).await;
    let labels = [
        "reporter=\"source\"",
        "source_workload=\"client\"",
        "destination_service=\"raw.default.svc.cluster.local\"",
        "destination_service_name=\"raw\"",
        "destination_app=\"raw\"",
        "request_protocol=\"tcp\"",
        "response_flags=\"-\"",
        "connection_security_policy=\"unknown\"",
    ];
    // While it is open.
    proxy.metric("istio_tcp_connections_opened_total", &labels, 1.0).await;
    proxy.metric("istio_tcp_received_bytes_total", &labels, 5.0).await;
    proxy.metric("istio_tcp_sent_bytes_total", &labels, 5.0).await;
    assert_eq!(proxy.sum("istio_tcp_connections_closed_total", &labels).await, 0.0);
    stream.shutdown().await.unwrap();
    rest(&mut stream).await;
    proxy.metric("istio_tcp_connections_closed_total", &labels, 1.0).await;
    proxy.metric("istio_tcp_sent_bytes_total", &labels, 8.0).await;
    for absent in ["response_code=", "grpc_response_status="] {
        assert_eq!(proxy.sum("istio_tcp_connections_opened_total", &[absent]).await, 0.0, "{absent}");
    }
    assert_eq!(proxy.sum("istio_requests_total", &[]).await, 0.0);
    for (name, value) in [
        ("upstream_cx_total", 1.0),
        ("upstream_cx_active", 0.0),
        ("upstream_rq_total", 1.0),
        ("upstream_rq_active", 0.0),
        ("upstream_cx_destroy_remote_with_active_rq", 1.0),
    ] {
        proxy.metric(&format!("envoy_cluster_{name}"), &[NAME], value).await;
    }
}

#[tokio::test]
async fn a_connection_on_which_nothing_passes_is_closed() {
    let policy = "connectionPool: { tcp: { idleTimeout: 1s } }";
    let mesh = Mesh::new().tcp("raw", "TCP", &[(origin(echo).await, "v1")]);
    let proxy = mesh.rules(destination_rule("raw", policy)).start().await;
    assert_eq!(ask(proxy.tcp(), b"x").await, ("x".to_owned(), false));
    assert_eq!(proxy.logged_one().await["response_flags"], "-");
}

#[tokio::test]
async fn a_connection_that_is_too_old_is_closed() {
    let policy = "connectionPool: { tcp: { maxConnectionDuration: 1s } }";
    let chatters = origin(async |mut stream: TcpStream| {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let mesh = Mesh::new().tcp("raw", "TCP", &[(chatters.await, "v1")]);
    let proxy = mesh.rules(destination_rule("raw", policy)).start().await;
    assert!(!ask(proxy.tcp(), b"").await.0.is_empty());
    assert_eq!(proxy.logged_one().await["response_flags"], "DT");
}

#[tokio::test]
async fn a_slow_reader_gets_every_byte_in_order() {
    const BYTES: usize = 16 << 20;
    fn byte(at: usize) -> u8 {
        (at % 251) as u8
    }
    let pours = origin(async |mut stream: TcpStream| {
        let all: Vec<u8> = (0..BYTES).map(byte).collect();
        let _ = stream.write_all(&all).await;
    });
    let proxy = raw(pours.await).await;
    let address = proxy.tcp();
    let mut stream = connect(address).await;
    // Small reads, while others have the proxy's buffer.
    let other = tokio::spawn(async move { ask(address, b"").await.0.len() > BYTES });
    let (mut got, mut part) = (0, [0; 3001]);
    loop {
        let count = soon("more", stream.read(&mut part)).await.unwrap();
        if count == 0 {
            break;
        }
        assert!(part[..count].iter().enumerate().all(|(at, found)| *found == byte(got + at)), "at {got}");
        got += count;
    }
    assert_eq!(got, BYTES);
    assert!(other.await.unwrap());
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_ejected() {
    let (good, refused) = (origin(echo).await, reserved_address());
    let policy = "loadBalancer: { simple: ROUND_ROBIN }\noutlierDetection: { consecutive5xxErrors: 1, maxEjectionPercent: 100 }";
    let mesh = Mesh::new().tcp("raw", "TCP", &[(refused, "v1"), (good, "v1")]);
    let proxy = mesh.rules(destination_rule("raw", policy)).start().await;
    let mut failed = 0;
    for _ in 0..6 {
        let mut stream = connect(proxy.tcp()).await;
        let _ = stream.shutdown().await;
        failed += usize::from(rest(&mut stream).await.0 != "bye");
    }
    assert_eq!(failed, 1);
    let flags = proxy.cluster(NAME, Some(refused), "health_flags").await;
    assert_eq!(flags.as_deref(), Some("/failed_outlier_check"));
}

/// A server that says its name and closes.
async fn says(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let _ = listener.accept().await.unwrap().0.write_all(name.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn a_client_keeps_its_endpoint_by_its_address() {
    let endpoints = [(says("a").await, "v1"), (says("b").await, "v1"), (says("c").await, "v1")];
    let policy = "loadBalancer: { consistentHash: { useSourceIp: true } }";
    let mesh = Mesh::new().tcp("raw", "TCP", &endpoints).rules(destination_rule("raw", policy));
    let proxy = mesh.start().await;
    let first = ask(proxy.tcp(), b"").await.0;
    for _ in 0..20 {
        assert_eq!(ask(proxy.tcp(), b"").await.0, first);
    }
    // Without the key any endpoint will do.
    proxy.reload(destination_rule("raw", "loadBalancer: { simple: ROUND_ROBIN }")).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..6 {
        seen.insert(ask(proxy.tcp(), b"").await.0);
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn a_connection_lives_until_the_drain_is_over() {
    let times = outrigger::app::DrainTimes {
        announce: Duration::ZERO,
        until_idle: None,
        at_most: None,
        close: Duration::from_secs(30),
    };
    let proxy = Mesh::new().tcp("raw", "TCP", &[(origin(echo).await, "v1")]).drain(times).start().await;
    let address = proxy.tcp();
    let mut stream = connect(address).await;
    stream.write_all(b"a").await.unwrap();
    read(&mut stream, 1).await;
    proxy.shut_down();
    until("the listener to close", || std::net::TcpStream::connect(address).err()).await;
    stream.write_all(b"b").await.unwrap();
    assert_eq!(read(&mut stream, 1).await, "b");
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await.0, "bye");
    proxy.ended().await;
}

#[tokio::test]
async fn a_connection_is_cut_and_logged_when_the_drain_is_over() {
    let times = outrigger::app::DrainTimes {
        announce: Duration::ZERO,
        until_idle: None,
        at_most: None,
        close: Duration::from_millis(50),
    };
    let proxy = Mesh::new().tcp("raw", "TCP", &[(origin(echo).await, "v1")]).drain(times).start().await;
    let mut stream = connect(proxy.tcp()).await;
    stream.write_all(b"a").await.unwrap();
    read(&mut stream, 1).await;
    proxy.shut_down();
    assert_eq!(rest(&mut stream).await.0, "");
    assert_eq!(proxy.logged_one().await["bytes_received"], 1);
    proxy.ended().await;
}

/// A TLS ClientHello that asks for a name behind so many bytes of cipher suites.
fn long_hello(name: &str, suites: usize) -> Vec<u8> {
    fn block(width: usize, content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u32).to_be_bytes();
        [&length[4 - width..], content].concat()
    }
    let names = block(2, &[&[0][..], &block(2, name.as_bytes())].concat());
    let extensions = [&[0, 0][..], &block(2, &names)].concat();
    let suites = block(2, &vec![0x13; suites]);
    let body = [&[3, 3][..], &[7; 32], &[0], &suites, &[1, 0], &block(2, &extensions)].concat();
    let handshake = [&[1][..], &block(3, &body)].concat();
    handshake.chunks(1 << 14).flat_map(|part| [&[22, 3, 1][..], &block(2, part)].concat()).collect()
}

fn client_hello(name: &str) -> Vec<u8> {
    long_hello(name, 2)
}

/// Two services on one port of TLS, and what each is called in the log.
async fn two_of_tls() -> (Proxy, [String; 2]) {
    let (one, two) = (origin(echo).await, origin(echo).await);
    let mesh = Mesh::new().tcp("one", "TLS", &[(one, "v1")]).tcp("two", "TLS", &[(two, "v1")]);
    let clusters = ["one", "two"].map(|name| format!("outbound|7000||{name}.default.svc.cluster.local"));
    (mesh.start().await, clusters)
}

#[tokio::test]
async fn the_server_name_of_a_hello_chooses_the_service() {
    let (proxy, clusters) = two_of_tls().await;
    for (name, cluster) in ["one", "two"].into_iter().zip(&clusters) {
        let name = format!("{name}.default.svc.cluster.local");
        let before = proxy.log().len();
        let hello = client_hello(&name);
        // In two parts, and with more behind it.
        let mut stream = connect(proxy.tcp()).await;
        let (head, tail) = hello.split_at(50);
        stream.write_all(head).await.unwrap();
        tokio::task::yield_now().await;
        stream.write_all(tail).await.unwrap();
        stream.write_all(b"more").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut got = Vec::new();
        soon("the echo", stream.read_to_end(&mut got)).await.unwrap();
        assert_eq!(got, [&hello[..], b"morebye"].concat(), "the bytes pass unchanged");
        let line = proxy.logged(before + 1).await.swap_remove(before);
        assert_eq!(line["upstream_cluster"], **cluster);
        assert_eq!(line["requested_server_name"], *name);
        assert_eq!(line["bytes_received"], hello.len() + 4);
    }
}

#[tokio::test]
async fn what_asks_for_no_known_name_goes_to_the_last_resort() {
    let (proxy, _) = two_of_tls().await;
    for (number, bytes) in
        [client_hello("three.example.com"), b"GET / HTTP/1.1\r\n".to_vec()].iter().enumerate()
    {
        assert_eq!(ask(proxy.tcp(), bytes).await.0, "");
        let line = proxy.logged(number + 1).await.swap_remove(number);
        assert_eq!(line["upstream_cluster"], "PassthroughCluster");
        assert_eq!(line["response_flags"], "UH");
        assert_eq!(line["bytes_received"], 0, "it was looked at, not read");
    }
}

#[tokio::test]
async fn a_hello_that_does_not_end_reaches_nobody() {
    let (proxy, clusters) = two_of_tls().await;
    let name = "one.default.svc.cluster.local";
    let (whole, long) = (client_hello(name), long_hello(name, 65_534));
    for unfit in [&whole[..0], &whole[..40], &long] {
        let mut stream = connect(proxy.tcp()).await;
        let _ = stream.write_all(unfit).await;
        let _ = stream.shutdown().await;
        assert_eq!(rest(&mut stream).await.0, "", "{} bytes", unfit.len());
    }
    let mut stream = connect(proxy.tcp()).await;
    stream.write_all(&whole).await.unwrap();
    stream.shutdown().await.unwrap();
    rest(&mut stream).await;
    // The first that is logged is the one that was well, as in Envoy.
    assert_eq!(proxy.logged_one().await["bytes_received"], whole.len());
    proxy.metric("envoy_cluster_upstream_cx_total", &[&clusters[0]], 1.0).await;
    assert_eq!(proxy.sum("istio_tcp_connections_opened_total", &[]).await, 1.0);
}

#[tokio::test]
async fn rules_for_connections_split_by_weight_and_follow_a_reload() {
    let endpoints = [(says("v1").await, "v1"), (says("v2").await, "v2")];
    let rules = |first: u32, second: u32| {
        format!(
            "{}---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: raw }}\nspec:\n  \
             hosts: [raw]\n  tcp:\n  - route:\n    \
             - {{ destination: {{ host: raw, subset: v1 }}, weight: {first} }}\n    \
             - {{ destination: {{ host: raw, subset: v2 }}, weight: {second} }}\n",
            destination_rule("raw", "")
        )
    };
    let proxy = Mesh::new().tcp("raw", "TCP", &endpoints).rules(rules(50, 50)).start().await;
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..60 {
        *seen.entry(ask(proxy.tcp(), b"").await.0).or_default() += 1;
    }
    assert!(seen.len() == 2 && seen.values().all(|count| (10..=50).contains(count)), "{seen:?}");
    proxy.reload(rules(0, 100)).await;
    for _ in 0..10 {
        assert_eq!(ask(proxy.tcp(), b"").await.0, "v2");
    }
}

#[tokio::test]
async fn an_inbound_connection_goes_to_the_workload_and_is_told_as_the_destinations() {
    let sidecar = format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: a }}\nspec:\n  ingress:\n  \
         - {{ port: {{ number: 7000, name: tcp }}, bind: 127.0.0.1, defaultEndpoint: '{}' }}\n",
        origin(echo).await
    );
    let proxy = Mesh::new().rules(sidecar).start().await;
    let mut stream = connect(proxy.tcp()).await;
    stream.write_all(b"in").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await.0, "inbye");
    assert_eq!(proxy.logged_one().await["upstream_cluster"], "inbound|7000||");
    let labels =
        ["reporter=\"destination\"", "destination_app=\"client\"", "connection_security_policy=\"none\""];
    proxy.metric("istio_tcp_connections_closed_total", &labels, 1.0).await;
}

#[tokio::test]
async fn a_destination_that_nobody_knows_is_closed_with_its_flag() {
    let rule = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: raw }\nspec:\n  \
                hosts: [raw]\n  tcp: [{ route: [{ destination: { host: nowhere.example.com } }] }]\n";
    let mesh = Mesh::new().tcp("raw", "TCP", &[(origin(echo).await, "v1")]).rules(rule);
    let proxy = mesh.start().await;
    assert_eq!(ask(proxy.tcp(), b"").await, (String::new(), false));
    let line = proxy.logged_one().await;
    assert_eq!(
        (&line["response_flags"], &line["upstream_cluster"]),
        (&"NC".into(), &serde_json::Value::Null)
    );
}
