//! The admin, metrics and readiness servers.

use serde_json::Value;

use crate::support::{
    client::{self, ask},
    mesh::Mesh,
    origin::Origin,
};

#[tokio::test]
async fn every_page_says_what_it_is_and_is_not_cached() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    for (path, kind) in [
        ("/ready", "text/plain; charset=UTF-8"),
        ("/clusters", "text/plain; charset=UTF-8"),
        ("/clusters?format=json", "application/json"),
        ("/config_dump", "application/json"),
        ("/listeners", "text/plain; charset=UTF-8"),
        ("/listeners?format=json", "application/json"),
        ("/server_info", "application/json"),
    ] {
        let answer = proxy.admin(path).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-cache, max-age=0"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
    assert_eq!(proxy.admin("/ready").await.text(), "LIVE\n");
    assert_eq!(proxy.admin("/stats/prometheus").await.status, 200);
}

#[tokio::test]
async fn changes_need_post_and_unknown_paths_are_404() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let answer = proxy.admin("/drain_listeners").await;
    assert_eq!((answer.status, answer.text().trim_end()), (405, "Method GET not allowed, POST required."));
    let answer = proxy.admin("/nothing").await;
    assert_eq!(answer.status, 404);
    assert!(answer.text().starts_with("invalid path. admin commands are:"), "{}", answer.text());
    assert!(answer.text().contains("/config_dump"), "{}", answer.text());
    assert_eq!(proxy.get("web", "/").await.status, 200, "nothing was drained");
}

#[tokio::test]
async fn clusters_lists_limits_and_hosts_as_envoy_does() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).policy("connectionPool: { tcp: { maxConnections: 7 } }").start().await;
    proxy.get("web", "/").await;
    let name = "outbound|8080||web.default.svc.cluster.local";
    for (host, key, value) in [
        (None, "observability_name", name),
        (None, "default_priority::max_connections", "7"),
        (None, "default_priority::max_pending_requests", "4294967295"),
        (Some(origin.address()), "cx_active", "1"),
        (Some(origin.address()), "cx_total", "1"),
        (Some(origin.address()), "rq_total", "1"),
        (Some(origin.address()), "rq_success", "1"),
        (Some(origin.address()), "rq_active", "0"),
        (Some(origin.address()), "health_flags", "healthy"),
        (Some(origin.address()), "weight", "1"),
        (Some(origin.address()), "region", ""),
        (Some(origin.address()), "priority", "0"),
    ] {
        assert_eq!(proxy.cluster(name, host, key).await.as_deref(), Some(value), "{key}");
    }
    let page: Value = serde_json::from_slice(&proxy.admin("/clusters?format=json").await.body).unwrap();
    let clusters = page["cluster_statuses"].as_array().unwrap();
    let web = clusters.iter().find(|cluster| cluster["name"] == name).unwrap();
    let host = &web["host_statuses"][0];
    let socket = &host["address"]["socket_address"];
    assert_eq!(
        (&socket["address"], &socket["port_value"]),
        (&"127.0.0.1".into(), &origin.address().port().into())
    );
    assert_eq!(host["health_status"]["eds_health_status"], "HEALTHY");
    let total = host["stats"].as_array().unwrap().iter().find(|stat| stat["name"] == "rq_total").unwrap();
    assert_eq!(total["value"], "1");
}

#[tokio::test]
async fn listeners_shows_where_it_listens() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let line = format!("127.0.0.1_8080::{}", proxy.http());
    let text = proxy.admin("/listeners").await;
    assert!(text.text().lines().any(|found| found == line), "{}", text.text());
    let page: Value = serde_json::from_slice(&proxy.admin("/listeners?format=json").await.body).unwrap();
    let status = &page["listener_statuses"][0];
    assert_eq!(status["name"], "127.0.0.1_8080");
    assert_eq!(status["local_address"]["socket_address"]["port_value"], proxy.http().port());
}

#[tokio::test]
async fn config_dump_shows_routes_clusters_and_their_origins() {
    let origin = Origin::named("web").await;
    let proxy =
        Mesh::web(&origin).routes("- name: mine\n  route: [{ destination: { host: web } }]").start().await;
    let dump = proxy.admin("/config_dump").await;
    let text = dump.text();
    for part in [
        "mine",
        "outbound|8080||web.default.svc.cluster.local",
        "rules.yaml",
        "services.yaml",
        "127.0.0.1_8080",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
}

#[tokio::test]
async fn server_info_tells_version_and_state() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let info: Value = serde_json::from_slice(&proxy.admin("/server_info").await.body).unwrap();
    assert!(info["version"].as_str().unwrap().contains(env!("CARGO_PKG_VERSION")), "{info}");
    assert_eq!(info["state"], "LIVE");
    assert!(info["uptime_current_epoch"].as_str().unwrap().ends_with('s'), "{info}");
}

#[tokio::test]
async fn metrics_and_readiness_have_ports_of_their_own() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    for path in ["/metrics", "/stats/prometheus"] {
        let page = ask(proxy.address("metrics"), client::get("h", path, &[])).await;
        assert_eq!(page.status, 200, "{path}");
        assert!(page.header("content-type").unwrap().contains("version="), "{path}");
        assert!(page.text().contains("istio_build"), "{path}");
    }
    let health = ask(proxy.address("health"), client::get("h", "/healthz/ready", &[])).await;
    assert_eq!(health.status, 200);
    let elsewhere = ask(proxy.address("health"), client::post("h", "/quitquitquit", "")).await;
    assert_eq!(elsewhere.status, 404, "no command on a port that others may reach");
}
