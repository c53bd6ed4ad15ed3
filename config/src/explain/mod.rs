//! Why a request goes where it goes: the decision again, with words.
//!
//! Every step asks the function of [`decide`](crate::decide) that the data path asks, and only writes down what it said.
//! Pure as that is: what is drawn is an argument, and the endpoint is filled in by whoever has the balancers.

mod connection;
mod json;
mod split;
mod text;
mod tls;
mod trace;
mod words;

pub use connection::{ConnectionExplanation, explain_connection};
pub use split::{Bucket, Split};
pub use trace::{
    ActionTrace, Asked, Check, CorsTrace, Explanation, FaultTrace, ForwardTrace, HashTrace, HostTrace,
    MirrorTrace, Pick, Picked, Place, RouteTrace, Standing, Taken, Verdict,
};

use crate::{
    decide::{
        Domain, Peers, RequestView, combined, cross_origin, location, policy_hash, rewritten, split,
        without_port,
    },
    snapshot::{
        Action, ClusterRef, Cors, Direction, Fault, Forward, Listener, Mirror, Route, RouteTable, Share,
        Snapshot,
    },
};

/// Where draws come from; without one, whatever is left to chance stays open.
pub type Draws<'d> = Option<&'d mut dyn FnMut() -> u64>;

/// Decides, and says why. It draws as the data path does: first for a split by weight, then for a delay, for an abort, and
/// once for all mirrors. `None` if the listener carries raw connections.
#[must_use]
pub fn explain<'s>(
    snapshot: &'s Snapshot,
    listener: &'s Listener,
    request: &RequestView<'_>,
    peers: Peers,
    mut draws: Draws<'_>,
) -> Option<Explanation<'s>> {
    let table = &snapshot[listener.requests_to(peers.local)?];
    let host = table.hosts.find_domain(request.authority).and_then(|(domain, index)| {
        Some(HostTrace { virtual_host: table.virtual_hosts.get(index as usize)?, domain })
    });
    let unknown = host.is_none_or(|host| host.domain == Domain::Any);
    let hints = if unknown && listener.direction == Direction::Outbound {
        hints(snapshot, listener, table, request.authority)
    } else {
        Vec::new()
    };
    let mut passed = Vec::new();
    let mut taken = None;
    for route in host.iter().flat_map(|host| &*host.virtual_host.routes) {
        let trace = judged(route, request);
        if trace.checks.last().is_none_or(|check| check.holds) {
            taken = Some(trace);
            break;
        }
        passed.push(trace);
    }
    let taken = taken.map(|trace| {
        // In the order of the draws.
        let action = match &trace.route.action {
            Action::Direct(response) => ActionTrace::Direct(response),
            Action::Redirect(redirect) => {
                ActionTrace::Redirect { redirect, location: location(request, Some(redirect)) }
            }
            Action::Forward(forward) => {
                ActionTrace::Forward(Box::new(forwarded(snapshot, forward, request, peers, &mut draws)))
            }
        };
        // Both stand before the router, and do nothing where the route itself answers.
        let forwards = matches!(action, ActionTrace::Forward(_));
        let fault = trace.route.fault.as_deref().filter(|_| forwards);
        let fault = fault.map(|fault| faults(fault, &mut draws)).unwrap_or_default();
        let cors = trace.route.cors.as_deref().filter(|_| forwards);
        let cors = cors.map(|cors| judged_origin(cors, request));
        let mut taken = Taken { trace, fault, cors, action };
        if let ActionTrace::Forward(trace) = &mut taken.action {
            trace.mirrors = mirrors(snapshot, trace.forward, &mut draws);
        }
        taken
    });
    let asked = Asked {
        method: request.method.to_string(),
        scheme: request.scheme.to_owned(),
        authority: request.authority.to_owned(),
        path: request.path_and_query.to_owned(),
    };
    let tls = listener.tls_to(peers.local);
    Some(Explanation { listener, tls, asked, host, hints, passed, taken })
}

/// The conditions up to the first that fails.
fn judged<'s>(route: &'s Route, request: &RequestView<'_>) -> RouteTrace<'s> {
    let mut checks = Vec::new();
    for condition in route.when.conditions() {
        let holds = condition.holds(request);
        if !(holds && words::is_trivial(&condition)) {
            checks.push(words::check(&condition, request, holds));
        }
        if !holds {
            break;
        }
    }
    RouteTrace { route, checks }
}

