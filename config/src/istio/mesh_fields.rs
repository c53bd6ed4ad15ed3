//! The fields of `MeshConfig`, those of the control plane among them.

use super::{
    connection_pool::KEEPALIVE,
    custom_tags::CUSTOM_TAG,
    destination_rule::DEFAULT_TRAFFIC_POLICY,
    locality::LOCALITY,
    provider_fields::{OTLP_ONLY, PROVIDER, ZIPKIN},
    retries::{HTTP_RETRY, INBOUND_RETRY},
    sidecar::OUTBOUND,
};
use crate::fields::{Message, Type, moot, warned, yes};

const ISTIOD: &str = "a setting of the control plane";

const BOOT: &str = "a start-up setting of Istio's agent; the proxy's flags say it here";

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
        yes("dnsRefreshRate", Type::Duration, "the_mesh_says_how_long_a_name_without_an_answer_waits"),
        yes("tcpKeepalive", Type::Object(&KEEPALIVE), "mesh_defaults_reach_every_cluster"),
        yes("defaultHttpRetryPolicy", Type::Object(&HTTP_RETRY), "mesh_defaults_reach_every_cluster"),
        yes(
            "defaultInboundHttpRetryPolicy",
            Type::Object(&INBOUND_RETRY),
            "the_mesh_says_what_inbound_routes_retry",
        ),
        yes(
            "defaultTrafficPolicy",
            Type::Object(&DEFAULT_TRAFFIC_POLICY),
            "the_default_traffic_policy_is_the_lowest_layer",
        ),
        yes(
            "localityLbSetting",
            Type::Object(&LOCALITY),
            "the_setting_of_the_rule_replaces_that_of_the_mesh",
        ),
        yes(
            "h2UpgradePolicy",
            Type::Enum(&["DO_NOT_UPGRADE", "UPGRADE"]),
            "the_mesh_upgrades_named_http_ports",
        ),
        yes("pathNormalization", Type::Object(&PATH_NORMALIZATION), "the_mesh_says_how_paths_are_normalised"),
        yes("protocolDetectionTimeout", Type::Duration, "the_mesh_says_how_long_protocols_are_sniffed"),
        warned("inboundTrafficPolicy", Type::Any, "inbound traffic to ports without a service passes"),
        warned("hboneConfig", Type::Any, "HBONE is not built"),
        yes("defaultServiceExportTo", Type::List(&Type::Text), "the_mesh_says_who_sees_what_is_not_exported"),
        yes(
            "defaultVirtualServiceExportTo",
            Type::List(&Type::Text),
            "the_mesh_says_who_sees_what_is_not_exported",
        ),
        yes(
            "defaultDestinationRuleExportTo",
            Type::List(&Type::Text),
            "the_mesh_says_who_sees_what_is_not_exported",
        ),
        yes("rootNamespace", Type::Text, "the_mesh_names_the_root_namespace"),
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
        yes("enableAutoMtls", Type::Bool, "the_mesh_switches_automatic_mutual_tls_off"),
        yes("trustDomain", Type::Text, "trust_domains_come_from_the_environment_the_mesh_or_istio"),
        yes(
            "trustDomainAliases",
            Type::List(&Type::Text),
            "trust_domains_come_from_the_environment_the_mesh_or_istio",
        ),
        moot("caCertificates", ISTIOD),
        moot("certificates", ISTIOD),
        moot("thriftConfig", ISTIOD),
        moot("enablePrometheusMerge", ISTIOD),
        moot("verifyCertificateAtClient", ISTIOD),
        moot("ca", ISTIOD),
        moot("discoverySelectors", ISTIOD),
        moot("meshMTLS", ISTIOD),
        moot("tlsDefaults", ISTIOD),
    ],
};

static PATH_NORMALIZATION: Message = Message {
    name: "ProxyPathNormalization",
    fields: &[yes(
        "normalization",
        Type::Enum(&["DEFAULT", "NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"]),
        "the_mesh_says_how_paths_are_normalised",
    )],
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
        yes("customTags", Type::Map(&Type::Object(&CUSTOM_TAG)), "every_kind_of_custom_tag_is_compiled"),
        yes("maxPathTagLength", Type::Int, "tags_and_lengths_come_from_the_proxy_config_too"),
        warned("tlsSettings", Type::Any, OTLP_ONLY),
        yes("enableIstioTags", Type::Bool, "tags_and_lengths_come_from_the_proxy_config_too"),
        warned("lightstep", Type::Any, OTLP_ONLY),
        warned("datadog", Type::Any, OTLP_ONLY),
        warned("stackdriver", Type::Any, OTLP_ONLY),
        warned("openCensusAgent", Type::Any, OTLP_ONLY),
    ],
};

static DEFAULT_PROVIDERS: Message = Message {
    name: "DefaultProviders",
    fields: &[
        yes("tracing", Type::List(&Type::Text), "tracing_settings_are_compiled"),
        moot("metrics", "Istio's metrics are always served"),
        yes("accessLogging", Type::List(&Type::Text), "default_providers_take_the_access_log"),
    ],
};
