//! HTTP/2 pools, against an origin made of the `h2` crate.

use std::{collections::VecDeque, num::NonZeroU32};

use ::h2::{Reason, RecvStream, server, server::SendResponse};
use http::{HeaderMap, Response};
use outrigger_config::snapshot::Http2Keepalive;

use super::*;

const H2: Wire = Wire::Http2;

type Stream = (Request<RecvStream>, SendResponse<Bytes>);

/// An origin that hands over its streams one by one.
struct Streams {
    origin: Origin,
    come: Rc<RefCell<VecDeque<Stream>>>,
}

impl Streams {
    async fn start(settings: impl Fn(&mut server::Builder) + 'static) -> Self {
        let come: Rc<RefCell<VecDeque<Stream>>> = Rc::default();
        let queue = come.clone();
        let settings = Rc::new(settings);
        let origin = Origin::start(move |_, stream| {
            let (queue, settings) = (queue.clone(), settings.clone());
            async move {
                let mut builder = server::Builder::new();
                settings(&mut builder);
                let mut connection = builder.handshake(stream).await.unwrap();
                while let Some(Ok(stream)) = connection.accept().await {
                    let leave = stream.0.uri().path() == "/last";
                    queue.borrow_mut().push_back(stream);
                    if leave {
                        connection.graceful_shutdown();
                    }
                }
            }
        })
        .await;
        Self { origin, come }
    }

    async fn next(&self) -> Stream {
        until("a stream comes", || !self.come.borrow().is_empty()).await;
        self.come.borrow_mut().pop_front().unwrap()
    }

    fn waiting(&self) -> usize {
        self.come.borrow().len()
    }
}

fn answer(stream: &mut Stream, body: &'static str) {
    let mut body_stream = stream.1.send_response(Response::new(()), false).unwrap();
    body_stream.send_data(Bytes::from(body), true).unwrap();
}

fn uri(path: &str) -> Request<Plain> {
    get(&format!("http://test{path}"))
}

async fn send(
    pools: &Pools<Plain>,
    cluster: &Arc<ClusterState>,
) -> Result<Box<Sent<Plain>>, SendError<Plain>> {
    lease(pools, cluster, H2).await.send(uri("/")).await
}

