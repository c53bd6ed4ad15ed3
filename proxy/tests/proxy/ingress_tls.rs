//! TLS of its own at an inbound port, with clients that are not of the mesh: whom it takes, what the workload is told of
//! them, and where its files come from.

use std::{net::SocketAddr, path::Path};

use rustls::{ProtocolVersion, version};

use crate::{
    drain::PATIENT,
    support::{
        certs::{self, Authority, Pair, dns, uri, workload},
        client::{Socket, get, over_http2},
        mesh::{Mesh, Proxy},
        origin::{Origin, Reply},
        secure::{asked, http1, http2, shake},
        wait::eventually,
    },
};

const PORT: u16 = 7070;
const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";

fn inbound(proxy: &Proxy) -> SocketAddr {
    proxy.address(&format!("127.0.0.1_{PORT}"))
}

fn site(authority: &Authority) -> Pair {
    let mut params = workload(CLIENT);
    params.subject_alt_names = vec![dns("shop.example")];
    authority.issue(&params)
}

/// The files of a server for `shop.example`, as fields.
fn files(folder: &Path, authority: &Authority) -> String {
    let [chain, key] = site(authority).files(folder, "server");
    std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    format!("serverCertificate: {}, privateKey: {}", chain.display(), key.display())
}

fn roots(folder: &Path) -> String {
    format!("caCertificates: {}", folder.join("ca.pem").display())
}

