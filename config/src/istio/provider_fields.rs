//! The fields of `extensionProviders`, those that are no receiver of ours among them.

use crate::fields::{Message, Type, moot, warned, yes};

/// Why the address of a tracer that is no OpenTelemetry receiver has no effect.
pub(super) const OTLP_ONLY: &str = "spans go to `OTEL_EXPORTER_OTLP_ENDPOINT`";

pub(super) static PROVIDER: Message = Message {
    name: "ExtensionProvider",
    fields: &[
        yes("name", Type::Text, "a_tracing_provider_decides_propagation_and_receiver"),
        yes(
            "opentelemetry",
            Type::Object(&OPENTELEMETRY),
            "a_tracing_provider_decides_propagation_and_receiver",
        ),
        yes("zipkin", Type::Object(&ZIPKIN), "tracing_settings_are_compiled"),
        moot("prometheus", "Istio's metrics are always served"),
        yes("envoyFileAccessLog", Type::Object(&FILE_LOG), "a_file_provider_writes_text_or_json"),
        yes("envoyOtelAls", Type::Object(&OTEL_LOG), "an_otlp_provider_takes_body_and_attributes"),
        warned("envoyHttpAls", Type::Any, "use OpenTelemetry logs"),
        warned("envoyTcpAls", Type::Any, "use OpenTelemetry logs"),
        warned("envoyExtAuthzHttp", Type::Any, "authorisation is not built yet"),
        warned("envoyExtAuthzGrpc", Type::Any, "authorisation is not built yet"),
        warned("datadog", Type::Any, OTLP_ONLY),
        warned("skywalking", Type::Any, OTLP_ONLY),
        warned("lightstep", Type::Any, OTLP_ONLY),
        warned("opencensus", Type::Any, OTLP_ONLY),
        warned("stackdriver", Type::Any, OTLP_ONLY),
        warned("sds", Type::Any, "certificates are not fetched"),
    ],
};

pub(super) static OPENTELEMETRY: Message = Message {
    name: "OpenTelemetryTracingProvider",
    fields: &[
        yes("service", Type::Text, "a_receiver_of_the_registry_is_reached_through_its_cluster"),
        yes("port", Type::Int, "a_receiver_of_the_registry_is_reached_through_its_cluster"),
        yes("maxTagLength", Type::Int, "tags_and_lengths_come_from_the_proxy_config_too"),
        yes("http", Type::Object(&OTLP_HTTP), "an_otlp_receiver_takes_path_timeout_and_headers"),
        yes("grpc", Type::Object(&OTLP_GRPC), "an_otlp_receiver_takes_path_timeout_and_headers"),
        warned("resourceDetectors", Type::Any, "the resource follows `OTEL_RESOURCE_ATTRIBUTES`"),
        warned("dynatraceSampler", Type::Any, "new traces are sampled by percentage"),
        yes(
            "serviceAttributeEnrichment",
            Type::Enum(&["ISTIO_CANONICAL", "OTEL_SEMANTIC_CONVENTIONS"]),
            "an_otlp_receiver_takes_path_timeout_and_headers",
        ),
        warned("disableContextPropagation", Type::Bool, "the context is always passed on"),
    ],
};

pub(super) static ZIPKIN: Message = Message {
    name: "ZipkinTracingProvider",
    fields: &[
        yes(
            "traceContextOption",
            Type::Enum(&["USE_B3", "USE_B3_WITH_W3C_PROPAGATION"]),
            "tracing_settings_are_compiled",
        ),
        warned("address", Type::Text, OTLP_ONLY),
        warned("service", Type::Text, OTLP_ONLY),
        warned("port", Type::Int, OTLP_ONLY),
        yes("maxTagLength", Type::Int, "tags_and_lengths_come_from_the_proxy_config_too"),
        warned("enable64bitTraceId", Type::Bool, "trace ids have 128 bits"),
        warned("path", Type::Text, OTLP_ONLY),
        warned("timeout", Type::Any, OTLP_ONLY),
        warned("headers", Type::Any, OTLP_ONLY),
        warned("disableContextPropagation", Type::Bool, "the context is always passed on"),
    ],
};

static OTLP_HTTP: Message = Message {
    name: "HttpService",
    fields: &[
        yes("path", Type::Text, "an_otlp_receiver_takes_path_timeout_and_headers"),
        yes("timeout", Type::Duration, "an_otlp_receiver_takes_path_timeout_and_headers"),
        yes(
            "headers",
            Type::List(&Type::Object(&HTTP_HEADER)),
            "an_otlp_receiver_takes_path_timeout_and_headers",
        ),
    ],
};

static OTLP_GRPC: Message = Message {
    name: "GrpcService",
    fields: &[
        yes("timeout", Type::Duration, "an_otlp_receiver_takes_path_timeout_and_headers"),
        yes(
            "initialMetadata",
            Type::List(&Type::Object(&HTTP_HEADER)),
            "an_otlp_receiver_takes_path_timeout_and_headers",
        ),
    ],
};

static HTTP_HEADER: Message = Message {
    name: "HttpHeader",
    fields: &[
        yes("name", Type::Text, "an_otlp_receiver_takes_path_timeout_and_headers"),
        yes("value", Type::Text, "an_otlp_receiver_takes_path_timeout_and_headers"),
        warned("envName", Type::Text, "the header is left out: write its `value`"),
    ],
};

static FILE_LOG: Message = Message {
    name: "EnvoyFileAccessLogProvider",
    fields: &[
        yes("path", Type::Text, "a_file_provider_writes_text_or_json"),
        yes("logFormat", Type::Object(&LOG_FORMAT), "a_file_provider_writes_text_or_json"),
        warned("omitEmptyValues", Type::Bool, "a missing value is `-` in text and null in JSON"),
    ],
};

static OTEL_LOG: Message = Message {
    name: "EnvoyOpenTelemetryLogProvider",
    fields: &[
        yes("service", Type::Text, "an_otlp_provider_takes_body_and_attributes"),
        yes("port", Type::Int, "an_otlp_provider_takes_body_and_attributes"),
        yes("logName", Type::Text, "an_otlp_provider_takes_body_and_attributes"),
        yes("logFormat", Type::Object(&LOG_FORMAT), "an_otlp_provider_takes_body_and_attributes"),
    ],
};

static LOG_FORMAT: Message = Message {
    name: "LogFormat",
    fields: &[
        yes("text", Type::Text, "a_file_provider_writes_text_or_json"),
        yes("labels", Type::Map(&Type::Text), "a_file_provider_writes_text_or_json"),
    ],
};
