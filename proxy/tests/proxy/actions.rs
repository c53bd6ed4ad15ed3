//! Redirects, direct responses and rewrites, through a whole proxy. `e2e/action_diff.py` compares them with Envoy.

use crate::support::{
    client::{self, Client, ask},
    mesh::{Mesh, Proxy, virtual_service},
    origin::{Origin, Seen},
};

/// Untraced, so that the headers are those of the rules.
async fn with(http: &str) -> (Proxy, Origin) {
    let origin = Origin::named("web").await;
    let mesh = Mesh::web(&origin).settings("enableTracing: false");
    (mesh.routes(http).start().await, origin)
}

fn names(seen: &Seen) -> Vec<&str> {
    seen.headers.iter().map(|(name, _)| name.as_str()).collect()
}

#[tokio::test]
async fn a_redirect_says_where_to_ask() {
    let (proxy, origin) = with(
        "- name: moved\n  match: [{ uri: { prefix: /old } }]\n  redirect: { uri: /new, scheme: https, redirectCode: 308 }\n  \
         headers: { response: { set: { x-a: '%REQ(:path)%' } } }",
    )
    .await;
    let answer = proxy.get("web:80", "/old/x?q=1").await;
    assert_eq!((answer.status, answer.text()), (308, ""));
    assert_eq!(answer.header("location"), Some("https://web/new?q=1"));
    assert_eq!(answer.header("x-a"), Some("/old/x?q=1"));
    assert_eq!(answer.names(), ["location", "x-a", "date", "server", "content-length"], "Envoy's order");
    let line = proxy.logged_one().await;
    assert_eq!(line["response_code_details"], "direct_response");
    assert_eq!((&line["route_name"], &line["path"]), (&"moved".into(), &"/old/x?q=1".into()));
    assert!(line["upstream_cluster"].is_null(), "{line}");
    assert_eq!(origin.hits(), 0);
}

#[tokio::test]
async fn a_redirects_replaced_prefix_counts_for_operations_and_the_original_for_the_log() {
    let (proxy, _origin) = with(
        "- match: [{ uri: { prefix: /Old }, ignoreUriCase: true }]\n  redirect: { prefixRewrite: /new }\n  \
         headers: { response: { set: { x-a: '%REQ(:path)% %REQ(x-envoy-original-path)%' } } }",
    )
    .await;
    let answer = proxy.get("web", "/OLD/x?q=/old").await;
    assert_eq!(answer.header("location"), Some("http://web/new/x?q=/old"));
    assert_eq!(answer.header("x-a"), Some("/new/x?q=/old /OLD/x?q=/old"));
    assert_eq!(proxy.logged_one().await["path"], "/OLD/x?q=/old");
}

#[tokio::test]
async fn a_direct_response_is_answered_as_envoy_does() {
    let (proxy, origin) = with(
        "- match: [{ uri: { prefix: /plain } }]\n  directResponse: { status: 503, body: { string: later } }\n\
         - match: [{ uri: { prefix: /json } }]\n  directResponse: { status: 200, body: { string: '{}' } }\n  \
         headers: { response: { set: { content-type: application/json } } }\n\
         - match: [{ uri: { prefix: /made } }]\n  directResponse: { status: 201 }\n\
         - match: [{ uri: { prefix: /none } }]\n  directResponse: { status: 204, body: { string: lost } }",
    )
    .await;
    let answer = proxy.get("web", "/plain").await;
    assert_eq!((answer.status, answer.text()), (503, "later"));
    assert_eq!(answer.names(), ["content-length", "content-type", "date", "server"]);
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    let answer = proxy.get("web", "/json").await;
    assert_eq!(answer.names(), ["content-type", "content-length", "date", "server"]);
    assert_eq!((answer.header("content-type"), answer.text()), (Some("application/json"), "{}"));
    let answer = proxy.get("web", "/made?q").await;
    assert_eq!((answer.status, answer.header("location")), (201, Some("http://web/made?q")));
    let answer = proxy.get("web", "/none").await;
    assert_eq!((answer.status, answer.text(), answer.header("content-length")), (204, "", None));
    let head = client::request("HEAD", "web", "/plain").body(client::Payload::default()).unwrap();
    let answer = ask(proxy.http(), head).await;
    assert_eq!((answer.status, answer.text(), answer.header("content-length")), (503, "", Some("5")));
    let line = &proxy.logged(1).await[0];
    assert_eq!((&line["response_code"], &line["bytes_sent"]), (&503.into(), &5.into()));
    assert_eq!(
        (&line["response_flags"], &line["response_code_details"]),
        (&"-".into(), &"direct_response".into())
    );
    assert_eq!(origin.hits(), 0);
}

#[tokio::test]
async fn a_direct_response_to_grpc_is_a_grpc_status() {
    let origin = Origin::named("rpc").await;
    let rule = "- directResponse: { status: 503, body: { string: '50% off' } }";
    let proxy = Mesh::rpc(&origin).rules(virtual_service("rpc", rule)).start().await;
    let answer = Client::http2(proxy.grpc()).await.send(client::grpc("rpc", "/a.B/C", b"")).await;
    assert_eq!((answer.status, answer.grpc_status()), (200, Some("14")));
    assert_eq!(answer.header("grpc-message"), Some("50%25 off"));
}

