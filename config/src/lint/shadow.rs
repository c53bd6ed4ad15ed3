//! Rules and matches that never take a request, because an earlier one takes all of theirs.

use super::cover::covers;
use crate::{
    istio::{
        http_match::Match,
        tcp_route::{L4Match, TcpRule},
        virtual_service::{HttpRule, VirtualService},
    },
    report::Code,
    sink::{Finding, Sink, Span},
    snapshot::{Origin, PathMatch},
};

/// Behind so many matches nothing is compared: pairs grow with the square.
const MAX_MATCHES: usize = 1000;

/// Rules behind a catch-all, rules that are written again, and matches that an earlier one covers, after delegates have
/// taken their places.
pub(crate) fn shadow(vs: &VirtualService, sink: &mut Sink) {
    let mut caught: Option<&HttpRule> = None;
    let mut earlier: Vec<&Match> = Vec::new();
    for rule in &vs.http {
        if let Some(by) = caught {
            let found = sink.report(Code::UnreachableRule, rule.span, "this rule is never reached");
            let place = place(by.span, &by.origin, rule.span);
            found.label(format!("the rule of {place} takes every request"));
            found.help("put the general rule last");
            tell_root(found, vs, &rule.origin);
            continue;
        }
        let mut again = 0;
        for block in &rule.matches {
            match earlier.iter().find(|first| covers(first, block)) {
                Some(first) => {
                    let same = covers(block, first);
                    again += usize::from(same);
                    tell_root(report_covered(first, block, same, sink), vs, &block.origin);
                }
                None if earlier.len() < MAX_MATCHES => earlier.push(block),
                None => {}
            }
        }
        if again > 0 && again == rule.matches.len() {
            let found = sink.report(Code::UnreachableRule, rule.span, "this rule is never reached");
            found.label("earlier rules have all of its matches").help("remove it, or change its matches");
            tell_root(found, vs, &rule.origin);
        }
        let all = |block: &Match| block.takes_all() && block.applies_everywhere();
        if rule.matches.is_empty() || rule.matches.iter().any(all) {
            caught = Some(rule);
        }
    }
    shadow_tcp(&vs.tcp, sink);
}

/// Istio stops at the first rule for everything.
fn shadow_tcp(rules: &[TcpRule], sink: &mut Sink) {
    let all = |rule: &TcpRule| rule.matches.is_empty() || rule.matches.iter().any(L4Match::takes_all);
    let Some(at) = rules.iter().position(all) else { return };
    let mut rest = rules.iter().skip(at);
    let by = rest.next().map_or(0, |rule| rule.span.line);
    for rule in rest {
        let found = sink.report(Code::UnreachableRule, rule.span, "this rule is never reached");
        found.label(format!("the rule of line {by} takes every connection"));
        found.help("put the general rule last");
    }
}

fn report_covered<'s>(first: &Match, block: &Match, same: bool, sink: &'s mut Sink) -> &'s mut Finding {
    let place = place(first.span, &first.origin, block.span);
    let message = match &first.when.path {
        _ if same => format!("the match of {place} asks for the same"),
        PathMatch::Prefix { value, .. } if value.len() > 1 => {
            format!("the prefix `{value}` of {place} takes these requests first")
        }
        _ => format!("the match of {place} takes these requests first"),
    };
    let found = sink.report(Code::IneffectiveMatch, block.span, message);
    found.label("takes no request");
    if same {
        return found.help("remove one of them");
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
    found
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
