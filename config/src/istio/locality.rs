//! `LocalityLoadBalancerSetting`, of a destination rule or of the mesh: what it says, and what Istio rejects in it.

use crate::{
    fields::{Message, Object, Spanned, Type, yes},
    report::Code,
    sink::Sink,
    snapshot::Locality,
};

/// How endpoints of other localities are used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LocalitySetting {
    /// `enabled: false` takes none of the rest.
    pub(crate) disabled: bool,
    pub(crate) distribute: Vec<Distribute>,
    /// Regions: from, to.
    pub(crate) failover: Vec<(Box<str>, Box<str>)>,
    /// Labels that are to be equal, the most important first, some with the value they are to have.
    pub(crate) failover_priority: Vec<(Box<str>, Option<Box<str>>)>,
}

/// One entry of `distribute`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Distribute {
    /// A pattern.
    pub(crate) from: Locality,
    /// Patterns with their percentages.
    pub(crate) to: Vec<(Locality, u32)>,
}

impl LocalitySetting {
    /// What `trafficDistribution: PreferClose` of a service stands for.
    pub(crate) fn close() -> Self {
        let labels = ["topology.istio.io/network"].into_iter().chain(Locality::LABELS);
        Self { failover_priority: labels.map(|label| (label.into(), None)).collect(), ..Self::default() }
    }
}

pub(crate) static LOCALITY: Message = Message {
    name: "LocalityLoadBalancerSetting",
    fields: &[
        yes("distribute", Type::List(&Type::Object(&DISTRIBUTE)), "distribute_gives_localities_their_shares"),
        yes("failover", Type::List(&Type::Object(&FAILOVER)), "failover_says_which_region_comes_next"),
        yes("failoverPriority", Type::List(&Type::Text), "failover_priority_goes_by_labels"),
        yes("enabled", Type::Bool, "the_setting_of_the_rule_replaces_that_of_the_mesh"),
    ],
};

static DISTRIBUTE: Message = Message {
    name: "Distribute",
    fields: &[
        yes("from", Type::Text, "distribute_gives_localities_their_shares"),
        yes("to", Type::Map(&Type::Int), "distribute_gives_localities_their_shares"),
    ],
};

pub(super) static FAILOVER: Message = Message {
    name: "Failover",
    fields: &[
        yes("from", Type::Text, "failover_says_which_region_comes_next"),
        yes("to", Type::Text, "failover_says_which_region_comes_next"),
    ],
};

/// Reads a setting; what cannot be used in it is the business of the checks.
pub(super) fn locality_setting(block: &Object<'_>) -> LocalitySetting {
    let text = |entry: &Object<'_>, field: &str| entry.text(field).map_or("", |text| text.value).to_owned();
    let distribute = |entry: &Object<'_>| {
        let weight = |text: &str| text.parse().ok();
        let to = entry
            .entries("to")
            .iter()
            .filter_map(|pair| Some((Locality::parse(&pair.key), pair.value.text().and_then(weight)?)));
        Distribute { from: Locality::parse(&text(entry, "from")), to: to.collect() }
    };
    let priority = |label: &Spanned<&str>| match label.value.split_once('=') {
        Some((name, value)) => (name.into(), Some(value.into())),
        None => (label.value.into(), None),
    };
    LocalitySetting {
        disabled: block.bool("enabled") == Some(false),
        distribute: block.objects("distribute").iter().map(distribute).collect(),
        failover: block
            .objects("failover")
            .iter()
            .map(|entry| (text(entry, "from").into(), text(entry, "to").into()))
            .collect(),
        failover_priority: block.texts("failoverPriority").iter().map(priority).collect(),
    }
}

/// Checks a `loadBalancer`; `ejects` is whether outlier detection stands beside it.
pub(super) fn check(load_balancer: &Object<'_>, ejects: bool, sink: &mut Sink) {
    let (locality, zone) =
        (load_balancer.object("localityLbSetting"), load_balancer.object("zoneAwareLbSetting"));
    if let (Some(_), Some(zone)) = (&locality, &zone) {
        let message = "zoneAwareLbSetting and localityLbSetting exclude each other";
        sink.report(Code::ExclusiveFields, zone.span(), message);
    }
    if let Some(locality) = &locality {
        check_setting(locality, ejects, sink);
    }
    if let Some(zone) = &zone {
        check_failover(zone, ejects, sink);
    }
}

/// Checks a setting, of the mesh too.
pub(super) fn check_setting(setting: &Object<'_>, ejects: bool, sink: &mut Sink) {
    check_distribute(setting, sink);
    if setting.has("distribute") && setting.has("failover") {
        let message = "distribute and failover exclude each other";
        sink.report(Code::ExclusiveFields, setting.key_span("failover"), message);
    }
    check_failover(setting, ejects, sink);
}

fn check_failover(setting: &Object<'_>, ejects: bool, sink: &mut Sink) {
    let entries = setting.objects("failover");
    let priority = setting.texts("failoverPriority");
    for entry in &entries {
        let ends = [entry.text("from"), entry.text("to")];
        for region in ends.into_iter().flatten().filter(|end| end.value.contains(['/', '*'])) {
            let message = format!("`{}` is not a region: failover has regions only", region.value);
            sink.report(Code::InvalidValue, region.span, message);
        }
        match ends {
            [Some(from), Some(to)] if from.value == to.value => {
                sink.report(Code::InvalidValue, to.span, format!("`{}` fails over to itself", to.value));
            }
            [None, None] => {
                sink.report(Code::MissingField, entry.span(), "the failover names no region");
            }
            _ => {}
        }
    }
    if let Some(label) =
        priority.iter().find(|label| Locality::LABELS.contains(&label.value)).filter(|_| !entries.is_empty())
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

fn check_distribute(locality: &Object<'_>, sink: &mut Sink) {
    let entries = locality.objects("distribute");
    let sources: Vec<_> = entries.iter().filter_map(|entry| entry.text("from")).collect();
    check_localities(&sources, sink);
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
        check_localities(&targets, sink);
    }
}

/// `region`, `region/zone`, `region/zone/subzone`, the last part perhaps `*`; none within another.
fn check_localities(written: &[Spanned<&str>], sink: &mut Sink) {
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
