//! The fields of `Telemetry`.

use super::custom_tags::CUSTOM_TAG;
use crate::fields::{Message, Type, later, warned, yes};

const NOT_FOR_SIDECARS: &str =
    "it attaches the resource to a gateway or waypoint, so that no sidecar takes it";

pub(crate) static TELEMETRY: Message = Message {
    name: "Telemetry",
    fields: &[
        yes("selector", Type::Object(&SELECTOR), "the_more_specific_telemetry_overrides_field_by_field"),
        warned("targetRef", Type::Any, NOT_FOR_SIDECARS),
        warned("targetRefs", Type::Any, NOT_FOR_SIDECARS),
        yes(
            "tracing",
            Type::List(&Type::Object(&TRACING)),
            "the_more_specific_telemetry_overrides_field_by_field",
        ),
        warned("metrics", Type::Any, "Istio's standard metrics are always kept as they are"),
        yes("accessLogging", Type::List(&Type::Object(&LOGGING)), "telemetry_chooses_the_access_logs"),
    ],
};

/// `istio.type.v1beta1.WorkloadSelector`, which has no `labels`.
static SELECTOR: Message = Message {
    name: "TelemetrySelector",
    fields: &[yes(
        "matchLabels",
        Type::Map(&Type::Text),
        "the_more_specific_telemetry_overrides_field_by_field",
    )],
};

static TRACING: Message = Message {
    name: "TelemetryTracing",
    fields: &[
        yes("match", Type::Object(&MATCH), "a_mode_limits_tracing_to_a_direction"),
        yes("providers", Type::List(&Type::Object(&PROVIDER_REF)), "telemetry_chooses_the_tracing_provider"),
        yes(
            "randomSamplingPercentage",
            Type::Float,
            "sampling_comes_from_telemetry_then_mesh_then_environment",
        ),
        yes("disableSpanReporting", Type::Bool, "spans_are_not_reported_where_reporting_is_disabled"),
        yes("customTags", Type::Map(&Type::Object(&CUSTOM_TAG)), "every_kind_of_custom_tag_is_compiled"),
        yes(
            "useRequestIdForTraceSampling",
            Type::Bool,
            "the_more_specific_telemetry_overrides_field_by_field",
        ),
        yes("enableIstioTags", Type::Bool, "the_more_specific_telemetry_overrides_field_by_field"),
        warned("disableContextPropagation", Type::Bool, "the context is always passed on"),
    ],
};

static LOGGING: Message = Message {
    name: "TelemetryAccessLogging",
    fields: &[
        yes("match", Type::Object(&MATCH), "a_mode_limits_access_logs_to_a_direction"),
        yes("providers", Type::List(&Type::Object(&PROVIDER_REF)), "telemetry_chooses_the_access_logs"),
        yes("disabled", Type::Bool, "access_logs_are_switched_off"),
        warned("filter", Type::Object(&FILTER), "CEL is not evaluated: every request is logged"),
    ],
};

static MATCH: Message = Message {
    name: "WorkloadMatch",
    fields: &[yes(
        "mode",
        Type::Enum(&["CLIENT_AND_SERVER", "CLIENT", "SERVER"]),
        "a_mode_limits_tracing_to_a_direction",
    )],
};

static PROVIDER_REF: Message = Message {
    name: "ProviderRef",
    fields: &[yes("name", Type::Text, "telemetry_chooses_the_tracing_provider")],
};

static FILTER: Message = Message { name: "AccessLoggingFilter", fields: &[later("expression", Type::Text)] };
