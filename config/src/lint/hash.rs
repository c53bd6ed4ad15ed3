//! Consistent hash on a key that is often not there, or always the same.

use crate::{
    istio::destination_rule::{Blocks, DestinationRule, Policy},
    report::Code,
    sink::Sink,
    snapshot::HashPolicy,
};

/// Looks at every policy of the rule: its own, those of ports and of subsets.
pub(super) fn lint(rule: &DestinationRule, sink: &mut Sink) {
    let policies = rule.policy.iter().chain(rule.subsets.iter().filter_map(|subset| subset.policy.as_ref()));
    for Policy { blocks, ports } in policies {
        check(blocks, sink);
        ports.iter().for_each(|(_, blocks)| check(blocks, sink));
    }
}

fn check(blocks: &Blocks, sink: &mut Sink) {
    let Some(load_balancer) = &blocks.load_balancer else { return };
    match &load_balancer.hash {
        Some(HashPolicy::Cookie(cookie)) if cookie.ttl.is_none() => {
            let message = format!("the cookie `{}` has no ttl, so that nobody makes it", cookie.name);
            let found = sink.report(Code::CookieWithoutTtl, load_balancer.span, message);
            found.label("a request without it goes to a random endpoint");
            found.note(
                "an application that sets it itself has answered by then, from another endpoint perhaps",
            );
            found.help("give it a `ttl`; `0s` is a cookie of the session");
        }
        Some(HashPolicy::SourceIp) => {
            let message = "the source of every request is this workload itself";
            let found = sink.report(Code::SourceIpHash, load_balancer.span, message);
            found.label("all its requests go to one endpoint");
            found.help("hash a header, a cookie or a query parameter that tells users apart");
        }
        _ => {}
    }
}
