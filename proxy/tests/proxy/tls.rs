//! TLS with endpoints and with clients: modes, names, identities from files.

use std::{path::Path, sync::Arc};

use rustls::HandshakeKind;

use crate::support::{
    certs::{self, Authority, Shows, dns, workload},
    client::{Client, Socket, get, over_http2},
    mesh::{Mesh, Proxy, destination_rule},
    origin::{Origin, Reply},
    secure::{Front, asked, http1, http2, shake},
    wait::eventually,
};

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/default/sa/web";
const ISTIO_H1: [&str; 3] = ["istio-http/1.1", "istio", "http/1.1"];
const ISTIO_H2: [&str; 3] = ["istio-h2", "istio", "h2"];
/// The port of inbound listeners.
const INBOUND: u16 = 7070;

/// A front with a certificate for these DNS names.
async fn front(authority: &Authority, names: &[&str], origin: &Origin, asks: bool) -> Front {
    let mut params = workload(SERVER);
    params.subject_alt_names = names.iter().map(|name| dns(name)).collect();
    let shows = Shows::new(&authority.issue(&params));
    Front::before(origin.address(), certs::server(shows, asks.then_some(authority), &["http/1.1"])).await
}

fn tls(fields: &str) -> String {
    format!("tls: {{ {fields} }}")
}

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

async fn failure(proxy: &Proxy, lines: usize) -> (String, String) {
    let log = proxy.logged(lines).await.swap_remove(lines - 1);
    (log["response_flags"].to_string(), log["upstream_transport_failure_reason"].to_string())
}

#[tokio::test]
async fn simple_tls_believes_whoever_has_the_host_of_the_request() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let origin = Origin::named("secret").await;
    let front = front(&authority, &["web"], &origin, false).await;
    let roots = file(folder.path(), "ca.pem", authority.pem());
    let policy = tls(&format!("mode: SIMPLE, caCertificates: {roots}"));
    let proxy = Mesh::new().http("web", &[(front.address(), "v1")]).policy(&policy).start().await;
    assert_eq!(proxy.get("web", "/").await.text(), "secret");
    assert_eq!(proxy.get("web:8080", "/").await.text(), "secret");
    let agreed = front.agreed().swap_remove(0);
    assert_eq!((agreed.server_name.as_deref(), agreed.protocol.as_deref()), (Some("web"), Some("http/1.1")));
    assert_eq!(agreed.certificate, None);
    assert_eq!(front.agreed().len(), 1, "one name, one pool");

    let other = proxy.get("web.default", "/").await;
    assert_eq!(other.status, 503);
    let (flags, reason) = failure(&proxy, 3).await;
    assert!(flags.contains("UF") && reason.contains("TLS_error:_certificate_refused"), "{flags} {reason}");
    assert_eq!(proxy.sum("envoy_cluster_ssl_handshake", &["outbound|8080||web"]).await, 1.0);
    assert_eq!(proxy.sum("envoy_cluster_ssl_fail_verify_san", &["outbound|8080||web"]).await, 3.0);
}

#[tokio::test]
async fn names_of_the_rule_take_the_place_of_the_host() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let origin = Origin::named("secret").await;
    let front = front(&authority, &["db.example", "*.wild.example"], &origin, false).await;
    let roots = file(folder.path(), "ca.pem", authority.pem());
    let start = async |fields: &str| {
        let policy = tls(&format!("mode: SIMPLE, caCertificates: {roots}, {fields}"));
        Mesh::new().http("web", &[(front.address(), "v1")]).policy(&policy).start().await
    };
    assert_eq!(start("sni: db.example").await.get("web", "/").await.status, 200);
    assert_eq!(start("subjectAltNames: [other, db.example]").await.get("web", "/").await.status, 200);
    assert_eq!(start("subjectAltNames: [other]").await.get("web", "/").await.status, 503);
    // A wildcard is the name of a certificate that has it, and covers nothing.
    assert_eq!(start("subjectAltNames: ['*.wild.example']").await.get("web", "/").await.status, 200);
    assert_eq!(start("subjectAltNames: ['*.example']").await.get("web", "/").await.status, 503);
    assert_eq!(start("sni: other.example").await.get("web", "/").await.status, 503);
    let names: Vec<_> = front.agreed().into_iter().map(|agreed| agreed.server_name.unwrap()).collect();
    assert_eq!(names, ["db.example", "web", "web"]);
}

