//! A mesh as text, the same at each run: every service has a `ServiceEntry`, a `DestinationRule` and a
//! `VirtualService`, a document each.

use std::{fmt::Write as _, sync::Arc};

use outrigger_config::Source;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// Services in one file.
const PER_FILE: usize = 100;
/// Namespaces over which the services are spread.
const NAMESPACES: usize = 20;
/// Endpoints of each service.
pub(super) const ENDPOINTS: usize = 5;
/// Routes of each service.
pub(super) const ROUTES: usize = 10;

/// What the services are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosts {
    Exact,
    /// `*.s7.example.com`
    Wildcard,
}

/// The host of service `number` as it stands in its documents.
pub(super) fn host(number: usize, hosts: Hosts) -> String {
    match hosts {
        Hosts::Exact => format!("s{number}.{}.svc.cluster.local", namespace(number)),
        Hosts::Wildcard => format!("*.s{number}.example.com"),
    }
}

/// The host as a client calls it.
pub(super) fn authority(number: usize, hosts: Hosts) -> String {
    format!("{}:8080", host(number, hosts).replace('*', "any"))
}

/// The path that route `number` of a service takes.
pub(super) fn path(number: usize) -> String {
    format!("/api/v{number}/items/17")
}

fn namespace(number: usize) -> String {
    format!("shop-{}", number % NAMESPACES)
}

/// All files, the one with the `Sidecar` last. Its egress hosts are `scope`.
pub(super) fn mesh(services: usize, hosts: Hosts, scope: &str) -> Vec<Source> {
    let mut rng = SmallRng::seed_from_u64(7);
    let mut files: Vec<Source> = Vec::new();
    for first in (0..services).step_by(PER_FILE) {
        let mut text = String::new();
        for number in first..services.min(first + PER_FILE) {
            service(&mut text, number, hosts, &mut rng);
        }
        files.push(Source { name: format!("mesh-{:03}.yaml", files.len()).into(), text });
    }
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: default, namespace: shop-0 }}\nspec:\n  \
         egress:\n  - port: {{ number: 8080, name: http, protocol: HTTP }}\n    bind: 127.0.0.1\n    \
         captureMode: NONE\n    hosts: [\"{scope}\"]\n"
    );
    files.push(Source { name: Arc::from("sidecar.yaml"), text });
    files
}

fn service(text: &mut String, number: usize, hosts: Hosts, rng: &mut SmallRng) {
    let (host, namespace) = (host(number, hosts), namespace(number));
    let name = format!("s{number}");
    let head = |kind: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n"
        )
    };
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "{}  hosts:\n  - \"{host}\"\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports:\n  - number: 8080\n    \
         name: http\n    protocol: HTTP\n  endpoints:\n",
        head("ServiceEntry")
    );
    for endpoint in 0..ENDPOINTS {
        let version = if endpoint + 1 < ENDPOINTS { "v1" } else { "v2" };
        let _ = write!(
            text,
            "  - address: {}\n    ports: {{ http: {} }}\n    weight: {}\n    labels:\n      app: {name}\n      version: {version}\n",
            address(number, endpoint),
            rng.random_range(10_000..60_000),
            rng.random_range(1..10),
        );
    }
    let _ = write!(
        text,
        "{}  host: \"{host}\"\n  trafficPolicy:\n    connectionPool:\n      tcp: {{ maxConnections: {} }}\n      \
         http: {{ http1MaxPendingRequests: 1024, http2MaxRequests: 1024 }}\n    outlierDetection:\n      \
         consecutive5xxErrors: 5\n      interval: 10s\n      baseEjectionTime: 30s\n      maxEjectionPercent: 50\n  \
         subsets:\n  - name: v1\n    labels: {{ version: v1 }}\n  - name: v2\n    labels: {{ version: v2 }}\n",
        head("DestinationRule"),
        rng.random_range(100..1000),
    );
    let _ = write!(text, "{}  hosts:\n  - \"{host}\"\n  http:\n", head("VirtualService"));
    for route in 0..ROUTES {
        let weight = rng.random_range(50..100);
        let _ = write!(
            text,
            "  - name: route-{route}\n    match:\n    - uri: {{ prefix: /api/v{route}/ }}\n    route:\n    \
             - destination: {{ host: \"{host}\", subset: v1 }}\n      weight: {weight}\n    \
             - destination: {{ host: \"{host}\", subset: v2 }}\n      weight: {}\n    timeout: {}s\n    \
             retries: {{ attempts: 3, perTryTimeout: 1s, retryOn: \"gateway-error,connect-failure\" }}\n",
            100 - weight,
            rng.random_range(2..30),
        );
    }
}

fn address(service: usize, endpoint: usize) -> String {
    format!("10.{}.{}.{}", service / 250, service % 250, 10 + endpoint)
}

/// Another address for one endpoint of a service, written as long as before.
pub(super) fn moved(sources: &mut [Source], service: usize, round: usize) {
    let (old, new) = match round % 2 {
        0 => (address(service, 0), address(service, 40)),
        _ => (address(service, 40), address(service, 0)),
    };
    if let Some(source) = sources.get_mut(service / PER_FILE) {
        source.text = source.text.replacen(&format!("address: {old}\n"), &format!("address: {new}\n"), 1);
    }
}

/// Another path for the first route of the service whose documents come first in that file.
pub(super) fn rerouted(sources: &mut [Source], service: usize, round: usize) {
    let (old, new) = match round % 2 {
        0 => ("/api/v0/", "/api/v00/"),
        _ => ("/api/v00/", "/api/v0/"),
    };
    if let Some(source) = sources.get_mut(service / PER_FILE) {
        source.text = source.text.replacen(old, new, 1);
    }
}
