//! Cross-origin rules: preflights are answered by the proxy, answers tell an allowed origin so.

use crate::support::{
    client::{self, ask},
    mesh::{Mesh, Proxy},
    origin::{Origin, Reply},
    ports::reserved_address,
};

const ORIGIN: (&str, &str) = ("origin", "https://a");
const FOREIGN: (&str, &str) = ("origin", "https://z");
const METHOD: (&str, &str) = ("access-control-request-method", "POST");

async fn start(origin: &Origin, more: &str) -> Proxy {
    let policy = format!(
        "corsPolicy: {{ allowOrigins: [{{ exact: 'https://a' }}], allowMethods: [GET, POST], allowHeaders: [x-a, x-b], \
         exposeHeaders: [x-c], maxAge: 60s, allowCredentials: true, {more} }}"
    );
    let rule = format!("- route: [{{ destination: {{ host: web }} }}]\n  {policy}");
    Mesh::web(origin).routes(&rule).start().await
}

async fn options(proxy: &Proxy, headers: &[(&str, &str)]) -> client::Answer {
    let mut builder = client::request("OPTIONS", "web", "/");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    ask(proxy.http(), builder.body(client::Payload::default()).unwrap()).await
}

#[tokio::test]
async fn a_preflight_is_answered_by_the_proxy() {
    let origin = Origin::named("v1").await;
    let proxy = start(&origin, "").await;
    let answer = options(&proxy, &[ORIGIN, METHOD]).await;
    assert_eq!((answer.status, answer.text()), (200, ""));
    assert_eq!(
        answer.names(),
        [
            "access-control-allow-origin",
            "access-control-allow-credentials",
            "access-control-allow-methods",
            "access-control-allow-headers",
            "access-control-max-age",
            "access-control-expose-headers",
            "date",
            "server",
            "content-length"
        ]
    );
    let value = |name: &str| answer.header(name).unwrap().to_owned();
    assert_eq!(value("access-control-allow-origin"), "https://a");
    assert_eq!(value("access-control-allow-methods"), "GET,POST");
    assert_eq!(value("access-control-max-age"), "60");
    let line = proxy.logged_one().await;
    assert_eq!((&line["response_flags"], &line["response_code"]), (&"-".into(), &200.into()));
    assert_eq!(line["response_code_details"], "cors_response");
    assert_eq!(line["upstream_cluster"], "outbound|8080||web.default.svc.cluster.local");
    assert!(line["upstream_host"].is_null());
    assert_eq!(origin.hits(), 0);
    proxy.metric("envoy_http_cors_origin_valid", &[], 1.0).await;
}

#[tokio::test]
async fn a_foreign_preflight_goes_upstream_unless_it_is_ignored() {
    let origin = Origin::named("v1").await;
    let proxy = start(&origin, "").await;
    let answer = options(&proxy, &[FOREIGN, METHOD]).await;
    assert_eq!((answer.text(), answer.header("access-control-allow-origin")), ("v1", None));
    assert_eq!(origin.hits(), 1);
    proxy.metric("envoy_http_cors_origin_invalid", &[], 1.0).await;
    let proxy = start(&origin, "unmatchedPreflights: IGNORE").await;
    let answer = options(&proxy, &[FOREIGN, METHOD]).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET,POST"));
    assert_eq!(answer.header("access-control-expose-headers"), None);
    assert_eq!(origin.hits(), 1);
}

#[tokio::test]
async fn an_answer_tells_an_allowed_origin_so_whatever_the_upstream_says() {
    let origin = Origin::http1(|_| {
        Reply::status(200).header("access-control-allow-origin", "*").header("x-own", "1").data("v1")
    })
    .await;
    let proxy = start(&origin, "").await;
    let answer = proxy.get_with("web", "/", &[ORIGIN]).await;
    let lines: Vec<_> = answer.headers.get_all("access-control-allow-origin").iter().collect();
    assert_eq!(lines, ["https://a"]);
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(answer.header("access-control-expose-headers"), Some("x-c"));
    assert_eq!(answer.header("access-control-max-age"), None);
    let foreign = proxy.get_with("web", "/", &[FOREIGN]).await;
    assert_eq!(foreign.header("access-control-allow-origin"), Some("*"), "as the upstream said");
    assert_eq!(foreign.header("access-control-allow-credentials"), None);
}

#[tokio::test]
async fn a_failure_tells_an_allowed_origin_so_and_an_abort_does_not() {
    let refused = reserved_address();
    let cors = "corsPolicy: { allowOrigins: [{ exact: 'https://a' }] }";
    let rules = format!(
        "- match: [{{ uri: {{ prefix: /abort }} }}]\n  route: [{{ destination: {{ host: web }} }}]\n  {cors}\n  \
         fault: {{ abort: {{ percentage: {{ value: 100 }}, httpStatus: 555 }} }}\n\
         - route: [{{ destination: {{ host: web }} }}]\n  {cors}"
    );
    let proxy = Mesh::new().http("web", &[(refused, "v1")]).routes(&rules).start().await;
    let answer = proxy.get_with("web", "/", &[ORIGIN]).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (503, Some("https://a")));
    let answer = proxy.get_with("web", "/abort", &[ORIGIN]).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (555, None));
}