#[tokio::test]
async fn nothing_is_verified_where_the_rule_says_so_and_the_system_s_roots_count_where_it_says_nothing() {
    let authority = Authority::new();
    let origin = Origin::named("secret").await;
    let front = front(&authority, &["unrelated"], &origin, false).await;
    let start = async |fields: &str| {
        Mesh::new().http("web", &[(front.address(), "v1")]).policy(&tls(fields)).start().await
    };
    assert_eq!(start("mode: SIMPLE, insecureSkipVerify: true").await.get("web", "/").await.status, 200);
    assert_eq!(start("mode: SIMPLE, sni: unrelated").await.get("web", "/").await.status, 503);
}

#[tokio::test]
async fn a_certificate_of_its_own_is_shown_where_the_rule_names_one() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let origin = Origin::named("secret").await;
    let front = front(&authority, &["web"], &origin, true).await;
    let roots = file(folder.path(), "ca.pem", authority.pem());
    let pair = authority.workload(CLIENT);
    let [chain, key] = pair.files(folder.path(), "client");
    let (chain, key) = (chain.display(), key.display());
    let policy =
        tls(&format!("mode: MUTUAL, clientCertificate: {chain}, privateKey: {key}, caCertificates: {roots}"));
    let proxy = Mesh::new().http("web", &[(front.address(), "v1")]).policy(&policy).start().await;
    assert_eq!(proxy.get("web", "/").await.text(), "secret");
    assert_eq!(front.agreed()[0].certificate.as_deref(), Some(&*pair.chain[0]));
}

#[tokio::test]
async fn without_its_files_a_cluster_answers_503_until_they_come() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let origin = Origin::named("secret").await;
    let front = front(&authority, &["web"], &origin, false).await;
    let path = folder.path().join("ca.pem");
    let policy = tls(&format!("mode: SIMPLE, caCertificates: {}", path.display()));
    let proxy = Mesh::new().http("web", &[(front.address(), "v1")]).policy(&policy).start().await;
    assert_eq!(proxy.get("web", "/").await.status, 503);
    let (flags, reason) = failure(&proxy, 1).await;
    assert!(flags.contains("UF"), "{flags}");
    assert!(reason.contains(&format!("TLS_error:_cannot_read_{}", path.display())), "{reason}");
    assert_eq!((origin.hits(), front.agreed().len()), (0, 0));

    std::fs::write(&path, "no certificate").unwrap();
    eventually("the reason of the new file", async || {
        let before = proxy.log().len();
        assert_eq!(proxy.get("web", "/").await.status, 503);
        failure(&proxy, before + 1).await.1.contains("there_is_no_certificate_in_it").then_some(())
    })
    .await;
    std::fs::write(&path, authority.pem()).unwrap();
    eventually("the cluster", async || (proxy.get("web", "/").await.status == 200).then_some(())).await;
}

/// A proxy before an origin, with mutual TLS as these policies say.
async fn server(
    authority: &Authority,
    origin: &Origin,
    protocol: &'static str,
    mode: &str,
) -> (Proxy, tempfile::TempDir) {
    let identity = authority.identity(SERVER);
    let policy = format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ name: a }}\nspec: {{ mtls: {{ mode: {mode} }} }}"
    );
    let mesh =
        Mesh::new().ingress(INBOUND, protocol, origin.address()).identity(identity.path()).rules(policy);
    let format = [
        ("name", "REQUESTED_SERVER_NAME"),
        ("client", "DOWNSTREAM_PEER_URI_SAN"),
        ("hash", "DOWNSTREAM_PEER_FINGERPRINT_256"),
        ("server", "DOWNSTREAM_LOCAL_URI_SAN"),
    ]
    .map(|(key, operator)| format!("\"{key}\": \"%{operator}%\""));
    let mesh = mesh.settings(&format!("accessLogFormat: '{{ {} }}'", format.join(", ")));
    (mesh.start().await, identity)
}

fn inbound(proxy: &Proxy) -> std::net::SocketAddr {
    proxy.address(&format!("127.0.0.1_{INBOUND}"))
}

