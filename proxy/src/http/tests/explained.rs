//! Explain and the proxy agree: over random meshes and requests, what is explained is what the request path does.
//!
//! Ten thousand pairs go through its functions, some hundred through a real worker on sockets.

use outrigger_config::{
    LoadOptions, Source,
    decide::{Decision, Peers, decide, hash_key, virtual_host},
    explain::{ActionTrace, Explanation, Pick, Picked, Place, Verdict},
    load,
};
use outrigger_generate::{Asked, Case, NAMESPACE, PORT, case, nowhere};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;
use crate::{
    http::{
        Target,
        explain::{Explained, Question, explain},
        headers::is_grpc,
        limits, request_id, timeout as limits_of_time, trace,
    },
    upstream::Balancers,
};

fn compiled(yaml: &str) -> Snapshot {
    let mut options = LoadOptions::default();
    options.node.namespace = NAMESPACE.into();
    let source = Source { name: "case.yaml".into(), text: yaml.to_owned() };
    let loaded = load(&[source], &options).unwrap_or_else(|report| panic!("{report}\n{yaml}"));
    loaded.snapshot
}

fn question(asked: &Asked, seed: Option<u64>) -> Question {
    let headers = asked.headers.iter().map(|(name, value)| format!("{name}: {value}"));
    let host = format!("host: {}", asked.authority);
    let lines: Vec<_> = headers.chain([host]).collect();
    let request = format!("{} http://proxy:{PORT}{}", asked.method, asked.path);
    let question = Question::read(&request, lines.iter().map(String::as_str)).unwrap();
    Question { seed, ..question }
}

fn decided<'p>(published: &'p Published, question: &Question) -> Box<Explanation<'p>> {
    match explain(published, None, question) {
        Ok(Explained::Decided(explanation)) => explanation,
        other => panic!("{other:?}"),
    }
}

