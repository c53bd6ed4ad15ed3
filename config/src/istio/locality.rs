//! `localityLbSetting`, `zoneAwareLbSetting` and `warmup`: not built yet, but what Istio rejects in them is rejected.

use super::at_least_1ms;
use crate::{
    fields::{Object, Spanned},
    report::Code,
    sink::Sink,
};

/// Labels that stand for what `failover` is about.
const TOPOLOGY: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

/// Checks a `loadBalancer`; `ejects` is whether outlier detection stands beside it.
pub(super) fn check(load_balancer: &Object<'_>, ejects: bool, sink: &mut Sink) {
    let (locality, zone) =
        (load_balancer.object("localityLbSetting"), load_balancer.object("zoneAwareLbSetting"));
    if let (Some(_), Some(zone)) = (&locality, &zone) {
        let message = "zoneAwareLbSetting and localityLbSetting exclude each other";
        sink.report(Code::ExclusiveFields, zone.span(), message);
    }
    if let Some(locality) = &locality {
        distribute(locality, sink);
        if locality.has("distribute") && locality.has("failover") {
            let message = "distribute and failover exclude each other";
            sink.report(Code::ExclusiveFields, locality.key_span("failover"), message);
        }
    }
    for setting in [locality, zone].into_iter().flatten() {
        failover(&setting, ejects, sink);
    }
    warmup(load_balancer, sink);
}

fn failover(setting: &Object<'_>, ejects: bool, sink: &mut Sink) {
    let entries = setting.objects("failover");
    let priority = setting.texts("failoverPriority");
    for entry in &entries {
        let ends = [entry.text("from"), entry.text("to")];
        for region in ends.into_iter().flatten().filter(|end| end.value.contains(['/', '*'])) {
            let message = format!("`{}` is not a region: failover has regions only", region.value);
            sink.report(Code::InvalidValue, region.span, message);
        }
        if let [Some(from), Some(to)] = ends
            && from.value == to.value
        {
            sink.report(Code::InvalidValue, to.span, format!("`{}` fails over to itself", to.value));
        }
    }
    if let Some(label) =
        priority.iter().find(|label| TOPOLOGY.contains(&label.value)).filter(|_| !entries.is_empty())
    {
        let message = format!("`{}` of failoverPriority stands beside failover", label.value);
        sink.report(Code::ExclusiveFields, label.span, message);
    }
    let fails_over = !entries.is_empty() || !priority.is_empty();
    if fails_over && !ejects {
        let field = if entries.is_empty() { "failoverPriority" } else { "failover" };
        let message = format!("`{field}` without outlierDetection has no effect");
        let found = sink.report(Code::FailoverWithoutOutlier, setting.key_span(field), message);
        found.label("no endpoint is ever found unhealthy").help("give the same policy `outlierDetection`");
    }
}

fn distribute(locality: &Object<'_>, sink: &mut Sink) {
    let entries = locality.objects("distribute");
    let sources: Vec<_> = entries.iter().filter_map(|entry| entry.text("from")).collect();
    localities(&sources, sink);
    for entry in &entries {
        let mut sum = 0;
        let mut targets = Vec::new();
        for pair in entry.entries("to") {
            targets.push(Spanned { value: &*pair.key, span: pair.key_span });
            let weight: i64 = pair.value.text().and_then(|text| text.parse().ok()).unwrap_or_default();
            sum += weight;
            if !(1..=100).contains(&weight) {
                sink.report(Code::InvalidWeights, pair.value.span, "the weight of a locality is 1 to 100");
            }
        }
        if sum != 100 {
            let message = format!("the weights of localities add up to {sum}, and not to 100");
            sink.report(Code::InvalidWeights, entry.key_span("to"), message);
        }
        localities(&targets, sink);
    }
}

/// `region`, `region/zone`, `region/zone/subzone`, the last part perhaps `*`; none within another.
fn localities(written: &[Spanned<&str>], sink: &mut Sink) {
    let mut seen: Vec<Vec<&str>> = Vec::new();
    for locality in written {
        let mut parts: Vec<&str> = locality.value.splitn(3, '/').collect();
        let wildcards = locality.value.matches('*').count();
        if parts.contains(&"") || wildcards > 1 || (wildcards == 1 && !locality.value.ends_with('*')) {
            let message = format!("`{}` is not a locality: `region/zone/*` is one", locality.value);
            sink.report(Code::InvalidValue, locality.span, message);
            continue;
        }
        parts.retain(|part| *part != "*");
        if seen.iter().any(|other| other.iter().zip(&parts).all(|(a, b)| a == b)) {
            let message = format!("`{}` overlaps with an earlier locality", locality.value);
            sink.report(Code::DuplicateName, locality.span, message);
        }
        seen.push(parts);
    }
}

fn warmup(load_balancer: &Object<'_>, sink: &mut Sink) {
    if load_balancer.has("warmupDurationSecs") {
        let span = load_balancer.key_span("warmupDurationSecs");
        let found = sink.report(Code::Deprecated, span, "`warmupDurationSecs` is deprecated");
        found.help("write `warmup: { duration: ... }`");
        at_least_1ms(load_balancer.duration("warmupDurationSecs"), sink);
    }
    let Some(warmup) = load_balancer.object("warmup") else { return };
    if load_balancer.has("warmupDurationSecs") {
        let message = "warmup and warmupDurationSecs exclude each other";
        sink.report(Code::ExclusiveFields, load_balancer.key_span("warmup"), message);
    }
    if warmup.has("duration") {
        at_least_1ms(warmup.duration("duration"), sink);
    } else {
        sink.report(Code::MissingField, warmup.span(), "warmup needs a duration");
    }
    if let Some(percent) =
        warmup.float("minimumPercent").filter(|percent| !(0.0..=100.0).contains(&percent.value))
    {
        sink.report(Code::InvalidValue, percent.span, "minimumPercent is 0 to 100");
    }
    if let Some(aggression) = warmup.float("aggression").filter(|aggression| aggression.value <= 0.0) {
        sink.report(Code::InvalidValue, aggression.span, "aggression is more than 0");
    }
}
