//! A collector, a client and a destination for tests.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use otlp_collector::config::{Environment, Loaded, from_text};
use otlp_collector::{Collector, Running};
use prost::Message;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub(crate) const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// A configuration with one pipeline per signal, to all of the given exporters.
pub(crate) fn yaml(exporters: &[(&str, &str)]) -> String {
    let sections: Vec<String> = exporters.iter().map(|(name, body)| format!("  {name}: {body}\n")).collect();
    let names: Vec<&str> = exporters.iter().map(|(name, _)| *name).collect();
    let ends = format!("{{ receivers: [otlp], exporters: [{}] }}", names.join(", "));
    format!(
        "receivers:\n  otlp: {{ protocols: {{ grpc: {{ endpoint: 127.0.0.1:0, max_recv_msg_size_mib: 1 }}, \
         http: {{ endpoint: 127.0.0.1:0, max_request_body_size: 1048576 }} }} }}\nexporters:\n{}\
         extensions: {{ health_check: {{ endpoint: 127.0.0.1:0 }} }}\nservice:\n  \
         telemetry: {{ metrics: {{ address: 127.0.0.1:0 }} }}\n  \
         shutdown: {{ in_flight_timeout: 2s, flush_timeout: 10s }}\n  \
         pipelines: {{ traces: {ends}, metrics: {ends}, logs: {ends} }}\n",
        sections.concat(),
    )
}

pub(crate) fn load(text: &str) -> Loaded {
    from_text("test.yaml", text, &Environment::new()).unwrap_or_else(|report| panic!("{report}"))
}

pub(crate) async fn start(text: &str) -> Running {
    Collector::start(load(text).config).await.unwrap()
}

/// A request of that many spans; their names are the ledger's ids.
pub(crate) fn spans(prefix: &str, count: usize) -> Vec<u8> {
    let spans =
        (0..count).map(|index| Span { name: format!("{prefix}-{index}"), ..Span::default() }).collect();
    let scope = ScopeSpans { spans, ..ScopeSpans::default() };
    let resource = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The gRPC status, wherever it came.
    pub(crate) fn grpc(&self) -> u32 {
        let value = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"));
        value.unwrap().to_str().unwrap().parse().unwrap()
    }

    /// The `code` of a Status in JSON.
    pub(crate) fn json_code(&self) -> i64 {
        serde_json::from_slice::<serde_json::Value>(&self.body).unwrap()["code"].as_i64().unwrap()
    }
}

/// A client with one connection pool.
#[derive(Clone)]
pub(crate) struct Sender {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
}

impl Sender {
    pub(crate) fn new(address: SocketAddr, http2: bool) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).http2_only(http2).build(connector);
        Self { client, address }
    }

    pub(crate) fn http(running: &Running) -> Self {
        Self::new(running.address("otlp_http").unwrap(), false)
    }

    pub(crate) fn grpc(running: &Running) -> Self {
        Self::new(running.address("otlp_grpc").unwrap(), true)
    }

    /// Sends and reads the whole answer.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        self.exchange(request).await.unwrap()
    }

    /// POST of protobuf that may fail on the way: `None` if there was no answer.
    pub(crate) async fn try_traces(&self, body: &[u8]) -> Option<StatusCode> {
        let request = Request::post(format!("http://{}/v1/traces", self.address))
            .header("content-type", "application/x-protobuf")
            .body(Full::new(Bytes::copy_from_slice(body)))
            .unwrap();
        self.exchange(request).await.map(|answer| answer.status)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Option<Answer> {
        let (parts, body) = self.client.request(request).await.ok()?.into_parts();
        let (body, trailers) = read(body).await;
        Some(Answer { status: parts.status, headers: parts.headers, body, trailers })
    }

    /// POST of protobuf to `/v1/traces`.
    pub(crate) async fn traces(&self, body: &[u8]) -> Answer {
        self.send("POST", "/v1/traces", &[("content-type", "application/x-protobuf")], body).await
    }

    /// POST of JSON to `/v1/traces`.
    pub(crate) async fn json(&self, body: &str) -> Answer {
        self.send("POST", "/v1/traces", &[("content-type", "application/json")], body.as_bytes()).await
    }

    /// A unary call with a message that is not compressed.
    pub(crate) async fn call(&self, path: &str, message: &[u8]) -> Answer {
        self.call_with(path, &[], &frame(0, message)).await
    }

    pub(crate) async fn call_with(&self, path: &str, extra: &[(&str, &str)], body: &[u8]) -> Answer {
        let headers = [&[("content-type", "application/grpc"), ("te", "trailers")], extra].concat();
        self.send("POST", path, &headers, body).await
    }

    /// Makes a call that finds no room, and returns when the collector has it: a later call on the same
    /// connection, which needs no room, has been answered.
    pub(crate) async fn call_that_waits(&self, message: Vec<u8>) -> JoinHandle<u32> {
        let sender = self.clone();
        let mut waiting = Box::pin(async move { sender.call(TRACES, &message).await.grpc() });
        tokio::select! {
            biased;
            code = &mut waiting => panic!("answered at once: {code}"),
            later = self.call(TRACES, b"") => assert_eq!(later.grpc(), 0),
        }
        tokio::spawn(waiting)
    }
}

pub(crate) fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut body = vec![flag];
    body.extend_from_slice(&(message.len() as u32).to_be_bytes());
    body.extend_from_slice(message);
    body
}

async fn read<B>(mut body: B) -> (Bytes, HeaderMap)
where
    B: Body<Data = Bytes, Error = hyper::Error> + Unpin,
{
    let (mut bytes, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame.unwrap().into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap(),
        }
    }
    (bytes.into(), trailers)
}

