//! The intent in Istio's language, for Outrigger.

use std::fmt::Write;

use crate::{
    identity::Party,
    intent::{
        FILLER_ENDPOINTS, HOST, Intent, MAX_CONNECTIONS, MAX_PENDING, MAX_REQUESTS, Mtls, SESSION,
        filler_address, filler_host, version,
    },
};

/// `MeshConfig`.
pub(crate) fn mesh(intent: &Intent) -> String {
    let (log, sampling) = (intent.log.display(), intent.sampling);
    format!(
        "accessLogFile: {log}
enableTracing: true
defaultConfig:
  tracing:
    sampling: {sampling}
"
    )
}

/// The documents.
pub(crate) fn documents(intent: &Intent) -> String {
    let mut endpoints = String::new();
    for (index, (h1, h2)) in intent.h1.iter().zip(&intent.h2).enumerate() {
        let (address, h1, h2, version) = (h1.ip(), h1.port(), h2.port(), version(index));
        let _ = writeln!(
            endpoints,
            "  - {{ address: {address}, ports: {{ http: {h1}, grpc: {h2} }}, labels: {{ version: {version} }} }}"
        );
    }
    let (h1, h2) = (intent.h1_port, intent.h2_port);
    let policy = policy(intent);
    let ingress = intent.mtls.as_ref().map(|mtls| ingress(intent, mtls)).unwrap_or_default();
    let mut text = format!(
        r#"apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: bench }}
spec:
  hosts: [{HOST}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {{ number: {h1}, name: http, protocol: HTTP }}
  - {{ number: {h2}, name: grpc, protocol: GRPC }}
  endpoints:
{endpoints}---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{ name: default }}
spec:
  egress:
  - port: {{ number: {h1}, name: http, protocol: HTTP }}
    bind: 127.0.0.1
    captureMode: NONE
    hosts: ["./*"]
  - port: {{ number: {h2}, name: grpc, protocol: GRPC }}
    bind: 127.0.0.1
    captureMode: NONE
    hosts: ["./*"]
{ingress}---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: bench }}
spec:
  host: {HOST}
{policy}  subsets:
  - {{ name: v1, labels: {{ version: v1 }} }}
  - {{ name: v2, labels: {{ version: v2 }} }}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: bench }}
spec:
  hosts: [{HOST}]
  http:
  - match:
    - headers: {{ version: {{ exact: canary }} }}
    route:
    - destination: {{ host: {HOST}, subset: v2 }}
  - route:
    - destination: {{ host: {HOST}, subset: v1 }}
      weight: 90
    - destination: {{ host: {HOST}, subset: v2 }}
      weight: 10
"#
    );
    for number in 0..intent.filler {
        text.push_str(&filler(number, h1, &policy));
    }
    text
}

/// Listeners that take nothing but mutual TLS; their workload is the outbound listener.
fn ingress(intent: &Intent, mtls: &Mtls) -> String {
    let (h1, h2, mtls_h1, mtls_h2) = (intent.h1_port, intent.h2_port, mtls.h1_port, mtls.h2_port);
    format!(
        r#"  ingress:
  - port: {{ number: {mtls_h1}, name: http-in, protocol: HTTP }}
    bind: 127.0.0.1
    defaultEndpoint: "127.0.0.1:{h1}"
  - port: {{ number: {mtls_h2}, name: grpc-in, protocol: GRPC }}
    bind: 127.0.0.1
    defaultEndpoint: "127.0.0.1:{h2}"
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{ name: default }}
spec: {{ mtls: {{ mode: STRICT }} }}
"#
    )
}

/// A service with a policy and a route.
fn filler(number: usize, port: u16, policy: &str) -> String {
    let host = filler_host(number);
    let mut endpoints = String::new();
    for endpoint in 0..FILLER_ENDPOINTS {
        let _ = writeln!(endpoints, "  - address: {}", filler_address(number, endpoint));
    }
    format!(
        r"---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: filler-{number} }}
spec:
  hosts: [{host}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{ number: {port}, name: http, protocol: HTTP }}]
  endpoints:
{endpoints}---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: filler-{number} }}
spec:
  host: {host}
{policy}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: filler-{number} }}
spec:
  hosts: [{host}]
  http:
  - route: [{{ destination: {{ host: {host} }} }}]
"
    )
}

fn policy(intent: &Intent) -> String {
    let limit = intent.max_requests_per_connection;
    let limit = limit.map(|limit| format!("        maxRequestsPerConnection: {limit}\n")).unwrap_or_default();
    let tls = intent.mtls.as_ref().map(|_| {
        let origin = Party::Origin.id();
        format!("    tls: {{ mode: ISTIO_MUTUAL, subjectAltNames: [\"{origin}\"] }}\n")
    });
    let tls = tls.unwrap_or_default();
    format!(
        r"  trafficPolicy:
{tls}    loadBalancer:
      consistentHash: {{ httpHeaderName: {SESSION} }}
    connectionPool:
      tcp: {{ maxConnections: {MAX_CONNECTIONS} }}
      http:
        http1MaxPendingRequests: {MAX_PENDING}
        http2MaxRequests: {MAX_REQUESTS}
{limit}    outlierDetection:
      consecutive5xxErrors: 5
      interval: 10s
      baseEjectionTime: 30s
      maxEjectionPercent: 50
"
    )
}
