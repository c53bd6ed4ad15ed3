//! What reaches the upstream of a request, and what the client gets of its answer.

use std::{cell::RefCell, rc::Rc};

use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use outrigger_config::{
    format::Format,
    snapshot::{Action, HeaderOps, Propagation, Protocol},
};

use super::*;

/// An HTTP/1 origin that keeps the heads it got.
async fn recorder() -> (SocketAddr, Rc<RefCell<Vec<String>>>) {
    let heads = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&heads);
    let address = raw_origin(move |_, head| {
        seen.borrow_mut().push(head);
        "HTTP/1.1 200 Fine\r\nServer: nginx\r\nX-Own: 1\r\nContent-Length: 2\r\n\r\nok".to_owned()
    })
    .await;
    (address, heads)
}

#[tokio::test(flavor = "local")]
async fn a_request_goes_through_with_envoys_headers() {
    let (origin, heads) = recorder().await;
    let bench = Bench::start(to(&[origin], forward()));
    let answer = bench.get("/a/../b?c=%41", "X-Mine: 1\r\nUser-Agent: test\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(body, "ok");
    for line in ["x-own: 1", "content-length: 2", "server: envoy"] {
        assert!(head.lines().any(|other| other == line), "{line} in {head}");
    }
    assert!(head.contains("\r\ndate: ") && head.contains("\r\nx-envoy-upstream-service-time: "));
    let head = heads.borrow()[0].clone();
    let lines: Vec<_> = head.trim_end().lines().collect();
    assert_eq!(lines[0], "GET /b?c=%41 HTTP/1.1");
    let names: Vec<_> = lines[1..].iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(
        names,
        ["host", "x-mine", "user-agent", "x-forwarded-proto", "x-request-id", "x-envoy-attempt-count"]
    );
    assert!(lines.contains(&"host: a") && lines.contains(&"x-envoy-attempt-count: 1"));
    assert_eq!(bench.log(1).await, [format!("200 - via_upstream {origin} c 0 2 1")]);
}

#[tokio::test(flavor = "local")]
async fn the_snapshot_says_how_paths_are_normalised() {
    let (origin, heads) = recorder().await;
    for (mode, path) in [
        (PathNormalization::None, "/x/../a//b%2fc?d=//"),
        (PathNormalization::Base, "/a//b%2fc?d=//"),
        (PathNormalization::MergeSlashes, "/a/b%2fc?d=//"),
        (PathNormalization::DecodeAndMergeSlashes, "/a/b/c?d=//"),
    ] {
        let bench = Bench::start(Snapshot { paths: mode, ..to(&[origin], forward()) });
        bench.get("/x/../a//b%2fc?d=//", "").await;
        let head = heads.borrow().last().unwrap().clone();
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{mode:?}: {head}");
    }
}

#[tokio::test(flavor = "local")]
async fn hop_by_hop_and_connection_named_headers_do_not_pass() {
    let (origin, heads) = recorder().await;
    let bench = Bench::start(to(&[origin], forward()));
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Secret\r\nConnection: x-other, host\r\n\
                   X-Secret: 1\r\nX-Other: 1\r\nKeep-Alive: 5\r\nTE: deflate\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: x\r\nX-Envoy-Retry-On: 5xx\r\nX-Kept: 1\r\n\r\n";
    assert!(bench.raw(request).await.starts_with("HTTP/1.1 200"));
    let head = heads.borrow()[0].to_ascii_lowercase();
    for gone in ["x-secret", "x-other", "keep-alive", "te:", "upgrade", "http2-settings", "retry-on"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    assert!(head.contains("x-kept: 1") && head.contains("host: a\r\n"));
}

#[tokio::test(flavor = "local")]
async fn the_authority_of_an_absolute_target_wins() {
    let (origin, heads) = recorder().await;
    let bench = Bench::start(to(&[origin], forward()));
    bench.raw("GET http://b:81/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let head = heads.borrow()[0].clone();
    assert!(head.starts_with("GET /x HTTP/1.1\r\n") && head.contains("host: b:81\r\n"), "{head}");
}

#[tokio::test(flavor = "local")]
async fn header_operations_run_destination_first() {
    let (origin, heads) = recorder().await;
    let ops = |set: &str, add: &str, remove: &'static str| HeaderOps {
        remove: [http::HeaderName::from_static(remove)].into(),
        set: [(http::HeaderName::from_static("x-set"), Format::parse(set).unwrap())].into(),
        add: [(http::HeaderName::from_static("x-add"), Format::parse(add).unwrap())].into(),
    };
    let mut plan = forward();
    plan.clusters[0].request_headers = ops("destination", "%REQ(x-mine)%-d", "x-drop");
    plan.clusters[0].response_headers = ops("destination", "%REQ(x-mine)%", "x-own");
    let mut route = route("/", Action::Forward(Box::new(plan)));
    route.request_headers = ops("route", "r%REQ(x-none)%", "x-none");
    route.response_headers = ops("%RESPONSE_CODE%", "%REQ(x-none)%", "x-none");
    let bench = Bench::start(snapshot_of(vec![cluster("c", Protocol::Http1, &[origin])], vec![route]));
    let answer = bench.get("/", "X-Mine: m\r\nX-Drop: 1\r\n").await;
    let head = heads.borrow()[0].clone();
    assert!(head.contains("x-set: route\r\n") && !head.contains("x-drop"), "{head}");
    assert!(head.contains("x-add: m-d\r\nx-add: r\r\n"), "{head}");
    assert!(answer.contains("x-set: 200\r\n") && !answer.contains("x-own"), "{answer}");
    assert_eq!(answer.matches("x-add: m\r\n").count(), 1);
    assert_eq!(answer.matches("x-add").count(), 1, "an empty value is not added: {answer}");
}

#[tokio::test(flavor = "local")]
async fn the_trace_context_goes_upstream() {
    let (origin, heads) = recorder().await;
    let mut snapshot = to(&[origin], forward());
    snapshot.outbound.tracing.propagation = Propagation::W3c;
    snapshot.outbound.tracing.sampling = 10_000;
    let bench = Bench::start(snapshot);
    let trace = "463ac35c9f6413ad48485a3953bb6124";
    bench.get("/", &format!("traceparent: 00-{trace}-a2fb4a1d1a96d312-01\r\n")).await;
    let head = heads.borrow()[0].clone();
    assert!(head.contains(&format!("traceparent: 00-{trace}-")) && !head.contains("a2fb4a1d1a96d312"));
}

#[tokio::test(flavor = "local")]
async fn grpc_passes_from_http2_to_http2_with_its_trailers() {
    let origin = origin(true, |request: Request<Bytes>| async move {
        assert_eq!(request.headers()["te"], "trailers");
        assert_eq!(request.uri().authority().unwrap(), "a:80");
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let body = Full::new(request.into_body()).map_err(|never| match never {});
        Response::builder()
            .header("content-type", "application/grpc")
            .body(body.with_trailers(async move { Some(Ok(trailers)) }).boxed_unsync())
            .unwrap()
    })
    .await;
    let bench = Bench::start(to_protocol(Protocol::Http2, &[origin], forward()));
    let request = Request::post("http://a:80/s/M")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(b"hello")))
        .unwrap();
    let response = bench.http2().await.send_request(request).await.unwrap();
    assert_eq!(response.headers()["server"], "envoy");
    let (body, trailers) = whole_with_trailers(response.into_body()).await.unwrap();
    assert_eq!(&body[..], b"hello");
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
    assert_eq!(bench.log(1).await, [format!("200 - via_upstream {origin} c 5 5 1")]);
}

