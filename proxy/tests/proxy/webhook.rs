//! The webhook over real TLS: reviews, its certificate and how that is exchanged, and the API server that has to know it.

#![expect(clippy::disallowed_methods, reason = "bodies of our own making have an end")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use outrigger::webhook::{ApiServer, Bound, Certificate, Files, Own, Webhook};
use outrigger_inject::{Format, OnFailure, Options, Verb, change};
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const SERVICE: &str = "outrigger-webhook.outrigger-system.svc";
const DEADLINE: Duration = Duration::from_secs(20);

fn tls(roots: &str) -> TlsConnector {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    TlsConnector::from(Arc::new(config.with_root_certificates(store).with_no_client_auth()))
}

/// Asks as the API server does, trusting `roots`.
async fn ask(
    address: SocketAddr,
    roots: &str,
    method: &str,
    path: &str,
    body: String,
) -> std::io::Result<(StatusCode, String)> {
    let tcp = TcpStream::connect(address).await?;
    let stream = tls(roots).connect(ServerName::try_from(SERVICE).unwrap(), tcp).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    let request = http::Request::builder().method(method).uri(path).header("host", SERVICE);
    let answer = sender
        .send_request(request.body(Full::<bytes::Bytes>::from(body)).unwrap())
        .await
        .map_err(std::io::Error::other)?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec()).unwrap()))
}

/// Tries until the answer is the one that is waited for.
async fn until_ready(address: SocketAddr, roots: impl Fn() -> String) {
    let ready = async {
        loop {
            match ask(address, &roots(), "GET", "/readyz", String::new()).await {
                Ok((StatusCode::OK, _)) => break,
                _ => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(DEADLINE, ready).await.expect("ready in time");
}

fn webhook(certificate: Certificate) -> Webhook {
    Webhook {
        listen: "127.0.0.1:0".parse().unwrap(),
        options: Options { namespace: Some("shop".to_owned()), ..Options::default() },
        on_failure: OnFailure::Allow,
        certificate,
        interval: Duration::from_millis(20),
    }
}

/// Serves until the sender is dropped.
fn serve(bound: Bound) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let address = bound.address;
    let (sender, stop) = oneshot::channel();
    let task = tokio::spawn(bound.serve(async {
        let _ = stop.await;
    }));
    (address, sender, task)
}

/// An authority and certificates by it.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    fn write(&self, files: &Files) {
        let (certificate, key) = self.issue(SERVICE);
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
    }
}

fn files(folder: &Path) -> Files {
    Files { certificate: folder.join("tls.crt"), key: folder.join("tls.key") }
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "app", "image": "a", "livenessProbe": {"httpGet": {"port": 80}}}]},
    })
}

fn review_of(pod: &Value) -> String {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "shop",
            "operation": "CREATE", "object": pod,
        },
    })
    .to_string()
}

