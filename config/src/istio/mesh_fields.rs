//! The fields of `MeshConfig`, those of the control plane among them.

use super::{connection_pool::KEEPALIVE, retries::HTTP_RETRY, sidecar::OUTBOUND};
use crate::fields::{Message, Type, moot, warned, yes};

const ISTIOD: &str = "a setting of the control plane";

const BOOT: &str = "a start-up setting of Istio's agent; the proxy's flags say it here";

const TRACING_LATER: &str = "spans go to `OTEL_EXPORTER_OTLP_ENDPOINT`";

pub(crate) static MESH_CONFIG: Message = Message {
    name: "MeshConfig",
    fields: &[
        yes("accessLogFile", Type::Text, "the_access_log_is_compiled"),
        yes("accessLogFormat", Type::Text, "the_access_log_is_compiled"),
        yes("accessLogEncoding", Type::Enum(&["TEXT", "JSON"]), "the_access_log_is_compiled"),
        yes("enableTracing", Type::Bool, "tracing_settings_are_compiled"),
        yes("defaultConfig", Type::Object(&PROXY_CONFIG), "tracing_settings_are_compiled"),
        yes("extensionProviders", Type::List(&Type::Object(&PROVIDER)), "tracing_settings_are_compiled"),
        yes("defaultProviders", Type::Object(&DEFAULT_PROVIDERS), "tracing_settings_are_compiled"),
        yes("outboundTrafficPolicy", Type::Object(&OUTBOUND), "unknown_hosts_follow_the_outbound_policy"),
        yes("connectTimeout", Type::Duration, "mesh_defaults_reach_every_cluster"),
        yes("tcpKeepalive", Type::Object(&KEEPALIVE), "mesh_defaults_reach_every_cluster"),
        yes("defaultHttpRetryPolicy", Type::Object(&HTTP_RETRY), "mesh_defaults_reach_every_cluster"),
        warned("defaultInboundHttpRetryPolicy", Type::Any, "inbound routes keep Istio's default policy"),
        warned("defaultTrafficPolicy", Type::Any, "clusters keep Istio's defaults"),
        warned("localityLbSetting", Type::Any, "balancing by locality is not built yet"),
        warned("h2UpgradePolicy", Type::Text, "write it in a DestinationRule"),
        warned("pathNormalization", Type::Any, "paths are normalised as by `BASE`"),
        warned("protocolDetectionTimeout", Type::Text, "protocols are not sniffed"),
        warned("inboundTrafficPolicy", Type::Any, "inbound traffic is not captured"),
        warned("hboneConfig", Type::Any, "HBONE is not built"),
        warned("defaultServiceExportTo", Type::Any, "`*` is the default"),
        warned("defaultVirtualServiceExportTo", Type::Any, "`*` is the default"),
        warned("defaultDestinationRuleExportTo", Type::Any, "`*` is the default"),
        warned("rootNamespace", Type::Text, "`istio-system` is the root namespace"),
        warned("enableEnvoyAccessLogService", Type::Bool, "use OpenTelemetry logs"),
        warned("serviceSettings", Type::Any, "cluster-local services are not told apart"),
        moot("proxyListenPort", BOOT),
        moot("proxyInboundListenPort", BOOT),
        moot("proxyHttpPort", BOOT),
        moot("disableEnvoyListenerLog", BOOT),
        moot("ingressService", ISTIOD),
        moot("ingressControllerMode", ISTIOD),
        moot("ingressClass", ISTIOD),
        moot("ingressSelector", ISTIOD),
        moot("configSources", ISTIOD),
        moot("enableAutoMtls", ISTIOD),
        moot("trustDomain", ISTIOD),
        moot("trustDomainAliases", ISTIOD),
        moot("caCertificates", ISTIOD),
        moot("certificates", ISTIOD),
        moot("dnsRefreshRate", ISTIOD),
        moot("thriftConfig", ISTIOD),
        moot("enablePrometheusMerge", ISTIOD),
        moot("verifyCertificateAtClient", ISTIOD),
        moot("ca", ISTIOD),
        moot("discoverySelectors", ISTIOD),
        moot("meshMTLS", ISTIOD),
        moot("tlsDefaults", ISTIOD),
    ],
};

