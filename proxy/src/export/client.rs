//! One try at a receiver: a cluster, a host, a connection of our own pools, the request, its answer.
//!
//! A receiver outside of the registry is a cluster too, made here from what DNS says and known to nobody else.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    io::Write as _,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Full, Limited};
use outrigger_config::snapshot::{
    Balancer, ClientTls, Cluster, Destination, Discovery, Endpoint, Limits, Locality, Origin, OtlpProtocol,
    Protocol, Service, Source, UpstreamTls,
};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    answer::{self, Verdict},
    request,
};
use crate::{
    telemetry::{Signal, Target},
    upstream::{
        Balancers, ClusterState, Host, Outcome, PoolError, Pools, ResetReason, ResponseBody, SendError,
        Upstreams,
    },
};

/// Of an answer; its content is a few bytes.
const MAX_ANSWER: usize = 64 << 10;
/// An address is asked for again after this time, and after a failure.
const DNS_TTL: Duration = Duration::from_secs(30);
const DNS_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Stale connections in a row.
const MAX_RESENDS: usize = 3;

type Body = Full<Bytes>;

/// Shared by all signals.
#[derive(Debug)]
pub(super) struct Client {
    upstreams: Arc<Upstreams>,
    pools: Pools<Body>,
    balancers: Balancers,
    rng: RefCell<SmallRng>,
    outside: RefCell<HashMap<Place, Outside>>,
}

/// Host, port, and how connections are secured.
type Place = (Arc<str>, u16, Option<Arc<ClientTls>>);

fn place(to: &Destination) -> Place {
    (Arc::clone(&to.host), to.port, to.tls.clone())
}

/// A receiver that is no service of the registry.
#[derive(Debug)]
struct Outside {
    cluster: Arc<ClusterState>,
    /// Asked for again from then on.
    stale_at: Instant,
}

impl Client {
    pub(super) fn new(upstreams: Arc<Upstreams>) -> Self {
        Self {
            upstreams,
            pools: Pools::new(),
            balancers: Balancers::new(),
            rng: RefCell::new(SmallRng::from_rng(&mut rand::rng())),
            outside: RefCell::default(),
        }
    }

    /// Compresses and frames a message. The error is one of the compressor.
    pub(super) async fn pack(&self, target: &Target, message: Bytes) -> Result<Bytes, String> {
        let to = &*target.destination;
        let message = match to.gzip {
            false => message,
            // Milliseconds for a full batch: off the control thread, which accepts connections.
            true => match tokio::task::spawn_blocking(move || gzip(&message)).await {
                Ok(Ok(compressed)) => compressed,
                Ok(Err(error)) => return Err(error.to_string()),
                Err(error) => return Err(error.to_string()),
            },
        };
        Ok(request::framed(to, message, to.gzip))
    }

    /// Sends a packed message once. What the endpoint is to blame for is reported to outlier detection.
    pub(super) async fn send(
        &self,
        target: &Target,
        signal: Signal,
        body: Bytes,
        deadline: Instant,
    ) -> Verdict {
        let to = &*target.destination;
        let mut request = match request::build(to, signal, body) {
            Ok(request) => request,
            Err(error) => return Verdict::Refused(error.to_string()),
        };
        if matches!(to.protocol, OtlpProtocol::Grpc) {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis().min(99_999_999);
            if let Ok(left) = format!("{left}m").parse() {
                request.headers_mut().insert("grpc-timeout", left);
            }
        }
        self.pools.retire_removed();
        let cluster = match self.cluster(target).await {
            Ok(cluster) => cluster,
            Err(why) => return Verdict::again(why),
        };
        let picked = self.balancers.pick(&cluster, None, &[], &mut self.rng.borrow_mut());
        let Some(host) = picked else { return Verdict::again("no healthy endpoint") };
        let exchange = timeout_at(deadline, self.exchange(&cluster, &host, request, to)).await;
        let late = |_| Err((Some(Outcome::Timeout), format!("no answer in {:?}", to.timeout)));
        let (outcome, verdict) = match exchange.unwrap_or_else(late) {
            Ok(answer) => {
                let (head, trailers, body) = &answer;
                let (status, headers) = (head.status(), head.headers());
                let (grpc, verdict) = match to.protocol {
                    OtlpProtocol::Grpc => {
                        (answer::grpc_code(headers), answer::of_grpc(status, headers, trailers, body))
                    }
                    OtlpProtocol::Http { .. } => (None, answer::of_http(status, headers, body)),
                };
                (Some(Outcome::of_answer(status.as_u16(), grpc)), verdict)
            }
            Err((outcome, why)) => {
                self.forget_address(to);
                (outcome, Verdict::again(format!("{}: {why}", host.endpoint.key)))
            }
        };
        if let Some(outcome) = outcome {
            cluster.report(&host, outcome, Instant::now());
        }
        verdict
    }

