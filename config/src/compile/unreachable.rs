//! Rules that no request reaches, after delegates have taken their places.

use crate::{
    istio::{
        http_match::Match,
        virtual_service::{HttpRule, VirtualService},
    },
    report::Code,
    sink::{Finding, Sink, Span},
    snapshot::{Origin, PathMatch},
};

/// Rules behind a catch-all, and prefixes that an earlier prefix covers.
pub(super) fn warn_unreachable(vs: &VirtualService, sink: &mut Sink) {
    let mut caught: Option<&HttpRule> = None;
    let mut prefixes: Vec<(&str, &Match)> = Vec::new();
    for rule in &vs.http {
        if let Some(by) = caught {
            let found = sink.report(Code::UnreachableRule, rule.span, "this rule is never reached");
            let place = place(by.span, &by.origin, rule.span);
            found.label(format!("the rule of {place} takes every request"));
            found.help("put the general rule last");
            tell_root(found, vs, &rule.origin);
            continue;
        }
        let all = |block: &Match| block.takes_all() && block.applies_everywhere();
        if rule.matches.is_empty() || rule.matches.iter().any(all) {
            caught = Some(rule);
        }
        for block in rule.matches.iter().filter(|block| block.applies_everywhere()) {
            let plain = block.when.headers.is_empty() && block.when.query.is_empty();
            let value = match &block.when.path {
                PathMatch::Prefix { value, ignore_case: false }
                | PathMatch::Exact { value, ignore_case: false } => value,
                _ => continue,
            };
            if let Some((earlier, by)) = prefixes.iter().find(|(prefix, _)| value.starts_with(prefix)) {
                let place = place(by.span, &by.origin, block.span);
                let message = format!("the prefix `{earlier}` of {place} takes these requests first");
                let found = sink.report(Code::IneffectiveMatch, block.span, message);
                found.help("put the longer path first");
                tell_root(found, vs, &block.origin);
            } else if plain && matches!(block.when.path, PathMatch::Prefix { .. }) {
                prefixes.push((value, block));
            }
        }
    }
}

/// A delegate's rules may stand in another file than what comes before them.
fn place(of: Span, origin: &Origin, seen_from: Span) -> String {
    if of.file == seen_from.file { format!("line {}", of.line) } else { origin.to_string() }
}

/// What is true of a delegate's rule under one root need not be under another.
fn tell_root(found: &mut Finding, vs: &VirtualService, origin: &Origin) {
    if *origin.resource != *vs.meta.resource() {
        found.note(format!("as a delegate of {}", vs.meta.reference()));
    }
}
