//! One line a request, in Istio's text and JSON formats.

use serde_json::{Value, json};

use crate::support::{
    client::{self, Client, ask},
    mesh::Mesh,
    origin::{Origin, Reply},
};

#[tokio::test]
async fn a_json_line_has_istios_keys_and_types() {
    let origin = Origin::http1(|_| Reply::status(201).data("answer")).await;
    let proxy = Mesh::web(&origin)
        .routes("- name: main\n  match: [{ name: api, uri: { prefix: / } }]\n  route: [{ destination: { host: web } }]")
        .start()
        .await;
    let mut request = client::post("web", "/x?y=1", "question");
    for (name, value) in [("user-agent", "curl/8"), ("x-forwarded-for", "5.6.7.8"), ("x-request-id", "id-1")]
    {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    ask(proxy.http(), request).await;
    let line = proxy.logged_one().await;
    let keys: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "authority",
            "bytes_received",
            "bytes_sent",
            "connection_termination_details",
            "downstream_local_address",
            "downstream_remote_address",
            "duration",
            "method",
            "path",
            "protocol",
            "request_id",
            "requested_server_name",
            "response_code",
            "response_code_details",
            "response_flags",
            "route_name",
            "start_time",
            "upstream_cluster",
            "upstream_host",
            "upstream_local_address",
            "upstream_service_time",
            "upstream_transport_failure_reason",
            "user_agent",
            "x_forwarded_for",
        ]
    );
    for (key, expected) in [
        ("authority", json!("web")),
        ("bytes_received", json!(8)),
        ("bytes_sent", json!(6)),
        ("connection_termination_details", Value::Null),
        ("downstream_local_address", json!(proxy.http().to_string())),
        ("downstream_remote_address", json!("5.6.7.8:0")),
        ("method", json!("POST")),
        ("path", json!("/x?y=1")),
        ("protocol", json!("HTTP/1.1")),
        ("request_id", json!("id-1")),
        ("requested_server_name", Value::Null),
        ("response_code", json!(201)),
        ("response_code_details", json!("via_upstream")),
        ("response_flags", json!("-")),
        ("route_name", json!("main.api")),
        ("upstream_cluster", json!("outbound|8080||web.default.svc.cluster.local")),
        ("upstream_host", json!(origin.address().to_string())),
        ("upstream_transport_failure_reason", Value::Null),
        ("user_agent", json!("curl/8")),
        ("x_forwarded_for", json!("5.6.7.8")),
    ] {
        assert_eq!(line[key], expected, "{key}");
    }
    assert!(line["duration"].is_u64(), "{line}");
    assert!(line["upstream_service_time"].is_string(), "{line}");
    let local = line["upstream_local_address"].as_str().unwrap();
    assert!(local.starts_with("127.0.0.1:"), "{local}");
    let time = line["start_time"].as_str().unwrap();
    assert_eq!((time.len(), time.as_bytes()[10], time.as_bytes()[23]), (24, b'T', b'Z'), "{time}");
}

#[tokio::test]
async fn a_text_line_is_istios_default_format() {
    let origin = Origin::named("ok").await;
    let proxy = Mesh::web(&origin).text_log().start().await;
    proxy.get_with("web", "/ok/x", &[("x-request-id", "id-1"), ("user-agent", "curl/8")]).await;
    let line = proxy.logged_one().await;
    let line = line.as_str().unwrap();
    let (start, rest) = line.split_once("] ").unwrap();
    assert!(start.starts_with("[20") && start.ends_with('Z'), "{line}");
    assert!(rest.starts_with("\"GET /ok/x HTTP/1.1\" 200 - via_upstream - \"-\" 0 2 "), "{line}");
    let end = format!(
        " \"-\" \"curl/8\" \"id-1\" \"web\" \"{}\" outbound|8080||web.default.svc.cluster.local ",
        origin.address()
    );
    assert!(rest.contains(&end), "{line}");
    let tail: Vec<_> = rest.split(' ').rev().take(5).collect();
    let [route, server_name, remote, local, upstream_local] = tail[..] else { panic!("{tail:?}") };
    assert_eq!((route, server_name), ("default", "-"), "{line}");
    assert_eq!(local, proxy.http().to_string(), "{line}");
    assert!(remote.starts_with("127.0.0.1:") && upstream_local.starts_with("127.0.0.1:"), "{line}");
}

#[tokio::test]
async fn a_text_line_of_a_local_answer_has_dashes() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin)
        .routes("- match: [{ uri: { exact: /only } }]\n  route: [{ destination: { host: web } }]")
        .text_log()
        .start()
        .await;
    proxy.get("web", "/none").await;
    let line = proxy.logged_one().await;
    let line = line.as_str().unwrap();
    assert!(line.contains("\"GET /none HTTP/1.1\" 404 NR route_not_found - \"-\" 0 0 "), "{line}");
    assert!(line.contains(" - \"-\" \"-\" "), "{line}");
    assert!(line.contains(&format!(" \"web\" \"-\" - - {} 127.0.0.1:", proxy.http())), "{line}");
    assert!(line.ends_with(" - -"), "{line}");
}

#[tokio::test]
async fn a_line_cannot_be_broken_by_what_a_client_sends() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let mut request = client::get("web", "/%0a%22", &[]);
    let value = http::HeaderValue::from_bytes(b"a\"b\\c\x1b\xff\t")
        .or(http::HeaderValue::from_bytes(b"a\"b\\c\xff\t"));
    request.headers_mut().insert("user-agent", value.unwrap());
    ask(proxy.http(), request).await;
    proxy.get("web", "/second").await;
    let log = proxy.logged(2).await;
    assert_eq!(log.len(), 2);
    assert!(log[0]["user_agent"].as_str().unwrap().starts_with("a\"b\\c"), "{}", log[0]);
    assert_eq!(log[1]["path"], "/second");
}

#[tokio::test]
async fn every_request_of_a_connection_has_its_line() {
    let origin = Origin::h2c(|_| Reply::grpc_status(0)).await;
    let proxy = Mesh::rpc(&origin).start().await;
    let mut client = Client::http2(proxy.grpc()).await;
    for number in 0..20 {
        client.send(client::grpc("rpc", &format!("/a.B/{number}"), b"m")).await;
    }
    let log = proxy.logged(20).await;
    let paths: Vec<_> = log.iter().map(|line| line["path"].as_str().unwrap().to_owned()).collect();
    assert_eq!(paths, (0..20).map(|number| format!("/a.B/{number}")).collect::<Vec<_>>());
    assert!(log.iter().all(|line| line["protocol"] == "HTTP/2"));
}

#[tokio::test]
async fn the_path_is_logged_as_it_was_normalised_before_rewriting() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    proxy.get("web", "/a/../b?q=/../x").await;
    assert_eq!(origin.only().target, "/b?q=/../x");
    assert_eq!(proxy.logged_one().await["path"], "/b?q=/../x");
}
