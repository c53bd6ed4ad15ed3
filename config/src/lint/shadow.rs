//! Rules and matches that never take a request, because an earlier one takes all of theirs.

use super::cover::covers;
use crate::{
    istio::{http_match::Match, virtual_service::VirtualService},
    report::Code,
    sink::{Sink, Span},
    snapshot::PathMatch,
};

/// Behind so many matches nothing is compared: pairs grow with the square.
const MAX_MATCHES: usize = 1000;

/// Rules behind a catch-all, rules that are written again, and matches that an earlier one covers.
pub(super) fn lint(vs: &VirtualService, sink: &mut Sink) {
    let mut caught: Option<Span> = None;
    let mut earlier: Vec<&Match> = Vec::new();
    for rule in &vs.http {
        if let Some(by) = caught {
            let found = sink.report(Code::UnreachableRule, rule.span, "this rule is never reached");
            found.label(format!("the rule of line {} takes every request", by.line));
            found.help("put the general rule last");
            continue;
        }
        let mut again = 0;
        for block in &rule.matches {
            match earlier.iter().find(|first| covers(first, block)) {
                Some(first) => {
                    let same = covers(block, first);
                    again += usize::from(same);
                    report_covered(first, block, same, sink);
                }
                None if earlier.len() < MAX_MATCHES => earlier.push(block),
                None => {}
            }
        }
        if again > 0 && again == rule.matches.len() {
            let found = sink.report(Code::UnreachableRule, rule.span, "this rule is never reached");
            found.label("earlier rules have all of its matches").help("remove it, or change its matches");
        }
        let all = |block: &Match| block.takes_all() && block.applies_everywhere();
        if rule.matches.is_empty() || rule.matches.iter().any(all) {
            caught = Some(rule.span);
        }
    }
}

fn report_covered(first: &Match, block: &Match, same: bool, sink: &mut Sink) {
    let line = first.span.line;
    let message = match &first.when.path {
        _ if same => format!("the match of line {line} asks for the same"),
        PathMatch::Prefix { value, .. } if value.len() > 1 => {
            format!("the prefix `{value}` of line {line} takes these requests first")
        }
        _ => format!("the match of line {line} takes these requests first"),
    };
    let found = sink.report(Code::IneffectiveMatch, block.span, message);
    found.label("takes no request");
    if same {
        found.help("remove one of them");
        return;
    }
    found.help("put the match that asks for more first");
    if let (
        PathMatch::Prefix { value: prefix, .. },
        PathMatch::Prefix { value, .. } | PathMatch::Exact { value, .. },
    ) = (&first.when.path, &block.when.path)
        && !prefix.ends_with('/')
        && value.get(prefix.len()..).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
    {
        found.note(format!("a prefix is plain text, no path segment: `{prefix}` takes `{value}` too"));
    }
}