#[tokio::test(flavor = "local")]
async fn requests_share_a_connection_and_trailers_pass() {
    let streams = Streams::start(|_| {}).await;
    let cluster = streams.origin.cluster(|c| c);
    let pools = Pools::new();
    let serve = async {
        for _ in 0..3 {
            let mut stream = streams.next().await;
            let mut body = stream.1.send_response(Response::new(()), false).unwrap();
            body.send_data("ok".into(), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            body.send_trailers(trailers).unwrap();
        }
    };
    let ask = async {
        let mut body = send(&pools, &cluster).await.unwrap().response.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ok");
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert!(body.frame().await.is_none());
    };
    tokio::join!(serve, ask, async { send(&pools, &cluster).await.unwrap() }, async {
        send(&pools, &cluster).await.unwrap()
    });
    assert_eq!((streams.origin.accepted(), cluster.stats.upstream_cx_http2_total.get()), (1, 1));
    all_given_back(&cluster, 1).await;
}

#[tokio::test(flavor = "local")]
async fn beyond_the_stream_limit_another_connection_is_opened() {
    for by_peer in [false, true] {
        let streams = Streams::start(move |builder| {
            if by_peer {
                builder.max_concurrent_streams(2);
            }
        })
        .await;
        let most = if by_peer { u32::MAX } else { 2 };
        let cluster = streams.origin.cluster(|c| c.with(|c| c.max_concurrent_streams = most));
        let pools = Pools::new();
        // One exchange first: the peer's settings are known after it.
        let serve = async { answer(&mut streams.next().await, "ok") };
        tokio::join!(exchange(&pools, &cluster, H2), serve);
        let ask = || async { send(&pools, &cluster).await.unwrap() };
        let serve = async {
            until("six at once", || streams.waiting() == 6).await;
            for _ in 0..6 {
                answer(&mut streams.next().await, "ok");
            }
        };
        let held = tokio::join!(ask(), ask(), ask(), ask(), ask(), ask(), serve);
        assert_eq!(streams.origin.accepted(), 3, "limit set by the peer: {by_peer}");
        drop(held);
        all_given_back(&cluster, 3).await;
    }
}

#[tokio::test(flavor = "local")]
async fn an_origin_that_never_sends_its_settings_is_a_connect_timeout_for_all_that_wait() {
    let origin = Origin::start(|_, stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let cluster = origin.cluster(|c| c.with(|c| c.connect_timeout = Duration::from_millis(50)));
    let (pools, host) = (Pools::<Plain>::new(), host(&cluster));
    let ask = || pools.checkout(&cluster, &host, H2, b"");
    let (a, b, c) = tokio::join!(ask(), ask(), ask());
    for result in [a, b, c] {
        assert!(matches!(result, Err(PoolError::ConnectTimeout)));
    }
    assert_eq!((origin.accepted(), cluster.stats.upstream_cx_connect_timeout.get()), (1, 1));
    all_given_back(&cluster, 0).await;
}

#[tokio::test(flavor = "local")]
async fn an_origin_that_takes_no_stream_is_not_dialled_for_ever() {
    let streams = Streams::start(|builder| {
        builder.max_concurrent_streams(0);
    })
    .await;
    let cluster = streams.origin.cluster(|c| c);
    let (pools, host) = (Pools::<Plain>::new(), host(&cluster));
    let result = pools.checkout(&cluster, &host, H2, b"").await;
    assert!(matches!(result, Err(PoolError::Reset(ResetReason::ConnectionTermination))));
    assert_eq!(streams.origin.accepted(), 1);
}

#[tokio::test(flavor = "local")]
async fn an_origin_that_closes_at_once_is_dialled_once() {
    let origin = Origin::start(|_, stream| async move { drop(stream) }).await;
    let cluster = origin.cluster(|c| c);
    let (pools, host) = (Pools::<Plain>::new(), host(&cluster));
    let result = pools.checkout(&cluster, &host, H2, b"").await;
    assert!(matches!(result, Err(PoolError::Reset(ResetReason::ConnectionTermination))));
    assert_eq!((origin.accepted(), cluster.stats.upstream_cx_connect_fail.get()), (1, 0));
    all_given_back(&cluster, 0).await;
}

#[tokio::test(flavor = "local")]
async fn a_shared_connection_serves_exactly_its_requests() {
    let streams = Streams::start(|_| {}).await;
    let cluster = streams.origin.cluster(|c| c.with(|c| c.max_requests_per_connection = NonZeroU32::new(2)));
    let pools = Pools::new();
    for _ in 0..4 {
        let serve = async { answer(&mut streams.next().await, "ok") };
        tokio::join!(exchange(&pools, &cluster, H2), serve);
    }
    assert_eq!((streams.origin.accepted(), cluster.stats.upstream_cx_max_requests.get()), (2, 2));
    all_given_back(&cluster, 0).await;
}

#[tokio::test(flavor = "local")]
async fn a_reset_stream_has_the_peers_reason() {
    for (code, expected) in [
        (Reason::INTERNAL_ERROR, ResetReason::RemoteReset),
        (Reason::CANCEL, ResetReason::RemoteReset),
        (Reason::REFUSED_STREAM, ResetReason::RemoteRefusedStream),
    ] {
        let streams = Streams::start(|_| {}).await;
        let cluster = streams.origin.cluster(|c| c);
        let pools = Pools::new();
        let (result, ()) =
            tokio::join!(send(&pools, &cluster), async { streams.next().await.1.send_reset(code) });
        let Err(SendError::Reset(reason)) = result else { panic!("no reset") };
        assert_eq!(reason, expected);
        let counted = u64::from(expected == ResetReason::RemoteReset);
        assert_eq!(cluster.stats.upstream_rq_rx_reset.get(), counted, "{code:?}");
        all_given_back(&cluster, 1).await;
    }
}

#[tokio::test(flavor = "local")]
async fn a_body_that_was_cut_never_ends_cleanly() {
    for code in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
        let streams = Streams::start(|_| {}).await;
        let cluster = streams.origin.cluster(|c| c);
        let pools = Pools::new();
        let serve = async {
            let mut stream = streams.next().await;
            let mut body = stream.1.send_response(Response::new(()), false).unwrap();
            body.send_data("some".into(), false).unwrap();
            (stream, body)
        };
        let (sent, (_stream, mut cut)) = tokio::join!(send(&pools, &cluster), serve);
        let mut body = sent.unwrap().response.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "some");
        cut.send_reset(code);
        assert_eq!(body.frame().await.unwrap().unwrap_err(), ResetReason::RemoteReset, "{code:?}");
        all_given_back(&cluster, 1).await;
    }
}