#[tokio::test(flavor = "local")]
async fn a_grpc_stream_flows_both_ways_before_either_side_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = listener.local_addr().unwrap();
    spawn_local(async move {
        // Echoes each frame as it comes.
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(|request: Request<Incoming>| async {
            std::io::Result::Ok(Response::new(request.into_body()))
        });
        let _ = hyper::server::conn::http2::Builder::new(LocalExecutor)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    });
    let bench = Bench::start(to_protocol(Protocol::Http2, &[origin], forward()));
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
        let data = receiver.recv().await?;
        Some((std::io::Result::Ok(http_body::Frame::data(data)), receiver))
    });
    let request = Request::post("http://a/s/M")
        .header("content-type", "application/grpc")
        .body(StreamBody::new(Box::pin(frames)))
        .unwrap();
    let response = timeout(PATIENCE, bench.http2_of().await.send_request(request)).await.unwrap().unwrap();
    let mut body = response.into_body();
    for message in ["one", "two", "three"] {
        sender.send(Bytes::from_static(message.as_bytes())).await.unwrap();
        let frame = timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), message);
    }
    drop(sender);
    let (rest, _) = whole_with_trailers(body).await.unwrap();
    assert_eq!(rest, "");
}

#[tokio::test(flavor = "local")]
async fn http1_and_http2_are_bridged_both_ways() {
    let new = origin(true, |request: Request<Bytes>| async move {
        assert_eq!(request.uri().to_string(), "http://a/x");
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-trailer", "1".parse().unwrap());
        let body = Full::new(request.into_body()).map_err(|never| match never {});
        Response::new(body.with_trailers(async move { Some(Ok(trailers)) }).boxed_unsync())
    })
    .await;
    let bench = Bench::start(to_protocol(Protocol::Http2, &[new], forward()));
    let answer =
        bench.raw("POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello").await;
    assert!(answer.contains("hello") && !answer.contains("x-trailer"), "{answer}");

    let old = origin(false, |request: Request<Bytes>| async move {
        let cookies: Vec<_> = request.headers().get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
        assert_eq!(request.headers()["host"], "a");
        Response::new(text("old"))
    })
    .await;
    let bench = Bench::start(to(&[old], forward()));
    let request = Request::get("http://a/x")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = bench.http2().await.send_request(request).await.unwrap();
    assert_eq!(whole(response.into_body()).await, "old");
}

