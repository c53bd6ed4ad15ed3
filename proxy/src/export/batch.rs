//! Items to one request message: `ExportTraceServiceRequest` and `ExportLogsServiceRequest` have the same shape.

use crate::telemetry::{
    Item, Target,
    wire::{self, framed},
};

/// Name of the instrumentation scope.
pub(super) const SCOPE: &str = "outrigger";

/// The body of an export.
pub(super) fn encode(target: &Target, items: &[Item]) -> Vec<u8> {
    let scope = scope();
    let content: usize = items.iter().map(|item| framed(item.bytes.len())).sum();
    let scoped = framed(scope.len()) + content;
    let whole = framed(target.resource.len()) + framed(scoped);
    let mut out = Vec::with_capacity(framed(whole));
    begin(1, whole, &mut out);
    wire::bytes(1, &target.resource, &mut out);
    begin(2, scoped, &mut out);
    wire::bytes(1, &scope, &mut out);
    for item in items {
        wire::bytes(2, &item.bytes, &mut out);
    }
    out
}

/// Key and length of a message that is written behind it.
fn begin(field: u32, length: usize, out: &mut Vec<u8>) {
    wire::varint(u64::from(field << 3 | 2), out);
    wire::varint(length as u64, out);
}

pub(super) fn scope() -> Vec<u8> {
    let mut scope = Vec::new();
    wire::text(1, SCOPE, &mut scope);
    wire::text(2, env!("CARGO_PKG_VERSION"), &mut scope);
    scope
}