#[tokio::test(flavor = "local")]
async fn going_away_ends_no_stream_under_way() {
    let streams = Streams::start(|_| {}).await;
    let cluster = streams.origin.cluster(|c| c);
    let pools = Pools::new();
    let first = lease(&pools, &cluster, H2).await;
    let sending = first.send(uri("/last"));
    tokio::pin!(sending);
    let mut last = tokio::select! {
        _ = &mut sending => panic!("not answered yet"),
        stream = streams.next() => stream,
    };
    // The connection is on its way out: the next request may be given back by it, and is sent again for free.
    let ask = async {
        let mut request = uri("/");
        loop {
            match lease(&pools, &cluster, H2).await.send(request).await {
                Ok(sent) => break whole(sent.response.into_body()).await.unwrap(),
                Err(SendError::Unsent(unsent)) => request = *unsent,
                Err(SendError::Reset(reason)) => {
                    assert_eq!(reason, ResetReason::RemoteRefusedStream, "may be sent again");
                    request = uri("/");
                }
            }
        }
    };
    let (body, ()) = tokio::join!(ask, async { answer(&mut streams.next().await, "new") });
    assert_eq!((body, streams.origin.accepted()), ("new".into(), 2));
    answer(&mut last, "old");
    assert_eq!(whole(sending.await.unwrap().response.into_body()).await.unwrap(), "old");
    all_given_back(&cluster, 1).await;
}

#[tokio::test(flavor = "local")]
async fn a_connection_that_goes_away_is_ended_here_and_a_lost_one_by_the_peer() {
    // GOAWAY before the first stream, without an error.
    let farewell: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for goes_away in [true, false] {
        let origin = Origin::start(move |_, mut stream| async move {
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            stream.read_exact(&mut [0; 24]).await.unwrap();
            let mut requests = 0;
            while requests < 2 {
                let [high, middle, low, kind] = stream.read_u32().await.unwrap().to_be_bytes();
                let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                stream.read_exact(&mut vec![0; 5 + length]).await.unwrap();
                requests += usize::from(kind == 1);
            }
            if goes_away {
                stream.write_all(&farewell).await.unwrap();
            }
        })
        .await;
        let cluster = origin.cluster(|c| c);
        let pools = Pools::new();
        let (one, two) = tokio::join!(send(&pools, &cluster), send(&pools, &cluster));
        assert!(one.is_err() && two.is_err());
        until("counted", || ends(&cluster) != [0; 4]).await;
        let stats = &cluster.stats;
        assert_eq!(ends(&cluster), if goes_away { [1, 0, 0, 0] } else { [0, 0, 1, 1] });
        let failed = if goes_away { 0 } else { 2 };
        assert_eq!(
            (stats.upstream_rq_pending_failure_eject.get(), stats.upstream_rq_rx_reset.get()),
            (failed, 0)
        );
        all_given_back(&cluster, 0).await;
    }
}

#[tokio::test(flavor = "local")]
async fn what_is_no_http2_is_a_protocol_error_and_a_lost_connection_a_termination() {
    let no_h2 = |_, mut stream: TcpStream| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        while stream.read_u8().await.is_ok() {}
    };
    let gone = |_, mut stream: TcpStream| async move {
        let mut handshake = [0; 64];
        let _ = stream.read(&mut handshake).await;
    };
    for (origin, expected) in [
        (Origin::start(no_h2).await, ResetReason::ProtocolError),
        (Origin::start(gone).await, ResetReason::ConnectionTermination),
    ] {
        let cluster = origin.cluster(|c| c);
        let pools = Pools::new();
        // It may be seen before or after the request is on the connection.
        let reset = match pools.checkout(&cluster, &host(&cluster), H2, b"").await {
            Err(PoolError::Reset(reason)) => Some(reason),
            Err(_) => None,
            Ok(lease) => match lease.send(uri("/")).await {
                Err(SendError::Reset(reason)) => Some(reason),
                Ok(_) | Err(SendError::Unsent(_)) => None,
            },
        };
        assert_eq!(reset, Some(expected));
        let stats = &cluster.stats;
        let counted = (stats.upstream_rq_tx_reset.get(), stats.upstream_rq_pending_failure_eject.get());
        assert_eq!(counted, if expected == ResetReason::ProtocolError { (1, 0) } else { (0, 1) });
        let ended = if expected == ResetReason::ProtocolError { [1, 0, 0, 0] } else { [0, 0, 1, 1] };
        until("its end is counted", || ends(&cluster) == ended).await;
        assert_eq!((stats.upstream_rq_total.get(), host(&cluster).stats().rq_total.get()), (1, 1));
        all_given_back(&cluster, 0).await;
    }
}

