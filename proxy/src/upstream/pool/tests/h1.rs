//! HTTP/1 pools.

use std::num::NonZeroU32;

use http_body_util::StreamBody;
use outrigger_config::snapshot::Limits;

use super::*;

const H1: Wire = Wire::Http1;

/// Answers when it is told to; the answer counts the requests that came.
async fn on_demand(mut stream: TcpStream, came: Rc<Cell<usize>>, go: Rc<tokio::sync::Notify>) {
    while head(&mut stream).await.is_some() {
        came.set(came.get() + 1);
        go.notified().await;
        stream.write_all(OK.as_bytes()).await.unwrap();
    }
}

#[tokio::test(flavor = "local")]
async fn a_connection_is_reused_and_the_newest_first() {
    let origin = Origin::start(|_, stream| always(stream, OK)).await;
    let cluster = origin.cluster(|c| c);
    let pools = Pools::new();
    assert_eq!(exchange(&pools, &cluster, H1).await, (200, "ok".into()));
    assert_eq!(exchange(&pools, &cluster, H1).await, (200, "ok".into()));
    assert_eq!(origin.accepted(), 1);

    let (old, new) = (lease(&pools, &cluster, H1).await, lease(&pools, &cluster, H1).await);
    assert_eq!(origin.accepted(), 2);
    assert!(old.is_reused() && !new.is_reused());
    let newest = new.local_address().unwrap();
    for lease in [old, new] {
        whole(lease.send(get("/")).await.unwrap().response.into_body()).await.unwrap();
    }
    for _ in 0..5 {
        let sent = lease(&pools, &cluster, H1).await.send(get("/")).await.unwrap();
        assert_eq!(sent.local_address, newest);
        whole(sent.response.into_body()).await.unwrap();
    }
    assert_eq!((origin.accepted(), cluster.stats.upstream_cx_http1_total.get()), (2, 2));
    assert_eq!(cluster.stats.upstream_rq_total.get(), 9);
    all_given_back(&cluster, 2).await;
}

#[tokio::test(flavor = "local")]
async fn an_unused_lease_gives_its_connection_back() {
    let origin = Origin::start(|_, stream| always(stream, OK)).await;
    let cluster = origin.cluster(|c| c.with(|c| c.max_requests_per_connection = NonZeroU32::new(2)));
    let pools = Pools::new();
    for _ in 0..5 {
        drop(lease(&pools, &cluster, H1).await);
        all_given_back(&cluster, 1).await;
    }
    exchange(&pools, &cluster, H1).await;
    exchange(&pools, &cluster, H1).await;
    assert_eq!(origin.accepted(), 1, "what was not used is not counted");
}