#[tokio::test(flavor = "local")]
async fn answers_without_a_body_are_complete() {
    let address = raw_origin(|_, head| match head.split(' ').next().unwrap() {
        "HEAD" => "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n".to_owned(),
        _ => "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n".to_owned(),
    })
    .await;
    let bench = Bench::start(to(&[address], forward()));
    let head = bench.raw("HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("content-length: 7\r\n"), "{head}");
    let unmodified = bench.get("/", "").await;
    assert!(unmodified.starts_with("HTTP/1.1 304") && unmodified.ends_with("\r\n\r\n"), "{unmodified}");
    let lines = bench.log(2).await;
    assert!(lines.iter().all(|line| line.contains(" - via_upstream ")), "{lines:?}");
}

#[tokio::test(flavor = "local")]
async fn a_running_request_keeps_the_configuration_it_began_with() {
    let (release, released) = tokio::sync::watch::channel(false);
    let origin = origin(false, move |_| {
        let mut released = released.clone();
        async move {
            let _ = released.wait_for(|open| *open).await;
            Response::new(text("old"))
        }
    })
    .await;
    let mut old = to(&[origin], forward());
    let routes = &mut Arc::get_mut(&mut old.route_tables).unwrap()[0].virtual_hosts[0].routes;
    Arc::get_mut(routes).unwrap()[0].response_headers.set =
        [(http::HeaderName::from_static("x-version"), Format::parse("1").unwrap())].into();
    let bench = Bench::start(old);
    let mut client = bench.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually(|| (bench.cluster(0).stats.upstream_rq_total.get() == 1).then_some(())).await;
    let weak = Arc::downgrade(&bench.published.load().snapshot);
    bench.publish(snapshot_of(Vec::new(), Vec::new()));
    let mut other = bench.client().await;
    other.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(other.until("\r\n\r\n").await.starts_with("HTTP/1.1 404"));
    assert!(weak.upgrade().is_some(), "the running request holds its snapshot");
    release.send(true).unwrap();
    let answer = client.until("old").await;
    assert!(answer.contains("x-version: 1\r\n"), "{answer}");
    eventually(|| weak.upgrade().is_none().then_some(())).await;
}