#[tokio::test]
async fn two_sidecars_speak_mutual_tls_without_a_word_of_configuration() {
    let authority = Authority::new();
    let origin = Origin::named("hello").await;
    let (server, _server_identity) = server(&authority, &origin, "HTTP", "STRICT").await;
    let identity = authority.identity(CLIENT);
    let mesh = || Mesh::new().http("web", &[(inbound(&server), "v1")]).with_sidecars();
    let client = mesh().identity(identity.path()).start().await;
    let answer = client.get_with("web", "/", &[("x-forwarded-client-cert", "By=forged")]).await;
    assert_eq!(answer.text(), "hello");
    let seen = origin.only();
    let forwarded = seen.header("x-forwarded-client-cert").unwrap();
    let hash = &forwarded[forwarded.find("Hash=").unwrap() + 5..][..64];
    assert_eq!(forwarded, format!("By={SERVER};Hash={hash};Subject=\"\";URI={CLIENT}"));
    assert_eq!(client.get("web", "/").await.status, 200);

    let inbound_labels = [
        "reporter=\"destination\"",
        "connection_security_policy=\"mutual_tls\"",
        &format!("source_principal=\"{CLIENT}\""),
        &format!("destination_principal=\"{SERVER}\""),
        "source_workload_namespace=\"shop\"",
    ];
    server.metric("istio_requests", &inbound_labels, 2.0).await;
    let outbound_labels = [
        "reporter=\"source\"",
        "connection_security_policy=\"unknown\"",
        &format!("source_principal=\"{CLIENT}\""),
        &format!("destination_principal=\"{SERVER}\""),
    ];
    client.metric("istio_requests", &outbound_labels, 2.0).await;
    assert_eq!(server.sum("envoy_listener_ssl_handshake", &[]).await, 1.0);
    let log = server.logged_one().await;
    assert_eq!(log["name"], "outbound_.8080_._.web.default.svc.cluster.local");
    assert_eq!([&log["client"], &log["server"], &log["hash"]], [CLIENT, SERVER, hash]);

    // Without an identity it has nothing to show, and plain text is not taken.
    let stranger = mesh().start().await;
    assert_eq!(stranger.get("web", "/").await.status, 503);
    assert_eq!(origin.hits(), 2);
    server.metric("outrigger_plaintext_refused", &[], 1.0).await;
}

#[tokio::test]
async fn an_endpoint_with_an_account_is_believed_with_its_certificate_alone() {
    let authority = Authority::new();
    let origin = Origin::named("hello").await;
    let (server, _server_identity) = server(&authority, &origin, "HTTP", "STRICT").await;
    let identity = authority.identity(CLIENT);
    let mesh = || Mesh::new().http("web", &[(inbound(&server), "v1")]).identity(identity.path());
    assert_eq!(mesh().with_account("web").start().await.get("web", "/").await.text(), "hello");
    let other = mesh().with_account("other").start().await;
    assert_eq!(other.get("web", "/").await.status, 503);
    let (flags, reason) = failure(&other, 1).await;
    assert!(flags.contains("UF") && reason.contains("is_not_among_the_subjectAltNames"), "{flags} {reason}");

    let both = mesh().with_account("other").with_names(SERVER).start().await;
    assert_eq!(both.get("web", "/").await.text(), "hello");
    assert_eq!(origin.hits(), 2);
}

#[tokio::test]
async fn names_of_the_service_entry_take_the_place_of_the_host() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let origin = Origin::named("secret").await;
    let front = front(&authority, &["db.example"], &origin, false).await;
    let roots = file(folder.path(), "ca.pem", authority.pem());
    let start = async |names: &str| {
        let policy = tls(&format!("mode: SIMPLE, caCertificates: {roots}"));
        Mesh::new().http("web", &[(front.address(), "v1")]).with_names(names).policy(&policy).start().await
    };
    assert_eq!(start("other, db.example").await.get("web", "/").await.status, 200);
    assert_eq!(start("other").await.get("web", "/").await.status, 503);
}

#[tokio::test]
async fn grpc_over_mutual_tls_keeps_its_trailers() {
    let authority = Authority::new();
    let origin = Origin::echo().await;
    let (server, _server_identity) = server(&authority, &origin, "GRPC", "STRICT").await;
    let identity = authority.identity(CLIENT);
    let mesh = Mesh::new().grpc("rpc", &[(inbound(&server), "v1")]).with_sidecars();
    let client = mesh.identity(identity.path()).start().await;
    let answer = client.call("rpc", "/a.B/C", b"ping").await;
    assert_eq!((answer.grpc_status(), answer.body.len()), (Some("0"), 9));
    let large = vec![7; 300_000];
    assert_eq!(client.call("rpc", "/a.B/C", &large).await.body.len(), large.len() + 5);
}

