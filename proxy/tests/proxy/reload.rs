//! A configuration is replaced under load: nothing fails, a broken one is refused, requests keep what they began with.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use serde_json::Value;

use crate::support::{
    client::{self, Client, Payload, ask, over_http2},
    mesh::{HTTP, Mesh, Proxy, destination_rule, service_entry, virtual_service},
    origin::{Gate, Origin, Reply},
    wait::{eventually, until},
};

/// Counts what requests get while the test does something else.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    /// Two clients over HTTP/1.1 and two over HTTP/2.
    fn start(proxy: &Proxy) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..4)
            .map(|number| {
                let (stop, sent, address) = (Arc::clone(&stop), Arc::clone(&sent), proxy.http());
                tokio::spawn(async move {
                    let http2 = number % 2 == 1;
                    let mut client =
                        if http2 { Client::http2(address).await } else { Client::http1(address).await };
                    let mut failures = vec![];
                    while !stop.load(Ordering::SeqCst) {
                        let request = client::post("web", "/", "body");
                        let request = if http2 { over_http2(request) } else { request };
                        let answer = client.send(request).await;
                        if answer.status != 200 || answer.cut || answer.text() != "body" {
                            failures.push(format!("{answer:?}"));
                        }
                        sent.fetch_add(1, Ordering::SeqCst);
                    }
                    failures
                })
            })
            .collect();
        Self { stop, sent, tasks }
    }

    async fn more(&self, requests: usize) {
        let from = self.sent.load(Ordering::SeqCst);
        until("more requests", || (self.sent.load(Ordering::SeqCst) >= from + requests).then_some(())).await;
    }

    async fn finish(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            let failures = task.await.unwrap();
            assert!(failures.is_empty(), "{failures:#?}");
        }
        self.sent.load(Ordering::SeqCst)
    }
}

async fn echo() -> Origin {
    Origin::http1(|seen| Reply::text(std::str::from_utf8(&seen.body).unwrap())).await
}

/// The rules of one round: endpoints come and go, weights, subsets, limits and ejection change, routes are renamed.
fn round(number: usize, origins: &[Origin; 3]) -> String {
    let endpoints: Vec<_> = origins.iter().map(Origin::address).zip(["v1", "v2", "v1"]).collect();
    // The third is there every other time, and the order changes.
    let some = if number.is_multiple_of(2) { &endpoints[..] } else { &endpoints[..2] };
    let mut some = some.to_vec();
    let first = number % some.len();
    some.rotate_left(first);
    let service = service_entry("web", HTTP, "HTTP", &some);
    let route = match number % 3 {
        0 => format!("- name: round-{number}\n  route: [{{ destination: {{ host: web }} }}]"),
        _ => format!(
            "- name: round-{number}\n  route:\n  - {{ destination: {{ host: web, subset: v1 }}, weight: {} }}\n  - {{ destination: {{ host: web, subset: v2 }}, weight: 50 }}",
            number % 40 + 1
        ),
    };
    let policy = match number % 5 {
        0 => String::new(),
        1 => "loadBalancer: { simple: RANDOM }".to_owned(),
        2 => "outlierDetection: { consecutive5xxErrors: 3 }".to_owned(),
        _ => format!("connectionPool: {{ tcp: {{ maxConnections: {} }} }}", 50 + number),
    };
    [service, destination_rule("web", &policy), virtual_service("web", &route)].join("---\n")
}

/// Every seventh round is one of these: broken in the text, in a value, in the name of a field.
fn broken(number: usize, good: &str) -> String {
    match number % 3 {
        0 => format!("{good}---\nbroken-{number}: ["),
        1 => good.replace("resolution: STATIC", &format!("resolution: BROKEN-{number}")),
        _ => good.replace("host: web", &format!("broken-{number}: web")),
    }
}

