//! A worker on loopback sockets: origins that misbehave on one side, raw and real clients on the other.

mod allocations;
mod bodies;
mod conn;
mod explained;
mod replies;
mod requests;
mod retries;

use std::{
    collections::BTreeMap, net::SocketAddr, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use outrigger_config::{
    format::Format,
    snapshot::{
        AccessLog, Action, Balancer, Carried, Cluster, ClusterId, ClusterRef, DirectResponse, Direction,
        Discovery, Endpoint, Forward, HeaderOps, HostMap, InboundTls, Interception, Limits, Listener,
        Locality, LogEncoding, LogSink, Node, Observation, Origin, PathMatch, PathNormalization, Protocol,
        RetryOn, RetryPolicy, Route, RouteMatch, RouteTable, RouteTableId, Service, Snapshot, Source,
        UpstreamTls, Version, VirtualHost, WeightedCluster,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::spawn_local,
    time::{Instant, timeout},
};

use crate::{
    drain::{Departure, Drain},
    net::listen::{ListenerInfo, Open, Workers, accept, bind},
    serve::serve,
    telemetry::{Bounds, LogQueue, Outbox, Queues, Requests, Shard},
    testing::reserved_address,
    upstream::{ClusterState, Published, Upstreams},
    worker::{Settings, Worker, WorkerStats},
};

/// Far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);
const LOG: &str = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_HOST% %UPSTREAM_CLUSTER% \
    %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_REQUEST_ATTEMPT_COUNT%\n";

/// A worker that serves one listener.
struct Bench {
    address: SocketAddr,
    published: Arc<ArcSwap<Published>>,
    upstreams: Upstreams,
    drain: Drain,
    stats: Arc<WorkerStats>,
    workers: Workers,
    info: Arc<ListenerInfo>,
    log: PathBuf,
    _open: Open,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn start(snapshot: Snapshot) -> Self {
        Self::with_settings(snapshot, Settings::default())
    }

    fn with_settings(mut snapshot: Snapshot, settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        snapshot.outbound.access_logs = [AccessLog {
            to: LogSink::File(log.to_str().unwrap().into()),
            encoding: LogEncoding::Text(Format::parse(LOG).unwrap()),
        }]
        .into();
        let upstreams = Upstreams::new();
        let published = Arc::new(ArcSwap::new(upstreams.publish(Arc::new(snapshot))));
        let (log_queue, writer) = LogQueue::new();
        let ((spans, _), (records, _)) = (Outbox::new(Bounds::default()), Outbox::new(Bounds::default()));
        let queues = Queues { log: log_queue, spans, records, resource: Arc::default() };
        std::thread::spawn(move || writer.run());
        let shard = Shard::new(0, Requests::new(1), queues);
        let (drain, stats) = (Drain::default(), Arc::<WorkerStats>::default());
        let worker = Worker::new(
            Arc::clone(&published),
            shard,
            drain.watch(),
            Arc::default(),
            Arc::clone(&stats),
            settings,
            1,
        );
        let listener = bind("127.0.0.1:0".parse().unwrap(), Interception::None).unwrap();
        let address = listener.local_addr().unwrap();
        let departure = Departure::default();
        let info = ListenerInfo {
            name: "test".into(),
            direction: Direction::Outbound,
            address,
            capture: None,
            departure,
        };
        let (workers, mut lanes) = Workers::new(1, 1000, Arc::default());
        let (open, closed) = oneshot::channel();
        let info = Arc::new(info);
        spawn_local(accept(listener, Arc::new(ArcSwap::new(Arc::clone(&info))), workers.clone(), closed));
        spawn_local(serve(lanes.remove(0), worker));
        Self { address, published, upstreams, drain, stats, workers, info, log, _open: open, _folder: folder }
    }

    fn publish(&self, snapshot: Snapshot) {
        self.published.store(self.upstreams.publish(Arc::new(snapshot)));
    }

    fn cluster(&self, index: u32) -> Arc<ClusterState> {
        Arc::clone(self.published.load().cluster(ClusterId(index)))
    }

    /// The first `count` lines of the access log.
    async fn log(&self, count: usize) -> Vec<String> {
        eventually(|| {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = text.lines().map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        })
        .await
    }

    async fn client(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// Sends raw bytes on a new connection and reads until the proxy closes it.
    async fn raw(&self, request: &str) -> String {
        let mut client = self.client().await;
        client.send(request).await;
        client.rest().await
    }

    /// One request with `connection: close`.
    async fn get(&self, path: &str, headers: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n")).await
    }

    async fn http2(&self) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
        self.http2_of().await
    }

    async fn http2_of<B>(&self) -> hyper::client::conn::http2::SendRequest<B>
    where
        B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
            + Unpin
            + 'static,
    {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(LocalExecutor, TokioIo::new(stream)).await.unwrap();
        spawn_local(connection);
        sender
    }
}

/// A raw client connection.
struct Client(TcpStream);

impl Client {
    async fn send(&mut self, bytes: &str) {
        self.0.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// Reads until the text holds `end`.
    async fn until(&mut self, end: &str) -> String {
        read_until(&mut self.0, end).await
    }

    /// Reads until the proxy closes.
    async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        // A reset shows what came before it.
        let _ = timeout(PATIENCE, self.0.read_to_end(&mut bytes)).await.expect("the proxy closes");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    try_read_until(stream, end).await.unwrap_or_else(|text| panic!("closed after {text:?}"))
}

/// What came is an error if the peer closes before the text holds `end`.
async fn try_read_until(stream: &mut TcpStream, end: &str) -> Result<String, String> {
    let mut text = String::new();
    while !text.contains(end) {
        let mut buffer = [0; 4096];
        match timeout(PATIENCE, stream.read(&mut buffer)).await.expect("bytes come") {
            Ok(0) | Err(_) => return Err(text),
            Ok(count) => text.push_str(&String::from_utf8_lossy(&buffer[..count])),
        }
    }
    Ok(text)
}

async fn eventually<T>(mut check: impl FnMut() -> Option<T>) -> T {
    timeout(PATIENCE, async {
        loop {
            if let Some(found) = check() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .expect("the condition holds in time")
}

/// An origin that speaks raw bytes: for connection number `n` it reads a request head, writes what `answer` yields,
/// and closes, or stays open if the text ends in `~`.
async fn raw_origin(mut answer: impl FnMut(usize, String) -> String + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        let mut open = Vec::new();
        let mut numbers = 0..;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // A try may be over before its head was sent, or before its answer is.
            let Ok(head) = try_read_until(&mut stream, "\r\n\r\n").await else { continue };
            let text = answer(numbers.next().unwrap(), head);
            let sent = stream.write_all(text.trim_end_matches('~').as_bytes()).await;
            if sent.is_ok() && text.ends_with('~') {
                open.push(stream);
            }
        }
    });
    address
}

/// An origin that answers by a closure on whole requests, over HTTP/1 or HTTP/2.
async fn origin<F>(http2: bool, answer: impl FnMut(Request<Bytes>) -> F + Clone + 'static) -> SocketAddr
where
    F: Future<Output = Response<TestBody>> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let mut answer = answer.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let body = whole(body).await;
                    std::io::Result::Ok(answer(Request::from_parts(head, body)).await)
                }
            });
            if http2 {
                let connection = hyper::server::conn::http2::Builder::new(LocalExecutor);
                spawn_local(connection.serve_connection(TokioIo::new(stream), service));
            } else {
                let connection = hyper::server::conn::http1::Builder::new();
                spawn_local(connection.serve_connection(TokioIo::new(stream), service));
            }
        }
    });
    address
}