fn forwarded<'s>(
    snapshot: &'s Snapshot,
    forward: &'s Forward,
    request: &RequestView<'_>,
    peers: Peers,
    draws: &mut Draws<'_>,
) -> ForwardTrace<'s> {
    let shares = forward.clusters.iter().map(|entry| (&entry.cluster, entry.weight));
    let split = Split::new(snapshot, forward.total_weight, shares, draws, |draw| {
        split(forward, draw).map(|entry| &entry.cluster)
    });
    let mut key = None;
    let hash = forward.hash.iter().map(|policy| {
        let mut cookies = Vec::new();
        let hash = policy_hash(policy, request, peers, &mut cookies);
        key = hash.map(|next| combined(key, next)).or(key);
        let set_cookie = cookies.first().map(words::readable);
        HashTrace { policy, value: words::hashed_value(policy, request, peers), hash, set_cookie }
    });
    let hash = hash.collect();
    ForwardTrace {
        forward,
        split,
        hash,
        key,
        timeout: forward.timeout,
        per_try_timeout: forward.retry.as_ref().and_then(|retry| retry.per_try_timeout),
        new_path: forward
            .rewrite
            .as_ref()
            .and_then(|rewrite| rewritten(rewrite, request.path_and_query))
            .map(std::borrow::Cow::into_owned),
        mirrors: Vec::new(),
    }
}

fn faults(fault: &Fault, draws: &mut Draws<'_>) -> FaultTrace {
    FaultTrace {
        delay: fault.delay.map(|delay| (delay, drawn(delay.share, draws))),
        abort: fault.abort.map(|abort| (abort, drawn(abort.share, draws))),
    }
}

/// One draw is for all of them.
fn mirrors<'s>(snapshot: &'s Snapshot, forward: &'s Forward, draws: &mut Draws<'_>) -> Vec<MirrorTrace<'s>> {
    let draw = if forward.mirrors.is_empty() { None } else { draws.as_mut().map(|draw| draw()) };
    let trace = |mirror: &'s Mirror| MirrorTrace {
        mirror,
        place: place(snapshot, &mirror.cluster),
        hit: hit(mirror.share, draw),
    };
    forward.mirrors.iter().map(trace).collect()
}

fn drawn(share: Share, draws: &mut Draws<'_>) -> Option<bool> {
    hit(share, draws.as_mut().map(|draw| draw()))
}

/// Without a draw only all and none are settled.
fn hit(share: Share, draw: Option<u64>) -> Option<bool> {
    match draw {
        Some(draw) => Some(share.hits(draw)),
        None if share == Share::ALL => Some(true),
        None if share == Share::NONE => Some(false),
        None => None,
    }
}

fn judged_origin<'s>(cors: &'s Cors, request: &RequestView<'_>) -> CorsTrace<'s> {
    let asked = cross_origin(cors, request.method, request.headers);
    CorsTrace {
        cors,
        origin: asked.map(|asked| words::readable(asked.origin)),
        allowed: asked.is_some_and(|asked| asked.allowed),
        preflight: asked.is_some_and(|asked| asked.preflight),
    }
}

fn place<'s>(snapshot: &'s Snapshot, cluster: &'s ClusterRef) -> Place<'s> {
    match cluster {
        ClusterRef::Known(id) => Place::Known(&snapshot[*id]),
        ClusterRef::Missing(name) => Place::Missing { name, why: why_missing(snapshot, name) },
    }
}

/// `outbound|port|subset|host`: the first part that nothing has.
fn why_missing(snapshot: &Snapshot, name: &str) -> String {
    let mut parts = name.splitn(4, '|').skip(1);
    let (port, subset, host) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let of_host: Vec<_> =
        snapshot.clusters.iter().map(|cluster| &cluster.service).filter(|s| *s.host == *host).collect();
    if of_host.is_empty() {
        return format!("no service `{host}` is known here");
    }
    let of_port: Vec<_> = of_host.iter().filter(|service| service.port.to_string() == port).collect();
    let list = |mut names: Vec<String>| {
        names.sort();
        names.dedup();
        names.join(", ")
    };
    if of_port.is_empty() {
        let ports = list(of_host.iter().map(|service| service.port.to_string()).collect());
        return format!("`{host}` has no port {port}; clusters exist for {ports}");
    }
    let subsets = list(of_port.iter().map(|s| s.subset.to_string()).filter(|s| !s.is_empty()).collect());
    match subsets.as_str() {
        "" => format!("no DestinationRule of `{host}` defines the subset `{subset}`, nor any other"),
        subsets => {
            format!("no DestinationRule of `{host}` defines the subset `{subset}`; there are {subsets}")
        }
    }
}

/// Names like the one that was asked for, and listeners that know it.
fn hints(snapshot: &Snapshot, listener: &Listener, table: &RouteTable, authority: &str) -> Vec<String> {
    let host = without_port(authority).to_ascii_lowercase();
    let mut hints = Vec::new();
    for other in snapshot.listeners.iter().filter(|other| other.name != listener.name) {
        let known = other.route_table().and_then(|table| snapshot[table].hosts.find_domain(authority));
        if known.is_some_and(|(domain, _)| domain != Domain::Any) {
            hints.push(format!("listener {} has this host: ask for port {}", other.name, other.bind.port()));
        }
    }
    let alike = table.hosts.exact.keys().map(|name| (strsim::jaro_winkler(name, &host), name));
    let best = alike
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| (b.1.len(), b.1).cmp(&(a.1.len(), a.1))));
    hints.extend(best.map(|(_, name)| format!("did you mean `{name}`?")));
    hints
}

/// From here on a name may be a slip of the pen.
const ALIKE: f64 = 0.85;