#[tokio::test(flavor = "local")]
async fn a_client_that_vanishes_resets_its_stream_only() {
    let streams = Streams::start(|_| {}).await;
    let cluster = streams.origin.cluster(|c| c);
    let pools = Pools::new();
    // Before the answer.
    let sending = lease(&pools, &cluster, H2).await.send(uri("/"));
    let mut stream = tokio::select! {
        _ = sending => panic!("no answer was given"),
        stream = streams.next() => stream,
    };
    assert_eq!(std::future::poll_fn(|cx| stream.1.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
    all_given_back(&cluster, 1).await;
    // In the body.
    let serve = async {
        let mut stream = streams.next().await;
        let mut body = stream.1.send_response(Response::new(()), false).unwrap();
        body.send_data("some".into(), false).unwrap();
        (stream, body)
    };
    let (sent, (_stream, mut body)) = tokio::join!(send(&pools, &cluster), serve);
    let mut cut = sent.unwrap().response.into_body();
    cut.frame().await.unwrap().unwrap();
    drop(cut);
    assert_eq!(std::future::poll_fn(|cx| body.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
    all_given_back(&cluster, 1).await;
    assert_eq!((streams.origin.accepted(), cluster.stats.upstream_rq_tx_reset.get()), (1, 2));
}

#[tokio::test(flavor = "local")]
async fn an_idle_shared_connection_is_closed_at_its_deadline() {
    let streams = Streams::start(|_| {}).await;
    let cluster = streams.origin.cluster(|c| c.with(|c| c.idle_timeout = Some(Duration::from_millis(50))));
    let pools = Pools::new();
    tokio::join!(exchange(&pools, &cluster, H2), async { answer(&mut streams.next().await, "ok") });
    until("closed", || cluster.breaker.connections.used() == 0).await;
    assert_eq!(cluster.stats.upstream_cx_idle_timeout.get(), 1);
}

/// An HTTP/2 origin by hand that answers this many PINGs and no request, and says how many came.
async fn pinged(answers: usize) -> (Origin, Rc<Cell<usize>>) {
    let pings = Rc::new(Cell::new(0));
    let count = pings.clone();
    let origin = Origin::start(move |_, mut stream| {
        let count = count.clone();
        async move {
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            stream.read_exact(&mut [0; 24]).await.unwrap();
            let mut head = [0; 9];
            while stream.read_exact(&mut head).await.is_ok() {
                let [high, middle, low, kind, flags, ..] = head;
                let mut payload =
                    vec![0; usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)];
                stream.read_exact(&mut payload).await.unwrap();
                if kind == 6 && flags == 0 {
                    count.set(count.get() + 1);
                    if count.get() <= answers {
                        stream.write_all(&[0, 0, 8, 6, 1, 0, 0, 0, 0]).await.unwrap();
                        stream.write_all(&payload).await.unwrap();
                    }
                }
            }
        }
    })
    .await;
    (origin, pings)
}

/// Asks every 20 ms, and waits so long for each answer.
fn pings(timeout: Duration) -> impl FnOnce(ClusterBuilder) -> ClusterBuilder {
    let keepalive = Http2Keepalive { interval: Duration::from_millis(20), timeout };
    move |c| c.with(|c| c.http2_keepalive = Some(keepalive))
}

/// As Envoy: termination for the request, ended here, and counted.
#[tokio::test(flavor = "local")]
async fn a_shared_connection_is_pinged_and_given_up_when_nothing_comes_back() {
    let (origin, came) = pinged(3).await;
    let cluster = origin.cluster(pings(Duration::from_secs(2)));
    let pools = Pools::new();
    // Busy.
    let Err(SendError::Reset(reason)) = send(&pools, &cluster).await else { panic!("no reset") };
    assert_eq!(reason, ResetReason::ConnectionTermination);
    assert_eq!(came.get(), 4, "three were answered");
    all_given_back(&cluster, 0).await;
    assert_eq!((cluster.stats.http2_keepalive_timeout.get(), ends(&cluster)), (1, [1, 1, 0, 0]));
    // Idle.
    drop(lease(&pools, &cluster, H2).await);
    until("given up", || cluster.breaker.connections.used() == 0).await;
    assert_eq!((cluster.stats.http2_keepalive_timeout.get(), ends(&cluster)), (2, [2, 1, 0, 0]));
    assert_eq!(came.get(), 5);
}

#[tokio::test(flavor = "local")]
async fn an_idle_shared_connection_that_answers_its_pings_stays() {
    let (origin, came) = pinged(usize::MAX).await;
    let cluster = origin.cluster(pings(Duration::from_secs(60)));
    let pools = Pools::<Plain>::new();
    drop(lease(&pools, &cluster, H2).await);
    until("six pings", || came.get() >= 6).await;
    assert_eq!((cluster.breaker.connections.used(), cluster.stats.http2_keepalive_timeout.get()), (1, 0));
}
