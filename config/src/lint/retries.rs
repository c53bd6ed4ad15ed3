//! Retries that cannot run, and retries that repeat what should happen once.

use crate::{
    istio::{http_match::Match, retries::Retries, virtual_service::HttpRule},
    report::Code,
    sink::Sink,
    snapshot::{HeaderKey, RetryOn, RetryPolicy},
};

/// Looks at the retries that the rule has itself; the mesh's default is not the rule's fault.
pub(super) fn lint(rule: &HttpRule, sink: &mut Sink) {
    let Some(Retries(Some(policy))) = &rule.retries else { return };
    cut_short(rule, policy, sink);
    repeats(rule, policy, sink);
}

fn cut_short(rule: &HttpRule, policy: &RetryPolicy, sink: &mut Sink) {
    let (Some(per_try), Some(timeout)) = (policy.per_try_timeout, rule.timeout) else { return };
    let tries = policy.attempts.get().saturating_add(1);
    if per_try >= timeout {
        let message =
            format!("perTryTimeout {per_try:?} is not shorter than the timeout {timeout:?}, and is ignored");
        let found = sink.report(Code::RetriesCut, rule.retries_span, message);
        found.help(format!("lower perTryTimeout, or raise the timeout to {tries} times of it"));
    } else if per_try.saturating_mul(tries) > timeout {
        let full = per_try.saturating_mul(tries);
        let message = format!("{tries} tries of {per_try:?} take {full:?}, and the timeout is {timeout:?}");
        let found = sink.report(Code::RetriesCut, rule.retries_span, message);
        found.label("the last tries have no time left");
        found.note("`attempts` counts retries: the first try comes on top; so do the pauses between them");
        found.help(format!("raise the timeout to {full:?}, or lower attempts or perTryTimeout"));
    }
}

fn repeats(rule: &HttpRule, policy: &RetryPolicy, sink: &mut Sink) {
    let reasons = after_the_fact(&policy.on);
    let Some(method) = ["POST", "PATCH"].into_iter().find(|method| takes(rule, method)) else { return };
    if reasons.is_empty() {
        return;
    }
    let message = format!("retries on {} may repeat a {method} that was carried out", reasons.join(", "));
    let found = sink.report(Code::UnsafeRetry, rule.retries_span, message);
    found.label("the upstream may have acted before it failed");
    found.help(
        "match the methods that may be repeated (GET, PUT, DELETE), or retry only what never arrived: \
         `connect-failure,refused-stream,reset-before-request`",
    );
}

/// Reasons that may come after the upstream has acted.
fn after_the_fact(on: &RetryOn) -> Vec<String> {
    let words = [("5xx", on.server_error), ("gateway-error", on.gateway_error), ("reset", on.reset)];
    let words = words.iter().filter(|(_, set)| *set).map(|(word, _)| format!("`{word}`"));
    let statuses = on.statuses.iter().filter(|status| **status >= 500);
    words.chain(statuses.map(|status| format!("`{status}`"))).collect()
}

/// True if a request with this method may take the rule.
fn takes(rule: &HttpRule, method: &str) -> bool {
    let allows = |block: &Match| {
        let mut conditions = block.when.headers.iter().filter(|condition| condition.key == HeaderKey::Method);
        conditions.all(|condition| condition.value.matches(method) != condition.invert)
    };
    rule.matches.is_empty() || rule.matches.iter().any(allows)
}