static PROXY_CONFIG: Message = Message {
    name: "ProxyConfig",
    fields: &[
        yes("tracing", Type::Object(&TRACING), "tracing_settings_are_compiled"),
        warned("proxyHeaders", Type::Any, "headers are those of Istio's defaults"),
        warned("proxyStatsMatcher", Type::Any, "all statistics are kept"),
        moot("discoveryAddress", BOOT),
        moot("configPath", BOOT),
        moot("binaryPath", BOOT),
        moot("serviceCluster", BOOT),
        moot("drainDuration", BOOT),
        moot("terminationDrainDuration", BOOT),
        moot("proxyAdminPort", BOOT),
        moot("controlPlaneAuthPolicy", BOOT),
        moot("customConfigFile", BOOT),
        moot("statNameLength", BOOT),
        moot("concurrency", BOOT),
        moot("proxyBootstrapTemplatePath", BOOT),
        moot("interceptionMode", BOOT),
        moot("sds", BOOT),
        moot("envoyAccessLogService", BOOT),
        moot("envoyMetricsService", BOOT),
        moot("proxyMetadata", BOOT),
        moot("runtimeValues", BOOT),
        moot("statusPort", BOOT),
        moot("extraStatTags", BOOT),
        moot("gatewayTopology", BOOT),
        moot("readinessProbe", BOOT),
        moot("meshId", BOOT),
        moot("holdApplicationUntilProxyStarts", BOOT),
        moot("caCertificatesPem", BOOT),
        moot("image", BOOT),
        moot("privateKeyProvider", BOOT),
        moot("fileFlushInterval", BOOT),
        moot("fileFlushMinSizeKb", BOOT),
        moot("statsEviction", BOOT),
    ],
};

static TRACING: Message = Message {
    name: "Tracing",
    fields: &[
        yes("sampling", Type::Float, "tracing_settings_are_compiled"),
        yes("zipkin", Type::Object(&ZIPKIN), "tracing_settings_are_compiled"),
        warned("customTags", Type::Any, TRACING_LATER),
        warned("maxPathTagLength", Type::Int, TRACING_LATER),
        warned("tlsSettings", Type::Any, TRACING_LATER),
        warned("enableIstioTags", Type::Bool, TRACING_LATER),
        warned("lightstep", Type::Any, TRACING_LATER),
        warned("datadog", Type::Any, TRACING_LATER),
        warned("stackdriver", Type::Any, TRACING_LATER),
        warned("openCensusAgent", Type::Any, TRACING_LATER),
    ],
};

static PROVIDER: Message = Message {
    name: "ExtensionProvider",
    fields: &[
        yes("name", Type::Text, "tracing_settings_are_compiled"),
        yes("opentelemetry", Type::Object(&OPENTELEMETRY), "tracing_settings_are_compiled"),
        yes("zipkin", Type::Object(&ZIPKIN), "tracing_settings_are_compiled"),
        moot("prometheus", "Istio's metrics are always served"),
        warned("envoyFileAccessLog", Type::Any, "the access log follows `accessLogFile`"),
        warned("envoyOtelAls", Type::Any, "access logs go to `OTEL_EXPORTER_OTLP_ENDPOINT`"),
        warned("envoyHttpAls", Type::Any, "use OpenTelemetry logs"),
        warned("envoyTcpAls", Type::Any, "use OpenTelemetry logs"),
        warned("envoyExtAuthzHttp", Type::Any, "authorisation is not built yet"),
        warned("envoyExtAuthzGrpc", Type::Any, "authorisation is not built yet"),
        warned("datadog", Type::Any, TRACING_LATER),
        warned("skywalking", Type::Any, TRACING_LATER),
        warned("lightstep", Type::Any, TRACING_LATER),
        warned("opencensus", Type::Any, TRACING_LATER),
        warned("stackdriver", Type::Any, TRACING_LATER),
        warned("sds", Type::Any, "certificates are not fetched"),
    ],
};

static OPENTELEMETRY: Message = Message {
    name: "OpenTelemetryTracingProvider",
    fields: &[
        warned("service", Type::Text, TRACING_LATER),
        warned("port", Type::Int, TRACING_LATER),
        warned("maxTagLength", Type::Int, TRACING_LATER),
        warned("http", Type::Any, TRACING_LATER),
        warned("grpc", Type::Any, TRACING_LATER),
        warned("resourceDetectors", Type::Any, TRACING_LATER),
        warned("dynatraceSampler", Type::Any, TRACING_LATER),
        warned("serviceAttributeEnrichment", Type::Any, TRACING_LATER),
        warned("disableContextPropagation", Type::Bool, "the context is always passed on"),
    ],
};

static ZIPKIN: Message = Message {
    name: "ZipkinTracingProvider",
    fields: &[
        yes(
            "traceContextOption",
            Type::Enum(&["USE_B3", "USE_B3_WITH_W3C_PROPAGATION"]),
            "tracing_settings_are_compiled",
        ),
        warned("address", Type::Text, TRACING_LATER),
        warned("service", Type::Text, TRACING_LATER),
        warned("port", Type::Int, TRACING_LATER),
        warned("maxTagLength", Type::Int, TRACING_LATER),
        warned("enable64bitTraceId", Type::Bool, "trace ids have 128 bits"),
        warned("path", Type::Text, TRACING_LATER),
        warned("timeout", Type::Any, TRACING_LATER),
        warned("headers", Type::Any, TRACING_LATER),
        warned("disableContextPropagation", Type::Bool, "the context is always passed on"),
    ],
};

static DEFAULT_PROVIDERS: Message = Message {
    name: "DefaultProviders",
    fields: &[
        yes("tracing", Type::List(&Type::Text), "tracing_settings_are_compiled"),
        moot("metrics", "Istio's metrics are always served"),
        warned("accessLogging", Type::List(&Type::Text), "the access log follows `accessLogFile`"),
    ],
};