/// The request path without its sockets, step by step as in `outcome`.
fn agrees(published: &Published, asked: &Asked, seed: u64) {
    let question = question(asked, Some(seed));
    let explanation = decided(published, &question);
    let snapshot = &*published.snapshot;

    let mut parts =
        http::Request::builder().method(asked.method).uri(&*asked.path).body(()).unwrap().into_parts().0;
    parts.headers = question.headers.clone();
    let authority = limits::check(&parts).unwrap();
    let target = Target::of(&mut parts, authority, snapshot.paths, None).unwrap();
    let mut rng = SmallRng::seed_from_u64(seed);
    request_id::ensure(&mut parts.headers, &mut rng);
    let listener = &snapshot.listeners[0];
    trace::begin(&snapshot.observation(listener.direction).tracing, &mut parts.headers, &mut rng);
    let view = target.view(&parts);
    let table = &snapshot[listener.route_table().unwrap()];
    let host = virtual_host(table, view.authority);
    match (host, explanation.host) {
        (Some(host), Some(trace)) => assert!(std::ptr::eq(host, trace.virtual_host)),
        (None, None) => {}
        other => panic!("{other:?}"),
    }
    let decision = decide(table, &view, || rng.next_u64());
    let taken = explanation.taken.as_ref().map(|taken| taken.trace.route);
    let routes = host.map(|host| &*host.routes).unwrap_or_default();
    for (passed, route) in explanation.passed.iter().zip(routes) {
        assert!(std::ptr::eq(passed.route, route), "in order");
        assert!(!route.when.matches(&view) && !passed.checks.last().unwrap().holds);
        assert!(passed.checks.iter().rev().skip(1).all(|check| check.holds), "up to the first that fails");
    }
    match decision {
        Decision::NoRoute => {
            assert!(taken.is_none() && explanation.passed.len() == routes.len());
            assert_eq!(explanation.verdict(), Verdict::NoRoute);
        }
        Decision::Direct { route, response } => {
            assert!(std::ptr::eq(route, taken.unwrap()));
            assert_eq!(explanation.verdict(), Verdict::Answer(response.status));
        }
        Decision::Redirect { route, redirect } => {
            assert!(std::ptr::eq(route, taken.unwrap()));
            assert_eq!(explanation.verdict(), Verdict::Redirect(redirect.status));
        }
        Decision::Forward { route, forward, destination } => {
            assert!(std::ptr::eq(route, taken.unwrap()));
            let ActionTrace::Forward(trace) = &explanation.taken.as_ref().unwrap().action else {
                panic!("{explanation}");
            };
            let bucket = trace.split.taken().unwrap();
            assert!(std::ptr::eq(bucket.cluster, &destination.cluster));
            let peers = Peers { remote: question.client, local: listener.bind };
            let hashed = hash_key(&forward.hash, &view, peers);
            assert_eq!(trace.key, hashed.key);
            let cookies: Vec<_> = trace.hash.iter().filter_map(|hash| hash.set_cookie.as_deref()).collect();
            assert_eq!(hashed.cookies, cookies);
            let limits = limits_of_time::limits(forward, &parts.headers, is_grpc(&parts.headers));
            assert_eq!((trace.timeout, trace.per_try_timeout), (limits.overall, limits.per_try));
            match &destination.cluster {
                ClusterRef::Missing(name) => {
                    assert!(matches!(explanation.verdict(), Verdict::NoCluster(told) if *told == **name));
                }
                ClusterRef::Known(id) => {
                    let cluster = published.cluster(*id);
                    let picked = Balancers::new().pick(cluster, hashed.key, &[], &mut rng);
                    let picked = picked.map(|host| host.endpoint.key.to_string());
                    let expected = match &picked {
                        None => Verdict::NoEndpoint(&cluster.name),
                        Some(key) => Verdict::Forward { cluster: &cluster.name, endpoint: Some(key) },
                    };
                    assert_eq!(explanation.verdict(), expected);
                }
            }
        }
    }
    // Whatever is explained can be shown.
    assert!(explanation.to_string().contains(&explanation.verdict().to_string()));
    assert!(explanation.to_json()["outcome"]["text"].is_string());
}

proptest! {
    #![proptest_config(Config { cases: 500, failure_persistence: None, ..Config::default() })]

    /// 500 meshes and 20 requests each.
    #[test]
    fn explain_and_the_request_path_agree(case in case(&nowhere(), 20), seed: u64) {
        let published = Upstreams::new().publish(Arc::new(compiled(&case.yaml)));
        for (n, asked) in (0..).zip(&case.requests) {
            agrees(&published, asked, seed.wrapping_add(n));
        }
    }
}

/// Answers that it is there.
async fn origins() -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for _ in 0..6 {
        addresses.push(origin(false, |_| async { Response::new(text("here")) }).await);
    }
    addresses
}

/// Sends the request and yields the line of the log.
async fn sent(bench: &Bench, asked: &Asked, before: usize) -> (String, SocketAddr) {
    let mut client = bench.client().await;
    let address = client.0.local_addr().unwrap();
    let mut request = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", asked.method, asked.path, asked.authority);
    for (name, value) in &asked.headers {
        request += &format!("{name}: {value}\r\n");
    }
    client.send(&(request + "connection: close\r\n\r\n")).await;
    client.rest().await;
    (bench.log(before + 1).await.swap_remove(before), address)
}

/// What the log says of a request like the one explained: status, flag, endpoint and cluster.
fn tells(explanation: &Explanation<'_>, line: &str) -> bool {
    let words: Vec<_> = line.split(' ').collect();
    let (status, flag, endpoint, cluster) = (words[0], words[1], words[3], words[4]);
    match explanation.verdict() {
        Verdict::NoRoute => (status, flag) == ("404", "NR"),
        Verdict::NoCluster(_) => (status, flag) == ("503", "NC"),
        Verdict::NoEndpoint(name) => (status, flag, cluster) == ("503", "UH", name),
        Verdict::Answer(answer) | Verdict::Redirect(answer) => status == answer.as_u16().to_string(),
        Verdict::Forward { cluster: name, endpoint: Some(address) } => {
            (status, flag, endpoint, cluster) == ("200", "-", address, name)
        }
        _ => open(explanation, line),
    }
}