#[tokio::test]
async fn under_strict_a_proxy_is_ready_when_its_certificate_is_there() {
    let authority = Authority::new();
    let origin = Origin::named("hello").await;
    let folder = tempfile::tempdir().unwrap();
    let policy = |mode: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ name: a }}\nspec: {{ mtls: {{ mode: {mode} }} }}"
        )
    };
    let start = async |mode: &str| {
        let mesh = Mesh::new().ingress(INBOUND, "HTTP", origin.address()).identity(folder.path());
        mesh.rules(policy(mode)).start().await
    };
    let status = async |proxy: &Proxy| proxy.agent("GET", "/healthz/ready").await.status;
    assert_eq!(status(&start("PERMISSIVE").await).await, 200);
    let [relaxed, strict] = [start("STRICT").await, start("STRICT").await];
    assert_eq!((status(&relaxed).await, status(&strict).await), (503, 503));
    relaxed.reload_until(policy("PERMISSIVE"), |status| status["config_applied"].as_u64() >= Some(2)).await;
    assert_eq!(status(&relaxed).await, 200, "it takes plain text now");
    authority.write(folder.path(), SERVER);
    eventually("readiness", async || (status(&strict).await == 200).then_some(())).await;
}

#[tokio::test]
async fn strict_takes_workloads_of_the_mesh_alone() {
    let authority = Authority::new();
    let origin = Origin::named("hello").await;
    let (server, _identity) = server(&authority, &origin, "HTTP", "STRICT").await;
    let good = certs::client(Some(&authority.workload(CLIENT)), &ISTIO_H1);
    let stream = shake(inbound(&server), good).await.unwrap();
    assert_eq!(http1(stream).await.send(get("web", "/", &[])).await.text(), "hello");

    let mut plain = Socket::connect(inbound(&server)).await;
    plain.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert_eq!(plain.rest().await, "");
    for (name, shows) in [
        ("nothing", None),
        ("another domain", Some(authority.workload("spiffe://evil.local/ns/shop/sa/client"))),
        ("another root", Some(Authority::new().workload(CLIENT))),
    ] {
        assert!(asked(inbound(&server), certs::client(shows.as_ref(), &ISTIO_H1)).await.is_none(), "{name}");
    }
    assert_eq!(origin.hits(), 1);
    server.metric("outrigger_plaintext_refused", &[], 1.0).await;
    server.metric("envoy_listener_ssl_fail_verify_no_cert", &[], 1.0).await;
    server.metric("envoy_listener_ssl_fail_verify_san", &[], 1.0).await;
    server.metric("envoy_listener_ssl_fail_verify_error", &[], 1.0).await;
}

#[tokio::test]
async fn permissive_takes_both_and_believes_no_certificate_header_in_plain_text() {
    let authority = Authority::new();
    let origin = Origin::named("hello").await;
    let (server, _identity) = server(&authority, &origin, "HTTP", "PERMISSIVE").await;
    let header = [("x-forwarded-client-cert", "By=forged")];
    let plain = Client::http1(inbound(&server)).await.send(get("web", "/", &header)).await;
    assert_eq!(plain.text(), "hello");
    assert_eq!(origin.only().header("x-forwarded-client-cert"), None);

    let secure = certs::client(Some(&authority.workload(CLIENT)), &ISTIO_H2);
    let stream = shake(inbound(&server), secure).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let request = over_http2(get("web", "/", &[("x-forwarded-client-cert", "By=before")]));
    assert_eq!(http2(stream).await.send(request).await.text(), "hello");
    let forwarded = origin.requests()[1].header("x-forwarded-client-cert").unwrap().to_owned();
    assert!(forwarded.starts_with(&format!("By=before,By={SERVER};Hash=")), "{forwarded}");
    let evil = authority.workload("spiffe://evil.local/ns/a/sa/b");
    assert!(asked(inbound(&server), certs::client(Some(&evil), &ISTIO_H1)).await.is_none());
    server.metric("istio_requests", &["connection_security_policy=\"none\""], 1.0).await;
    server.metric("istio_requests", &["connection_security_policy=\"mutual_tls\""], 1.0).await;
}

