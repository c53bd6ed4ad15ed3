//! The pools against real sockets on loopback: origins that behave and origins that do not.

mod h1;
mod h2;

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::spawn_local,
    time::{Instant, sleep},
};

use super::*;
use crate::{
    testing::reserved_address,
    upstream::testing::{ClusterBuilder, state},
};

type Plain = Full<Bytes>;

/// An origin that runs `handle` for each connection it accepts.
struct Origin {
    address: SocketAddr,
    accepted: Rc<Cell<usize>>,
}

impl Origin {
    async fn start<F: Future<Output = ()> + 'static>(
        handle: impl Fn(usize, TcpStream) -> F + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Rc::new(Cell::new(0));
        let count = accepted.clone();
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.set(count.get() + 1);
                spawn_local(handle(count.get(), stream));
            }
        });
        Self { address, accepted }
    }

    fn cluster(&self, change: impl FnOnce(ClusterBuilder) -> ClusterBuilder) -> Arc<ClusterState> {
        state(change(ClusterBuilder::new(0).to(self.address)))
    }

    fn accepted(&self) -> usize {
        self.accepted.get()
    }
}

/// The one host of a test's cluster.
fn host(cluster: &ClusterState) -> Arc<Host> {
    cluster.hosts().all[0].clone()
}

fn get(path: &str) -> Request<Plain> {
    Request::get(path).header("host", "test").body(Plain::default()).unwrap()
}

async fn lease(pools: &Pools<Plain>, cluster: &Arc<ClusterState>, wire: Wire) -> Lease<Plain> {
    pools.checkout(cluster, &host(cluster), wire, b"").await.unwrap()
}

/// One whole exchange; the answer is the status and the body.
async fn exchange(pools: &Pools<Plain>, cluster: &Arc<ClusterState>, wire: Wire) -> (u16, Bytes) {
    let uri = match wire {
        Wire::Http1 => "/",
        Wire::Http2 => "http://test/",
    };
    let sent = lease(pools, cluster, wire).await.send(get(uri)).await.unwrap();
    let status = sent.response.status().as_u16();
    (status, whole(sent.response.into_body()).await.unwrap())
}

#[expect(clippy::disallowed_methods, reason = "bodies of a few bytes")]
async fn whole(body: ResponseBody<Plain>) -> Result<Bytes, ResetReason> {
    Ok(body.collect().await?.to_bytes())
}

/// Reads one request head; `None` at the end of the connection.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return None,
        }
    }
    Some(String::from_utf8(head).unwrap())
}

/// Answers every request alike.
async fn always(mut stream: TcpStream, answer: &'static str) {
    while head(&mut stream).await.is_some() {
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// Connections that we ended, also those under a request, and the same of the peer.
fn ends(cluster: &ClusterState) -> [u64; 4] {
    let stats = &cluster.stats;
    [
        stats.upstream_cx_destroy_local.get(),
        stats.upstream_cx_destroy_local_with_active_rq.get(),
        stats.upstream_cx_destroy_remote.get(),
        stats.upstream_cx_destroy_remote_with_active_rq.get(),
    ]
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Waits until the condition holds, for at most 5 s.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until nothing is in use but `open` idle connections.
async fn all_given_back(cluster: &ClusterState, open: u32) {
    let breaker = &cluster.breaker;
    until("permits given back", || {
        (breaker.requests.used(), breaker.pending.used(), breaker.connections.used()) == (0, 0, open)
    })
    .await;
    let host = host(cluster);
    assert_eq!((host.active(), host.stats().cx_active.get()), (0, open.into()));
}

#[tokio::test(flavor = "local")]
async fn a_refused_connection_fails_all_that_wait() {
    let address = reserved_address();
    for wire in [Wire::Http1, Wire::Http2] {
        let cluster = state(ClusterBuilder::new(0).to(address));
        let pools = Pools::<Plain>::new();
        let host = host(&cluster);
        let (one, two) = tokio::join!(
            pools.checkout(&cluster, &host, wire, b""),
            pools.checkout(&cluster, &host, wire, b"")
        );
        for result in [one, two] {
            let Err(PoolError::Connect(error)) = result else { panic!("not refused") };
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        assert_eq!(cluster.stats.upstream_rq_pending_failure_eject.get(), 2);
        assert!(cluster.stats.upstream_cx_connect_fail.get() > 0 && host.stats().cx_connect_fail.get() > 0);
        let stats = &cluster.stats;
        let opened = stats.upstream_cx_http1_total.get() + stats.upstream_cx_http2_total.get();
        assert_eq!((opened, ends(&cluster)), (stats.upstream_cx_total.get(), [0, 0, opened, 0]));
        all_given_back(&cluster, 0).await;
    }
}

#[tokio::test(flavor = "local")]
async fn a_connection_that_is_not_established_in_time_is_given_up() {
    // A listener that accepts nothing: once its backlog is full, the kernel drops what comes.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut fill = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        fill.push(stream);
    }
    let cluster =
        state(ClusterBuilder::new(0).to(address).with(|c| c.connect_timeout = Duration::from_millis(20)));
    let pools = Pools::<Plain>::new();
    let result = pools.checkout(&cluster, &host(&cluster), Wire::Http1, b"").await;
    assert!(matches!(result, Err(PoolError::ConnectTimeout)));
    assert_eq!(
        (cluster.stats.upstream_cx_connect_timeout.get(), cluster.stats.upstream_cx_connect_fail.get()),
        (1, 1)
    );
    assert_eq!(ends(&cluster), [1, 0, 0, 0]);
    all_given_back(&cluster, 0).await;
}
