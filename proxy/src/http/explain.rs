//! Explains one request: it is made fit to be routed, decided and balanced by the functions of the request path, and
//! nothing is sent. Where the listener carries raw connections, it is one of those that is explained.
//!
//! What a raw head is refused for (`net::head`) is not looked at: the question is a request that was parsed already.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header::HOST};
use outrigger_config::{
    decide::Peers,
    explain::{ConnectionExplanation, Explanation, Pick, Picked, Split, Standing, explain_connection},
    snapshot::{Balancer, Cluster, ClusterRef, Direction, Discovery, Listener, Snapshot},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Target,
    headers::is_grpc,
    limits,
    reply::{Failure, Reply},
    request_id, timeout, trace,
};
use crate::upstream::{Balancers, ClusterState, Host, Published};

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) method: Method,
    /// `http://host:port/path`; the port chooses the listener.
    pub(crate) url: Uri,
    /// `Host` among them wins over the URL's.
    pub(crate) headers: HeaderMap,
    pub(crate) http2: bool,
    /// The client's end of the connection.
    pub(crate) client: SocketAddr,
    /// The listener by its name, in the place of the port.
    pub(crate) listener: Option<String>,
    /// All that is random follows from it, as for the first request of a worker with this seed. Without it, whatever is
    /// left to chance stays open.
    pub(crate) seed: Option<u64>,
}

/// The way of a request.
#[derive(Debug)]
pub(crate) enum Explained<'p> {
    /// It is answered before it is routed.
    Refused { status: StatusCode, flag: Option<&'static str>, details: String },
    /// It is routed.
    Decided(Box<Explanation<'p>>),
    /// The listener carries raw connections.
    Connection(Box<ConnectionExplanation<'p>>),
}

/// A question that cannot be read, or that no listener would hear.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswerable {
    #[error("`{0}` is no request: write `METHOD http://host:port/path`, or the URL alone for GET")]
    NoRequest(String),
    #[error("`{0}` is no header: write `name: value`")]
    NoHeader(String),
    #[error("`{0}` has no host: write `http://host:port/path`")]
    NoHost(Uri),
    #[error(
        "listeners speak plain HTTP: write `http://`, and the header `x-forwarded-proto: https` where the client said so"
    )]
    NotHttp,
    #[error("no listener has port {port}; {known}")]
    NoPort { port: u16, known: String },
    #[error("no listener is called `{name}`; {known}")]
    NoName { name: String, known: String },
    #[error("several listeners have port {port}; {known}: name one of them")]
    Several { port: u16, known: String },
}

impl Question {
    /// Reads `POST http://host:port/path`, or the URL alone, and lines `name: value`.
    pub(crate) fn read<'t>(
        request: &str,
        lines: impl IntoIterator<Item = &'t str>,
    ) -> Result<Self, Unanswerable> {
        let no_request = || Unanswerable::NoRequest(request.to_owned());
        let words: Vec<&str> = request.split_whitespace().collect();
        let (method, url) = match *words {
            [url] => ("GET", url),
            [method, url] => (method, url),
            _ => return Err(no_request()),
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = header(line).ok_or_else(|| Unanswerable::NoHeader(line.to_owned()))?;
            headers.append(name, value);
        }
        Ok(Self {
            method: method.parse().map_err(|_| no_request())?,
            url: url.parse().map_err(|_| no_request())?,
            headers,
            http2: false,
            client: CLIENT,
            listener: None,
            seed: None,
        })
    }
}

/// A client on this machine.
pub(crate) const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50_000);

fn header(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
}

/// Explains. `bound` is where the listeners of a running proxy are bound, by their names: a port of the URL may be the
/// configured or the bound one. Without a proxy that runs no name was looked up, and no endpoint is chosen among those of
/// a cluster with names.
pub(crate) fn explain<'p>(
    published: &'p Published,
    bound: Option<&[(Arc<str>, SocketAddr)]>,
    question: &Question,
) -> Result<Explained<'p>, Unanswerable> {
    let snapshot = &*published.snapshot;
    let (runs, bound) = (bound.is_some(), bound.unwrap_or_default());
    let known = |cluster: &Cluster| runs || !matches!(cluster.discovery, Discovery::Dns(_));
    let listener = listener(snapshot, bound, question);
    // What is captured goes on to where it was going, unless a cluster says otherwise.
    let original =
        |listener: &Listener| listener.captured().map(|_| destination(snapshot, listener, &question.url));
    let local = |listener: &Listener| match original(listener) {
        Some(destination) => destination,
        None => bound.iter().find(|(name, _)| *name == listener.name).map_or(listener.bind, |(_, at)| *at),
    };
    if let Ok(listener) = &listener
        && let Some(connection) = connection(published, listener, local(listener), known, question)
    {
        return Ok(Explained::Connection(Box::new(connection)));
    }
    let (mut parts, ()) = request(question)?.into_parts();
    let listener = listener?;
    let target =
        limits::check(&parts).and_then(|authority| Target::of(&mut parts, authority, snapshot.paths, None));
    let target = match target {
        Ok(target) => target,
        Err(failure) => return Ok(Explained::refused(&failure)),
    };
    // In the order of the request path, so that the same seed yields the same draws.
    let mut rng = SmallRng::seed_from_u64(question.seed.unwrap_or_default());
    request_id::ensure(&mut parts.headers, &mut rng);
    trace::begin(&snapshot.observation(listener.direction).tracing, &mut parts.headers, &mut rng);
    let peers = Peers { remote: question.client, local: local(listener) };
    let seeded = question.seed.is_some();
    let mut draws = || rng.next_u64();
    let draws = seeded.then_some(&mut draws as &mut dyn FnMut() -> u64);
    let explained =
        outrigger_config::explain::explain(snapshot, listener, &target.view(&parts), peers, draws);
    let mut explanation = explained.ok_or(Unanswerable::NotHttp)?;
    if let Some(forward) = explanation.forward_mut() {
        let limits = timeout::limits(forward.forward, &parts.headers, is_grpc(&parts.headers));
        (forward.timeout, forward.per_try_timeout) = (limits.overall, limits.per_try);
        let asked = Asked { key: forward.key, original: original(listener), seeded };
        picks(published, &mut forward.split, &asked, known, &mut rng);
    }
    Ok(Explained::Decided(Box::new(explanation)))
}