#[tokio::test]
async fn a_posted_review_is_answered_by_the_patch_that_makes_what_inject_prints() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let files = files(folder.path());
    authority.write(&files);
    let (address, _stop, _) = serve(webhook(Certificate::Given(files)).bind().await.unwrap());
    let ask = async |method: &str, path: &str, body: String| {
        ask(address, &authority.pem(), method, path, body).await.unwrap()
    };

    let (status, answer) = ask("POST", "/inject", review_of(&pod())).await;
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let patch = STANDARD.decode(answer["response"]["patch"].as_str().unwrap()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut patched = pod();
    json_patch::patch(&mut patched, &patch).unwrap();
    let source = outrigger_config::Source { name: "pod".into(), text: pod().to_string() };
    let printed = change(&[source], Verb::Inject(&Options::default()), Format::Json).unwrap().text;
    assert_eq!(patched, serde_json::from_str::<Value>(&printed).unwrap());
    assert_eq!(patched["spec"]["containers"][0]["livenessProbe"]["httpGet"]["port"], 15020);

    assert_eq!(ask("GET", "/readyz", String::new()).await.0, StatusCode::OK);
    assert_eq!(ask("GET", "/healthz", String::new()).await.0, StatusCode::OK);
    assert_eq!(ask("GET", "/inject", String::new()).await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(ask("GET", "/", String::new()).await.0, StatusCode::NOT_FOUND);
    assert_eq!(ask("POST", "/inject", "{}".to_owned()).await.0, StatusCode::BAD_REQUEST);
    let large = review_of(&json!({"metadata": {"name": "x".repeat(5 << 20)}}));
    let answer = self::ask(address, &authority.pem(), "POST", "/inject", large).await;
    // The answer may cross the rest of the body, and be lost with the connection.
    assert!(answer.is_err() || answer.is_ok_and(|(status, _)| status == StatusCode::PAYLOAD_TOO_LARGE));
}

#[tokio::test]
async fn a_probe_is_answered_while_silent_connections_and_half_a_review_are_open() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let files = files(folder.path());
    authority.write(&files);
    let (address, _stop, _) = serve(webhook(Certificate::Given(files)).bind().await.unwrap());
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut half = tls(&authority.pem()).connect(ServerName::try_from(SERVICE).unwrap(), tcp).await.unwrap();
    half.write_all(b"POST /inject HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{").await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..270 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut ask = async |method: &str, path: &str, body: String| {
        let roots = authority.pem();
        // The half review is given up after a while: whoever waits for it is answered later than it.
        tokio::select! {
            biased;
            answer = timeout(DEADLINE, ask(address, &roots, method, path, body)) => answer.expect("in time").unwrap(),
            ended = half.read_u8() => panic!("the half review ended first: {ended:?}"),
        }
    };
    assert_eq!(ask("GET", "/healthz", String::new()).await.0, StatusCode::OK);
    assert_eq!(ask("POST", "/inject", review_of(&pod())).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_review_of_many_small_values_is_refused_before_it_costs_memory() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let files = files(folder.path());
    authority.write(&files);
    let (address, _stop, _) = serve(webhook(Certificate::Given(files)).bind().await.unwrap());
    let mut many = pod();
    many["x"] = vec![json!({"": 0}); 120_000].into();
    let roots = authority.pem();
    let asked = ask(address, &roots, "POST", "/inject", review_of(&many));
    let (status, answer) = timeout(DEADLINE, asked).await.expect("in time").unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(answer.contains("no sidecar: the review has more than 50000 values"), "{answer}");
}

#[tokio::test]
async fn a_new_certificate_is_shown_and_a_pair_that_does_not_fit_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (Authority::new(), Authority::new());
    let files = files(folder.path());
    first.write(&files);
    let (address, _stop, _) = serve(webhook(Certificate::Given(files.clone())).bind().await.unwrap());
    until_ready(address, || first.pem()).await;
    // Half of a rotation: the old certificate stays.
    std::fs::write(&files.certificate, second.issue(SERVICE).0.pem()).unwrap();
    for _ in 0..5 {
        sleep(Duration::from_millis(20)).await;
        ask(address, &first.pem(), "GET", "/readyz", String::new()).await.unwrap();
    }
    second.write(&files);
    until_ready(address, || second.pem()).await;
    assert!(ask(address, &first.pem(), "GET", "/readyz", String::new()).await.is_err());
}

#[tokio::test]
async fn what_is_under_way_is_answered_after_the_signal() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let files = files(folder.path());
    authority.write(&files);
    let (address, stop, task) = serve(webhook(Certificate::Given(files)).bind().await.unwrap());
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut stream =
        tls(&authority.pem()).connect(ServerName::try_from(SERVICE).unwrap(), tcp).await.unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let body = review_of(&pod());
    let (head, rest) = body.split_at(10);
    let length = body.len();
    let request = format!(
        "POST /inject HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    // hyper asks for the body when the service reads it: the request is under way.
    let mut buffer = [0; 1024];
    let read = stream.read(&mut buffer).await.unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 100 "));
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stop);
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    timeout(DEADLINE, refused).await.expect("no new connections");
    stream.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // The end of a stream without TLS's own farewell is an end too.
    let _ = timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("answered in time");
    assert!(answer.contains("\"patchType\":\"JSONPatch\""), "{answer}");
    timeout(DEADLINE, task).await.expect("ended").unwrap();
}

