//! Virtual hosts and their routes: which route of one configuration is which of the other, and whether their order
//! differs.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{Diff, Item, Kind, Part};
use crate::{
    dump::{
        capture::{by_destination, silent_clients},
        put,
        route::domains,
        tcp::takes,
    },
    snapshot::{
        Carried, Listener, Origin, RouteTable, RouteTableId, Snapshot, TcpRoute, TcpRoutes, VirtualHost,
    },
};

/// A dumped listener alone: its routes are parts of their own.
pub(super) fn without_routes(mut listener: Value) -> Value {
    if let Some(listener) = listener.as_object_mut() {
        if listener.remove("tcp_routes").is_some() {
            listener.insert("carries".to_owned(), "raw connections".into());
        }
        listener.remove("filter_chains");
    }
    listener
}

/// A place with routes: a listener, or one destination of captured traffic.
struct Door<'s> {
    name: String,
    requests: Option<&'s RouteTable>,
    bytes: Option<&'s TcpRoutes>,
    silent_clients: Option<&'static str>,
    origin: &'s Origin,
}

impl Door<'_> {
    /// All but its routes.
    fn item(&self) -> Item {
        let mut value = Map::new();
        put(&mut value, "silent_clients", self.silent_clients.into());
        Item { name: self.name.clone(), value: value.into(), origin: Some(self.origin.clone()) }
    }
}

fn doors<'s>(snapshot: &'s Snapshot, listener: &'s Listener) -> Vec<Door<'s>> {
    let Listener { name, origin, .. } = listener;
    let door = |name, requests: Option<RouteTableId>, bytes, silent_clients| {
        let requests = requests.map(|table| &snapshot[table]);
        Door { name, requests, bytes, silent_clients, origin }
    };
    match &listener.carried {
        Carried::Http(table) => vec![door(name.to_string(), Some(*table), None, None)],
        Carried::Tcp(routes) => vec![door(name.to_string(), None, Some(&**routes), None)],
        Carried::Captured(captured) => by_destination(captured)
            .map(|(to, chain)| {
                door(format!("{name} for {to}"), chain.requests(), chain.bytes(), silent_clients(chain))
            })
            .collect(),
    }
}

/// What differs between a listener's routes.
pub(super) fn compare(
    diff: &mut Diff,
    (old, before): (&Snapshot, &Listener),
    (new, after): (&Snapshot, &Listener),
) {
    let (was, is) = (doors(old, before), doors(new, after));
    let was: HashMap<_, _> = was.iter().map(|door| (&*door.name, door)).collect();
    for door in &is {
        let before = was.get(&*door.name);
        if let Some(before) = before {
            diff.pair(Part::Listener, &before.item(), &door.item());
        }
        let requests = before.and_then(|before| before.requests);
        diff.compare(Part::VirtualHost, &hosts(requests, &door.name), &hosts(door.requests, &door.name));
        if let (Some(requests), Some(now)) = (requests, door.requests) {
            of_hosts(diff, (old, requests), (new, now), &door.name);
        }
        let bytes = before.and_then(|before| before.bytes);
        let connections = |snapshot, routes| of_connections(snapshot, routes, &door.name);
        diff.compare(Part::Route, &connections(old, bytes), &connections(new, door.bytes));
    }
    let mut gone: Vec<_> = was.values().filter(|door| !is.iter().any(|now| now.name == door.name)).collect();
    gone.sort_by(|a, b| a.name.cmp(&b.name));
    for door in gone {
        diff.compare(Part::VirtualHost, &hosts(door.requests, &door.name), &[]);
        diff.compare(Part::Route, &of_connections(old, door.bytes, &door.name), &[]);
    }
}

/// The routes of raw connections, each under what it takes: their order says nothing.
fn of_connections(snapshot: &Snapshot, routes: Option<&TcpRoutes>, at: &str) -> Vec<Item> {
    let Some(routes) = routes else { return Vec::new() };
    let item = |(index, route): (u32, &TcpRoute)| Item {
        name: format!("for {} at {at}", takes(routes, index)),
        value: snapshot.tcp_route(routes, index, route),
        origin: Some(route.origin.clone()),
    };
    (0_u32..).zip(&routes.routes).map(item).collect()
}

