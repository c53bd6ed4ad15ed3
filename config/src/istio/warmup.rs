//! `LoadBalancerSettings.warmup`: how slowly new endpoints start, and the older way to say it.

use super::at_least_1ms;
use crate::{
    fields::{Message, Object, Type, yes},
    report::Code,
    sink::Sink,
    snapshot::Warmup,
};

pub(crate) static WARMUP: Message = Message {
    name: "WarmupConfiguration",
    fields: &[
        yes("duration", Type::Duration, "a_warmup_is_compiled"),
        yes("minimumPercent", Type::Float, "a_warmup_is_compiled"),
        yes("aggression", Type::Float, "a_warmup_is_compiled"),
    ],
};

/// Of the block `loadBalancer`; `weighted` says that its balancer goes by weights at all.
pub(crate) fn warmup(balancer: &Object<'_>, weighted: bool, sink: &mut Sink) -> Option<Warmup> {
    let (old, new) = (balancer.duration("warmupDurationSecs"), balancer.object("warmup"));
    let field = if new.is_some() { "warmup" } else { "warmupDurationSecs" };
    if balancer.has("warmupDurationSecs") {
        let span = balancer.key_span("warmupDurationSecs");
        if new.is_some() {
            let message = "warmup and warmupDurationSecs exclude each other";
            sink.report(Code::ExclusiveFields, span, message);
        }
        let found = sink.report(Code::Deprecated, span, "`warmupDurationSecs` is deprecated");
        found.help("write `warmup: { duration: ... }`");
    }
    let window = match &new {
        Some(block) if !block.has("duration") => {
            sink.report(Code::MissingField, block.span(), "the warmup has no duration");
            None
        }
        Some(block) => at_least_1ms(block.duration("duration"), sink),
        None => at_least_1ms(old, sink),
    };
    let mut number = |field: &str, default: f64, fits: fn(f64) -> bool, what: &str| {
        let Some(number) = new.and_then(|block| block.float(field)) else { return default };
        if fits(number.value) {
            return number.value;
        }
        sink.report(Code::InvalidValue, number.span, format!("`{field}` is {what}"));
        default
    };
    let percent = number("minimumPercent", 10.0, |percent| (0.0..=100.0).contains(&percent), "0 to 100");
    let aggression = number("aggression", 1.0, |aggression| aggression > 0.0, "more than 0");
    let made = Warmup { window: window?, least: percent / 100.0, aggression };
    if !weighted {
        let message = format!("`{field}` has no effect on this balancer");
        let found = sink.report(Code::IneffectivePolicy, balancer.key_span(field), message);
        found.help("use ROUND_ROBIN or LEAST_REQUEST");
        return None;
    }
    Some(made)
}