/// Speaks enough of the API server's protocol for one resource: versions, GET, JSON patches and their tests.
struct Cluster {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    connections: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    configuration: Value,
    /// Written by another client before the next patch arrives.
    interfere: bool,
    /// Patches are forbidden; the last one is kept.
    refuse: bool,
    refused: Value,
    tokens: HashMap<String, usize>,
}

impl Cluster {
    async fn start(authority: &Authority, configuration: Value) -> Self {
        let (certificate, key) = authority.issue("127.0.0.1");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { configuration, ..State::default() }));
        let connections = Arc::new(AtomicUsize::new(0));
        let (shared, accepted) = (Arc::clone(&state), Arc::clone(&connections));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Relaxed);
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        let state = Arc::clone(&state);
                        async move { Ok::<_, std::convert::Infallible>(Self::answer(request, &state).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, state, connections }
    }

    async fn answer(
        request: http::Request<Incoming>,
        state: &Mutex<State>,
    ) -> http::Response<Full<bytes::Bytes>> {
        let path = request.uri().path().to_owned();
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let mut state = state.lock().unwrap();
        let token = parts.headers["authorization"].to_str().unwrap().to_owned();
        *state.tokens.entry(token).or_default() += 1;
        let answer = |status: u16, body: &Value| {
            http::Response::builder().status(status).body(Full::from(body.to_string())).unwrap()
        };
        if path != "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/outrigger-injector" {
            return answer(404, &json!({"kind": "Status", "message": "not found"}));
        }
        if parts.method == http::Method::GET {
            return answer(200, &state.configuration);
        }
        assert_eq!(
            (parts.method.as_str(), &parts.headers["content-type"]),
            ("PATCH", &"application/json-patch+json".parse().unwrap())
        );
        if std::mem::take(&mut state.interfere) {
            state.configuration["metadata"]["resourceVersion"] = "9".into();
        }
        if state.refuse {
            state.refused = serde_json::from_slice(&body).unwrap();
            return answer(403, &json!({"kind": "Status", "message": "forbidden"}));
        }
        let patch: json_patch::Patch = serde_json::from_slice(&body).unwrap();
        let mut changed = state.configuration.clone();
        if let Err(error) = json_patch::patch(&mut changed, &patch) {
            return answer(422, &json!({"kind": "Status", "message": error.to_string()}));
        }
        let version: u32 = changed["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        changed["metadata"]["resourceVersion"] = (version + 1).to_string().into();
        state.configuration = changed;
        answer(200, &state.configuration)
    }

    /// The authorities that each of both webhooks trusts.
    fn bundles(&self) -> [String; 2] {
        let state = self.state.lock().unwrap();
        [0, 1].map(|index| {
            let bundle = state.configuration["webhooks"][index]["clientConfig"]["caBundle"]
                .as_str()
                .unwrap_or_default();
            String::from_utf8(STANDARD.decode(bundle).unwrap()).unwrap()
        })
    }

    fn own(&self, authority: &Authority, folder: &Path, renew_after: Duration) -> Certificate {
        std::fs::write(folder.join("token"), "secret\n").unwrap();
        std::fs::write(folder.join("ca.crt"), authority.pem()).unwrap();
        let api_server = ApiServer {
            host: "127.0.0.1".to_owned(),
            port: self.address.port(),
            service_account: folder.to_owned(),
        };
        Certificate::Own(Own {
            names: vec![SERVICE.to_owned()],
            life: LONG,
            renew_after,
            configuration: "outrigger-injector".to_owned(),
            api_server,
        })
    }
}

