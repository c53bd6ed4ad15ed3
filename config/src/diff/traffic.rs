//! Recorded requests, decided by both configurations: how many go elsewhere.
//!
//! A split by weight sends a request to several clusters at once, by shares; what moves of it is the share that goes to
//! another cluster. The log has no headers but a few, so a condition on another one finds nothing.

use std::{collections::HashMap, fmt, net::SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header::USER_AGENT};
use serde_json::Value;

use crate::{
    decide::{RequestView, first_match, virtual_host},
    snapshot::{Action, Direction, Listener, Snapshot},
};

/// Groups that are shown.
const SHOWN: usize = 10;

/// One line of the access log.
#[derive(Debug)]
pub struct Recorded {
    method: Method,
    authority: String,
    path: String,
    headers: HeaderMap,
    local: Option<SocketAddr>,
}

/// Which header stands under which key of Istio's JSON log.
const HEADERS: [(&str, HeaderName); 3] = [
    ("user_agent", USER_AGENT),
    ("request_id", HeaderName::from_static("x-request-id")),
    ("x_forwarded_for", HeaderName::from_static("x-forwarded-for")),
];

impl Recorded {
    /// Reads a line of Istio's JSON log; `None` if it lacks method, path or authority.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let text = |key: &str| value.get(key)?.as_str();
        let mut headers = HeaderMap::new();
        for (key, name) in HEADERS {
            headers.extend(text(key).and_then(|text| Some((name, HeaderValue::from_str(text).ok()?))));
        }
        Some(Self {
            method: text("method")?.parse().ok()?,
            authority: text("authority")?.to_owned(),
            path: text("path")?.to_owned(),
            headers,
            local: text("downstream_local_address").and_then(|text| text.parse().ok()),
        })
    }

    fn view(&self) -> RequestView<'_> {
        RequestView {
            method: &self.method,
            scheme: "http",
            authority: &self.authority,
            path_and_query: &self.path,
            headers: &self.headers,
        }
    }

    /// The listener that was asked: by its address, else that of captured traffic, else by its port, else the only one
    /// there is. What goes to this machine itself is not captured, unless nothing else is there for it.
    fn listener<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s Listener> {
        let listeners = &snapshot.listeners;
        let Some(local) = self.local else {
            return match &**listeners {
                [only] => Some(only),
                _ => None,
            };
        };
        let same_port = |listener: &&Listener| listener.bind.port() == local.port();
        let bound = |listener: &&Listener| {
            listener.bind == local || same_port(listener) && listener.bind.ip().is_unspecified()
        };
        let captures =
            |listener: &&Listener| listener.captured().is_some() && listener.direction == Direction::Outbound;
        let captured = || listeners.iter().find(captures);
        let found = listeners.iter().find(bound);
        let found = found.or_else(|| captured().filter(|_| !local.ip().is_loopback()));
        found.or_else(|| listeners.iter().find(same_port)).or_else(captured)
    }

    fn way(&self, snapshot: &Snapshot) -> Way {
        let answer = |text: String| Way { shares: vec![(text, 1.0)], route: String::new() };
        let Some(listener) = self.listener(snapshot) else { return answer("no listener".to_owned()) };
        let table = listener.requests_to(self.local.unwrap_or(listener.bind));
        let Some(table) = table else { return answer("passed on unread".to_owned()) };
        let view = self.view();
        let host = virtual_host(&snapshot[table], view.authority);
        let Some(route) = host.and_then(|host| first_match(host, &view)) else {
            return answer("404, no route".to_owned());
        };
        let shares = match &route.action {
            Action::Direct(response) => vec![(format!("answer {}", response.status.as_u16()), 1.0)],
            Action::Redirect(redirect) => vec![(format!("redirect {}", redirect.status.as_u16()), 1.0)],
            Action::Forward(forward) => {
                let mut shares: Vec<(String, f64)> = Vec::new();
                for entry in forward.clusters.iter().filter(|entry| entry.weight > 0) {
                    let name = snapshot.name_of(&entry.cluster);
                    let share = f64::from(entry.weight) / forward.total_weight as f64;
                    match shares.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, sum)) => *sum += share,
                        None => shares.push((name, share)),
                    }
                }
                shares
            }
        };
        Way { shares, route: route.name.to_string() }
    }
}

