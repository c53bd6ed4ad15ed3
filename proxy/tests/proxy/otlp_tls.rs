//! Telemetry that leaves over TLS: to a receiver of `https`, and to a service that a rule secures.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use outrigger::export::{Batching, Otel};
use outrigger_config::snapshot::{
    ClientTls, Credentials, Destination, Identity, KeyFiles, OtlpProtocol, ServerName, TelemetryDefaults,
    Trust,
};

use crate::support::{
    certs::{self, Authority, Shows, address, dns, workload},
    mesh::{Mesh, Proxy, destination_rule},
    origin::{Origin, Reply},
    secure::Front,
};

/// A receiver behind TLS with a certificate for 127.0.0.1 and the service `otel`.
async fn front(authority: &Authority, receiver: &Origin, asks: bool, protocol: &str) -> Front {
    let mut params = workload("spiffe://cluster.local/ns/default/sa/otel");
    let names = [dns("otel.default.svc.cluster.local"), address([127, 0, 0, 1].into())];
    params.subject_alt_names = names.to_vec();
    let shows = Shows::new(&authority.issue(&params));
    Front::before(receiver.address(), certs::server(shows, asks.then_some(authority), &[protocol])).await
}

struct Files {
    folder: tempfile::TempDir,
    roots: PathBuf,
}

impl Files {
    fn of(authority: &Authority) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let roots = folder.path().join("ca.pem");
        std::fs::write(&roots, authority.pem()).unwrap();
        Self { folder, roots }
    }

    fn tls(&self, identity: Identity) -> ClientTls {
        let trust = Trust::File(self.roots.display().to_string().into());
        let credentials = Credentials { identity, trust, names: Box::default(), revoked: None };
        ClientTls { credentials, server_name: ServerName::Is("127.0.0.1".into()) }
    }
}

/// As the environment names it: every span, and soon. What is not believed is tried for the whole `timeout`.
fn spans_to(front: SocketAddr, protocol: OtlpProtocol, tls: ClientTls, timeout: Duration) -> Otel {
    let traces = Destination {
        name: "OTEL_EXPORTER_OTLP_ENDPOINT".into(),
        host: front.ip().to_string().into(),
        port: front.port(),
        tls: Some(Arc::new(tls)),
        cluster: None,
        protocol,
        headers: http::HeaderMap::new(),
        timeout,
        gzip: false,
        semantic_service_name: false,
    };
    let defaults =
        TelemetryDefaults { traces: Some(traces), sampling: Some(10_000), ..TelemetryDefaults::default() };
    let spans = Batching { delay: Duration::from_millis(10), ..Batching::default() };
    Otel { defaults, spans, ..Otel::default() }
}

/// Three requests, and how many spans were exported and lost when all is done.
async fn exported(proxy: &Proxy) -> (f64, f64) {
    for _ in 0..3 {
        assert_eq!(proxy.get("web", "/").await.status, 200);
    }
    let traces = "signal=\"traces\"";
    proxy.metric("outrigger_otlp_produced", &[traces], 3.0).await;
    proxy.metric("outrigger_otlp_queued", &[traces], 0.0).await;
    let exported = proxy.sum("outrigger_otlp_exported", &[traces]).await;
    (exported, proxy.sum("outrigger_otlp_dropped", &[traces]).await)
}

#[tokio::test]
async fn a_receiver_of_https_is_verified_and_shown_a_certificate() {
    let authority = Authority::new();
    let (web, receiver) = (Origin::named("web").await, Origin::h2c(|_| Reply::grpc_status(0)).await);
    let front = front(&authority, &receiver, true, "h2").await;
    let files = Files::of(&authority);
    let pair = authority.workload("spiffe://cluster.local/ns/shop/sa/client");
    let [chain, key] = pair.files(files.folder.path(), "client");
    let [certificates, key] = [chain, key].map(|path| path.display().to_string().into());
    let tls = files.tls(Identity::Files(KeyFiles { certificates, key }));
    let otel = spans_to(front.address(), OtlpProtocol::Grpc, tls, Duration::from_secs(10));
    let proxy = Mesh::web(&web).otel(otel).start().await;
    assert_eq!(exported(&proxy).await, (3.0, 0.0));
    let agreed = front.agreed();
    assert_eq!(agreed[0].protocol.as_deref(), Some("h2"));
    assert_eq!(agreed[0].certificate.as_deref(), Some(&*pair.chain[0]));
    assert_eq!(agreed.len(), 1, "one connection for all");
}