/// What a destination answers.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    Take,
    /// An HTTP status with headers and a body, for gRPC as well.
    Http(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// A gRPC status with headers.
    Grpc(u32, Vec<(&'static str, String)>),
    /// Success with this message as the response.
    Message(Vec<u8>),
}

type Rule = Arc<dyn Fn(&Received) -> Verdict + Send + Sync>;

/// A request as it arrived, inflated, without the gRPC prefix.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
    pub(crate) at: Instant,
}

impl Received {
    /// The names of the spans in it.
    pub(crate) fn names(&self) -> Vec<String> {
        let request = ExportTraceServiceRequest::decode(self.payload.clone()).unwrap();
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).map(|span| span.name).collect()
    }
}

#[derive(Clone)]
struct State {
    rule: Arc<Mutex<Rule>>,
    attempts: Arc<Mutex<Vec<Received>>>,
    taken: Arc<Mutex<Vec<Received>>>,
}

/// A port that is not given to anybody else while this lives. It refuses connections, but whoever names it can
/// bind beside this and listen, as often as they like.
pub(crate) fn reserved_port() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket
}

/// A destination for OTLP/HTTP and OTLP/gRPC that can be stopped and started again on the same port.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    /// Or a parallel test would get the port of a stopped destination, and answer in its place.
    _port: TcpSocket,
    state: State,
    stop: CancellationToken,
}

impl Backend {
    pub(crate) async fn start() -> Self {
        let rule: Rule = Arc::new(|_| Verdict::Take);
        let state =
            State { rule: Arc::new(Mutex::new(rule)), attempts: Arc::default(), taken: Arc::default() };
        let port = reserved_port();
        let address = port.local_addr().unwrap();
        let mut backend = Self { address, _port: port, state, stop: CancellationToken::new() };
        backend.restart().await;
        backend
    }

    /// Closes the port and every connection.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Listens on the port again.
    pub(crate) async fn restart(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            sleep(Duration::from_millis(10)).await;
        };
        self.serve(listener);
    }

    pub(crate) fn answer(&self, rule: impl Fn(&Received) -> Verdict + Send + Sync + 'static) {
        *self.state.rule.lock().unwrap() = Arc::new(rule);
    }

    /// Every request that arrived, also those that were refused.
    pub(crate) fn attempts(&self) -> Vec<Received> {
        self.state.attempts.lock().unwrap().clone()
    }

    /// Every request that was taken.
    pub(crate) fn taken(&self) -> Vec<Received> {
        self.state.taken.lock().unwrap().clone()
    }

    /// How often each span was taken.
    pub(crate) fn ledger(&self) -> BTreeMap<String, usize> {
        let mut ledger = BTreeMap::new();
        for name in self.taken().iter().flat_map(Received::names) {
            *ledger.entry(name).or_default() += 1;
        }
        ledger
    }

    /// The exporter that sends here, with more settings.
    pub(crate) fn grpc(&self, more: &str) -> String {
        format!("{{ endpoint: \"{}\", tls: {{ insecure: true }}, {FAST} {more} }}", self.address)
    }

    pub(crate) fn http(&self, more: &str) -> String {
        format!("{{ endpoint: \"http://{}\", {FAST} {more} }}", self.address)
    }

    fn serve(&mut self, listener: TcpListener) {
        self.stop = CancellationToken::new();
        let (stop, state) = (self.stop.clone(), self.state.clone());
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = stop.cancelled() => return,
                };
                let (stop, state) = (stop.clone(), state.clone());
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let service = service_fn(move |request| {
                        let state = state.clone();
                        async move { Ok::<_, Infallible>(respond(&state, request).await) }
                    });
                    tokio::select! {
                        _ = builder.serve_connection(TokioIo::new(stream), service) => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
        });
    }
}

/// Retries that do not make a test wait.
const FAST: &str = "retry_on_failure: { initial_interval: 20ms, max_interval: 50ms },";

async fn respond(state: &State, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let (mut payload, _) = read(body).await;
    let is = |name: &str, wanted: &str| parts.headers.get(name).is_some_and(|value| value == wanted);
    let grpc = is("content-type", "application/grpc");
    if grpc {
        payload = payload.slice(5..);
    }
    if is("content-encoding", "gzip") || is("grpc-encoding", "gzip") {
        let mut inflated = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&payload[..]), &mut inflated).unwrap();
        payload = inflated.into();
    }
    let received =
        Received { path: parts.uri.path().to_owned(), headers: parts.headers, payload, at: Instant::now() };
    state.attempts.lock().unwrap().push(received.clone());
    let rule = Arc::clone(&state.rule.lock().unwrap());
    let verdict = rule(&received);
    if matches!(verdict, Verdict::Take | Verdict::Message(_)) {
        state.taken.lock().unwrap().push(received);
    }
    let mut response = Response::builder();
    if grpc {
        response = response.header("content-type", "application/grpc");
    }
    let (response, body) = match verdict {
        Verdict::Take if grpc => (response.header("grpc-status", "0"), frame(0, &[])),
        Verdict::Take => (response, Vec::new()),
        Verdict::Message(message) if grpc => (response.header("grpc-status", "0"), frame(0, &message)),
        Verdict::Message(message) => (response, message),
        Verdict::Grpc(code, headers) => {
            let response = response.header("grpc-status", code.to_string());
            (
                headers.into_iter().fold(response, |response, (name, value)| response.header(name, value)),
                Vec::new(),
            )
        }
        Verdict::Http(status, headers, body) => {
            let response = response.status(status);
            (headers.into_iter().fold(response, |response, (name, value)| response.header(name, value)), body)
        }
    };
    response.body(Full::new(body.into())).unwrap()
}