/// Where a request goes, by shares, and by which route.
struct Way {
    shares: Vec<(String, f64)>,
    route: String,
}

impl Way {
    /// The share that goes elsewhere in `other`.
    fn moved(&self, other: &Self) -> f64 {
        let of = |name: &str| other.shares.iter().find(|(n, _)| n == name).map_or(0.0, |(_, share)| *share);
        let lost: f64 = self.shares.iter().map(|(name, share)| (share - of(name)).max(0.0)).sum();
        if lost < 1e-9 { 0.0 } else { lost }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, share)) in self.shares.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            match self.shares.len() {
                1 => f.write_str(name)?,
                _ => write!(f, "{comma}{name} {:.1} %", share * 100.0)?,
            }
        }
        Ok(())
    }
}

/// The sums over all requests.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Requests that could be read.
    pub requests: u64,
    /// Lines that could not.
    pub skipped: u64,
    /// Requests that go elsewhere, shares added up.
    pub moved: f64,
    /// Requests of which a share or all goes elsewhere.
    pub touched: u64,
    /// Requests that go to the same place, but by a route of another name.
    pub other_route: u64,
    groups: HashMap<Group, Count>,
}

/// Requests that change in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Group {
    /// The host that was asked for.
    pub authority: String,
    /// Where they went.
    pub old: String,
    /// Where they go now.
    pub new: String,
}

/// How many there are.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Count {
    /// Requests.
    pub requests: u64,
    /// What goes elsewhere of them.
    pub moved: f64,
}

impl Traffic {
    /// Adds a line of the log.
    pub fn add(&mut self, line: &str, old: &Snapshot, new: &Snapshot) {
        let Some(recorded) = Recorded::read(line) else {
            self.skipped += 1;
            return;
        };
        self.requests += 1;
        let (before, after) = (recorded.way(old), recorded.way(new));
        let moved = before.moved(&after);
        if moved == 0.0 {
            self.other_route += u64::from(before.route != after.route);
            return;
        }
        self.touched += 1;
        self.moved += moved;
        let group = Group { authority: recorded.authority, old: before.to_string(), new: after.to_string() };
        let count = self.groups.entry(group).or_default();
        count.requests += 1;
        count.moved += moved;
    }

    /// Of all requests that could be read, in percent.
    #[must_use]
    pub fn moved_percent(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { 100.0 * self.moved / self.requests as f64 }
    }

    /// The groups that move most.
    #[must_use]
    pub fn groups(&self) -> Vec<(&Group, &Count)> {
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by(|a, b| {
            let key = |group: &Group| (group.authority.clone(), group.old.clone(), group.new.clone());
            b.1.moved.total_cmp(&a.1.moved).then_with(|| key(a.0).cmp(&key(b.0)))
        });
        groups.truncate(SHOWN);
        groups
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (requests, skipped) = (self.requests, self.skipped);
        writeln!(f, "traffic: {requests} requests, {skipped} lines skipped")?;
        let percent = self.moved_percent();
        writeln!(f, "{:.1} of them go elsewhere ({percent:.2} %), {} are touched", self.moved, self.touched)?;
        if self.other_route > 0 {
            writeln!(f, "{} more go to the same place by another route", self.other_route)?;
        }
        for (group, count) in self.groups() {
            writeln!(f, "  {} requests to {}, {:.1} moved", count.requests, group.authority, count.moved)?;
            writeln!(f, "    old {}\n    new {}", group.old, group.new)?;
        }
        let known = HEADERS.map(|(_, name)| name.to_string());
        writeln!(
            f,
            "note: of the headers the log has {} only; a condition on another one found nothing. The scheme was taken for \
             http, and an authority that was rewritten as it went upstream",
            known.join(", ")
        )
    }
}