#[tokio::test]
async fn simple_takes_every_client_by_tls_alone() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let origin = Origin::named("hello").await;
    let tls = format!("mode: SIMPLE, {}", files(folder.path(), &authority));
    let proxy = Mesh::new().ingress(PORT, "HTTPS", origin.address()).ingress_tls(&tls).start().await;
    let stream = shake(inbound(&proxy), certs::client(None, &["http/1.1"])).await.unwrap();
    let forged = [("x-forwarded-client-cert", "By=forged")];
    assert_eq!(http1(stream).await.send(get("web", "/", &forged)).await.text(), "hello");
    let seen = origin.only();
    assert_eq!(seen.header("x-forwarded-client-cert"), None, "nobody has shown a certificate");
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    let stream = shake(inbound(&proxy), certs::client(None, &["h2", "http/1.1"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(http2(stream).await.send(over_http2(get("web", "/", &[]))).await.text(), "hello");
    proxy.metric("istio_requests", &["connection_security_policy=\"none\""], 2.0).await;

    let mut plain = Socket::connect(inbound(&proxy)).await;
    plain.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert_eq!(plain.rest().await, "");
    proxy.metric("outrigger_plaintext_refused", &[], 1.0).await;
    assert_eq!(origin.hits(), 2);
    assert!(proxy.admin("/certs").await.text().contains("shop.example"));
}

#[tokio::test]
async fn bytes_inside_of_tls_reach_the_workload_whatever_the_client_calls_them() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let origin = Origin::named("hello").await;
    let tls = format!("mode: SIMPLE, {}", files(folder.path(), &authority));
    let proxy = Mesh::new().ingress(PORT, "TLS", origin.address()).ingress_tls(&tls).start().await;
    for protocols in [&["my-protocol"][..], &[]] {
        let answer = asked(inbound(&proxy), certs::client(None, protocols)).await;
        assert_eq!(answer.as_deref(), Some(&b"HTTP/1.1 200"[..]), "{protocols:?}");
    }
    assert_eq!(origin.requests()[0].header("x-request-id"), None, "nothing has read the request");
    // Who names HTTP is told that it is spoken: clients of gRPC insist on it.
    let stream = shake(inbound(&proxy), certs::client(None, &["h2"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn mutual_takes_clients_of_its_roots_who_are_nobody_in_the_mesh() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let origin = Origin::named("hello").await;
    let tls = format!("mode: MUTUAL, {}, {}", files(folder.path(), &authority), roots(folder.path()));
    let proxy = Mesh::new().ingress(PORT, "HTTPS", origin.address()).ingress_tls(&tls).start().await;
    // Roots that are not the mesh's may write any name into a certificate.
    let mut params = workload(CLIENT);
    params.subject_alt_names = vec![uri(CLIENT), dns("partner.example")];
    let partner = authority.issue(&params);
    let stream = shake(inbound(&proxy), certs::client(Some(&partner), &["http/1.1"])).await.unwrap();
    let forged = [("x-forwarded-client-cert", "By=forged")];
    assert_eq!(http1(stream).await.send(get("web", "/", &forged)).await.text(), "hello");
    let forwarded = origin.only().header("x-forwarded-client-cert").unwrap().to_owned();
    assert!(forwarded.starts_with("Hash="), "{forwarded}");
    assert!(forwarded.ends_with(&format!("URI={CLIENT};DNS=partner.example")), "{forwarded}");
    let labels = ["connection_security_policy=\"mutual_tls\"", "source_principal=\"unknown\""];
    proxy.metric("istio_requests", &labels, 1.0).await;

    let stranger = Authority::new().workload(CLIENT);
    for (name, shows) in [("nothing", None), ("another root", Some(&stranger))] {
        assert!(asked(inbound(&proxy), certs::client(shows, &[])).await.is_none(), "{name}");
    }
    assert_eq!(origin.hits(), 1);
    proxy.metric("envoy_listener_ssl_fail_verify_no_cert", &[], 1.0).await;
    proxy.metric("envoy_listener_ssl_fail_verify_error", &[], 1.0).await;
}

#[tokio::test]
async fn optional_mutual_takes_who_shows_nothing_and_nobody_who_shows_something_wrong() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let origin = Origin::named("hello").await;
    let tls =
        format!("mode: OPTIONAL_MUTUAL, {}, {}", files(folder.path(), &authority), roots(folder.path()));
    let proxy = Mesh::new().ingress(PORT, "HTTPS", origin.address()).ingress_tls(&tls).start().await;
    let good = authority.workload(CLIENT);
    assert!(asked(inbound(&proxy), certs::client(None, &[])).await.is_some());
    assert!(asked(inbound(&proxy), certs::client(Some(&good), &[])).await.is_some());
    let stranger = Authority::new().workload(CLIENT);
    assert!(asked(inbound(&proxy), certs::client(Some(&stranger), &[])).await.is_none());
    let told: Vec<_> =
        origin.requests().iter().map(|seen| seen.header("x-forwarded-client-cert").is_some()).collect();
    assert_eq!(told, [false, true]);
}

#[tokio::test]
async fn only_the_versions_and_ciphers_that_are_allowed_are_spoken() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let origin = Origin::named("hello").await;
    let files = files(folder.path(), &authority);
    let start = async |fields: &str| {
        let tls = format!("mode: SIMPLE, {files}, {fields}");
        Mesh::new().ingress(PORT, "HTTPS", origin.address()).ingress_tls(&tls).start().await
    };
    let agreed = async |proxy: &Proxy, versions: &[&'static rustls::SupportedProtocolVersion]| {
        let stream = shake(inbound(proxy), certs::client_of(None, &[], versions)).await.ok()?;
        let (_, state) = stream.get_ref();
        Some((state.protocol_version()?, state.negotiated_cipher_suite()?.suite()))
    };
    let (old, new) = (&[&version::TLS12], &[&version::TLS13]);
    let new_alone = start("minProtocolVersion: TLSV1_3").await;
    assert_eq!(agreed(&new_alone, old).await, None);
    assert_eq!(agreed(&new_alone, new).await.unwrap().0, ProtocolVersion::TLSv1_3);
    let old_alone = start("maxProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-ECDSA-CHACHA20-POLY1305]").await;
    assert_eq!(agreed(&old_alone, new).await, None);
    let suite = rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
    assert_eq!(agreed(&old_alone, old).await, Some((ProtocolVersion::TLSv1_2, suite)));
    // None of the suites fits the certificate: nothing else is spoken in their place.
    let none = start("maxProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]").await;
    assert_eq!(agreed(&none, old).await, None);
}

#[tokio::test]
async fn without_its_files_a_port_serves_nobody_and_the_proxy_is_not_ready() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let origin = Origin::named("hello").await;
    let named = files(folder.path(), &authority);
    let key = folder.path().join("server.key");
    let good = std::fs::read_to_string(&key).unwrap();
    std::fs::write(&key, "no key").unwrap();
    let tls = format!("mode: SIMPLE, {named}");
    let proxy = Mesh::new().ingress(PORT, "HTTPS", origin.address()).ingress_tls(&tls).start().await;
    let ready = async || proxy.admin("/ready").await;
    let refused = ready().await;
    assert_eq!(refused.status, 503);
    let why = format!("cannot use {}: there is no private key in it", key.display());
    assert!(refused.text().contains(&why), "{}", refused.text());
    let page: serde_json::Value = serde_json::from_slice(&proxy.admin("/certs").await.body).unwrap();
    assert!(page["unusable"][0].as_str().unwrap().starts_with(&why), "{page:#}");
    assert_eq!(proxy.sum("outrigger_certificates_unusable", &[]).await, 1.0);
    let anybody = proxy.agent("GET", "/healthz/ready").await;
    assert_eq!(anybody.status, 503);
    assert!(!anybody.text().contains("server.key"), "{}", anybody.text());
    assert!(asked(inbound(&proxy), certs::client(None, &[])).await.is_none());
    let mut plain = Socket::connect(inbound(&proxy)).await;
    plain.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert_eq!(plain.rest().await, "");
    assert_eq!(origin.hits(), 0);

    std::fs::write(&key, &good).unwrap();
    eventually("readiness", async || (ready().await.status == 200).then_some(())).await;
    assert!(asked(inbound(&proxy), certs::client(None, &[])).await.is_some());
    assert_eq!(proxy.sum("outrigger_certificates_unusable", &[]).await, 0.0);
    // What was good once stays.
    std::fs::write(&key, "no key").unwrap();
    proxy.metric("outrigger_certificates_rejected", &[], 2.0).await;
    assert!(asked(inbound(&proxy), certs::client(None, &[])).await.is_some());
    assert_eq!(ready().await.status, 200);
}

#[tokio::test]
async fn a_port_s_certificate_rotates_without_a_failed_request() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let origin = Origin::http1(|_| Reply::text("hello")).await;
    let tls = format!("mode: SIMPLE, {}", files(folder.path(), &authority));
    let proxy = Mesh::new().ingress(PORT, "HTTPS", origin.address()).ingress_tls(&tls).start().await;
    for round in 0..20 {
        let fresh = site(&authority);
        fresh.files(folder.path(), "server");
        eventually("the new certificate", async || {
            let stream = shake(inbound(&proxy), certs::client(None, &["http/1.1"])).await.unwrap();
            let shown = stream.get_ref().1.peer_certificates().unwrap().to_vec();
            assert_eq!(http1(stream).await.send(get("web", "/", &[])).await.status, 200, "{round}");
            (shown == fresh.chain).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_port_s_certificate_rotates_while_the_last_clients_leave() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let origin = Origin::http1(|_| Reply::text("hello")).await;
    let tls = format!("mode: SIMPLE, {}", files(folder.path(), &authority));
    let mesh = Mesh::new().ingress(PORT, "HTTPS", origin.address()).ingress_tls(&tls);
    let proxy = mesh.drain(PATIENT).start().await;
    let shake = || shake(inbound(&proxy), certs::client(None, &["http/1.1"]));
    let last = shake().await.unwrap();
    proxy.shut_down();
    let fresh = site(&authority);
    fresh.files(folder.path(), "server");
    eventually("the new certificate", async || {
        let stream = shake().await.unwrap();
        (stream.get_ref().1.peer_certificates().unwrap() == fresh.chain).then_some(())
    })
    .await;
    drop(last);
    proxy.ended().await;
}

#[tokio::test]
async fn a_key_on_one_line_is_refused_and_shown_nowhere() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let origin = Origin::named("hello").await;
    let named = files(folder.path(), &authority);
    let key = folder.path().join("server.key");
    let one_line = std::fs::read_to_string(&key).unwrap().replace('\n', "");
    std::fs::write(&key, &one_line).unwrap();
    let tls = format!("mode: SIMPLE, {named}");
    let proxy = Mesh::new().ingress(PORT, "HTTPS", origin.address()).ingress_tls(&tls).start().await;
    let secret = &one_line[30..60];
    let decimal = secret.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
    for path in ["/ready", "/certs"] {
        let page = proxy.admin(path).await;
        let shown = page.text();
        assert!(shown.contains("server.key"), "{path}: {shown}");
        assert!(!shown.contains(secret) && !shown.contains(&decimal), "{path}: {shown}");
    }
}
