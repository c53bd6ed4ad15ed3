//! The names of the settings that a pod may carry: Istio's, and ours, which win where both are given.

/// Makes the enum and the table of names from one list.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident = $istio:literal, $ours:literal;)*) => {
        /// A setting of a pod.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Setting {
            $($(#[$doc])* $name,)*
        }

        impl Setting {
            /// Our name and Istio's, in order of precedence.
            pub(crate) fn names(self) -> [&'static str; 2] {
                match self {
                    $(Self::$name => [concat!("outrigger.dev/", $ours), $istio],)*
                }
            }

            /// Of which setting this is a name.
            fn named(name: &str) -> Option<Self> {
                match name {
                    $(concat!("outrigger.dev/", $ours) | $istio => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

settings! {
    /// Label or annotation: whether to inject at all.
    Inject = "sidecar.istio.io/inject", "inject";
    /// The proxy's image.
    ProxyImage = "sidecar.istio.io/proxyImage", "proxyImage";
    /// CPU request.
    ProxyCpu = "sidecar.istio.io/proxyCPU", "proxyCPU";
    /// CPU limit.
    ProxyCpuLimit = "sidecar.istio.io/proxyCPULimit", "proxyCPULimit";
    /// Memory request.
    ProxyMemory = "sidecar.istio.io/proxyMemory", "proxyMemory";
    /// Memory limit.
    ProxyMemoryLimit = "sidecar.istio.io/proxyMemoryLimit", "proxyMemoryLimit";
    /// Level of the proxy's own log.
    LogLevel = "sidecar.istio.io/logLevel", "logLevel";
    /// REDIRECT, TPROXY or NONE.
    InterceptionMode = "sidecar.istio.io/interceptionMode", "interceptionMode";
    /// Whether probes go by way of the sidecar.
    RewriteProbes = "sidecar.istio.io/rewriteAppHTTPProbers", "rewriteAppHTTPProbers";
    /// Whether the sidecar is an init container that keeps running.
    NativeSidecar = "sidecar.istio.io/nativeSidecar", "nativeSidecar";
    /// JSON object: name to volume.
    UserVolume = "sidecar.istio.io/userVolume", "userVolume";
    /// JSON object: name of a volume to its mount in the proxy.
    UserVolumeMount = "sidecar.istio.io/userVolumeMount", "userVolumeMount";
    /// Ports whose inbound traffic is captured.
    IncludeInboundPorts = "traffic.sidecar.istio.io/includeInboundPorts", "includeInboundPorts";
    /// Ports whose inbound traffic is not.
    ExcludeInboundPorts = "traffic.sidecar.istio.io/excludeInboundPorts", "excludeInboundPorts";
    /// Ports whose outbound traffic is captured wherever it goes.
    IncludeOutboundPorts = "traffic.sidecar.istio.io/includeOutboundPorts", "includeOutboundPorts";
    /// Ports whose outbound traffic is not.
    ExcludeOutboundPorts = "traffic.sidecar.istio.io/excludeOutboundPorts", "excludeOutboundPorts";
    /// Networks to which outbound traffic is captured.
    IncludeOutboundRanges = "traffic.sidecar.istio.io/includeOutboundIPRanges", "includeOutboundIPRanges";
    /// Networks to which it is not.
    ExcludeOutboundRanges = "traffic.sidecar.istio.io/excludeOutboundIPRanges", "excludeOutboundIPRanges";
    /// Interfaces that are left alone.
    ExcludeInterfaces = "traffic.sidecar.istio.io/excludeInterfaces", "excludeInterfaces";
    /// Virtual interfaces whose inbound traffic is treated as outbound.
    VirtualInterfaces = "istio.io/reroute-virtual-interfaces", "rerouteVirtualInterfaces";
    /// YAML of a `ProxyConfig`.
    ProxyConfig = "proxy.istio.io/config", "config";
    /// JSON of containers that are merged over ours.
    Overrides = "proxy.istio.io/overrides", "overrides";
    /// Which templates to inject; there is one.
    Templates = "inject.istio.io/templates", "templates";
    /// Port of the agent's pages; 0 for no readiness probe.
    StatusPort = "status.sidecar.istio.io/port", "statusPort";
    /// Whether the application's metrics are scraped by way of the sidecar.
    MergeMetrics = "prometheus.istio.io/merge-metrics", "mergeMetrics";
    /// Seconds before the first readiness probe.
    ReadinessInitialDelay = "readiness.status.sidecar.istio.io/initialDelaySeconds", "readinessInitialDelaySeconds";
    /// Seconds between readiness probes.
    ReadinessPeriod = "readiness.status.sidecar.istio.io/periodSeconds", "readinessPeriodSeconds";
    /// Failed probes until the pod is not ready.
    ReadinessFailures = "readiness.status.sidecar.istio.io/failureThreshold", "readinessFailureThreshold";
}

/// What injection writes itself, or what says something of the pod to others.
const NO_SETTINGS: [&str; 4] = [
    "sidecar.istio.io/status",
    "istio.io/rev",
    "sidecar.istio.io/discoveryAddress",
    "istio.io/dataplane-mode",
];

/// An annotation that asks for something which we do not do.
pub(crate) fn is_ignored(annotation: &str) -> bool {
    let prefixes = [
        "sidecar.istio.io/",
        "traffic.sidecar.istio.io/",
        "proxy.istio.io/",
        "inject.istio.io/",
        "readiness.status.sidecar.istio.io/",
        "outrigger.dev/",
    ];
    prefixes.iter().any(|prefix| annotation.starts_with(prefix))
        && Setting::named(annotation).is_none()
        && !NO_SETTINGS.contains(&annotation)
}
