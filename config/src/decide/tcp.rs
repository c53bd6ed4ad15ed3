//! Which cluster takes a raw connection: Envoy's filter chain matching, then the split by weight.

use std::net::IpAddr;

use super::by_weight;
use crate::snapshot::{TcpCluster, TcpDestination, TcpRoute, TcpRoutes};

/// What the decision sees of a connection.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionView<'a> {
    /// Where the client was going; on an explicit listener the address that it is bound to.
    pub destination: IpAddr,
    /// What its TLS hello asks for, if it is one and says so.
    pub server_name: Option<&'a str>,
}

/// The route and its cluster. `draw` is called at most once, for a split by weight, and yields a uniform 64-bit value.
/// `None` only for routes that no compiler made: there is always a last resort.
pub fn decide_tcp<'s>(
    routes: &'s TcpRoutes,
    connection: ConnectionView<'_>,
    draw: impl FnOnce() -> u64,
) -> Option<(&'s TcpRoute, &'s TcpCluster)> {
    let route = tcp_route(routes, connection)?;
    Some((route, split_tcp(route, draw)?))
}

pub(crate) fn tcp_route<'s>(routes: &'s TcpRoutes, connection: ConnectionView<'_>) -> Option<&'s TcpRoute> {
    let index = matched(routes, connection).unwrap_or(routes.last_resort);
    routes.routes.get(index as usize)
}

pub(crate) fn split_tcp(route: &TcpRoute, draw: impl FnOnce() -> u64) -> Option<&TcpCluster> {
    by_weight(&route.clusters, |entry| entry.weight, route.total_weight, draw)
}

/// The longest range that holds the address: no other is asked.
pub(crate) fn range(routes: &TcpRoutes, destination: IpAddr) -> Option<&TcpDestination> {
    let holds = |range: &&TcpDestination| range.subnet.is_none_or(|subnet| subnet.holds(destination));
    routes.destinations.iter().find(holds)
}

fn matched(routes: &TcpRoutes, connection: ConnectionView<'_>) -> Option<u32> {
    let names = &range(routes, connection.destination)?.names;
    match connection.server_name {
        Some(name) => names.find(name),
        None => names.any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{ClusterRef, HostMap, Origin};

    fn route(name: &str) -> TcpRoute {
        let cluster = TcpCluster { cluster: ClusterRef::Missing(name.into()), weight: 1 };
        let origin = Origin { resource: name.into(), file: "test.yaml".into(), line: 1 };
        TcpRoute {
            clusters: [cluster].into(),
            total_weight: 1,
            idle_timeout: None,
            hash_source_ip: false,
            origin,
        }
    }

    /// Ranges with their names; each name is the name of its cluster as well.
    fn routes(ranges: &[(&str, &[&str])]) -> TcpRoutes {
        let mut made = vec![route("last resort")];
        let destinations = ranges.iter().map(|(range, domains)| {
            let mut names = HostMap::default();
            for domain in *domains {
                names.insert(domain, made.len() as u32);
                made.push(route(&format!("{range} {domain}")));
            }
            TcpDestination { subnet: range.parse().ok(), names }
        });
        TcpRoutes { destinations: destinations.collect(), routes: made.into(), ..TcpRoutes::default() }
    }

    fn taken(routes: &TcpRoutes, destination: &str, server_name: Option<&str>) -> String {
        let view = ConnectionView { destination: destination.parse().unwrap(), server_name };
        decide_tcp(routes, view, || unreachable!("not drawn")).unwrap().0.origin.resource.to_string()
    }

    #[test]
    fn the_most_specific_name_wins() {
        let routes = routes(&[("", &["*.example.com", "a.example.com", "*.b.example.com", "*"])]);
        let of = |name| taken(&routes, "127.0.0.1", name);
        assert_eq!(of(Some("a.example.com")), " a.example.com");
        assert_eq!(of(Some("A.Example.Com")), " a.example.com");
        assert_eq!(of(Some("c.example.com")), " *.example.com");
        assert_eq!(of(Some("c.b.example.com")), " *.b.example.com");
        assert_eq!(of(Some("example.com")), " *");
        assert_eq!(of(None), " *");
    }

    #[test]
    fn the_longest_prefix_decides_without_a_way_back() {
        let routes = routes(&[("10.1.0.0/16", &["a.com"]), ("10.0.0.0/8", &["*"]), ("", &["b.com"])]);
        assert_eq!(taken(&routes, "10.1.1.1", Some("a.com")), "10.1.0.0/16 a.com");
        assert_eq!(taken(&routes, "10.1.1.1", Some("b.com")), "last resort");
        assert_eq!(taken(&routes, "10.2.1.1", Some("b.com")), "10.0.0.0/8 *");
        assert_eq!(taken(&routes, "10.2.1.1", None), "10.0.0.0/8 *");
        assert_eq!(taken(&routes, "11.1.1.1", Some("b.com")), " b.com");
        assert_eq!(taken(&routes, "11.1.1.1", None), "last resort");
    }
}
