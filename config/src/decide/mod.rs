//! The routing decision: one pure function for the data path, the tools and the tests.
//!
//! What is random is an argument, so that a decision can be replayed. Nothing allocates but an upper-case host.

mod cors;
mod hash;
mod hosts;
mod location;
mod matching;
mod path;
mod rewrite;
mod tcp;

use http::{HeaderMap, Method};

pub use cors::{CrossOrigin, cross_origin};
pub use hash::{Hashed, Peers, hash_key, source_key, xxh64};
pub(crate) use hash::{combined, cookie_value, policy_hash};
pub use hosts::Domain;
pub(crate) use hosts::without_port;
pub use location::location;
pub use matching::Condition;
pub(crate) use matching::query_value;
pub use path::{InvalidPath, normalize_path};
pub use rewrite::rewritten;
pub use tcp::{ConnectionView, decide_tcp};
pub(crate) use tcp::{range, split_tcp, tcp_route};

use crate::snapshot::{
    Action, DirectResponse, Forward, Redirect, Route, RouteTable, VirtualHost, WeightedCluster,
};

/// What the decision sees of a request: after normalisation, before any rewriting.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// Case-sensitive.
    pub method: &'a Method,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host and port as the client sent them.
    pub authority: &'a str,
    /// Normalised path with its query string.
    pub path_and_query: &'a str,
    /// All header lines; pseudo headers are not among them.
    pub headers: &'a HeaderMap,
}

impl<'a> RequestView<'a> {
    /// The path without the query string.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.path_and_query.split_once('?').map_or(self.path_and_query, |(path, _)| path)
    }

    /// The query string, if there is one.
    #[must_use]
    pub fn query(&self) -> Option<&'a str> {
        self.path_and_query.split_once('?').map(|(_, query)| query)
    }
}

/// What is to happen with one request.
#[derive(Debug, Clone, Copy)]
pub enum Decision<'s> {
    /// No virtual host has the name, or none of its routes matches: 404 NR.
    NoRoute,
    /// Answer here.
    Direct {
        /// The route that matched.
        route: &'s Route,
        /// The answer.
        response: &'s DirectResponse,
    },
    /// Answer here with another place to ask.
    Redirect {
        /// The route that matched.
        route: &'s Route,
        /// What is other about the place.
        redirect: &'s Redirect,
    },
    /// Forward to one destination, which retries keep.
    Forward {
        /// The route that matched.
        route: &'s Route,
        /// Its forwarding policy.
        forward: &'s Forward,
        /// The share that the draw hit.
        destination: &'s WeightedCluster,
    },
}

/// Decides. `draw` is called at most once, for a split by weight, and yields a uniform 64-bit value.
pub fn decide<'s>(
    table: &'s RouteTable,
    request: &RequestView<'_>,
    draw: impl FnOnce() -> u64,
) -> Decision<'s> {
    let Some(route) = virtual_host(table, request.authority).and_then(|host| first_match(host, request))
    else {
        return Decision::NoRoute;
    };
    match &route.action {
        Action::Direct(response) => Decision::Direct { route, response },
        Action::Redirect(redirect) => Decision::Redirect { route, redirect },
        Action::Forward(forward) => match split(forward, draw) {
            Some(destination) => Decision::Forward { route, forward, destination },
            None => Decision::NoRoute,
        },
    }
}

/// The virtual host that an authority belongs to.
#[must_use]
pub fn virtual_host<'s>(table: &'s RouteTable, authority: &str) -> Option<&'s VirtualHost> {
    let index = table.hosts.find(authority)?;
    table.virtual_hosts.get(index as usize)
}

/// The first route of the virtual host that takes the request.
#[must_use]
pub fn first_match<'s>(host: &'s VirtualHost, request: &RequestView<'_>) -> Option<&'s Route> {
    host.routes.iter().find(|route| route.when.matches(request))
}

pub(crate) fn split(forward: &Forward, draw: impl FnOnce() -> u64) -> Option<&WeightedCluster> {
    by_weight(&forward.clusters, |entry| entry.weight, forward.total_weight, draw)
}

/// Envoy `weighted_clusters`: the draw modulo the total, then cumulative ranges in list order.
fn by_weight<T>(
    entries: &[T],
    weight: impl Fn(&T) -> u32,
    total: u64,
    draw: impl FnOnce() -> u64,
) -> Option<&T> {
    if let [only] = entries {
        return Some(only);
    }
    let mut left = draw().checked_rem(total)?;
    entries.iter().find(|entry| {
        let weight = u64::from(weight(entry));
        let hit = left < weight;
        left = left.saturating_sub(weight);
        hit
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{ClusterRef, HeaderOps};

    fn weighted(weights: &[u32]) -> Forward {
        let entry = |weight: &u32| WeightedCluster {
            cluster: ClusterRef::Missing(weight.to_string().into()),
            weight: *weight,
            authority: None,
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
        };
        Forward {
            clusters: weights.iter().map(entry).collect(),
            total_weight: weights.iter().map(|weight| u64::from(*weight)).sum(),
            ..Forward::to(ClusterRef::Missing("".into()))
        }
    }

    #[test]
    fn every_draw_hits_the_range_of_its_weight() {
        let forward = weighted(&[90, 10]);
        let hits = (0..1000).filter(|draw| split(&forward, || *draw).unwrap().weight == 10).count();
        assert_eq!(hits, 100);
        assert_eq!(split(&forward, || 89).unwrap().weight, 90);
        assert_eq!(split(&forward, || 90).unwrap().weight, 10);
        assert_eq!(split(&forward, || 190).unwrap().weight, 10);
    }

    #[test]
    fn a_lone_destination_needs_no_draw() {
        let forward = weighted(&[1]);
        assert_eq!(split(&forward, || unreachable!("not drawn")).unwrap().weight, 1);
    }
}