/// The same where chance decides: the log names one of the destinations, and one of its endpoints.
fn open(explanation: &Explanation<'_>, line: &str) -> bool {
    let words: Vec<_> = line.split(' ').collect();
    let (status, flag, endpoint, cluster) = (words[0], words[1], words[3], words[4]);
    let ActionTrace::Forward(trace) = &explanation.taken.as_ref().unwrap().action else { return false };
    trace.split.buckets.iter().filter(|bucket| bucket.weight > 0).any(|bucket| {
        match (&bucket.place, &bucket.pick) {
            (Place::Missing { .. }, _) => (status, flag) == ("503", "NC"),
            (Place::Known(known), Some(Pick { picked, endpoints, .. })) => {
                let right = match picked {
                    Picked::One(address) => endpoint == &**address,
                    Picked::Open => endpoints.iter().any(|standing| *standing.address == *endpoint),
                    Picked::Nobody => flag == "UH",
                };
                right && cluster == &*known.name
            }
            (Place::Known(_), None) => false,
        }
    })
}

#[tokio::test(flavor = "local")]
async fn explain_and_a_worker_agree() {
    let origins = origins().await;
    let mut runner = TestRunner::new(Config::default());
    let strategy = case(&origins, 5);
    for number in 0..80 {
        let Case { yaml, mut requests } = strategy.new_tree(&mut runner).unwrap().current();
        let mut snapshot = compiled(&yaml);
        // As the bench calls its listener.
        Arc::get_mut(&mut snapshot.listeners).expect("nobody else has it")[0].name = "test".into();
        let bench = Bench::start(snapshot);
        let published = bench.published.load_full();
        let bound = [("test".into(), bench.address)];
        for (n, asked) in requests.iter_mut().enumerate() {
            if n > 0 {
                // The id is drawn before the routes are asked, and a condition may look at it.
                asked.headers.retain(|(name, _)| *name != "x-request-id");
                asked.headers.push(("x-request-id", "ab"));
            }
            let (line, client) = sent(&bench, asked, n).await;
            // A worker of the bench has the seed 1; later requests find its random numbers further on.
            let question = Question { client, ..question(asked, (n == 0).then_some(1)) };
            let Ok(Explained::Decided(explanation)) = explain(&published, Some(&bound), &question) else {
                panic!("case {number}: {asked:?}");
            };
            assert!(tells(&explanation, &line), "{line}\n{asked:?}\n{explanation}\n{yaml}");
        }
    }
}

#[test]
fn a_request_that_is_not_routed_is_told_so() {
    let published = Upstreams::new().publish(Arc::new(to(&[], forward())));
    let ask = |request: &str, lines: &[&str]| {
        let question = Question::read(request, lines.iter().copied()).unwrap();
        let question = Question { listener: Some("test".to_owned()), ..question };
        explain(&published, None, &question).unwrap().to_string()
    };
    let upgrade = ask("http://a:80/", &["connection: upgrade", "upgrade: websocket"]);
    assert_eq!(upgrade, "403: refused before it is routed (upgrade_failed)\n");
    assert!(ask("CONNECT http://a:80/", &[]).starts_with("404, flag NR: refused before it is routed"));
    assert!(ask("http://a:80/", &["host: a b"]).starts_with("400"));
}

