//! The DNS proxy (Istio: port 15053): what rules of the kernel capture of the pod's questions is answered here for the
//! services of the mesh, and everything else passed on to the name servers that the pod would have asked.
//!
//! It runs on the control thread and keeps no answers. What the proxy itself looks up goes past it
//! (`upstream/dns`).

mod answer;
mod forward;
mod serve;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use serde_json::json;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::Semaphore,
};

use crate::{
    telemetry::{Kind, Sample},
    upstream::{NameServers, Published},
};
use answer::Question;
use forward::Forwarder;

/// Descriptors that it may want at a time.
pub(crate) const MOST_SOCKETS: usize = forward::MOST + serve::CONNECTIONS + 4;

/// Where name servers listen.
const PORT: u16 = 53;

/// How a question came, and how its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

/// All that answering takes.
#[derive(Debug)]
pub(crate) struct DnsProxy {
    published: Arc<ArcSwap<Published>>,
    /// The first search domain of the machine, which a resolver tries first with every name.
    search: Option<Box<str>>,
    forwarder: Forwarder,
    /// For connections.
    places: Arc<Semaphore>,
    requests: AtomicU64,
}

impl DnsProxy {
    /// Of the services in `published`, and of the name servers of the machine for the rest, unless the proxy itself is
    /// one of them: it listens at `own`.
    pub(crate) fn new(
        published: Arc<ArcSwap<Published>>,
        system: &NameServers,
        own: &[SocketAddr],
    ) -> Arc<Self> {
        let servers = system.servers.iter().map(|ip| SocketAddr::new(*ip, PORT));
        let servers = servers.filter(|server| {
            let is_own = own.contains(server);
            if is_own {
                tracing::warn!(%server, "/etc/resolv.conf names the sidecar itself, which would ask itself");
            }
            !is_own
        });
        Self::with(published, servers.collect(), system.search.as_deref())
    }

    fn with(published: Arc<ArcSwap<Published>>, servers: Vec<SocketAddr>, search: Option<&str>) -> Arc<Self> {
        Arc::new(Self {
            published,
            search: search.map(Into::into),
            forwarder: Forwarder::new(servers),
            places: Arc::new(Semaphore::new(serve::CONNECTIONS)),
            requests: AtomicU64::new(0),
        })
    }

    /// Serves both sockets until dropped with the runtime.
    pub(crate) fn start(self: &Arc<Self>, udp: UdpSocket, tcp: TcpListener) {
        tokio::spawn(serve::over_udp(Arc::clone(self), udp));
        tokio::spawn(serve::over_tcp(Arc::clone(self), tcp));
    }

    /// The answer to what was asked, or the question if name servers have to be asked. `None` is no question at all.
    fn consider(&self, bytes: &[u8], over: Transport) -> Option<Result<Vec<u8>, Question>> {
        self.requests.fetch_add(1, Relaxed);
        let question = match Question::parse(bytes, over)? {
            Ok(question) => question,
            Err(refusal) => return Some(Ok(refusal)),
        };
        let published = self.published.load();
        let names = &published.snapshot.host_names;
        // Which address comes first is no choice that a run is replayed by.
        let known = question.answer(names, self.search.as_deref(), rand::random::<u32>());
        Some(known.ok_or(question))
    }

    /// The answer of a name server, or that there is none.
    async fn forwarded(&self, question: &Question) -> Vec<u8> {
        match self.forwarder.ask(question).await {
            Some(answer) => answer,
            None => question.failure(),
        }
    }

    /// Istio's metrics.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        let counter = |name: &'static str, help, count: &AtomicU64| Sample {
            name: name.into(),
            help,
            kind: Kind::Counter,
            labels: Vec::new(),
            #[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
            value: count.load(Relaxed) as f64,
        };
        vec![
            counter("istio_agent_dns_requests_total", "Questions of the pod", &self.requests),
            counter(
                "istio_agent_dns_upstream_requests_total",
                "Questions of the pod that were passed on to name servers",
                &self.forwarder.requests,
            ),
            counter(
                "istio_agent_dns_upstream_failures_total",
                "Questions that no name server answered in time, or for which there was no room",
                &self.forwarder.failures,
            ),
        ]
    }

    /// The name table as Istio's agent shows it (`/debug/ndsz`).
    pub(crate) fn table(&self) -> serde_json::Value {
        let published = self.published.load();
        let names: BTreeMap<String, &[IpAddr]> =
            published.snapshot.host_names.all().map(|(name, addresses)| (name, &**addresses)).collect();
        let entries = names.into_iter().map(|(name, addresses)| (name, json!({ "ips": addresses })));
        json!({ "table": entries.collect::<serde_json::Map<_, _>>() })
    }
}