#[tokio::test]
async fn five_hundred_reloads_under_load_fail_nothing() {
    let origins = [echo().await, echo().await, echo().await];
    let other = Origin::named("other").await;
    let proxy = Mesh::new()
        .http("other", &[(other.address(), "v1")])
        .rules(round(0, &origins))
        .workers(2)
        .start()
        .await;
    let load = Load::start(&proxy);
    let (mut version, mut refused) = (proxy.version().await, 0);
    for number in 1..=500 {
        let good = round(number, &origins);
        if number.is_multiple_of(7) {
            refused += 1;
            let mark = format!("roken-{number}").to_ascii_lowercase();
            let shows =
                |why: &Value| why.as_str().is_some_and(|why| why.to_ascii_lowercase().contains(&mark));
            let unchanged = |status: &Value| {
                assert_eq!(status["version"], *version, "round {number} is broken");
                status["config_rejected"].as_u64() >= Some(refused) && shows(&status["last_rejection"])
            };
            proxy.reload_until(broken(number, &good), unchanged).await;
        } else {
            let old = version.clone();
            let new = |status: &Value| status["version"] != *old && status["last_rejection"].is_null();
            proxy.reload_until(good, new).await;
            version = proxy.version().await;
        }
        load.more(2).await;
    }
    let sent = load.finish().await;
    assert_eq!(origins.iter().map(Origin::hits).sum::<usize>(), sent, "each request arrived once");
    assert!(proxy.sum("outrigger_config_rejected_total", &[]).await >= refused as f64);
    let log = proxy.logged(sent).await;
    let stray =
        log.iter().find(|line| !line["route_name"].as_str().unwrap_or_default().starts_with("round-"));
    assert!(stray.is_none(), "{stray:?}");
}

#[tokio::test]
async fn a_weight_change_takes_effect() {
    let (one, two) = (Origin::named("v1").await, Origin::named("v2").await);
    let routes = |a, b| {
        let http = format!(
            "- route:\n  - {{ destination: {{ host: web, subset: v1 }}, weight: {a} }}\n  - {{ destination: {{ host: web, subset: v2 }}, weight: {b} }}"
        );
        destination_rule("web", "") + "---\n" + &virtual_service("web", &http)
    };
    let proxy = Mesh::new()
        .http("web", &[(one.address(), "v1"), (two.address(), "v2")])
        .rules(routes(100, 0))
        .start()
        .await;
    let mut client = Client::http1(proxy.http()).await;
    for _ in 0..50 {
        assert_eq!(client.send(client::get("web", "/", &[])).await.text(), "v1");
    }
    proxy.reload(routes(0, 100)).await;
    // Connections made before the change follow it as well.
    for _ in 0..50 {
        assert_eq!(client.send(client::get("web", "/", &[])).await.text(), "v2");
    }
}

#[tokio::test]
async fn a_broken_file_keeps_the_old_configuration() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let version = proxy.version().await;
    for (number, broken) in [
        "apiVersion: networking.istio.io/v1\nkind: [",
        &virtual_service("web", "- match: [{ uri: { regex: '(' } }]\n  route: [{ destination: { host: web } }]"),
        &virtual_service("web", "- route:\n  - { destination: { host: web }, weight: -1 }\n  - { destination: { host: web }, weight: 1 }"),
    ]
    .into_iter()
    .enumerate()
    {
        proxy.rewrite(broken);
        eventually("the rejection to show", async || {
            let dump = proxy.admin("/config_dump").await;
            dump.text().contains("rules.yaml").then_some(())
        })
        .await;
        eventually("the rejection to be counted", async || {
            (proxy.sum("outrigger_config_rejected_total", &[]).await > number as f64).then_some(())
        })
        .await;
        assert_eq!(proxy.version().await, version);
        assert_eq!(proxy.get("web", "/").await.text(), "web");
        assert_eq!(ask(proxy.address("health"), client::get("h", "/healthz/ready", &[])).await.status, 200);
    }
    proxy.reload(virtual_service("web", "- name: fixed\n  route: [{ destination: { host: web } }]")).await;
    proxy.get("web", "/").await;
    let log = proxy.logged(4).await;
    assert_eq!(log.last().unwrap()["route_name"], "fixed");
}

