//! `POST /explain` of a running proxy, and the commands that answer without one.

use serde_json::{Value, json};

use crate::{
    cli::{all, run, seed, write},
    support::{
        client::{self, Answer, Payload, ask},
        mesh::{Mesh, Proxy},
        origin::{Origin, Reply},
        wait::eventually,
    },
};

const WEB: &str = "outbound|8080||web.default.svc.cluster.local";

async fn explained(proxy: &Proxy, path: &str, question: &str) -> Answer {
    let request = client::request("POST", "localhost", path).body(Payload::new(question.to_owned())).unwrap();
    ask(proxy.address("admin"), request).await
}

#[tokio::test]
async fn explain_tells_the_way_of_a_request_with_live_endpoints() {
    let good = Origin::named("good").await;
    let bad = Origin::http1(|_| Reply::status(500)).await;
    let outlier = "consecutive5xxErrors: 1, interval: 300s, baseEjectionTime: 300s, maxEjectionPercent: 100";
    let proxy = Mesh::new()
        .http("web", &[(good.address(), "v1"), (bad.address(), "v1")])
        .policy(&format!("outlierDetection: {{ {outlier} }}"))
        .start()
        .await;
    let url = format!("http://web:{}/a/../b", proxy.http().port());
    let answer = explained(&proxy, "/explain", &format!("POST {url}\nx-user: alice\n")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain; charset=UTF-8")));
    let text = answer.text();
    assert!(text.starts_with(&format!("POST http://web:{}/b\n-> {WEB}\n", proxy.http().port())), "{text}");
    assert!(text.contains("one of 2, by least request") && !text.contains("EJECTED"), "{text}");
    eventually("an ejection", async || {
        proxy.get("web", "/").await;
        let flags = proxy.cluster(WEB, Some(bad.address()), "health_flags").await;
        (flags.as_deref() == Some("/failed_outlier_check")).then_some(())
    })
    .await;
    let picks = proxy.cluster(WEB, None, "upstream_rq_total").await;
    let question = json!({ "url": url, "headers": { "x-user": ["a", "b"] } });
    let answer = explained(&proxy, "/explain", &question.to_string()).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(told["outcome"]["endpoint"], good.address().to_string(), "the only one left: {told:#}");
    let balancing = &told["route"]["forward"]["destinations"][0]["balancing"];
    let endpoints = balancing["endpoints"].as_array().unwrap();
    let ejected = endpoints.iter().find(|endpoint| endpoint["ejected"].is_string()).unwrap();
    assert_eq!(ejected["address"], bad.address().to_string());
    assert!(ejected["ejected"].as_str().unwrap().starts_with("consecutive_5xx, for "), "{ejected}");
    assert_eq!(proxy.cluster(WEB, None, "upstream_rq_total").await, picks, "nothing was sent");
}

#[tokio::test]
async fn explain_refuses_what_it_cannot_read_and_says_why() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    assert_eq!(proxy.admin("/explain").await.status, 405);
    let long = " ".repeat(129 << 10);
    for (question, why) in [
        ("", "`` is no request: write `METHOD http://host:port/path`, or the URL alone for GET\n"),
        ("http://web:1/\nx", "`x` is no header: write `name: value`\n"),
        ("http://web:1/", "no listener has port 1; there are 127.0.0.1_8080"),
        ("{", "no JSON: "),
        ("{}", "`url` is missing\n"),
        (r#"{"url":"http://web:8080/","verb":"GET"}"#, "the field `verb` is unknown; there are method, url"),
        (r#"{"url":"http://web:8080/","headers":{"x":1}}"#, "`headers` has to be an object of strings"),
        (r#"{"url":"http://web:8080/","seed":-1}"#, "`seed` has to be a number without sign\n"),
        (r#"{"url":"http://web:8080/","client":"x"}"#, "`client` has to be an IP address\n"),
        (&long, "the question cannot be read: length limit exceeded\n"),
    ] {
        let answer = explained(&proxy, "/explain", question).await;
        assert_eq!(answer.status, 400, "{question}");
        assert!(answer.text().starts_with(why), "{question}: {}", answer.text());
    }
    let answer = explained(&proxy, "/explain?format=json", "http://web:8080/").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

/// The seed's configuration, explained.
fn asked(request: &str, more: &[&str]) -> std::process::Output {
    let (registry, rule, weighted) = (seed("registry"), seed("destination-rule"), seed("weighted"));
    let mut args = vec!["explain", "--config", &registry, &rule, &weighted, "--namespace", "observability"];
    args.extend(["--request", request]);
    args.extend(more);
    run(&args)
}

#[test]
fn explain_answers_offline_with_places_and_reasons() {
    let output = asked("POST http://otlp-collector:4317/x", &["-H", "x-session-id: alice", "--seed", "7"]);
    assert_eq!(output.status.code(), Some(0), "{}", all(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "weighted.yaml:11)",
        "NO  header `version` is `canary`, found nothing",
        "weight 90 of 100",
        "destination-rule.yaml:",
        "hash key      10728769313519608027",
        ", by ring hash from ",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let again = asked("POST http://otlp-collector:4317/x", &["-H", "x-session-id: alice", "--seed", "7"]);
    assert_eq!(String::from_utf8(again.stdout).unwrap(), text, "a seed is a replay");
    let json = asked("http://otlp-collector:4317/", &["-H", "version: canary", "-o", "json", "--http2"]);
    let told: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(told["outcome"]["endpoint"], "127.0.0.1:24317");
}

#[test]
fn explain_looks_no_name_up_offline_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: { name: web }\nspec:\n  \
                 hosts: [web.example.com]\n  ports: [{ number: 4317, name: grpc }]\n  resolution: DNS\n";
    let file = write(folder.path(), "web.yaml", entry);
    let registry = seed("registry");
    let request = "http://web.example.com:4317/";
    let output = run(&[
        "explain",
        "--config",
        &registry,
        &file,
        "--namespace",
        "observability",
        "--request",
        request,
        "--seed",
        "1",
    ]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\n-> outbound|4317||web.example.com\n"), "{text}");
    let said = "its endpoints are the addresses of `web.example.com`, looked up while the proxy runs\n";
    assert!(text.contains(said), "{text}");
}

#[test]
fn explain_has_an_exit_code_for_each_kind_of_trouble() {
    let output = asked("http://otlp-collector:81/", &[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(all(&output).contains("no listener has port 81; there are 127.0.0.1_4317 (port 4317)"));
    assert_eq!(asked("ftp://x", &[]).status.code(), Some(64));
    assert_eq!(asked("http://otlp-collector:4317/", &["-H", "x"]).status.code(), Some(64));
    let folder = tempfile::tempdir().unwrap();
    let broken = write(folder.path(), "a.yaml", "kind: [");
    let output = run(&["explain", "--config", &broken, "--request", "http://a/"]);
    assert_eq!(output.status.code(), Some(65), "{}", all(&output));
}

#[test]
fn explain_takes_the_url_for_the_destination_of_captured_traffic() {
    let folder = tempfile::tempdir().unwrap();
    let entry = |name: &str, port: u16, protocol: &str, address: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n  \
             hosts: [{name}.default.svc.cluster.local]\n  addresses: [{address}]\n  resolution: STATIC\n  \
             ports: [{{ number: {port}, name: main, protocol: {protocol} }}]\n  \
             endpoints: [{{ address: 10.1.0.1 }}]\n---\n"
        )
    };
    let text = entry("web", 80, "HTTP", "10.9.0.1")
        + &entry("db", 3306, "TCP", "10.9.0.2")
        + &entry("odd", 9000, "''", "10.9.0.3");
    let path = write(folder.path(), "mesh.yaml", &text);
    let outcome = |request: &str| {
        let args = [
            "explain",
            "--config",
            &path,
            "--interception-mode",
            "REDIRECT",
            "--request",
            request,
            "-o",
            "json",
        ];
        let output = run(&args);
        assert!(output.status.success(), "{}", all(&output));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        (told["outcome"]["cluster"].clone(), told["outcome"]["endpoint"].clone())
    };
    let to = |cluster: &str, endpoint: &str| (json!(cluster), json!(endpoint));
    assert_eq!(outcome("http://web/"), to("outbound|80||web.default.svc.cluster.local", "10.1.0.1:80"));
    assert_eq!(outcome("http://10.9.0.1/"), to("outbound|80||web.default.svc.cluster.local", "10.1.0.1:80"));
    assert_eq!(outcome("http://example.com/"), (json!("PassthroughCluster"), Value::Null));
    assert_eq!(outcome("http://10.7.0.1/"), to("PassthroughCluster", "10.7.0.1:80"));
    assert_eq!(
        outcome("tcp://10.9.0.2:3306"),
        to("outbound|3306||db.default.svc.cluster.local", "10.1.0.1:3306")
    );
    assert_eq!(outcome("tcp://10.7.0.2:3306"), to("PassthroughCluster", "10.7.0.2:3306"));
    let odd = to("outbound|9000||odd.default.svc.cluster.local", "10.1.0.1:9000");
    assert_eq!(outcome("http://odd:9000/"), odd);
    assert_eq!(outcome("tcp://10.9.0.3:9000"), odd);
}