#[tokio::test]
async fn a_rewritten_path_goes_upstream_and_the_original_is_told() {
    let (proxy, origin) = with(
        "- match: [{ uri: { prefix: /api } }]\n  rewrite: { uri: /v2 }\n  route: [{ destination: { host: web } }]\n  \
         headers: { request: { set: { x-op: '%REQ(:path)%' } }, response: { set: { x-op: '%REQ(:path)%' } } }",
    )
    .await;
    let answer = proxy.get("web", "/api/x?y=/api").await;
    let seen = origin.only();
    assert_eq!(seen.target, "/v2/x?y=/api", "the prefix is replaced, the query is not");
    assert_eq!(seen.header("x-envoy-original-path"), Some("/api/x?y=/api"));
    assert_eq!(seen.header("x-op"), Some("/api/x?y=/api"), "operations see the path before");
    assert_eq!(answer.header("x-op"), Some("/v2/x?y=/api"), "those of the answer the path after");
    assert_eq!(
        names(&seen),
        [
            "host",
            "x-forwarded-proto",
            "x-request-id",
            "x-envoy-attempt-count",
            "x-op",
            "x-envoy-original-path"
        ]
    );
    assert_eq!(proxy.logged_one().await["path"], "/api/x?y=/api");
}

#[tokio::test]
async fn a_path_that_no_request_can_have_is_not_sent() {
    let (proxy, origin) = with(
        "- rewrite: { uriRegexRewrite: { match: '^/cut(.*)$', rewrite: '\\1' } }\n  route: [{ destination: { host: web } }]",
    )
    .await;
    assert_eq!(proxy.get("web", "/cut/x").await.status, 200);
    assert_eq!(proxy.get("web", "/cut").await.status, 200, "an empty path is not taken");
    let answer = proxy.get("web", "/cutx").await;
    assert_eq!((answer.status, answer.text()), (400, ""));
    let seen: Vec<_> = origin.requests().into_iter().map(|seen| seen.target).collect();
    assert_eq!(seen, ["/x", "/cut"]);
}

#[tokio::test]
async fn a_rewritten_authority_is_the_host_upstream_and_the_original_is_told() {
    let (proxy, origin) = with(
        "- rewrite: { authority: other.example, uri: /n }\n  route: [{ destination: { host: web } }]\n  \
         headers: { request: { set: { x-op: '%REQ(:authority)%' } } }",
    )
    .await;
    proxy.get("web:8080", "/x").await;
    let seen = origin.only();
    assert_eq!(seen.header("host"), Some("other.example"));
    assert_eq!(seen.all("x-envoy-original-host").collect::<Vec<_>>(), ["web:8080"]);
    assert_eq!(seen.header("x-op"), Some("web:8080"), "operations see the host before");
    assert_eq!(
        names(&seen)[4..],
        ["x-op", "x-envoy-original-host", "x-envoy-original-path"],
        "Envoy's order behind the client's and the first of ours"
    );
    assert_eq!(proxy.logged_one().await["authority"], "other.example");
}

#[tokio::test]
async fn one_of_several_destinations_sets_its_own_authority() {
    let origin = Origin::named("web").await;
    let set = |host: &str| {
        format!("headers: {{ request: {{ set: {{ host: {host}, x-own: '%REQ(:authority)%' }} }} }}")
    };
    let rule = |route: &str| {
        format!(
            "- {route}headers: {{ request: {{ set: {{ x-op: '%REQ(:authority)%' }} }} }}\n  route:\n  \
             - {{ destination: {{ host: web, subset: v1 }}, weight: 50, {} }}\n  \
             - {{ destination: {{ host: web, subset: v2 }}, weight: 50, {} }}",
            set("own.example"),
            set("own.example")
        )
    };
    let endpoints = [(origin.address(), "v1"), (origin.address(), "v2")];
    let proxy = Mesh::new().http("web", &endpoints).policy("").routes(&rule("")).start().await;
    proxy.get("web", "/").await;
    let seen = origin.only();
    assert_eq!(seen.header("host"), Some("own.example"));
    assert_eq!(seen.header("x-envoy-original-host"), None, "only the route's rewrite tells it, as in Envoy");
    assert_eq!((seen.header("x-own"), seen.header("x-op")), (Some("web"), Some("own.example")));
    let rule = rule("rewrite: { authority: all.example }\n  ");
    let proxy = Mesh::new().http("web", &endpoints).policy("").routes(&rule).start().await;
    proxy.get("web", "/").await;
    let seen = origin.requests().pop().unwrap();
    assert_eq!(seen.header("host"), Some("all.example"), "the route's comes last");
    assert_eq!(seen.header("x-envoy-original-host"), Some("own.example"));
}

#[tokio::test]
async fn a_delegates_rules_are_served() {
    let origin = Origin::named("web").await;
    let root = "- name: shop\n  match: [{ uri: { prefix: /shop } }]\n  delegate: { name: shop }\n  rewrite: { uri: /v1 }";
    let shop = virtual_service("shop", "- name: all\n  route: [{ destination: { host: web } }]");
    let shop = shop.replace("  hosts: [shop]\n", "");
    let proxy = Mesh::web(&origin).routes(root).rules(shop).start().await;
    assert_eq!(proxy.get("web", "/shop/x").await.status, 200);
    assert_eq!(proxy.get("web", "/other").await.status, 404);
    assert_eq!(origin.only().target, "/v1/x", "the root's rewrite, by the root's match");
    assert_eq!(proxy.logged_one().await["route_name"], "shop-all");
}