#[tokio::test(flavor = "local")]
async fn a_connection_serves_exactly_its_requests_and_is_closed() {
    let ends = Rc::new(Cell::new(0));
    let seen = ends.clone();
    let origin = Origin::start(move |_, mut stream| {
        let seen = seen.clone();
        async move {
            while let Some(head) = head(&mut stream).await {
                assert!(!head.contains("connection:"), "{head}");
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
            seen.set(seen.get() + 1);
        }
    })
    .await;
    let cluster = origin.cluster(|c| c.with(|c| c.max_requests_per_connection = NonZeroU32::new(3)));
    let pools = Pools::new();
    for _ in 0..6 {
        exchange(&pools, &cluster, H1).await;
    }
    until("both closed", || ends.get() == 2).await;
    assert_eq!((origin.accepted(), cluster.stats.upstream_cx_max_requests.get()), (2, 2));
    all_given_back(&cluster, 0).await;
}

#[tokio::test(flavor = "local")]
async fn requests_wait_in_line_for_a_connection_and_overflow_at_once() {
    let (came, go) = (Rc::new(Cell::new(0)), Rc::new(tokio::sync::Notify::new()));
    let (seen, told) = (came.clone(), go.clone());
    let origin = Origin::start(move |_, stream| on_demand(stream, seen.clone(), told.clone())).await;
    let cluster = origin
        .cluster(|c| c.limits(Limits { max_connections: 1, max_pending_requests: 2, ..Limits::default() }));
    let pools = Rc::new(Pools::new());
    let done = Rc::new(RefCell::new(Vec::new()));
    for n in 0..3 {
        let (pools, mine, done) = (pools.clone(), cluster.clone(), done.clone());
        spawn_local(async move {
            exchange(&pools, &mine, H1).await;
            done.borrow_mut().push(n);
        });
        until("sent or in line", || came.get() == 1 && cluster.breaker.pending.used() == n).await;
    }
    let refused = pools.checkout(&cluster, &host(&cluster), H1, b"").await.unwrap_err();
    assert!(matches!(refused, PoolError::Overflow(Overflow::Pending)));
    assert_eq!(cluster.stats.upstream_rq_pending_overflow.get(), 1);
    assert!(cluster.stats.upstream_cx_overflow.get() >= 2);

    for n in 1..=3 {
        until("the next is sent", || came.get() == n).await;
        go.notify_one();
    }
    until("all done", || done.borrow().len() == 3).await;
    assert_eq!((*done.borrow()).clone(), [0, 1, 2], "first come, first served");
    assert_eq!(origin.accepted(), 1);
    all_given_back(&cluster, 1).await;
}

#[tokio::test(flavor = "local")]
async fn every_pool_may_open_one_connection_beyond_the_limit() {
    let origin = Origin::start(|_, stream| always(stream, OK)).await;
    let cluster = origin.cluster(|c| c.limits(Limits { max_connections: 1, ..Limits::default() }));
    let (one, two) = (Pools::new(), Pools::new());
    exchange(&one, &cluster, H1).await;
    exchange(&two, &cluster, H1).await;
    assert_eq!((origin.accepted(), cluster.stats.upstream_cx_overflow.get()), (2, 1));
}

#[tokio::test(flavor = "local")]
async fn too_many_active_requests_overflow_once_they_have_a_connection() {
    let origin = Origin::start(|_, stream| always(stream, OK)).await;
    let cluster = origin.cluster(|c| c.limits(Limits { max_requests: 1, ..Limits::default() }));
    let pools = Pools::new();
    let held = lease(&pools, &cluster, H1).await;
    let refused = pools.checkout(&cluster, &host(&cluster), H1, b"").await.unwrap_err();
    assert!(matches!(refused, PoolError::Overflow(Overflow::Requests)));
    assert_eq!((origin.accepted(), cluster.stats.upstream_rq_active_overflow.get()), (2, 1));
    drop(held);
    exchange(&pools, &cluster, H1).await;
    all_given_back(&cluster, 2).await;
}

#[tokio::test(flavor = "local")]
async fn a_connection_closed_while_idle_costs_no_error() {
    let origin = Origin::start(|_, mut stream| async move {
        head(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
    })
    .await;
    let cluster = origin.cluster(|c| c);
    let pools = Pools::new();
    for _ in 0..20 {
        let uri = "/";
        let mut request = get(uri);
        let body = loop {
            match lease(&pools, &cluster, H1).await.send(request).await {
                Ok(sent) => break whole(sent.response.into_body()).await.unwrap(),
                Err(SendError::Unsent(unsent)) => request = *unsent,
                Err(SendError::Reset(reason)) => panic!("{reason}"),
            }
        };
        assert_eq!(body, "ok");
        until("closed", || cluster.breaker.connections.used() == 0).await;
    }
    assert_eq!(cluster.stats.upstream_cx_destroy_remote.get(), 20);
}

#[tokio::test(flavor = "local")]
async fn an_idle_connection_is_closed_at_its_deadline() {
    let idle = Duration::from_millis(60);
    // Anew where the machine stood still for so long that the connection may have ended between two uses.
    for _ in 0..20 {
        let origin = Origin::start(|_, stream| always(stream, OK)).await;
        let cluster = origin.cluster(|c| c.with(|c| c.idle_timeout = Some(idle)));
        let pools = Pools::new();
        let began = Instant::now();
        let (mut last, mut longest) = (began, Duration::ZERO);
        while began.elapsed() < idle * 2 {
            let before = std::mem::replace(&mut last, Instant::now());
            exchange(&pools, &cluster, H1).await;
            longest = longest.max(before.elapsed());
            sleep(Duration::from_millis(5)).await;
        }
        until("closed", || cluster.breaker.connections.used() == 0).await;
        if longest >= idle {
            continue;
        }
        assert!(last.elapsed() >= idle, "not before");
        assert_eq!(
            (origin.accepted(), cluster.stats.upstream_cx_idle_timeout.get()),
            (1, 1),
            "use moves the deadline"
        );
        assert_eq!(cluster.stats.upstream_cx_destroy_local.get(), 1);
        return;
    }
    panic!("the machine stood still each time");
}

#[tokio::test(flavor = "local")]
async fn an_old_connection_finishes_its_request_and_takes_no_other() {
    let (came, go) = (Rc::new(Cell::new(0)), Rc::new(tokio::sync::Notify::new()));
    let (seen, told) = (came.clone(), go.clone());
    let origin = Origin::start(move |_, stream| on_demand(stream, seen.clone(), told.clone())).await;
    let age = Duration::from_millis(500);
    let cluster = origin.cluster(|c| c.with(|c| c.max_connection_duration = Some(age)));
    let pools = Pools::new();
    let lease = lease(&pools, &cluster, H1).await;
    let began = Instant::now();
    let sending = lease.send(get("/"));
    tokio::pin!(sending);
    tokio::select! {
        _ = &mut sending => panic!("answered too soon"),
        () = until("older than it may be", || began.elapsed() > age * 2) => {}
    }
    go.notify_one();
    whole(sending.await.unwrap().response.into_body()).await.unwrap();
    all_given_back(&cluster, 0).await;
    go.notify_one();
    exchange(&pools, &cluster, H1).await;
    assert_eq!(origin.accepted(), 2);
}

#[tokio::test(flavor = "local")]
async fn a_client_that_vanishes_before_the_answer_cancels_the_request() {
    let (came, ended) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let (seen, end) = (came.clone(), ended.clone());
    let origin = Origin::start(move |_, mut stream| {
        let (seen, end) = (seen.clone(), end.clone());
        async move {
            head(&mut stream).await;
            seen.set(true);
            end.set(head(&mut stream).await.is_none());
        }
    })
    .await;
    let cluster = origin.cluster(|c| c);
    let pools = Pools::new();
    let sending = lease(&pools, &cluster, H1).await.send(get("/"));
    tokio::select! {
        _ = sending => panic!("no answer was given"),
        () = until("request came", || came.get()) => {}
    }
    until("origin sees the end", || ended.get()).await;
    all_given_back(&cluster, 0).await;
    assert_eq!(cluster.stats.upstream_cx_destroy_local_with_active_rq.get(), 1);
}

#[tokio::test(flavor = "local")]
async fn a_client_that_vanishes_in_the_body_cancels_the_request() {
    let ended = Rc::new(Cell::new(false));
    let end = ended.clone();
    let origin = Origin::start(move |_, mut stream| {
        let end = end.clone();
        async move {
            head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome").await.unwrap();
            end.set(head(&mut stream).await.is_none());
        }
    })
    .await;
    let cluster = origin.cluster(|c| c);
    let pools = Pools::new();
    let mut body = lease(&pools, &cluster, H1).await.send(get("/")).await.unwrap().response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "some");
    assert_eq!(cluster.breaker.requests.used(), 1);
    drop(body);
    assert_eq!(cluster.breaker.requests.used(), 0);
    until("origin sees the end", || ended.get()).await;
    all_given_back(&cluster, 0).await;
}

#[tokio::test(flavor = "local")]
async fn a_client_that_vanishes_in_the_line_leaves_it() {
    let origin = Origin::start(|_, stream| always(stream, OK)).await;
    let cluster = origin.cluster(|c| c.limits(Limits { max_connections: 1, ..Limits::default() }));
    let pools = Pools::new();
    let host = host(&cluster);
    let held = lease(&pools, &cluster, H1).await;
    let mut gone = Box::pin(pools.checkout(&cluster, &host, H1, b""));
    let mut late = Box::pin(pools.checkout(&cluster, &host, H1, b""));
    assert!(futures_util::poll!(&mut gone).is_pending() && futures_util::poll!(&mut late).is_pending());
    assert_eq!(cluster.breaker.pending.used(), 2);
    // It is given the connection, and vanishes before it looks.
    drop(held);
    drop(gone);
    assert_eq!((cluster.breaker.pending.used(), cluster.stats.upstream_rq_cancelled.get()), (1, 1));
    drop(late.await.unwrap());
    all_given_back(&cluster, 1).await;
}

#[tokio::test(flavor = "local")]
async fn a_request_body_that_fails_is_our_own_reset() {
    type Failing = StreamBody<
        futures_util::stream::Iter<std::vec::IntoIter<Result<http_body::Frame<Bytes>, std::io::Error>>>,
    >;
    let origin =
        Origin::start(|_, mut stream| async move { while head(&mut stream).await.is_some() {} }).await;
    let cluster = origin.cluster(|c| c);
    let pools = Pools::<Failing>::new();
    let frames = vec![Ok(http_body::Frame::data("x".into())), Err(std::io::Error::other("client went away"))];
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let request = Request::post("/").header("host", "test").body(body).unwrap();
    let lease = pools.checkout(&cluster, &host(&cluster), H1, b"").await.unwrap();
    let Err(SendError::Reset(reason)) = lease.send(request).await else { panic!("no reset") };
    assert_eq!(reason, ResetReason::LocalReset);
    all_given_back(&cluster, 0).await;
}

/// The reason of the reset for an origin that answers with these bytes and closes.
async fn reset_by(answer: String) -> Result<Bytes, ResetReason> {
    let origin = Origin::start(move |_, mut stream| {
        let answer = answer.clone();
        async move {
            head(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let cluster = origin.cluster(|c| c);
    let result = match lease(&Pools::new(), &cluster, H1).await.send(get("/")).await {
        Ok(sent) => whole(sent.response.into_body()).await,
        Err(SendError::Reset(reason)) => Err(reason),
        Err(SendError::Unsent(_)) => panic!("it was sent"),
    };
    all_given_back(&cluster, 0).await;
    if result == Err(ResetReason::ProtocolError) {
        assert_eq!(cluster.stats.upstream_cx_protocol_error.get(), 1);
    }
    result
}

#[tokio::test(flavor = "local")]
async fn failures_of_the_origin_have_envoys_reasons() {
    use ResetReason::{ConnectionTermination, ProtocolError};
    let lines = |count: usize| (0..count).map(|n| format!("x-{n}: v\r\n")).collect::<String>();
    let long =
        |bytes: usize| format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "v".repeat(bytes));
    let cases = [
        (String::new(), Err(ConnectionTermination)),
        ("HTTP/1.1 200 OK\r\ncontent-".into(), Err(ProtocolError)),
        ("this is not HTTP\r\n\r\n".into(), Err(ProtocolError)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok".into(), Err(ProtocolError)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok".into(), Err(ProtocolError)),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            Err(ProtocolError),
        ),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok".into(), Err(ProtocolError)),
        (format!("HTTP/1.1 200 OK\r\n{}\r\n", lines(101)), Err(ProtocolError)),
        (format!("HTTP/1.1 200 OK\r\n{}\r\nok", lines(100)), Ok("ok".into())),
        (long(82_000), Err(ProtocolError)),
        (long(81_000), Ok("".into())),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok".into(), Err(ProtocolError)),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n".into(), Err(ProtocolError)),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".into(), Ok("ok".into())),
        ("HTTP/1.1 200 OK\r\n\r\nuntil the end".into(), Ok("until the end".into())),
        ("HTTP/1.1 204 No Content\r\n\r\n".into(), Ok("".into())),
    ];
    for (answer, expected) in cases {
        assert_eq!(
            reset_by(answer.clone()).await,
            expected,
            "{}",
            answer.chars().take(120).collect::<String>()
        );
    }
}

#[tokio::test(flavor = "local")]
async fn whoever_ends_a_connection_under_a_request_is_counted() {
    // The origin closes after what it says, but for a hang-up in the middle it is we who see no use in going on.
    for (answer, by_peer) in [
        ("", true),
        ("HTTP/1.1 200 OK\r\ncontent-", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok", true),
        ("this is not HTTP\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nno length\r\n", false),
    ] {
        let origin = Origin::start(move |_, mut stream| async move {
            head(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            if !by_peer {
                head(&mut stream).await;
            }
        })
        .await;
        let cluster = origin.cluster(|c| c);
        if let Ok(sent) = lease(&Pools::new(), &cluster, H1).await.send(get("/")).await {
            whole(sent.response.into_body()).await.unwrap_err();
        }
        all_given_back(&cluster, 0).await;
        assert_eq!(ends(&cluster), if by_peer { [0, 0, 1, 1] } else { [1, 1, 0, 0] }, "{answer}");
    }
}

#[tokio::test(flavor = "local")]
async fn connections_to_an_endpoint_that_left_are_closed() {
    use crate::upstream::{Upstreams, testing::snapshot};
    use outrigger_config::snapshot::ClusterId;

    let origin = Origin::start(|_, stream| always(stream, OK)).await;
    let upstreams = Upstreams::new();
    let published = upstreams.publish(snapshot([ClusterBuilder::new(0).to(origin.address)]));
    let cluster = published.cluster(ClusterId(0));
    let pools = Pools::new();
    exchange(&pools, cluster, H1).await;
    let busy = lease(&pools, cluster, H1).await;
    let idle = lease(&pools, cluster, H1).await;
    drop(idle);
    let gone = host(cluster);

    upstreams.publish(snapshot([ClusterBuilder::new(0).to("127.0.0.1:1".parse().unwrap())]));
    pools.retire_removed();
    until("the idle one is closed", || gone.stats().cx_active.get() == 1).await;
    whole(busy.send(get("/")).await.unwrap().response.into_body()).await.unwrap();
    until("the busy one is closed after its request", || gone.stats().cx_active.get() == 0).await;
}
