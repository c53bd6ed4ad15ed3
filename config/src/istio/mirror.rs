//! `mirror` and `mirrors`: who else gets a copy. Which clusters these are, `compile` finds out.

use super::{
    Meta,
    destination::{DESTINATION, Destination, target},
    percent::{PERCENT, either, share},
};
use crate::{
    fields::{Message, Object, Type, yes},
    report::Code,
    sink::Sink,
    snapshot::Share,
};

/// One receiver of copies.
#[derive(Debug, Clone)]
pub(crate) struct MirrorTo {
    pub(crate) destination: Destination,
    pub(crate) share: Share,
}

pub(super) static MIRROR_POLICY: Message = Message {
    name: "HTTPMirrorPolicy",
    fields: &[
        yes("destination", Type::Object(&DESTINATION), "mirrors_are_compiled"),
        yes("percentage", Type::Object(&PERCENT), "mirrors_are_compiled"),
    ],
};

/// Mirrors of a rule with their shares: everything, unless it is said otherwise.
pub(super) fn mirrors(rule: &Object<'_>, meta: &Meta, sink: &mut Sink) -> Vec<MirrorTo> {
    let lone = rule.object("mirror");
    let several = rule.objects("mirrors");
    if lone.is_some() && !several.is_empty() {
        let message = "a rule has one of mirror, mirrors";
        sink.report(Code::ExclusiveFields, rule.key_span("mirrors"), message);
    }
    let of_lone = either(rule, "mirrorPercent", "mirrorPercentage", 0.0, sink).unwrap_or(Share::ALL);
    for field in ["mirrorPercent", "mirrorPercentage"] {
        if lone.is_none() && rule.has(field) {
            let message = format!("`{field}` has no effect without `mirror`");
            let found = sink.report(Code::NoEffect, rule.key_span(field), message);
            found.help("an entry of `mirrors` has a `percentage` of its own");
        }
    }
    let mut mirrors: Vec<MirrorTo> = Vec::new();
    if let Some(destination) = lone.and_then(|lone| target(&lone, meta, sink)) {
        mirrors.push(MirrorTo { destination, share: of_lone });
    }
    for policy in &several {
        let Some(destination) = policy.object("destination") else {
            sink.report(Code::MissingField, policy.span(), "the mirror has no destination");
            continue;
        };
        let share = policy.object("percentage").map_or(Share::ALL, |percent| share(&percent, 0.0, sink));
        if let Some(destination) = target(&destination, meta, sink) {
            mirrors.push(MirrorTo { destination, share });
        }
    }
    mirrors
}