    async fn exchange(
        &self,
        cluster: &Arc<ClusterState>,
        host: &Arc<Host>,
        mut request: http::Request<Body>,
        to: &Destination,
    ) -> Result<(Response<()>, HeaderMap, Vec<u8>), (Option<Outcome>, String)> {
        for _ in 0..=MAX_RESENDS {
            let lease =
                self.pools.checkout(cluster, host, request::wire(to), b"").await.map_err(|error| {
                    let outcome = match &error {
                        PoolError::Overflow(_) => None,
                        PoolError::ConnectTimeout => Some(Outcome::ConnectTimeout),
                        PoolError::Connect(_) => Some(Outcome::ConnectFailure),
                        PoolError::Reset(_) => Some(Outcome::Reset),
                    };
                    (outcome, error.to_string())
                })?;
            match lease.send(request).await {
                Ok(sent) => {
                    let (head, body) = sent.response.into_parts();
                    let (trailers, body) = read(body).await.map_err(|why| (Some(Outcome::Reset), why))?;
                    return Ok((Response::from_parts(head, ()), trailers, body));
                }
                Err(SendError::Unsent(back)) => request = *back,
                Err(SendError::Reset(reason)) => {
                    return Err((Some(Outcome::Reset), reason.as_str().to_owned()));
                }
            }
        }
        let reason = ResetReason::ConnectionTermination;
        Err((Some(Outcome::Reset), reason.as_str().to_owned()))
    }

    /// The service's cluster, else one made of what DNS says.
    async fn cluster(&self, target: &Target) -> Result<Arc<ClusterState>, String> {
        let registered = target.cluster.as_ref().and_then(|name| self.upstreams.cluster(name));
        if let Some(cluster) = registered {
            return Ok(cluster);
        }
        let to = &*target.destination;
        let key = place(to);
        let known = self.outside.borrow().get(&key).map(|known| (Arc::clone(&known.cluster), known.stale_at));
        let now = Instant::now();
        if let Some((cluster, stale_at)) = &known
            && *stale_at > now
        {
            return Ok(Arc::clone(cluster));
        }
        let addresses = look_up(&to.host, to.port).await;
        let cluster = match (addresses, known) {
            (Ok(addresses), Some((cluster, _))) => {
                cluster.update(&Arc::new(outside(to, &addresses)), now);
                cluster
            }
            (Ok(addresses), None) => self.upstreams.alone(outside(to, &addresses)),
            // The last good answer goes on.
            (Err(_), Some((cluster, _))) => cluster,
            (Err(why), None) => return Err(why),
        };
        let entry = Outside { cluster: Arc::clone(&cluster), stale_at: now + DNS_TTL };
        self.outside.borrow_mut().insert(key, entry);
        Ok(cluster)
    }

    /// An endpoint failed: the name may mean another one by now.
    fn forget_address(&self, to: &Destination) {
        if let Some(outside) = self.outside.borrow_mut().get_mut(&place(to)) {
            outside.stale_at = Instant::now();
        }
    }
}

async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    match timeout(DNS_TIMEOUT, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(format!("cannot look up `{host}`: {error}")),
        Err(_) => Err(format!("cannot look up `{host}`: no answer in {DNS_TIMEOUT:?}")),
    }
}

fn outside(to: &Destination, addresses: &[SocketAddr]) -> Cluster {
    let endpoint = |address: &SocketAddr| {
        Arc::new(Endpoint {
            address: *address,
            key: address.to_string().into(),
            hostname: "".into(),
            weight: 1,
            labels: BTreeMap::new(),
            locality: Locality::default(),
            priority: 0,
            mutual: false,
        })
    };
    Cluster {
        name: format!("otlp|{}|{}", to.port, to.host).into(),
        service: Service {
            host: Arc::clone(&to.host),
            name: Arc::clone(&to.host),
            namespace: "unknown".into(),
            port: to.port,
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
        tls: to.tls.clone().map_or(UpstreamTls::Off, UpstreamTls::On),
        protocol: Protocol::Http2,
        source: Source::System,
        connect_timeout: CONNECT_TIMEOUT,
        idle_timeout: Some(IDLE_TIMEOUT),
        max_requests_per_connection: None,
        max_connection_duration: None,
        max_concurrent_streams: 100,
        keepalive: None,
        http2_keepalive: None,
        origin: Origin { resource: Arc::clone(&to.name), file: "".into(), line: 0 },
    }
}

async fn read(body: ResponseBody<Body>) -> Result<(HeaderMap, Vec<u8>), String> {
    let mut body = Limited::new(body, MAX_ANSWER);
    let (mut trailers, mut bytes) = (HeaderMap::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| format!("the answer broke off: {error}"))?.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok((trailers, bytes))
}

fn gzip(message: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(message.len() / 3), Compression::new(3));
    encoder.write_all(message)?;
    encoder.finish().map(Bytes::from)
}