fn configuration() -> Value {
    let other = Authority::new().pem();
    json!({
        "metadata": {"name": "outrigger-injector", "resourceVersion": "1"},
        "webhooks": [
            {"name": "a", "clientConfig": {"service": {}}},
            {"name": "b", "clientConfig": {"service": {}, "caBundle": STANDARD.encode(other)}},
        ],
    })
}

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn its_own_certificate_is_trusted_by_the_api_server_before_it_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let cluster = Cluster::start(&authority, configuration()).await;
    let other = cluster.bundles()[1].clone();
    cluster.state.lock().unwrap().interfere = true;
    let certificate = cluster.own(&authority, folder.path(), LONG);
    let (address, _stop, _) = serve(webhook(certificate).bind().await.unwrap());
    until_ready(address, || cluster.bundles()[0].clone()).await;
    let [first, second] = cluster.bundles();
    assert_eq!(first.matches("BEGIN").count(), 1);
    assert_eq!(second.matches("BEGIN").count(), 2, "that of another replica stays");
    assert!(second.starts_with(other.trim_end()));
    assert_eq!(cluster.state.lock().unwrap().tokens.keys().collect::<Vec<_>>(), ["Bearer secret"]);
    // Whatever another writer makes of it, it comes back.
    cluster.state.lock().unwrap().configuration["webhooks"][0]["clientConfig"]["caBundle"] = "".into();
    let back = async {
        while cluster.bundles()[0] != first {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, back).await.expect("it comes back");
}

#[tokio::test]
async fn its_own_certificate_is_renewed_and_every_request_finds_one_that_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let cluster = Cluster::start(&authority, configuration()).await;
    let certificate = cluster.own(&authority, folder.path(), Duration::from_millis(50));
    let (address, _stop, _) = serve(webhook(certificate).bind().await.unwrap());
    until_ready(address, || cluster.bundles()[0].clone()).await;
    let renewed = async {
        loop {
            let trusted = cluster.bundles()[0].clone();
            match ask(address, &trusted, "GET", "/readyz", String::new()).await {
                Ok((status, _)) => assert_eq!(status, StatusCode::OK),
                // The API server would have seen the change by then.
                Err(error) => assert_ne!(cluster.bundles()[0], trusted, "{error}"),
            }
            if trusted.matches("BEGIN").count() > 3 {
                break;
            }
        }
    };
    timeout(DEADLINE, renewed).await.expect("renewed");
}

#[tokio::test]
async fn while_the_api_server_refuses_it_lives_but_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let cluster = Cluster::start(&authority, configuration()).await;
    cluster.state.lock().unwrap().refuse = true;
    let certificate = cluster.own(&authority, folder.path(), LONG);
    let (address, _stop, _) = serve(webhook(certificate).bind().await.unwrap());
    // Its authority is known by the patch that was refused.
    let asked = async {
        loop {
            let patch = cluster.state.lock().unwrap().refused.clone();
            match patch.pointer("/1/value").and_then(Value::as_str) {
                Some(bundle) => break String::from_utf8(STANDARD.decode(bundle).unwrap()).unwrap(),
                None => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let own = timeout(DEADLINE, asked).await.expect("it asks");
    let (status, why) = ask(address, &own, "GET", "/readyz", String::new()).await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{why}");
    assert_eq!(ask(address, &own, "GET", "/healthz", String::new()).await.unwrap().0, StatusCode::OK);
    cluster.state.lock().unwrap().refuse = false;
    until_ready(address, || own.clone()).await;
}

#[tokio::test]
async fn an_api_server_of_another_authority_is_told_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(&Authority::new(), configuration()).await;
    let connections = Arc::clone(&cluster.connections);
    let certificate = cluster.own(&Authority::new(), folder.path(), LONG);
    let (_, _stop, _) = serve(webhook(certificate).bind().await.unwrap());
    let tried = async {
        while connections.load(Relaxed) < 3 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, tried).await.expect("it tries");
    let state = cluster.state.lock().unwrap();
    assert!(state.tokens.is_empty(), "the token went to a stranger");
    assert_eq!(state.configuration["metadata"]["resourceVersion"], "1");
}