#[tokio::test]
async fn a_running_request_keeps_its_snapshot() {
    let gate = Gate::new();
    let held = gate.clone();
    let old = Origin::http1(move |seen| match seen.target.as_str() {
        "/held" => Reply::status(200)
            .header("content-length", "8")
            .data("half")
            .then(crate::support::origin::Step::Wait(held.clone()))
            .data("rest"),
        _ => Reply::text("old"),
    })
    .await;
    let new = Origin::named("new").await;
    let to = |subset: &str| {
        let http = format!(
            "- name: to-{subset}\n  headers: {{ response: {{ set: {{ x-route: {subset} }} }} }}\n  route: [{{ destination: {{ host: web, subset: {subset} }} }}]"
        );
        destination_rule("web", "") + "---\n" + &virtual_service("web", &http)
    };
    let proxy = Mesh::new()
        .http("web", &[(old.address(), "v1"), (new.address(), "v2")])
        .rules(to("v1"))
        .start()
        .await;
    let mut client = Client::http1(proxy.http()).await;
    let running = client.open(client::get("web", "/held", &[])).await.unwrap();
    assert_eq!(running.headers()["x-route"], "v1");
    for _ in 0..3 {
        proxy.reload(to("v2")).await;
        assert_eq!(proxy.get("web", "/").await.text(), "new");
        proxy.reload(to("v1")).await;
    }
    proxy.reload(virtual_service("elsewhere", "- route: [{ destination: { host: web } }]")).await;
    gate.open();
    let answer = client::read(running).await;
    assert_eq!((answer.text(), answer.cut), ("halfrest", false));
    let log = proxy.logged(4).await;
    let line = log.iter().find(|line| line["path"] == "/held").unwrap();
    assert_eq!(line["route_name"], "to-v1");
    assert_eq!(line["upstream_cluster"], "outbound|8080|v1|web.default.svc.cluster.local");
    assert_eq!(line["response_flags"], "-");
}

#[tokio::test]
async fn a_request_that_waits_to_retry_keeps_its_snapshot() {
    let gate = Gate::new();
    let held = gate.clone();
    let count = AtomicUsize::new(0);
    let old = Origin::http1(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::after(&held).and(Reply::status(503)),
        _ => Reply::text("the old cluster"),
    })
    .await;
    let new = Origin::named("the new cluster").await;
    let to = |subset: &str| {
        let http = format!(
            "- route: [{{ destination: {{ host: web, subset: {subset} }} }}]\n  retries: {{ attempts: 2, retryOn: 5xx, backoff: 1ms }}"
        );
        destination_rule("web", "") + "---\n" + &virtual_service("web", &http)
    };
    let proxy = Mesh::new()
        .http("web", &[(old.address(), "v1"), (new.address(), "v2")])
        .rules(to("v1"))
        .start()
        .await;
    let address = proxy.http();
    let running = tokio::spawn(async move {
        let request = client::request("GET", "web", "/").body(Payload::default()).unwrap();
        ask(address, request).await
    });
    until("the first try", || (old.hits() == 1).then_some(())).await;
    // The subset is gone, and with it the cluster that this request has to stay in.
    proxy.reload(virtual_service("web", "- route: [{ destination: { host: web } }]")).await;
    gate.open();
    assert_eq!(running.await.unwrap().text(), "the old cluster");
    assert_eq!(new.hits(), 0);
}

#[tokio::test]
async fn idle_connections_to_what_left_the_configuration_close_without_another_request() {
    let origin = Origin::named("web").await;
    let http = "- route: [{ destination: { host: web, subset: v1 } }]";
    let proxy = Mesh::web(&origin)
        .rules(destination_rule("web", "") + "---\n" + &virtual_service("web", http))
        .start()
        .await;
    assert_eq!(proxy.get("web", "/").await.text(), "web");
    assert_eq!(origin.open(), 1);
    // The subset's cluster goes.
    proxy.reload(virtual_service("web", "- route: [{ destination: { host: web } }]")).await;
    until("the idle connection to close", || (origin.open() == 0).then_some(())).await;
}