/// The hosts of a table without their routes.
fn hosts(table: Option<&RouteTable>, listener: &str) -> Vec<Item> {
    let Some(table) = table else { return Vec::new() };
    let item = |(host, domains): (&VirtualHost, Vec<String>)| Item {
        name: format!("{} at {listener}", host.name),
        value: json!({ "domains": domains }),
        origin: Some(host.origin.clone()),
    };
    table.virtual_hosts.iter().zip(domains(table)).map(item).collect()
}

/// The routes of the hosts that both have.
fn of_hosts(
    diff: &mut Diff,
    (old, before): (&Snapshot, &RouteTable),
    (new, after): (&Snapshot, &RouteTable),
    listener: &str,
) {
    for host in &after.virtual_hosts {
        if let Some(was) = before.virtual_hosts.iter().find(|was| was.name == host.name) {
            pair(diff, &routes(old, was, listener), &routes(new, host, listener));
        }
    }
}

fn routes(snapshot: &Snapshot, host: &VirtualHost, listener: &str) -> Vec<Item> {
    let item = |route| {
        let value = snapshot.route(route);
        let name = if route.name.is_empty() {
            format!("for {}", conditions(&value))
        } else {
            route.name.to_string()
        };
        let origin = Some(route.origin.clone());
        Item { name: format!("{name} of {} at {listener}", host.name), value, origin }
    };
    host.routes.iter().map(item).collect()
}

fn conditions(route: &Value) -> &Value {
    route.get("match").unwrap_or(&Value::Null)
}

/// Routes that are alike in every field belong together, then those of one name, then those with the same conditions.
fn pair(diff: &mut Diff, old: &[Item], new: &[Item]) {
    let mut partner: Vec<Option<usize>> = vec![None; new.len()];
    let alike: [fn(&Item, &Item) -> bool; 3] = [
        |a, b| super::fields::compare(&a.value, &b.value).is_empty(),
        |a, b| a.name == b.name,
        |a, b| conditions(&a.value) == conditions(&b.value),
    ];
    for alike in alike {
        for (index, item) in new.iter().enumerate() {
            let free = |at: &usize| !partner.contains(&Some(*at));
            let found =
                (0..old.len()).filter(free).find(|at| old.get(*at).is_some_and(|was| alike(was, item)));
            if let Some(slot) = partner.get_mut(index).filter(|slot| slot.is_none()) {
                *slot = found;
            }
        }
    }
    let staying = longest_rising(&partner);
    for (index, (item, at)) in new.iter().zip(&partner).enumerate() {
        let Some(was) = at.and_then(|at| old.get(at)) else {
            diff.push(Kind::Added, Part::Route, None, Some(item));
            continue;
        };
        if !staying.contains(&index) {
            diff.push(Kind::Moved, Part::Route, Some(was), Some(item));
        }
        diff.pair(Part::Route, was, item);
    }
    for (at, was) in old.iter().enumerate() {
        if !partner.contains(&Some(at)) {
            diff.push(Kind::Removed, Part::Route, Some(was), None);
        }
    }
}

/// Indices of the longest rising subsequence: the fewest possible routes are said to have moved.
fn longest_rising(values: &[Option<usize>]) -> Vec<usize> {
    // For each index the best chain that ends there.
    let mut chains: Vec<Vec<usize>> = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let before = chains.iter().filter(|chain| {
            let last = chain.last().and_then(|last| values.get(*last)).copied().flatten();
            value.is_some() && last.is_some() && last < *value
        });
        let mut chain = before.max_by_key(|chain| chain.len()).cloned().unwrap_or_default();
        if value.is_some() {
            chain.push(index);
        }
        chains.push(chain);
    }
    chains.into_iter().max_by_key(Vec::len).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::longest_rising;

    #[test]
    fn the_fewest_routes_move() {
        let of = |values: &[usize]| {
            let values: Vec<_> = values.iter().map(|value| Some(*value).filter(|value| *value < 9)).collect();
            longest_rising(&values)
        };
        assert_eq!(of(&[0, 1, 2]), [0, 1, 2]);
        assert_eq!(of(&[2, 0, 1]), [1, 2], "one went to the front");
        assert_eq!(of(&[1, 2, 0]), [0, 1], "one went to the end");
        assert_eq!(of(&[0, 9, 1]), [0, 2], "a new one is none that moved");
    }
}
