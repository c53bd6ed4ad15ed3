//! Why a raw connection goes where it goes. There is no first match: the longest range that holds the address decides,
//! then the most specific server name, and what neither finds goes to the last resort.

use std::{fmt, net::SocketAddr};

use serde_json::{Map, Value, json};

use super::{
    Draws, Pick, Picked, Place, json as shown, place,
    text::{Lines, direction},
    words::quoted,
};
use crate::{
    decide::{ConnectionView, Peers, range, split_tcp, tcp_route, xxh64},
    dump::{object, put, tcp::takes},
    snapshot::{Carried, Listener, Snapshot, TcpCluster, TcpRoute, TcpRoutes},
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
    /// What was drawn for the split, below the sum of the weights.
    pub drawn: Option<u64>,
    /// Every destination with its share.
    pub shares: Vec<ConnectionShare<'s>>,
    /// The key for ring hash and Maglev.
    pub key: Option<u64>,
    snapshot: &'s Snapshot,
    routes: &'s TcpRoutes,
}

/// One destination of a split.
#[derive(Debug)]
pub struct ConnectionShare<'s> {
    /// The weight.
    pub entry: &'s TcpCluster,
    /// The first draw that hits it.
    pub from: u64,
    /// Whether the connection goes there; without a draw it is open, but for a lone one.
    pub taken: bool,
    /// The cluster.
    pub place: Place<'s>,
    /// The endpoint, as far as it is known. Whoever has the balancers fills it in.
    pub pick: Option<Pick>,
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
    let Carried::Tcp(routes) = &listener.carried else { return None };
    let server_name = server_name.filter(|_| routes.by_server_name);
    let route = tcp_route(routes, ConnectionView { destination: peers.local.ip(), server_name })?;
    let mut drawn = None;
    let taken = match &mut draws {
        Some(draws) => split_tcp(route, || {
            let draw = draws();
            drawn = draw.checked_rem(route.total_weight);
            draw
        }),
        None => match &*route.clusters {
            [only] => Some(only),
            _ => None,
        },
    };
    let mut from = 0;
    let shares = route.clusters.iter().map(|entry| {
        let start = from;
        from += u64::from(entry.weight);
        ConnectionShare {
            entry,
            from: start,
            taken: taken.is_some_and(|taken| std::ptr::eq(taken, entry)),
            place: place(snapshot, &entry.cluster),
            pick: None,
        }
    });
    Some(ConnectionExplanation {
        listener,
        destination: peers.local,
        server_name: server_name.map(str::to_owned),
        route,
        drawn,
        shares: shares.collect(),
        key: route.hash_source_ip.then(|| xxh64(peers.remote.ip().to_string().as_bytes(), 0)),
        snapshot,
        routes,
    })
}

impl<'s> ConnectionExplanation<'s> {
    /// The destination, if it is settled.
    #[must_use]
    pub fn taken(&self) -> Option<&ConnectionShare<'s>> {
        self.shares.iter().find(|share| share.taken)
    }

    /// The flag with which it is closed, if it is.
    #[must_use]
    pub fn flag(&self) -> Option<&'static str> {
        let share = self.taken()?;
        match (&share.place, share.pick.as_ref().map(|pick| &pick.picked)) {
            (Place::Missing { .. }, _) => Some("NC"),
            (Place::Known(_), Some(Picked::Nobody)) => Some("UH"),
            (Place::Known(_), _) => None,
        }
    }

    /// Where it ends.
    #[must_use]
    pub fn outcome(&self) -> String {
        let Some(share) = self.taken() else { return "one of several clusters, by weight".to_owned() };
        let name = share.place.name();
        match (self.flag(), share.pick.as_ref().map(|pick| &pick.picked)) {
            (Some("NC"), _) => format!("closed, flag NC: there is no cluster {name}"),
            (Some(flag), _) => format!("closed, flag {flag}: {name} has no endpoint to pick"),
            (None, Some(Picked::One(address))) => format!("{address} of {name}"),
            (None, _) => name.to_owned(),
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
        if let Some(share) = self.taken().filter(|_| self.flag().is_none()) {
            put(&mut outcome, "cluster", share.place.name().into());
            if let Some(Picked::One(address)) = share.pick.as_ref().map(|pick| &pick.picked) {
                put(&mut outcome, "endpoint", (**address).into());
            }
        }
        let routes = self.each().map(|(at, route, taken)| {
            let mut out = object(self.snapshot.tcp_route(self.routes, at, route));
            out.insert("origin".to_owned(), shown::origin(&route.origin));
            out.insert("taken".to_owned(), taken.into());
            if taken {
                put(&mut out, "drawn", self.drawn.into());
                put(&mut out, "hash_key", self.key.map(|key| key.to_string()).into());
                out.insert("destinations".to_owned(), self.shares.iter().map(share).collect());
            }
            Value::Object(out)
        });
        json!({
            "connection": connection,
            "outcome": outcome,
            "listener": { "name": &*self.listener.name, "origin": shown::origin(&self.listener.origin) },
            "routes": routes.collect::<Vec<_>>(),
        })
    }
}

fn share(share: &ConnectionShare<'_>) -> Value {
    let mut out: Map<String, Value> = object(json!({
        "weight": share.entry.weight,
        "draws": [share.from, share.from + u64::from(share.entry.weight)],
        "taken": share.taken,
    }));
    shown::place(&share.place, &mut out);
    put(&mut out, "balancing", share.pick.as_ref().map(shown::picked).into());
    Value::Object(out)
}

impl fmt::Display for ConnectionExplanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "a connection to {}", self.destination)?;
        writeln!(f, "-> {}\n", self.outcome())?;
        let mut out = Lines(f);
        let direction = direction(self.listener.direction);
        out.line("listener", &format!("{}, {direction}, of raw connections", self.listener.name))?;
        out.place(&self.listener.origin)?;
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
        if let Some(drawn) = self.drawn {
            out.line("drawn", &format!("{drawn} of {}", self.route.total_weight))?;
        }
        if let Some(key) = self.key {
            out.line("hash key", &format!("{key}, of the client's address"))?;
        }
        for share in &self.shares {
            let weight = (self.shares.len() > 1).then_some((
                share.entry.weight,
                self.route.total_weight,
                share.from,
                share.taken,
            ));
            out.destination(&share.place, weight, share.pick.as_ref())?;
        }
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