impl Explained<'_> {
    fn refused(failure: &Failure) -> Self {
        let reply = Reply::to(failure, false);
        Self::Refused {
            status: reply.status,
            flag: reply.flag.map(|flag| flag.as_str()),
            details: reply.details.as_str().to_owned(),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Refused { status, flag, details } => json!({
                "outcome": {
                    "text": self.to_string().trim_end(),
                    "status": status.as_u16(),
                    "flag": flag,
                    "details": details,
                }
            }),
            Self::Decided(explanation) => explanation.to_json(),
            Self::Connection(explanation) => explanation.to_json(),
        }
    }
}

impl std::fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { status, flag, details } => {
                let flag = flag.map(|flag| format!(", flag {flag}")).unwrap_or_default();
                writeln!(f, "{}{flag}: refused before it is routed ({details})", status.as_u16())
            }
            Self::Decided(explanation) => explanation.fmt(f),
            Self::Connection(explanation) => explanation.fmt(f),
        }
    }
}

/// Where a client with this URL goes: its host, or the address that the service of this name has on the port. Any other
/// name stands for an address that no service has.
fn destination(snapshot: &Snapshot, listener: &Listener, url: &Uri) -> SocketAddr {
    let port = port_of(url);
    let host = url.host().unwrap_or_default();
    let written = host.trim_matches(['[', ']']).parse();
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let of_service = || {
        let table = &snapshot[listener.requests_to(any)?];
        let index = table.hosts.exact.get(&*host.to_ascii_lowercase())?;
        let mut addresses: Vec<IpAddr> = table
            .hosts
            .exact
            .iter()
            .filter(|(_, other)| *other == index)
            .filter_map(|(name, _)| name.trim_matches(['[', ']']).parse().ok())
            .collect();
        addresses.sort_unstable();
        addresses.first().copied()
    };
    let ip = written.ok().or_else(of_service);
    ip.map_or(any, |ip| SocketAddr::new(ip, port))
}

/// Of the URL, or its scheme's own.
fn port_of(url: &Uri) -> u16 {
    let default = if url.scheme_str() == Some("https") { 443 } else { 80 };
    url.port_u16().unwrap_or(default)
}

/// `None` where the listener carries requests. The name of a URL with TLS is the server name of the hello, as a client
/// would send it: an address is none.
fn connection<'p>(
    published: &'p Published,
    listener: &'p Listener,
    local: SocketAddr,
    known: impl Fn(&Cluster) -> bool,
    question: &Question,
) -> Option<ConnectionExplanation<'p>> {
    let scheme = question.url.scheme_str();
    // Where the first bytes tell, a URL of HTTP has those of a request.
    if scheme == Some("http") && listener.requests_to(local).is_some() {
        return None;
    }
    let encrypted = matches!(scheme, Some("https" | "tls"));
    let name = question.url.host().filter(|_| encrypted);
    let is_address = |name: &str| name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let name = name.filter(|name| !is_address(name));
    let mut rng = SmallRng::seed_from_u64(question.seed.unwrap_or_default());
    let seeded = question.seed.is_some();
    let mut draws = || rng.next_u64();
    let draws = seeded.then_some(&mut draws as &mut dyn FnMut() -> u64);
    let peers = Peers { remote: question.client, local };
    let mut explanation = explain_connection(&published.snapshot, listener, name, peers, draws)?;
    let original = listener.captured().map(|_| local);
    let asked = Asked { key: explanation.key, original, seeded };
    picks(published, &mut explanation.split, &asked, known, &mut rng);
    Some(explanation)
}