#[tokio::test]
async fn permissive_is_plain_text_where_there_is_no_identity_and_strict_serves_nobody() {
    let origin = Origin::named("hello").await;
    let mesh = || Mesh::new().ingress(INBOUND, "HTTP", origin.address());
    let permissive = mesh().start().await;
    let ask = async |proxy: &Proxy| Client::http1(inbound(proxy)).await.open(get("web", "/", &[])).await;
    assert_eq!(ask(&permissive).await.unwrap().status(), 200);
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: a }\nspec: { mtls: { mode: STRICT } }";
    let strict = mesh().rules(strict).start().await;
    assert!(ask(&strict).await.is_err());
    assert!(asked(inbound(&strict), certs::client(None, &[])).await.is_none());
    assert_eq!(origin.hits(), 1);
}

#[tokio::test]
async fn who_agrees_to_one_protocol_may_not_speak_another() {
    let authority = Authority::new();
    let origin = Origin::named("hello").await;
    let (server, _identity) = server(&authority, &origin, "HTTP", "STRICT").await;
    let pair = authority.workload(CLIENT);
    assert!(asked(inbound(&server), certs::client(Some(&pair), &["h2"])).await.is_none());
    let stream = shake(inbound(&server), certs::client(Some(&pair), &["http/1.1"])).await.unwrap();
    let request = over_http2(get("web", "/", &[]));
    assert!(http2(stream).await.open(request).await.is_err());
    assert!(shake(inbound(&server), certs::client(Some(&pair), &["spdy/3"])).await.is_err());
    assert!(asked(inbound(&server), certs::client(Some(&pair), &[])).await.is_some());
    assert_eq!(origin.hits(), 1);
}

#[tokio::test]
async fn no_session_is_resumed_on_the_way_in() {
    let authority = Authority::new();
    let origin = Origin::named("hello").await;
    let (server, _identity) = server(&authority, &origin, "HTTP", "STRICT").await;
    let config = certs::client(Some(&authority.workload(CLIENT)), &ISTIO_H1);
    for _ in 0..3 {
        let stream = shake(inbound(&server), Arc::clone(&config)).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(http1(stream).await.send(get("web", "/", &[])).await.status, 200);
    }
}

#[tokio::test]
async fn raw_connections_are_secured_both_ways() {
    let authority = Authority::new();
    let origin = Origin::http1(|_| Reply::text("raw")).await;
    let (server, _server_identity) = server(&authority, &origin, "TCP", "STRICT").await;
    let identity = authority.identity(CLIENT);
    let mesh = Mesh::new().tcp("db", "TCP", &[(inbound(&server), "v1")]).with_sidecars();
    let client = mesh.identity(identity.path()).start().await;
    let answer = Client::http1(client.tcp()).await.send(get("db", "/", &[])).await;
    assert_eq!(answer.text(), "raw");
    let labels = [&format!("source_principal=\"{CLIENT}\"")[..], "connection_security_policy=\"mutual_tls\""];
    server.metric("istio_tcp_connections_opened", &labels, 1.0).await;
    let mut plain = Socket::connect(inbound(&server)).await;
    plain.send("GET / HTTP/1.1\r\nHost: db\r\n\r\n").await;
    assert_eq!(plain.rest().await, "");
}

#[tokio::test]
async fn permissive_passes_tls_that_is_not_of_the_mesh_unopened() {
    let authority = Authority::new();
    let origin = Origin::named("inner").await;
    let app = Authority::new();
    let front = front(&app, &["web"], &origin, false).await;
    let identity = authority.identity(SERVER);
    let mesh = Mesh::new().ingress(INBOUND, "TCP", front.address()).identity(identity.path());
    let server = mesh.start().await;
    let stream = shake(inbound(&server), certs::client(None, &["http/1.1"])).await.unwrap();
    assert_eq!(http1(stream).await.send(get("web", "/", &[])).await.text(), "inner");
    assert_eq!(front.agreed().len(), 1);
}

