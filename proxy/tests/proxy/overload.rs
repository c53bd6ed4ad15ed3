//! What happens when memory is short. The kernel's files are written by the test; a real control group is in the
//! end-to-end tests.

use std::{path::PathBuf, time::Duration};

use outrigger::overload::Cgroups;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::support::{
    client::{self, Client, ask, connect, over_http2},
    mesh::{Mesh, Proxy},
    origin::{Gate, Origin, Reply},
    wait::{soon, until},
};

const PRESSURE: &str = "envoy_overload_envoy_resource_monitors_cgroup_memory_pressure";

/// Bytes.
const LIMIT: u32 = 1_000_000_000;

/// A control group with that limit.
struct Group {
    folder: TempDir,
}

impl Group {
    fn new() -> Self {
        let group = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(group.path("of_process"), "0::/\n").unwrap();
        std::fs::write(group.path("memory.max"), format!("{LIMIT}\n")).unwrap();
        group.write(100);
        group
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, thousandths: u32) {
        std::fs::write(self.path("next"), format!("{}\n", LIMIT / 1000 * thousandths)).unwrap();
        std::fs::rename(self.path("next"), self.path("memory.current")).unwrap();
    }

    fn cgroups(&self) -> Cgroups {
        Cgroups { of_process: self.path("of_process"), mounted: self.folder.path().to_owned() }
    }

    /// Uses so much, and waits until the proxy has seen it.
    async fn used(&self, proxy: &Proxy, thousandths: u32) {
        self.write(thousandths);
        proxy.metric(PRESSURE, &[], f64::from(thousandths / 10)).await;
    }
}

#[tokio::test]
async fn requests_are_refused_when_memory_is_short_and_answered_again_when_it_is_not() {
    let (origin, group) = (Origin::named("web").await, Group::new());
    let proxy = Mesh::web(&origin).cgroups(group.cgroups()).start().await;
    let mut kept = Client::http1(proxy.http()).await;
    assert_eq!(kept.send(client::get("web", "/", &[])).await.status, 200);
    group.used(&proxy, 930).await;
    let refused = kept.send(client::get("web", "/", &[])).await;
    assert_eq!((refused.status, refused.text()), (503, "envoy overloaded"));
    assert_eq!(refused.header("connection"), Some("close"));
    assert_eq!(origin.hits(), 1);
    let line = proxy.logged(2).await.swap_remove(1);
    assert_eq!((&line["response_flags"], &line["response_code_details"]), (&json!("OM"), &json!("overload")));
    proxy.metric("envoy_http_downstream_rq_overload_close", &[], 1.0).await;
    proxy.metric("envoy_overload_envoy_overload_actions_stop_accepting_requests_active", &[], 1.0).await;
    proxy.metric("envoy_overload_envoy_overload_actions_stop_accepting_connections_active", &[], 0.0).await;
    assert_eq!(ask(proxy.address("health"), client::get("h", "/healthz/ready", &[])).await.status, 200);
    group.used(&proxy, 500).await;
    assert_eq!(proxy.get("web", "/").await.status, 200);
    proxy.metric("envoy_overload_envoy_overload_actions_stop_accepting_requests_active", &[], 0.0).await;
}

#[tokio::test]
async fn a_busy_http2_connection_is_told_to_go_and_what_it_has_under_way_ends_well() {
    let (gate, group) = (Gate::new(), Group::new());
    let held = gate.clone();
    let origin = Origin::http1(move |seen| match seen.target.as_str() {
        "/held" => Reply::after(&held).and(Reply::text("held")),
        _ => Reply::text("web"),
    })
    .await;
    let proxy = Mesh::web(&origin).cgroups(group.cgroups()).start().await;
    let (mut busy, idle) = (Client::http2(proxy.http()).await, Client::http2(proxy.http()).await);
    let Client::Http2(sender) = &busy else { unreachable!() };
    let mut second = Client::Http2(sender.clone());
    let under_way =
        tokio::spawn(async move { second.send(over_http2(client::get("web", "/held", &[]))).await });
    until("the held request", || (origin.hits() == 1).then_some(())).await;
    group.used(&proxy, 930).await;
    assert_eq!(busy.send(over_http2(client::get("web", "/", &[]))).await.status, 503);
    soon("GOAWAY", async {
        while let Ok(response) = busy.open(over_http2(client::get("web", "/", &[]))).await {
            assert_eq!(response.status(), 503);
        }
    })
    .await;
    gate.open();
    assert_eq!(under_way.await.unwrap().text(), "held");
    until("the connection to end", || busy.is_closed().then_some(())).await;
    assert!(!idle.is_closed(), "one that asks for nothing stays");
}

