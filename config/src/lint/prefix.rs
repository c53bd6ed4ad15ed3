//! A prefix is plain text: `/api` takes `/apix` too.

use crate::{istio::virtual_service::HttpRule, report::Code, sink::Sink, snapshot::PathMatch};

/// Prefixes that end within a segment of the path. One that ends in a mark (`/user-`) is meant so.
pub(super) fn lint(rule: &HttpRule, sink: &mut Sink) {
    for block in &rule.matches {
        let PathMatch::Prefix { value, .. } = &block.when.path else { continue };
        if !value.ends_with(|c: char| c.is_alphanumeric()) {
            continue;
        }
        let message = format!("the prefix `{value}` also takes `{value}x`");
        let found = sink.report(Code::PrefixIsText, block.path_span, message);
        found.help(format!("write `prefix: {value}/` for what lies below, and `exact: {value}` for itself"));
    }
}
