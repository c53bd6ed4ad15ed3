//! Why a raw connection goes where it goes. There is no first match: the longest range that holds the address decides,
//! then the most specific server name, and what neither finds goes to the last resort.

use std::{fmt, net::SocketAddr};

use serde_json::{Value, json};

use super::{
    Bucket, Draws, Split, Verdict, json as shown,
    text::{Lines, direction},
    tls,
    words::quoted,
};
use crate::{
    decide::{ConnectionView, Peers, range, source_key, split_tcp, tcp_route},
    dump::{object, origin, put, tcp::takes},
    snapshot::{Listener, Snapshot, TcpRoute, TcpRoutes},
};

/// The way of one connection.
#[derive(Debug)]
pub struct ConnectionExplanation<'s> {
    /// Where it came in.
    pub listener: &'s Listener,
    /// Where the client was going.
    pub destination: SocketAddr,
    /// What its hello asks for; `None` also where no route looks at it.
    pub server_name: Option<String>,
    /// The route that takes it.
    pub route: &'s TcpRoute,
    /// Its destinations.
    pub split: Split<'s>,
    /// The key for ring hash and Maglev.
    pub key: Option<u64>,
    snapshot: &'s Snapshot,
    routes: &'s TcpRoutes,
}

/// Decides, and says why; it draws as the data path does. `None` if the listener carries requests.
#[must_use]
pub fn explain_connection<'s>(
    snapshot: &'s Snapshot,
    listener: &'s Listener,
    server_name: Option<&str>,
    peers: Peers,
    mut draws: Draws<'_>,
) -> Option<ConnectionExplanation<'s>> {
    let routes = listener.bytes_to(peers.local)?;
    let server_name = server_name.filter(|_| routes.by_server_name);
    let route = tcp_route(routes, ConnectionView { destination: peers.local.ip(), server_name })?;
    let shares = route.clusters.iter().map(|entry| (&entry.cluster, entry.weight));
    let split = Split::new(snapshot, route.total_weight, shares, &mut draws, |draw| {
        split_tcp(route, draw).map(|entry| &entry.cluster)
    });
    Some(ConnectionExplanation {
        listener,
        destination: peers.local,
        server_name: server_name.map(str::to_owned),
        route,
        split,
        key: route.hash_source_ip.then(|| source_key(peers.remote.ip())),
        snapshot,
        routes,
    })
}

impl<'s> ConnectionExplanation<'s> {
    /// The flag with which it is closed, if it is.
    #[must_use]
    pub fn flag(&self) -> Option<&'static str> {
        match self.split.taken()?.verdict() {
            Verdict::NoCluster(_) => Some("NC"),
            Verdict::NoEndpoint(_) => Some("UH"),
            _ => None,
        }
    }

    /// Where it ends.
    #[must_use]
    pub fn outcome(&self) -> String {
        match self.split.taken().map(Bucket::verdict) {
            None => "one of several clusters, by weight".to_owned(),
            Some(Verdict::NoCluster(name)) => format!("closed, flag NC: there is no cluster {name}"),
            Some(Verdict::NoEndpoint(name)) => format!("closed, flag UH: {name} has no endpoint to pick"),
            Some(Verdict::Forward { cluster, endpoint: Some(address) }) => format!("{address} of {cluster}"),
            Some(Verdict::Forward { cluster, endpoint: None }) => cluster.to_owned(),
            Some(other) => other.to_string(),
        }
    }

    /// Each route with what it takes, and whether it takes this connection.
    fn each(&self) -> impl Iterator<Item = (u32, &'s TcpRoute, bool)> {
        let taken = self.route;
        (0_u32..).zip(&self.routes.routes).map(move |(at, route)| (at, route, std::ptr::eq(route, taken)))
    }

    /// Everything, for scripts; routes have the keys of the configuration dump.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut connection = object(json!({ "destination": self.destination.to_string() }));
        put(&mut connection, "server_name", self.server_name.as_deref().into());
        let mut outcome = object(json!({ "text": self.outcome() }));
        put(&mut outcome, "flag", self.flag().into());
        if let Some(Verdict::Forward { cluster, endpoint }) = self.split.taken().map(Bucket::verdict) {
            put(&mut outcome, "cluster", cluster.into());
            put(&mut outcome, "endpoint", endpoint.into());
        }
        let routes = self.each().map(|(at, route, taken)| {
            let mut out = object(self.snapshot.tcp_route(self.routes, at, route));
            out.insert("origin".to_owned(), origin(&route.origin));
            out.insert("taken".to_owned(), taken.into());
            if taken {
                put(&mut out, "drawn", self.split.drawn.into());
                put(&mut out, "hash_key", self.key.map(|key| key.to_string()).into());
                out.insert(
                    "destinations".to_owned(),
                    self.split.buckets.iter().map(|bucket| Value::Object(shown::bucket(bucket))).collect(),
                );
            }
            Value::Object(out)
        });
        json!({
            "connection": connection,
            "outcome": outcome,
            "listener": shown::listener(self.listener, self.listener.tls_to(self.destination)),
            "routes": routes.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for ConnectionExplanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "a connection to {}", self.destination)?;
        writeln!(f, "-> {}\n", self.outcome())?;
        let mut out = Lines(f);
        let direction = direction(self.listener.direction);
        out.line("listener", &format!("{}, {direction}, of raw connections", self.listener.name))?;
        out.place(&self.listener.origin)?;
        if let Some(text) = tls::inbound(self.listener.tls_to(self.destination)) {
            out.line("tls", &text)?;
        }
        let name = match &self.server_name {
            Some(name) => quoted(name),
            None if self.routes.by_server_name => {
                "none; write `https://NAME:PORT` for one that asks for a name".to_owned()
            }
            None => "no route looks for one".to_owned(),
        };
        out.line("server name", &name)?;
        let ranges = &self.routes.destinations;
        if ranges.iter().any(|range| range.subnet.is_some()) {
            let found = range(self.routes, self.destination.ip());
            let text = match found.map(|range| range.subnet) {
                None => "none holds the address".to_owned(),
                Some(None) => "every address, as none of those that are named holds this one".to_owned(),
                Some(Some(subnet)) => {
                    format!("{subnet}, the longest that holds the address; routes of others are not asked")
                }
            };
            out.line("range", &text)?;
        }
        for (at, route, _) in self.each().filter(|(.., taken)| *taken) {
            out.line("route", &format!("takes {}", takes(self.routes, at)))?;
            out.place(&route.origin)?;
        }
        out.drawn(&self.split)?;
        if let Some(key) = self.key {
            out.line("hash key", &format!("{key}, of the client's address"))?;
        }
        out.destinations(&self.split)?;
        let idle = self.route.idle_timeout.map_or_else(|| "none".to_owned(), |idle| format!("{idle:?}"));
        out.line("idle timeout", &idle)?;
        for (at, route, _) in self.each().filter(|(.., taken)| !taken) {
            let to = route.clusters.iter().map(|entry| self.snapshot.name_of(&entry.cluster));
            let to: Vec<_> = to.collect();
            out.line("other route", &format!("takes {}, to {}", takes(self.routes, at), to.join(", ")))?;
            out.place(&route.origin)?;
        }
        Ok(())
    }
}
