//! Endpoints that are host names (Istio `ServiceEntry.resolution: DNS`): looked up by their time to live on the control
//! thread, never by a request.
//!
//! `names` says what is due and keeps the last good answers, `lookup` asks, and here an answer becomes endpoints. A
//! cluster's state never sees a name: it is told new endpoints as a reload would tell them.

mod lookup;
mod names;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use outrigger_config::snapshot::{Cluster, Discovery, Dns, Endpoint, NamedEndpoint, Snapshot, Target};
use tokio::time::{Instant, sleep_until, timeout};

use super::Upstreams;
#[cfg(test)]
pub(crate) use lookup::server::Server;
pub(crate) use lookup::{Lookup, NameServers};
pub(super) use names::Names;
use names::{Answer, Change};

/// Lookups under way at once.
const MOST: usize = 32;

impl Upstreams {
    /// Starts to look up the names of a configuration that is not published yet, and waits until each was answered or
    /// failed, but no longer than `limit`: its first requests shall find endpoints.
    pub(crate) async fn prepare(&self, snapshot: &Snapshot, limit: Duration) {
        let now = Instant::now();
        for dns in clusters(snapshot) {
            self.names().need(dns.names(), dns.refresh, now);
        }
        self.due.notify_one();
        let all_tried = async {
            while !self.names().all_tried() {
                self.learned.notified().await;
            }
        };
        // Later answers count as soon as they come.
        let _ = timeout(limit, all_tried).await;
    }

    /// Looks names up as they fall due, without end. `lookup` is made when there is the first of them.
    pub(crate) async fn resolve(&self, lookup: impl Fn() -> Result<Lookup, String>) -> Infallible {
        let mut made: Option<Lookup> = None;
        let mut running = FuturesUnordered::new();
        loop {
            let due = self.names().take_due(MOST - running.len(), Instant::now());
            for name in due {
                if made.is_none() {
                    made = lookup().inspect_err(|error| tracing::warn!(error, "no name servers")).ok();
                }
                running.push(ask(made.clone(), name));
            }
            // While as many run as may, the next ones wait for an answer.
            let next = self.names().next_due().filter(|_| running.len() < MOST);
            let sleep = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((name, answer)) = running.next() => self.learn(&name, answer),
                () = sleep => {}
                () = self.due.notified() => {}
            }
        }
    }

    /// The clusters of a name follow its addresses.
    fn learn(&self, name: &str, answer: Result<Answer, String>) {
        let now = Instant::now();
        let answer = match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                if !self.names().is_failing(name) {
                    tracing::warn!(name, error, "not resolved; the last good answer stays in use");
                }
                None
            }
        };
        let failed = answer.is_none();
        let change = self.names().learn(name, answer, now);
        for known in self.known().values() {
            let Discovery::Dns(dns) = &known.described.discovery else { continue };
            if !dns.names().any(|other| &**other == name) {
                continue;
            }
            let stats = &known.state.stats;
            stats.update_attempt.inc();
            if failed { &stats.update_failure } else { &stats.update_success }.inc();
            // Another order of the same addresses is no reason to move where all of them are used.
            let least = if dns.first_only { Change::First } else { Change::Addresses };
            if change >= least {
                known.state.update(&resolved(&known.described, &self.names()), now);
            }
        }
        self.learned.notify_one();
    }
}

/// No name servers, no answer.
async fn ask(lookup: Option<Lookup>, name: Arc<str>) -> (Arc<str>, Result<Answer, String>) {
    let answer = match lookup {
        Some(lookup) => lookup.of(&name).await,
        None => Err("there are no name servers".to_owned()),
    };
    (name, answer)
}

fn clusters(snapshot: &Snapshot) -> impl Iterator<Item = &Dns> {
    snapshot.clusters.iter().filter_map(|cluster| match &cluster.discovery {
        Discovery::Dns(dns) => Some(&**dns),
        _ => None,
    })
}

/// The names of a configuration.
pub(super) fn names_of(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<str>> {
    clusters(snapshot).flat_map(Dns::names)
}

/// A cluster with the addresses of its names as endpoints; one without names as it is.
pub(super) fn resolved(described: &Arc<Cluster>, names: &Names) -> Arc<Cluster> {
    let Discovery::Dns(dns) = &described.discovery else { return Arc::clone(described) };
    let mut endpoints: Vec<Arc<Endpoint>> = Vec::new();
    let mut add = |endpoint: Arc<Endpoint>| {
        // Envoy takes an address that several names have once.
        if !endpoints.iter().any(|other| other.address == endpoint.address) {
            endpoints.push(endpoint);
        }
    };
    for target in &dns.targets {
        match target {
            Target::Address(endpoint) => add(Arc::clone(endpoint)),
            Target::Name(named) => {
                let most = if dns.first_only { 1 } else { usize::MAX };
                for ip in names.addresses(&named.name).iter().take(most) {
                    add(Arc::new(endpoint(named, SocketAddr::new(*ip, named.port))));
                }
            }
        }
    }
    Arc::new(Cluster { endpoints: endpoints.into(), ..Cluster::clone(described) })
}

fn endpoint(named: &NamedEndpoint, address: SocketAddr) -> Endpoint {
    Endpoint {
        address,
        key: address.to_string().into(),
        hostname: Arc::clone(&named.name),
        weight: named.weight,
        labels: named.labels.clone(),
        locality: named.locality.clone(),
        priority: named.priority,
        mutual: named.mutual,
    }
}
