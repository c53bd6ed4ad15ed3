//! Services that are no `ServiceEntry` with listed endpoints: Kubernetes' own, and those without a resolution.

use std::net::SocketAddr;

use crate::support::{mesh::Mesh, origin::Origin};

/// A pod with the slice in which it stands.
fn pod(version: &str, address: SocketAddr, ready: bool) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{ name: web-{version}, labels: {{ kubernetes.io/service-name: web }} }}\naddressType: IPv4\n\
         endpoints: [{{ addresses: [{ip}], conditions: {{ ready: {ready} }}, targetRef: {{ kind: Pod, name: web-{version} }} }}]\n\
         ports: [{{ name: http, port: {port} }}]\n---\napiVersion: v1\nkind: Pod\n\
         metadata: {{ name: web-{version}, labels: {{ app: web, version: {version} }} }}\n---\n"
    )
}

const WEB: &str = "apiVersion: v1\nkind: Service\nmetadata: { name: web }\n\
                   spec: { clusterIP: 10.96.0.7, ports: [{ name: http, port: 8080, targetPort: 80 }] }\n---\n";

#[tokio::test]
async fn a_kubernetes_service_is_reached_with_its_subsets_and_without_pods_that_are_not_ready() {
    let (v1, v2) = (Origin::named("v1").await, Origin::named("v2").await);
    let mesh = |ready: bool| {
        let rules = format!("{WEB}{}{}", pod("v1", v1.address(), ready), pod("v2", v2.address(), true));
        // A service of its own gives the mesh its listener.
        Mesh::new().http("other", &[]).rules(rules).policy("").routes(
            "- match: [{ uri: { prefix: /v1 } }]\n  route: [{ destination: { host: web, subset: v1 } }]\n\
             - route: [{ destination: { host: web } }]",
        )
    };
    let proxy = mesh(true).start().await;
    for host in ["web", "web.default.svc.cluster.local", "10.96.0.7"] {
        assert_eq!(proxy.get(host, "/v1").await.text(), "v1", "{host}");
    }
    drop(proxy);
    let proxy = mesh(false).start().await;
    for _ in 0..8 {
        assert_eq!(proxy.get("web", "/").await.text(), "v2");
    }
    let answer = proxy.get("web", "/v1").await;
    assert_eq!((answer.status, answer.text()), (503, "no healthy upstream"));
}

#[tokio::test]
async fn a_service_without_resolution_has_no_healthy_upstream() {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: { name: far }\n\
                 spec: { hosts: ['*.example.com'], ports: [{ number: 8080, name: http }], resolution: NONE }\n";
    let proxy = Mesh::new().http("other", &[]).rules(entry).start().await;
    let answer = proxy.get("a.example.com", "/").await;
    assert_eq!((answer.status, answer.text()), (503, "no healthy upstream"));
    let line = proxy.logged_one().await;
    assert_eq!(line["upstream_cluster"], "outbound|8080||*.example.com");
    assert_eq!(line["response_flags"], "UH");
}
