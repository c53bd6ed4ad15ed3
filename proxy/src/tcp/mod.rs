//! Raw connections: bytes both ways, whatever they mean. Routes are chosen by address and by the server name of a TLS
//! hello. Mutual TLS of the mesh is ended on the way in and begun on the way out; other TLS passes unopened.
//!
//! A connection is one function, [`serve`]: look at the hello if a route asks for it, decide, pick an
//! endpoint, connect, copy (`relay`). Whatever happens, it leaves one [`Record`].
//!
//! One that waits costs about 2 KiB beside its two sockets: a task of 1.5 KiB, its record, its timer. There is no buffer
//! while nothing flows; a receiver that is slower than its sender makes it hold up to 64 KiB each way.

pub(crate) mod relay;
#[cfg(test)]
mod tests;

use std::{rc::Rc, sync::Arc, time::Duration};

use outrigger_config::{
    decide::{ConnectionView, decide_tcp, source_key},
    snapshot::{ClusterRef, Listener},
};
use rand::Rng;
use socket2::SockRef;
use tokio::{net::TcpStream, time::Instant};

use crate::{
    drain::Phase,
    net::{
        listen::{Accepted, ListenerInfo},
        tls::{self, Inbound, Sniffed, Stream, Taken},
    },
    telemetry::{Flag, RawConnection, Record},
    upstream::{ClusterState, DialError, Host, Original, Published, transport_failure},
    worker::Worker,
};
use relay::{Ended, Limits, Way, relay};

/// Serves one connection to its end, by the configuration that says that it is bytes. Of a `silent` client nothing is
/// waited for.
pub(crate) fn serve(
    accepted: Accepted,
    published: Arc<Published>,
    silent: bool,
    worker: Rc<Worker>,
) -> impl Future<Output = ()> {
    // A future keeps its arguments whole, to the end: parts are less.
    let Accepted { stream, peer, destination, listener, live } = accepted;
    let captured = destination.is_some();
    let local = destination.map_or_else(|| stream.local_addr(), Ok);
    async move {
        let _live = live;
        let Ok(local) = local else { return };
        let Ok(client) = TcpStream::from_std(stream) else { return };
        let known = published.snapshot.listeners.iter().find(|known| known.name == listener.name);
        let Some((known, routes)) = known.and_then(|known| Some((known, known.bytes_to(local)?))) else {
            return;
        };
        let mut record = worker.shard().begin(&published.snapshot, listener.direction);
        record.downstream_remote = Some(peer);
        record.downstream_local = Some(local);
        // As in Envoy, what never got as far as a route is not logged.
        let taken = match published.inbound(&listener.name, local.port()) {
            Some(inbound) if !(silent && inbound.plaintext) => {
                // Boxed, since few connections are taken so, and a handshake is large.
                Box::pin(taken(client, inbound, &listener, &worker)).await
            }
            _ => Some(Taken::plain(client)),
        };
        let Some(Taken { stream: mut client, secured, silent: unheard }) = taken else { return };
        let silent = silent || unheard;
        record.secured = secured;
        let mut server_name = record.requested_server_name().map(Into::into);
        if routes.by_server_name && !silent && record.secured.is_none() {
            match hello(client.tcp(), known, &worker).await {
                Some(found) => server_name = found,
                None => return,
            }
        }
        let view = ConnectionView { destination: local.ip(), server_name: server_name.as_deref() };
        let chosen = decide_tcp(routes, view, || worker.rng().next_u64());
        let route = chosen.map(|(route, destination)| Route {
            cluster: match &destination.cluster {
                ClusterRef::Known(id) => Some(Arc::clone(published.cluster(*id))),
                ClusterRef::Missing(_) => None,
            },
            idle_timeout: route.idle_timeout,
            key: route.hash_source_ip.then(|| source_key(peer.ip())),
        });
        record.connection = Some(RawConnection::new(server_name));
        let mut connection =
            Connection { worker: Rc::clone(&worker), captured, record: Some(Box::new(record)) };
        // A connection may last for days, and would keep an old configuration as long.
        drop(published);
        drop(listener);
        connection.carry(&mut client, route.unwrap_or_default()).await;
    }
}

/// `None` where the client or the proxy gives up, or the client is refused.
async fn taken(
    client: TcpStream,
    inbound: &Inbound,
    listener: &ListenerInfo,
    worker: &Worker,
) -> Option<Taken> {
    let mut drain = worker.drain().clone();
    tokio::select! {
        biased;
        taken = worker.take(client, inbound, listener, true) => taken.ok().flatten(),
        () = drain.reached(Phase::Closing) => None,
    }
}

