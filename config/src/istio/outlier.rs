//! `OutlierDetection`: when an endpoint is put aside.

use std::time::Duration;

use super::{at_least_1ms, count};
use crate::{
    fields::{Message, Object, Type, yes},
    report::Code,
    sink::{Sink, Span},
    snapshot::Outlier,
};

/// `outlierDetection` with Envoy's panic threshold.
#[derive(Debug, Clone)]
pub(crate) struct OutlierDetection {
    pub(crate) outlier: Outlier,
    pub(crate) panic_threshold: u8,
    pub(crate) span: Span,
}

pub(crate) static OUTLIER: Message = Message {
    name: "OutlierDetection",
    fields: &[
        yes("consecutiveErrors", Type::Int, "deprecated_fields_warn_and_still_count"),
        yes("consecutive5xxErrors", Type::Int, "outlier_detection_is_compiled"),
        yes("consecutiveGatewayErrors", Type::Int, "outlier_detection_is_compiled"),
        yes("splitExternalLocalOriginErrors", Type::Bool, "outlier_detection_is_compiled"),
        yes("consecutiveLocalOriginFailures", Type::Int, "outlier_detection_is_compiled"),
        yes("interval", Type::Duration, "outlier_detection_is_compiled"),
        yes("baseEjectionTime", Type::Duration, "outlier_detection_is_compiled"),
        yes("maxEjectionPercent", Type::Int, "outlier_detection_is_compiled"),
        yes("minHealthPercent", Type::Int, "outlier_detection_is_compiled"),
        yes("outlierDetectionHttpErrorCodes", Type::List(&Type::Int), "outlier_detection_is_compiled"),
    ],
};

pub(crate) fn outlier(block: &Object<'_>, sink: &mut Sink) -> OutlierDetection {
    let newer = block.has("consecutive5xxErrors") || block.has("consecutiveGatewayErrors");
    let deprecated = block.int("consecutiveErrors");
    if let Some(errors) = deprecated {
        let found = sink.report(
            Code::Deprecated,
            block.key_span("consecutiveErrors"),
            "`consecutiveErrors` is deprecated, and Istio ignores it",
        );
        found.label(if newer {
            "has no effect beside the newer fields".to_owned()
        } else {
            format!("counts here as `consecutive5xxErrors: {}`", errors.value)
        });
        found.help("write `consecutive5xxErrors`, which both honour");
    }
    let mut count = |field: &str, default: u32| count(block, field, sink).unwrap_or(default);
    let consecutive_5xx = match (newer, deprecated) {
        (false, Some(_)) => count("consecutiveErrors", 5),
        _ => count("consecutive5xxErrors", 5),
    };
    let consecutive_gateway = count("consecutiveGatewayErrors", 0);
    let consecutive_local_origin = count("consecutiveLocalOriginFailures", 5);
    let split_local_origin = block.bool("splitExternalLocalOriginErrors").unwrap_or_default();
    let counted = block.int("consecutiveLocalOriginFailures").is_some_and(|count| count.value > 0);
    if counted && !split_local_origin {
        let span = block.key_span("consecutiveLocalOriginFailures");
        let found = sink.report(Code::ExclusiveFields, span, "local failures are not counted apart");
        found.help("set `splitExternalLocalOriginErrors: true`");
    }
    let codes = block.get("outlierDetectionHttpErrorCodes").map(|node| {
        let codes = node.items().iter().filter_map(|item| {
            let code = item.text()?.parse().ok().filter(|code| (100..=599).contains(code));
            if code.is_none() {
                sink.report(Code::InvalidValue, item.span, "a status code is 100 to 599");
            }
            code
        });
        codes.collect::<Box<[u16]>>()
    });
    let outlier = Outlier {
        consecutive_5xx,
        consecutive_gateway,
        split_local_origin,
        consecutive_local_origin,
        interval: at_least_1ms(block.duration("interval"), sink).unwrap_or(Duration::from_secs(10)),
        base_ejection_time: at_least_1ms(block.duration("baseEjectionTime"), sink)
            .unwrap_or(Duration::from_secs(30)),
        max_ejection_percent: percent(block, "maxEjectionPercent", 10, sink),
        error_codes: codes.filter(|codes| !codes.is_empty()),
    };
    let panic_threshold = percent(block, "minHealthPercent", 0, sink);
    OutlierDetection { outlier, panic_threshold, span: block.span() }
}

fn percent(block: &Object<'_>, field: &str, default: u8, sink: &mut Sink) -> u8 {
    let Some(number) = block.int(field) else { return default };
    u8::try_from(number.value).ok().filter(|percent| *percent <= 100).unwrap_or_else(|| {
        sink.report(Code::InvalidValue, number.span, format!("`{field}` is 0 to 100"));
        100
    })
}