fn listener<'s>(
    snapshot: &'s Snapshot,
    bound: &[(Arc<str>, SocketAddr)],
    question: &Question,
) -> Result<&'s Listener, Unanswerable> {
    let known = || {
        let list: Vec<_> =
            snapshot.listeners.iter().map(|l| format!("{} (port {})", l.name, l.bind.port())).collect();
        if list.is_empty() {
            "there is none at all: write a Sidecar, or pass `--interception-mode REDIRECT`".to_owned()
        } else {
            format!("there are {}", list.join(", "))
        }
    };
    if let Some(name) = &question.listener {
        let found = snapshot.listeners.iter().find(|listener| *listener.name == **name);
        return found.ok_or_else(|| Unanswerable::NoName { name: name.clone(), known: known() });
    }
    let port = port_of(&question.url);
    let has_port = |listener: &&Listener| {
        let elsewhere = bound.iter().any(|(name, at)| *name == listener.name && at.port() == port);
        listener.bind.port() == port || elsewhere
    };
    let captures =
        |listener: &&Listener| listener.captured().is_some() && listener.direction == Direction::Outbound;
    let mut found = snapshot.listeners.iter().filter(has_port);
    match (found.next(), found.next()) {
        // What no explicit listener is asked for is captured.
        (None, _) => {
            let captured = snapshot.listeners.iter().find(captures);
            captured.ok_or_else(|| Unanswerable::NoPort { port, known: known() })
        }
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => Err(Unanswerable::Several { port, known: known() }),
    }
}

/// The request as the connection would have parsed it.
fn request(question: &Question) -> Result<Request<()>, Unanswerable> {
    let no_host = || Unanswerable::NoHost(question.url.clone());
    match question.url.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(Unanswerable::NotHttp),
        _ => return Err(no_host()),
    }
    let authority = question.url.authority().ok_or_else(no_host)?;
    let mut headers = question.headers.clone();
    let written = authority.as_str().parse().map_err(|_| no_host())?;
    let mut request = Request::new(());
    *request.method_mut() = question.method.clone();
    if question.http2 {
        let mut url = question.url.clone().into_parts();
        if let Some(host) = headers.remove(HOST) {
            url.authority = Some(host.as_bytes().try_into().map_err(|_| no_host())?);
        }
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(url).map_err(|_| no_host())?;
    } else {
        headers.entry(HOST).or_insert(written);
        *request.uri_mut() = question.url.path_and_query().cloned().map(Uri::from).unwrap_or_default();
    }
    *request.headers_mut() = headers;
    Ok(request)
}

/// The endpoint of the destination that is taken, or of every one while that is open.
fn picks(
    published: &Published,
    split: &mut Split<'_>,
    asked: &Asked,
    known: impl Fn(&Cluster) -> bool,
    rng: &mut SmallRng,
) {
    for bucket in split.possible_mut() {
        if let ClusterRef::Known(id) = bucket.cluster
            && known(&published.snapshot[*id])
        {
            bucket.pick = Some(pick(published.cluster(*id), asked, rng));
        }
    }
}

/// By what an endpoint is chosen.
struct Asked {
    key: Option<u64>,
    original: Option<SocketAddr>,
    seeded: bool,
}

fn pick(cluster: &Arc<ClusterState>, asked: &Asked, rng: &mut SmallRng) -> Pick {
    if let Some(original) = asked.original.filter(|_| cluster.is_original()) {
        // A name alone does not say what address a client had for it.
        let picked = match original.ip().is_unspecified() {
            true => Picked::Open,
            false => Picked::One(original.to_string().into()),
        };
        return Pick { picked, how: "where the client was going", panic: false, endpoints: Vec::new() };
    }
    let (key, seeded) = (asked.key, asked.seeded);
    let set = cluster.hosts();
    let (how, by_key) = match (&cluster.config().balancer, key) {
        (Balancer::RoundRobin, _) => ("round robin", false),
        (Balancer::LeastRequest, _) => ("least request", false),
        (Balancer::Random, _) => ("chance", false),
        (Balancer::RingHash { .. }, Some(_)) => ("ring hash", true),
        (Balancer::RingHash { .. }, None) => ("ring hash without a key, so by chance", false),
        (Balancer::Maglev { .. }, Some(_)) => ("Maglev", true),
        (Balancer::Maglev { .. }, None) => ("Maglev without a key, so by chance", false),
    };
    let mut panic = set.groups.iter().any(|group| group.panic);
    let picked = if seeded || by_key || set.takers() <= 1 {
        let chosen = Balancers::new().choose(cluster, &set, key, &[], rng);
        chosen.map_or(Picked::Nobody, |(group, host)| {
            panic = group.panic;
            Picked::One(Arc::clone(&host.endpoint.key))
        })
    } else {
        Picked::Open
    };
    let endpoints = set.all.iter().map(|host| standing(host)).collect();
    Pick { picked, how, panic, endpoints }
}

fn standing(host: &Host) -> Standing {
    let ejected = host.ejection().now.map(|ejection| {
        let left = ejection.until.saturating_duration_since(Instant::now());
        format!("{}, for {:.1} s at least", ejection.reason.as_str(), left.as_secs_f64())
    });
    Standing {
        address: Arc::clone(&host.endpoint.key),
        weight: host.endpoint.weight,
        active: host.active(),
        ejected,
    }
}