/// `None` where the client or the proxy gives up before there is a hello. Captured clients may be those of a server that
/// speaks first: they are not waited for as long.
async fn hello(client: &TcpStream, listener: &Listener, worker: &Worker) -> Option<Option<Box<str>>> {
    let detection = listener.captured().and_then(|captured| captured.detection);
    let silence = detection.unwrap_or(worker.settings().idle_timeout);
    let mut drain = worker.drain().clone();
    let sniffed = tokio::select! {
        biased;
        sniffed = tls::hello(client, silence, worker.relay_buffer()) => sniffed.ok()?,
        () = drain.reached(Phase::Closing) => return None,
    };
    match sniffed {
        Sniffed::Hello(asked) => Some(asked.and_then(|asked| asked.server_name)),
        Sniffed::Silent if detection.is_some() => {
            worker.count_unclear();
            Some(None)
        }
        Sniffed::Silent | Sniffed::Unfinished => None,
    }
}

/// What was decided; without a cluster the destination is unknown.
#[derive(Default)]
struct Route {
    cluster: Option<Arc<ClusterState>>,
    idle_timeout: Option<Duration>,
    /// For ring hash and Maglev.
    key: Option<u64>,
}

/// A connection that has its route. Its record goes out when it is dropped.
struct Connection {
    worker: Rc<Worker>,
    captured: bool,
    record: Option<Box<Record>>,
}

impl Connection {
    async fn carry(&mut self, client: &mut Stream, route: Route) {
        // Whoever is refused is closed unread: a reset, if the client has sent something.
        let Some((cluster, host)) = self.endpoint(&route) else { return };
        let began = Instant::now();
        let Some(mut upstream) = self.dial(&cluster, &host).await else { return };
        let Some(record) = self.record.as_deref_mut() else { return };
        let bytes = self.worker.shard().open(record);
        let longest = cluster.config().max_connection_duration;
        let limits = Limits { idle: route.idle_timeout, deadline: longest.map(|longest| began + longest) };
        let buffer = self.worker.relay_buffer();
        let ended = relay(client, &mut upstream.stream, buffer, limits, |way, count| match way {
            Way::Up => {
                record.body_received += count;
                bytes.received(count);
            }
            Way::Down => {
                record.body_sent += count;
                bytes.sent(count);
            }
        })
        .await;
        match ended {
            Ended::ByClient | Ended::Idle => {}
            Ended::ByUpstream => upstream.ended_by_peer(),
            Ended::ClientReset => reset(upstream.stream.tcp()),
            Ended::UpstreamReset => {
                record.flags.raise(Flag::UpstreamRemoteReset);
                upstream.ended_by_peer();
                reset(client.tcp());
            }
            Ended::TooOld => record.flags.raise(Flag::DurationTimeout),
        }
    }

    /// Envoy's order: the cluster, its breaker, its balancer.
    fn endpoint(&mut self, route: &Route) -> Option<(Arc<ClusterState>, Arc<Host>)> {
        let record = self.record.as_deref_mut()?;
        let Some(cluster) = &route.cluster else {
            record.flags.raise(Flag::NoClusterFound);
            return None;
        };
        record.cluster = Some(cluster.config());
        if cluster.refuses_connections() {
            record.flags.raise(Flag::UpstreamOverflow);
            return None;
        }
        let ends = record.downstream_local.zip(record.downstream_remote);
        let original = ends.filter(|_| self.captured);
        let original = original.map(|(destination, peer)| Original { destination, client: peer.ip() });
        let picked = self.worker.pick(cluster, original, route.key, &[]);
        let Some(host) = picked else {
            cluster.stats.upstream_cx_none_healthy.inc();
            record.flags.raise(Flag::NoHealthyUpstream);
            return None;
        };
        Some((Arc::clone(cluster), host))
    }

    async fn dial(
        &mut self,
        cluster: &Arc<ClusterState>,
        host: &Arc<Host>,
    ) -> Option<crate::upstream::TcpConnection> {
        let record = self.record.as_deref_mut()?;
        record.attempts = 1;
        let error = match cluster.dial(host).await {
            Ok(upstream) => {
                record.endpoint = Some(Arc::clone(&host.endpoint));
                record.upstream_local = Some(upstream.local);
                record.upstream_parties = upstream.parties.clone();
                return Some(upstream);
            }
            Err(error) => error,
        };
        if let DialError::Connect(error) = &error {
            record.transport_failure = Some(transport_failure(error));
        }
        if !matches!(error, DialError::Pending) {
            record.endpoint = Some(Arc::clone(&host.endpoint));
            record.flags.raise(Flag::UpstreamConnectionFailure);
        }
        record.flags.raise(Flag::UpstreamRetryLimitExceeded);
        None
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // What panicked may be the telemetry itself; the panic has its own counter.
        if let Some(record) = self.record.take().filter(|_| !std::thread::panicking()) {
            self.worker.shard().emit(*record);
        }
    }
}

/// The other side is to see a reset too, not an end.
fn reset(stream: &TcpStream) {
    // A socket that cannot be reset is closed all the same.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
