//! Kinds that would change what a sidecar does and are not built yet, each with what that means for requests. Kinds that
//! are honoured are the business of `read`; any other kind (a Deployment) is no business of a proxy.

use crate::{
    report::Code,
    sink::{Sink, Span},
};

/// A kind and what comes of leaving it out.
#[derive(Debug)]
pub(crate) struct NotHonoured {
    pub(crate) group: &'static str,
    pub(crate) kind: &'static str,
    /// What happens without it, as half a sentence.
    pub(crate) consequence: &'static str,
    /// What to do; may be empty.
    pub(crate) help: &'static str,
}

const fn row(
    group: &'static str,
    kind: &'static str,
    consequence: &'static str,
    help: &'static str,
) -> NotHonoured {
    NotHonoured { group, kind, consequence, help }
}

const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";
const EXTENSIONS: &str = "extensions.istio.io";
const GATEWAY_API: &str = "gateway.networking.k8s.io";
const GATEWAY_API_TRIAL: &str = "gateway.networking.x-k8s.io";
const MULTICLUSTER: &str = "multicluster.x-k8s.io";

const AS_SLICES: &str = "Kubernetes has the same as EndpointSlices of `discovery.k8s.io/v1`, which are read";
const AS_VIRTUAL_SERVICE: &str = "write the routes as a VirtualService";
const NO_ENDPOINTS: &str = "its endpoints are not known";
const NO_GATEWAY: &str = "nothing listens for it, as only sidecars are built";
const DEFAULT_ROUTE: &str = "requests take the route of a VirtualService, or all endpoints of the service";

/// By group. `EnvoyFilter` stands here for the page on compatibility; `istio::envoy_filter` knows more of it.
pub(crate) static NOT_HONOURED: [NotHonoured; 29] = [
    row("", "Endpoints", NO_ENDPOINTS, AS_SLICES),
    // Versions before v1.
    row("discovery.k8s.io", "EndpointSlice", NO_ENDPOINTS, AS_SLICES),
    row(NETWORKING, "Gateway", NO_GATEWAY, ""),
    row(NETWORKING, "EnvoyFilter", "its patches are not applied", ""),
    row(
        NETWORKING,
        "WorkloadGroup",
        "workloads that would register by it are no endpoints",
        "list them as WorkloadEntry",
    ),
    row(
        NETWORKING,
        "ProxyConfig",
        "the proxy keeps its own number of workers and environment",
        "set `--concurrency` and the environment of the proxy's container",
    ),
    row(
        SECURITY,
        "RequestAuthentication",
        "tokens will not be checked, and a request with a wrong one passes",
        "check tokens in the application",
    ),
    row(
        SECURITY,
        "AuthorizationPolicy",
        "requests will not be authorised, and none is denied",
        "deny them in the application, or by a NetworkPolicy",
    ),
    row(EXTENSIONS, "WasmPlugin", "the plugin does not run", ""),
    row(EXTENSIONS, "TrafficExtension", "the extension does not run", ""),
    row(
        "install.istio.io",
        "IstioOperator",
        "its mesh settings are not read",
        "give them as the ConfigMap `istio`, or by `--mesh-config`",
    ),
    row(GATEWAY_API, "Gateway", NO_GATEWAY, ""),
    row(GATEWAY_API, "GatewayClass", NO_GATEWAY, ""),
    row(GATEWAY_API, "ListenerSet", NO_GATEWAY, ""),
    row(GATEWAY_API, "HTTPRoute", DEFAULT_ROUTE, AS_VIRTUAL_SERVICE),
    row(GATEWAY_API, "GRPCRoute", DEFAULT_ROUTE, AS_VIRTUAL_SERVICE),
    row(GATEWAY_API, "TLSRoute", "connections are not routed by SNI", ""),
    row(GATEWAY_API, "TCPRoute", "connections are not routed", ""),
    row(GATEWAY_API, "UDPRoute", "datagrams are not routed", ""),
    row(GATEWAY_API, "ReferenceGrant", "there is no route of the Gateway API that needs it", ""),
    row(
        GATEWAY_API,
        "BackendTLSPolicy",
        "connections to the service are plain text",
        "let the application speak TLS itself",
    ),
    row(
        GATEWAY_API_TRIAL,
        "XBackendTrafficPolicy",
        "retries are limited by `maxRetries` alone",
        "set `connectionPool.http.maxRetries` in a DestinationRule",
    ),
    row(GATEWAY_API_TRIAL, "XListenerSet", NO_GATEWAY, ""),
    row(GATEWAY_API_TRIAL, "XMesh", "its settings are not read", ""),
    row(MULTICLUSTER, "ServiceImport", NO_ENDPOINTS, "write it as a ServiceEntry"),
    row(MULTICLUSTER, "ServiceExport", "the service is not exported", ""),
    row(
        "inference.networking.k8s.io",
        "InferencePool",
        "requests are balanced without a look at the model servers",
        "",
    ),
    row("inference.networking.x-k8s.io", "InferenceModel", "requests are not routed by model", ""),
    row("inference.networking.x-k8s.io", "InferenceObjective", "requests have no priority by objective", ""),
];

/// Says what comes of a kind that is not honoured; `false` where the kind is not one of these.
pub(crate) fn report_not_honoured(group: &str, kind: &str, span: Span, sink: &mut Sink) -> bool {
    let known = NOT_HONOURED.iter().find(|row| row.group == group && row.kind == kind);
    let unlisted = group == GATEWAY_API || group == GATEWAY_API_TRIAL;
    let Some((consequence, help)) =
        known.map(|row| (row.consequence, row.help)).or(unlisted.then_some(("it has no effect", "")))
    else {
        return false;
    };
    let message = format!("resources of kind {kind} are not honoured yet: {consequence}");
    let found = sink.report(Code::KindNotHonoured, span, message).label("has no effect");
    if !help.is_empty() {
        found.help(help);
    }
    true
}

/// For a guess at a misspelt kind of Istio.
pub(crate) fn istio_kinds() -> impl Iterator<Item = &'static str> {
    NOT_HONOURED.iter().filter(|row| row.group.ends_with("istio.io")).map(|row| row.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_stands_once_and_says_what_comes_of_it() {
        for (index, row) in NOT_HONOURED.iter().enumerate() {
            let again = NOT_HONOURED
                .iter()
                .skip(index + 1)
                .any(|other| (other.group, other.kind) == (row.group, row.kind));
            assert!(!again && !row.consequence.is_empty(), "{row:?}");
        }
    }
}