#[test]
fn a_question_without_a_listener_tells_those_there_are() {
    let published = Upstreams::new().publish(Arc::new(compiled(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: { name: a }\nspec:\n  egress:\n  \
         - { port: { number: 8080, name: http }, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*'] }\n  \
         ingress:\n  \
         - { port: { number: 8080, name: http }, bind: 127.0.0.2, defaultEndpoint: '127.0.0.1:9' }\n",
    )));
    let ask = |request: &str, listener: Option<&str>| {
        let question = Question::read(request, []).unwrap();
        let question = Question { listener: listener.map(str::to_owned), ..question };
        explain(&published, None, &question).map(|_| ()).map_err(|error| error.to_string())
    };
    let known = "there are 127.0.0.1_8080 (port 8080), 127.0.0.2_8080 (port 8080)";
    assert_eq!(ask("http://a/", None), Err(format!("no listener has port 80; {known}")));
    assert_eq!(
        ask("http://a:8080/", None),
        Err(format!("several listeners have port 8080; {known}: name one of them"))
    );
    assert_eq!(ask("http://a:8080/", Some("127.0.0.2_8080")), Ok(()));
    assert_eq!(ask("http://a/", Some("x")), Err(format!("no listener is called `x`; {known}")));
    assert!(ask("https://a:8080/", None).unwrap_err().starts_with("listeners speak plain HTTP"));
    assert!(ask("/x", None).unwrap_err().starts_with("`/x` has no host"));
    let bound = [("127.0.0.1_8080".into(), "127.0.0.1:40001".parse().unwrap())];
    let question = Question::read("http://a:40001/", []).unwrap();
    assert!(explain(&published, Some(&bound), &question).is_ok(), "where it is really bound");
}

#[test]
fn http2_has_its_authority_in_the_target_and_one_cookie() {
    let published = Upstreams::new().publish(Arc::new(to(&[], forward())));
    let question = Question::read("http://a:80/x", ["host: b", "cookie: a=1", "cookie: b=2"]).unwrap();
    let question = Question { http2: true, listener: Some("test".to_owned()), ..question };
    let explanation = match explain(&published, None, &question) {
        Ok(Explained::Decided(explanation)) => explanation,
        other => panic!("{other:?}"),
    };
    assert_eq!((&*explanation.asked.authority, &*explanation.asked.path), ("b", "/x"));
}

#[test]
fn a_question_to_a_raw_listener_is_about_a_connection() {
    let published = Upstreams::new().publish(Arc::new(compiled(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: { name: a }\nspec:\n  hosts: [a.example.com]\n  \
         resolution: STATIC\n  ports: [{ number: 443, name: tls }]\n  endpoints: [{ address: 10.0.0.1 }]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: { name: b }\nspec:\n  hosts: [b.example.com]\n  \
         resolution: STATIC\n  ports: [{ number: 7000, name: tcp }]\n  endpoints: [{ address: 10.0.0.2 }]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: { name: a }\nspec:\n  egress:\n  \
         - { port: { number: 443, name: tls }, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*'] }\n  \
         - { port: { number: 7000, name: tcp }, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*'] }\n",
    )));
    let ask = |url: &str| match explain(&published, None, &Question::read(url, []).unwrap()) {
        Ok(explained @ Explained::Connection(_)) => {
            assert!(explained.to_string().contains("of raw connections"), "{explained}");
            explained.to_json()["outcome"]["text"].as_str().unwrap().to_owned()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(ask("https://a.example.com/"), "10.0.0.1:443 of outbound|443||a.example.com");
    let nowhere = "closed, flag UH: PassthroughCluster has no endpoint to pick";
    assert_eq!(ask("https://x.example.com:443/"), nowhere);
    assert_eq!(ask("http://a.example.com:443/"), nowhere, "no hello, so no name");
    assert_eq!(ask("https://10.0.0.1/"), nowhere, "clients send no address for a name");
    for scheme in ["http", "tcp", "https"] {
        assert_eq!(ask(&format!("{scheme}://x:7000/")), "10.0.0.2:7000 of outbound|7000||b.example.com");
    }
}