#[tokio::test]
async fn protobuf_over_http_leaves_by_https_too() {
    let authority = Authority::new();
    let (web, receiver) = (Origin::named("web").await, Origin::http1(|_| Reply::status(200)).await);
    let front = front(&authority, &receiver, false, "http/1.1").await;
    let files = Files::of(&authority);
    let protocol = OtlpProtocol::Http { path: http::uri::PathAndQuery::from_static("/v1/traces") };
    let tls = files.tls(Identity::Anonymous);
    let otel = spans_to(front.address(), protocol, tls, Duration::from_secs(10));
    let proxy = Mesh::web(&web).otel(otel).start().await;
    assert_eq!(exported(&proxy).await, (3.0, 0.0));
    assert_eq!(receiver.requests()[0].target, "/v1/traces");
    assert_eq!(front.agreed()[0].protocol.as_deref(), Some("http/1.1"));
}

#[tokio::test]
async fn a_receiver_that_is_not_believed_gets_nothing_and_requests_go_on() {
    let authority = Authority::new();
    let (web, receiver) = (Origin::named("web").await, Origin::h2c(|_| Reply::grpc_status(0)).await);
    let front = front(&authority, &receiver, false, "h2").await;
    let other = Files::of(&Authority::new());
    let spans = || {
        let tls = other.tls(Identity::Anonymous);
        spans_to(front.address(), OtlpProtocol::Grpc, tls, Duration::from_secs(1))
    };
    let proxy = Mesh::web(&web).otel(spans()).start().await;
    assert_eq!(exported(&proxy).await, (0.0, 3.0));
    assert_eq!((receiver.hits(), front.agreed().len()), (0, 0));
    // Nor is one by the roots that are not there.
    std::fs::remove_file(&other.roots).unwrap();
    let proxy = Mesh::web(&web).otel(spans()).start().await;
    assert_eq!(exported(&proxy).await, (0.0, 3.0));
    assert_eq!((receiver.hits(), front.agreed().len()), (0, 0));
}

#[tokio::test]
async fn a_receiver_of_the_mesh_is_secured_as_its_rule_says() {
    let authority = Authority::new();
    let (web, receiver) = (Origin::named("web").await, Origin::h2c(|_| Reply::grpc_status(0)).await);
    let front = front(&authority, &receiver, false, "h2").await;
    let files = Files::of(&authority);
    let settings = "defaultConfig: { tracing: { sampling: 100 } }\nextensionProviders:\n\
        - name: otel\n  opentelemetry: { service: otel.default.svc.cluster.local, port: 9090 }\n\
        defaultProviders: { tracing: [otel] }";
    let rule = format!("tls: {{ mode: SIMPLE, caCertificates: {} }}", files.roots.display());
    let mesh = Mesh::web(&web).grpc("otel", &[(front.address(), "v1")]).settings(settings);
    let spans = Batching { delay: Duration::from_millis(10), ..Batching::default() };
    let mesh = mesh.rules(destination_rule("otel", &rule)).otel(Otel { spans, ..Otel::default() });
    let proxy = mesh.start().await;
    assert_eq!(exported(&proxy).await, (3.0, 0.0));
    let name = front.agreed().swap_remove(0).server_name;
    assert_eq!(name.as_deref(), Some("otel.default.svc.cluster.local"));
}