#[tokio::test]
async fn a_body_is_kept_for_no_retry_when_memory_is_short() {
    const WEB: &str = "outbound|8080||web.default.svc.cluster.local";
    for (thousandths, tries) in [(900, 2), (930, 1)] {
        let (origin, group) = (Origin::http1(|_| Reply::status(503)).await, Group::new());
        let routes = "- route: [{ destination: { host: web } }]\n  retries: { attempts: 1, retryOn: 5xx, backoff: 1ms }";
        let proxy = Mesh::web(&origin).routes(routes).cgroups(group.cgroups()).start().await;
        let mut client = connect(proxy.http()).await;
        client.write_all(b"POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 8\r\n\r\nhalf").await.unwrap();
        proxy.metric("envoy_cluster_upstream_rq_active", &[WEB], 1.0).await;
        group.used(&proxy, thousandths).await;
        client.write_all(b"rest").await.unwrap();
        let mut answer = [0; 12];
        soon("an answer", client.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 503");
        until("the tries", || (origin.hits() == tries).then_some(())).await;
        assert!(origin.requests().iter().all(|seen| seen.body == b"halfrest"));
        let lost = if tries == 1 { 1.0 } else { 0.0 };
        proxy.metric("envoy_cluster_retry_or_shadow_abandoned", &[WEB], lost).await;
    }
}

/// Half of a body of a known length.
const HALF: &str = "content-length: 8\r\n\r\nhalf";

/// A sidecar, a client that has sent it half of a body, and the connection on which that has reached the origin.
async fn half_sent(group: &Group, half: &str) -> (Proxy, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = listener.local_addr().unwrap();
    let proxy = Mesh::new().http("web", &[(origin, "v1")]).cgroups(group.cgroups()).start().await;
    let mut client = connect(proxy.http()).await;
    client.write_all(format!("POST / HTTP/1.1\r\nhost: web\r\n{half}").as_bytes()).await.unwrap();
    let (mut origin, _) = soon("the request", listener.accept()).await.unwrap();
    read_until(&mut origin, half.rsplit("\r\n\r\n").next().unwrap()).await;
    (proxy, client, origin)
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        assert_ne!(soon(end, stream.read_buf(&mut read)).await.unwrap(), 0, "no {end}");
    }
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn no_body_is_read_while_memory_is_used_up_and_none_is_lost() {
    let group = Group::new();
    let (proxy, mut client, mut origin) = half_sent(&group, HALF).await;
    group.used(&proxy, 960).await;
    client.write_all(b"rest").await.unwrap();
    let early = timeout(Duration::from_millis(200), origin.readable()).await;
    assert!(early.is_err(), "the client is held back");
    group.used(&proxy, 100).await;
    assert_eq!(read_until(&mut origin, "rest").await, "rest");
    origin.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
    let answer = read_until(&mut client, "done").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn a_body_that_waits_for_memory_in_vain_is_given_up() {
    let group = Group::new();
    let (proxy, mut client, _origin) = half_sent(&group, HALF).await;
    group.used(&proxy, 960).await;
    client.write_all(b"rest").await.unwrap();
    // Without an answer, for which the rest of the body would have to be read.
    assert_eq!(soon("the end", client.read(&mut [0; 1])).await.unwrap_or_default(), 0);
    let line = proxy.logged_one().await;
    assert_eq!((&line["response_flags"], &line["response_code_details"]), (&json!("OM"), &json!("overload")));
    proxy.metric("envoy_http_downstream_rq_overload_close", &[], 1.0).await;
}

#[tokio::test]
async fn a_body_of_which_nothing_but_the_end_is_missing_is_not_given_up() {
    let group = Group::new();
    let (proxy, mut client, mut origin) =
        half_sent(&group, "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    group.used(&proxy, 960).await;
    client.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(read_until(&mut origin, "0\r\n\r\n").await, "0\r\n\r\n");
    origin.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
    assert!(read_until(&mut client, "done").await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_body_that_is_given_up_after_the_answer_has_begun_is_told_as_such() {
    let group = Group::new();
    let (proxy, mut client, mut origin) = half_sent(&group, HALF).await;
    origin.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf").await.unwrap();
    read_until(&mut client, "half").await;
    group.used(&proxy, 960).await;
    client.write_all(b"rest").await.unwrap();
    assert_eq!(soon("the end", client.read(&mut [0; 1])).await.unwrap_or_default(), 0);
    let line = proxy.logged_one().await;
    assert_eq!((&line["response_flags"], &line["response_code_details"]), (&json!("OM"), &json!("overload")));
}

#[tokio::test]
async fn nothing_is_accepted_when_memory_is_all_but_used_up() {
    let (origin, group) = (Origin::named("web").await, Group::new());
    let proxy = Mesh::web(&origin).cgroups(group.cgroups()).start().await;
    // One accept was under way already.
    group.used(&proxy, 960).await;
    drop(connect(proxy.http()).await);
    proxy.metric("envoy_server_total_connections", &[], 0.0).await;
    let address = proxy.http();
    let mut waiting = tokio::spawn(async move { ask(address, client::get("web", "/", &[])).await });
    assert!(timeout(Duration::from_millis(200), &mut waiting).await.is_err(), "it waits in the system");
    assert_eq!(proxy.sum("envoy_server_total_connections", &[]).await, 0.0);
    group.used(&proxy, 100).await;
    assert_eq!(waiting.await.unwrap().status, 200, "nobody was turned away");
}