type TestBody = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

fn text(text: &str) -> TestBody {
    Full::new(Bytes::copy_from_slice(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
}

/// A body with its trailers; a cut one is what it is up to the cut.
async fn whole_with_trailers<B>(body: B) -> Result<(Bytes, Option<http::HeaderMap>), B::Error>
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let mut body = std::pin::pin!(body);
    let (mut bytes, mut trailers) = (Vec::new(), None);
    while let Some(frame) = timeout(PATIENCE, body.as_mut().frame()).await.expect("the body goes on") {
        match frame?.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((bytes.into(), trailers))
}

async fn whole(body: Incoming) -> Bytes {
    whole_with_trailers(Limited::new(body, 1 << 26)).await.unwrap_or_default().0
}

#[derive(Debug, Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

fn made_here() -> Origin {
    Origin { resource: "test".into(), file: "test.yaml".into(), line: 1 }
}

/// A cluster over `addresses`, round robin.
fn cluster(name: &str, protocol: Protocol, addresses: &[SocketAddr]) -> Cluster {
    let endpoint = |address: &SocketAddr| {
        let key = address.to_string().into();
        Arc::new(Endpoint {
            address: *address,
            key,
            hostname: "".into(),
            weight: 1,
            labels: BTreeMap::new(),
            locality: Locality::default(),
            priority: 0,
            mutual: false,
        })
    };
    Cluster {
        name: name.into(),
        service: Service {
            host: name.into(),
            name: name.into(),
            namespace: "default".into(),
            port: 80,
            subset: "".into(),
        },
        discovery: Discovery::Static,
        endpoints: addresses.iter().map(endpoint).collect(),
        localities: None,
        balancer: Balancer::RoundRobin,
        warmup: None,
        limits: Limits::default(),
        retry_budget: None,
        outlier: None,
        panic_threshold: 0,
        tls: UpstreamTls::Off,
        protocol,
        connect_timeout: Duration::from_secs(10),
        idle_timeout: None,
        max_requests_per_connection: None,
        max_connection_duration: None,
        max_concurrent_streams: 1024,
        source: Source::System,
        keepalive: None,
        http2_keepalive: None,
        origin: made_here(),
    }
}

/// Istio's default retry policy.
fn default_retry() -> RetryPolicy {
    RetryPolicy {
        attempts: NonZeroU32::new(2).unwrap(),
        on: RetryOn {
            connect_failure: true,
            refused_stream: true,
            unavailable: true,
            cancelled: true,
            ..RetryOn::default()
        },
        per_try_timeout: None,
        backoff: Duration::from_millis(1),
        avoid_previous_hosts: true,
    }
}

fn weighted(index: u32, weight: u32) -> WeightedCluster {
    WeightedCluster {
        cluster: ClusterRef::Known(ClusterId(index)),
        weight,
        authority: None,
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
    }
}

/// Forwards to cluster 0, without retries.
fn forward() -> Forward {
    Forward::to(ClusterRef::Known(ClusterId(0)))
}

/// An answer without a body.
fn answers(status: StatusCode) -> Action {
    Action::Direct(Box::new(DirectResponse { status, body: Bytes::new() }))
}

fn route(prefix: &str, action: Action) -> Route {
    let when = RouteMatch {
        path: PathMatch::Prefix { value: prefix.into(), ignore_case: false },
        ..RouteMatch::always()
    };
    Route { when, ..Route::always("test", action, made_here()) }
}

/// One listener with these routes for every host.
fn snapshot_of(clusters: Vec<Cluster>, routes: Vec<Route>) -> Snapshot {
    let listener = Listener {
        name: "test".into(),
        bind: "127.0.0.1:0".parse().unwrap(),
        direction: Direction::Outbound,
        tls: InboundTls::Off,
        carried: Carried::Http(RouteTableId(0)),
        origin: made_here(),
    };
    let host = VirtualHost { name: "any:80".into(), routes: routes.into(), origin: made_here() };
    let table = RouteTable {
        name: "80".into(),
        hosts: HostMap { any: Some(0), ..HostMap::default() },
        virtual_hosts: [host].into(),
    };
    Snapshot {
        host_names: Arc::default(),
        version: Version(1),
        node: Node::default(),
        listeners: [listener].into(),
        route_tables: [table].into(),
        clusters: clusters.into_iter().map(Arc::new).collect(),
        outbound: Observation::off(),
        inbound: Observation::off(),
        paths: PathNormalization::Base,
        metrics: None,
    }
}

/// Everything goes to one HTTP/1 cluster by this policy.
fn to(addresses: &[SocketAddr], forward: Forward) -> Snapshot {
    to_protocol(Protocol::Http1, addresses, forward)
}

fn to_protocol(protocol: Protocol, addresses: &[SocketAddr], forward: Forward) -> Snapshot {
    let clusters = vec![cluster("c", protocol, addresses)];
    snapshot_of(clusters, vec![route("/", Action::Forward(Box::new(forward)))])
}