#[tokio::test]
async fn a_rule_that_changes_uses_no_connection_of_the_rule_before() {
    let authority = Authority::new();
    let origin = Origin::named("hello").await;
    let front = front(&authority, &["web"], &origin, false).await;
    let rule = |tls: &str| destination_rule("web", &format!("tls: {{ {tls} }}"));
    let mesh = Mesh::new().http("web", &[(front.address(), "v1")]);
    let proxy = mesh.rules(rule("mode: SIMPLE, insecureSkipVerify: true")).start().await;
    assert_eq!(proxy.get("web", "/").await.status, 200);
    assert_eq!(origin.open(), 1);
    proxy.reload(rule("mode: DISABLE")).await;
    let answer = proxy.get("web", "/").await;
    assert!(answer.status >= 500, "the endpoint takes TLS alone: {}", answer.status);
    assert_eq!(origin.hits(), 1);
    eventually("the old connection to close", async || (origin.open() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_pair_that_does_not_fit_keeps_the_old_one_and_is_counted() {
    let authority = Authority::new();
    let origin = Origin::named("hello").await;
    let (server, identity) = server(&authority, &origin, "HTTP", "STRICT").await;
    let pair = authority.workload(CLIENT);
    let config = || certs::client(Some(&pair), &ISTIO_H1);
    let shown = async || {
        let stream = shake(inbound(&server), config()).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let first = shown().await;
    let other = authority.workload(SERVER);
    std::fs::write(identity.path().join("cert-chain.pem"), &other.pem).unwrap();
    server.metric("outrigger_certificates_rejected", &[], 1.0).await;
    assert_eq!(shown().await, first);
    std::fs::write(identity.path().join("key.pem"), other.key.serialize_pem()).unwrap();
    eventually("the new certificate", async || (shown().await == *other.chain[0]).then_some(())).await;
    let page: serde_json::Value = serde_json::from_slice(&server.admin("/certs").await.body).unwrap();
    let own = &page["certificates"][0]["cert_chain"][0];
    assert_eq!(own["subject_alt_names"][0]["uri"], SERVER);
    assert!(own["path"].as_str().unwrap().ends_with("cert-chain.pem"), "{page:#}");
    assert!(page["certificates"][1]["ca_cert"][0]["expiration_time"].is_string(), "{page:#}");
    assert!(!server.admin("/certs").await.text().contains("PRIVATE"));
    assert!(server.sum("istio_agent_cert_expiry_seconds", &["cert-chain.pem"]).await > 0.0);
}

#[tokio::test]
async fn a_hundred_rotations_under_load_fail_no_request() {
    let authority = Authority::new();
    let origin = Origin::http1(|_| Reply::text("hello")).await;
    let (server, server_identity) = server(&authority, &origin, "HTTP", "STRICT").await;
    let identity = authority.identity(CLIENT);
    // Every other request needs a connection of its own.
    let policy = "connectionPool: { http: { maxRequestsPerConnection: 2 } }";
    let mesh = Mesh::new().http("web", &[(inbound(&server), "v1")]).with_sidecars().policy(policy);
    let client = mesh.identity(identity.path()).start().await;
    let mut sender = Client::http1(client.http()).await;
    let mut requests = 0;
    let loaded = async |proxy: &Proxy| proxy.sum("outrigger_certificates_loaded", &[]).await;
    for round in 0..100 {
        let (folder, proxy) = if round % 2 == 0 { (&server_identity, &server) } else { (&identity, &client) };
        let before = loaded(proxy).await;
        authority.write(folder.path(), if round % 2 == 0 { SERVER } else { CLIENT });
        eventually("the new certificate", async || {
            for _ in 0..5 {
                let answer = sender.send(get("web", "/", &[])).await;
                assert_eq!(answer.status, 200, "rotation {round}: {:?}", client.log().last());
                requests += 1;
            }
            (loaded(proxy).await > before).then_some(())
        })
        .await;
    }
    assert!(requests >= 500, "{requests}");
    assert_eq!(client.sum("envoy_cluster_ssl_connection_error", &[]).await, 0.0);
    assert!(client.sum("envoy_cluster_ssl_handshake", &[]).await > 200.0);
}

#[tokio::test]
async fn grpc_to_an_endpoint_agrees_on_http2() {
    let authority = Authority::new();
    let origin = Origin::echo().await;
    let shows = Shows::new(&authority.workload(SERVER));
    let front =
        Front::before(origin.address(), certs::server(shows, Some(&authority), &["h2", "http/1.1"])).await;
    let identity = authority.identity(CLIENT);
    let rule = destination_rule("rpc", "tls: { mode: ISTIO_MUTUAL }");
    let mesh = Mesh::new().grpc("rpc", &[(front.address(), "v1")]).rules(rule).identity(identity.path());
    let proxy = mesh.start().await;
    assert_eq!(proxy.call("rpc", "/a.B/C", b"ping").await.grpc_status(), Some("0"));
    let agreed = front.agreed().swap_remove(0);
    assert_eq!(agreed.protocol.as_deref(), Some("h2"));
    assert_eq!(agreed.server_name.as_deref(), Some("outbound_.9090_._.rpc.default.svc.cluster.local"));
    assert!(agreed.certificate.is_some());
}
