//! `LocalityLoadBalancerSetting`: of a destination rule, or of the mesh.

use crate::{
    fields::{Message, Object, Spanned, Type, yes},
    report::Code,
    sink::{Sink, Span},
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
    /// Where failover was written.
    pub(crate) failover_span: Option<Span>,
}

/// One entry of `distribute`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Distribute {
    /// A pattern.
    pub(crate) from: Locality,
    /// Patterns with their percentages.
    pub(crate) to: Vec<(Locality, u32)>,
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

/// Labels that say where a workload runs.
pub(crate) const TOPOLOGY: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

pub(crate) fn locality_setting(block: &Object<'_>, sink: &mut Sink) -> LocalitySetting {
    let (failovers, labels) = (block.objects("failover"), block.texts("failoverPriority"));
    let distribute: Vec<_> =
        block.objects("distribute").iter().map(|entry| distribute(entry, sink)).collect();
    if !distribute.is_empty() && !failovers.is_empty() {
        let message = "distribute and failover exclude each other";
        sink.report(Code::ExclusiveFields, block.key_span("failover"), message);
    }
    check_overlap(block.objects("distribute").iter().filter_map(|entry| entry.text("from")), sink);
    if !failovers.is_empty()
        && let Some(label) = labels.iter().find(|label| TOPOLOGY.contains(&label.value))
    {
        let message =
            format!("failover and the label `{}` in failoverPriority exclude each other", label.value);
        sink.report(Code::ExclusiveFields, label.span, message);
    }
    let field = if failovers.is_empty() { "failoverPriority" } else { "failover" };
    let written = !failovers.is_empty() || !labels.is_empty();
    LocalitySetting {
        disabled: block.bool("enabled") == Some(false),
        distribute,
        failover: failovers.iter().filter_map(|entry| failover(entry, sink)).collect(),
        failover_priority: labels
            .iter()
            .map(|label| match label.value.split_once('=') {
                Some((name, value)) => (name.into(), Some(value.into())),
                None => (label.value.into(), None),
            })
            .collect(),
        failover_span: written.then(|| block.key_span(field)),
    }
}

fn distribute(entry: &Object<'_>, sink: &mut Sink) -> Distribute {
    let mut total = 0;
    let mut to = Vec::new();
    for pair in entry.entries("to") {
        let weight = pair.value.text().and_then(|text| text.parse::<u32>().ok());
        match weight.filter(|weight| (1..=100).contains(weight)) {
            Some(weight) => {
                total += weight;
                to.push((Locality::parse(&pair.key), weight));
            }
            None => {
                sink.report(Code::InvalidWeights, pair.value.span, "the weight of a locality is 1 to 100");
            }
        }
    }
    if total != 100 {
        let span = entry.key_span("to");
        sink.report(Code::InvalidWeights, span, format!("the weights add up to {total}, not to 100"));
    }
    let places = entry.entries("to").iter().map(|pair| Spanned { value: &*pair.key, span: pair.key_span });
    check_overlap(places, sink);
    Distribute { from: Locality::parse(entry.text("from").map_or("", |from| from.value)), to }
}

fn failover(entry: &Object<'_>, sink: &mut Sink) -> Option<(Box<str>, Box<str>)> {
    let mut region = |field: &str| {
        let Some(text) = entry.text(field) else {
            sink.report(Code::MissingField, entry.span(), format!("the failover has no `{field}`"));
            return None;
        };
        if text.value.contains(['/', '*']) {
            let message = format!("`{}` is not a region: zones and `*` cannot stand here", text.value);
            sink.report(Code::InvalidValue, text.span, message);
        }
        Some(text)
    };
    let (from, to) = (region("from"), region("to"));
    let (from, to) = (from?, to?);
    if from.value == to.value {
        sink.report(Code::InvalidValue, to.span, "the failover goes to the region it comes from");
    }
    Some((from.value.into(), to.value.into()))
}

/// Reports what is no pattern, and what another covers already.
fn check_overlap<'n>(places: impl Iterator<Item = Spanned<&'n str>>, sink: &mut Sink) {
    let mut seen: Vec<Locality> = Vec::new();
    for place in places {
        let text = place.value;
        if text.split('/').any(str::is_empty)
            || text.trim_end_matches('*').contains('*')
            || text.ends_with("**")
        {
            let message =
                format!("`{text}` is not a locality: write region, region/zone or region/zone/subzone");
            sink.report(Code::InvalidValue, place.span, message).help("`*` may stand once, at the end");
            continue;
        }
        let locality = Locality::parse(text);
        let covered = seen.iter().any(|other| locality.is_within(other) || other.is_within(&locality));
        if covered {
            sink.report(Code::DuplicateName, place.span, format!("`{text}` overlaps with another locality"));
        }
        seen.push(locality);
    }
}
