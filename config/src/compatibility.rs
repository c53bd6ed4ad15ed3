//! `docs/compatibility.md`, from the same tables that decide what is accepted.

use std::fmt::Write as _;

use crate::{
    fields::{Message, Status, Type},
    istio::{
        destination_rule::DESTINATION_RULE, mesh_fields::MESH_CONFIG,
        peer_authentication::PEER_AUTHENTICATION, service_entry::SERVICE_ENTRY, sidecar::SIDECAR,
        telemetry_fields::TELEMETRY, virtual_service::VIRTUAL_SERVICE,
    },
    kinds::NOT_HONOURED,
    kubernetes::{endpoint_slice::ENDPOINT_SLICE, service::SERVICE},
};

/// The version that first honours what is honoured today.
const SINCE: &str = "0.1";

const HEAD: &str = "\
<!-- Generated from the field tables in config/src. Do not edit: run the tests of outrigger-config with
     OUTRIGGER_BLESS=1. -->

# Compatibility with Istio

Every field of the resources that Outrigger reads, and what becomes of it. Nothing is ignored in silence: a field that
is not listed here is an error, with a guess at what was meant.

| status | meaning |
|---|---|
| honoured | it does what Istio says; the test shows it |
| warning | it loads, has no effect yet, and `outrigger validate` says so |
| refused | it does not load yet, because the rule would do something else without it |
| with parent | part of a field that is not honoured yet |
| accepted | no business of a sidecar |

API versions `v1`, `v1beta1` and `v1alpha3` of `networking.istio.io` are read alike, as are `v1` and `v1alpha1` of
`telemetry.istio.io`, and `v1` and `v1beta1` of `security.istio.io`. Kinds that are not honoured are listed at the end; kinds that are no business of a sidecar (a
Deployment) are passed over.

Of Kubernetes, `Service`, `EndpointSlice` and `Pod` are read, one by one or in a `List`. A `Pod` gives its labels to its
endpoints, and nothing else of it is looked into.

A port named `tcp`, `mongo`, `mysql` or `redis` is passed on as bytes, one named `tls` or `https` too, by the server name
of its hello; its protocol is what `protocol` says, else the name up to the first `-`. A port whose name says nothing
carries HTTP, but for the ports 25, 53, 3306 and 27017 of a Kubernetes service, which carry bytes: raw connections are
not told apart from requests by their first bytes. UDP is not carried.

Two fields are deprecated, and still count: `consecutiveErrors` (Istio ignores it; here it is `consecutive5xxErrors`
where neither newer field is set) and `consistentHash.minimumRingSize`. Both give a warning.
";

/// The whole page.
#[must_use]
pub fn compatibility_markdown() -> String {
    let mut out = HEAD.to_owned();
    let mut written = Vec::new();
    let kinds = [
        &VIRTUAL_SERVICE,
        &DESTINATION_RULE,
        &SERVICE_ENTRY,
        &SIDECAR,
        &TELEMETRY,
        &PEER_AUTHENTICATION,
        &MESH_CONFIG,
        &SERVICE,
        &ENDPOINT_SLICE,
    ];
    for kind in kinds {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "\n## {}", kind.name);
        section(kind, &mut written, &mut out);
    }
    out.push_str(KINDS);
    for row in &NOT_HONOURED {
        let group = if row.group.is_empty() { "core" } else { row.group };
        let _ = writeln!(out, "| `{}` | {group} | {} |", row.kind, row.consequence);
    }
    out
}

const KINDS: &str = "
## Kinds that are not honoured

Each is a warning that says what comes of it. An `EnvoyFilter` that selects the workload is an error, unless
`--allow-envoyfilter` is given.

| kind | group | without it |
|---|---|---|
";

/// The table of a message, then those that it leads to for the first time.
fn section(message: &'static Message, written: &mut Vec<&'static str>, out: &mut String) {
    if written.contains(&message.name) {
        return;
    }
    written.push(message.name);
    out.push_str("\n| field | holds | status | since | test or reason |\n|---|---|---|---|---|\n");
    for field in message.fields {
        let (status, since, why) = match field.status {
            Status::Honoured(test) => ("honoured", SINCE, format!("`{test}`")),
            Status::Moot(why) => ("accepted", SINCE, why.to_owned()),
            Status::Later => ("with parent", "", String::new()),
            Status::Warned(why) => ("warning", "", why.to_owned()),
            Status::Refused(why) => ("refused", "", why.to_owned()),
        };
        let _ = writeln!(out, "| `{}` | {} | {status} | {since} | {why} |", field.name, holds(field.holds));
    }
    for field in message.fields {
        if let Some(next) = leads_to(field.holds).filter(|next| !written.contains(&next.name)) {
            let _ = writeln!(out, "\n### {}", next.name);
            section(next, written, out);
        }
    }
}

fn leads_to(holds: Type) -> Option<&'static Message> {
    match holds {
        Type::Object(message) => Some(message),
        Type::List(item) | Type::Map(item) => leads_to(*item),
        _ => None,
    }
}

fn holds(holds: Type) -> String {
    match holds {
        Type::Bool => "boolean".to_owned(),
        Type::Int => "integer".to_owned(),
        Type::Float => "number".to_owned(),
        Type::Text => "string".to_owned(),
        Type::Duration => "duration".to_owned(),
        Type::Enum(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" "),
        Type::Object(message) => message.name.to_owned(),
        Type::List(item) => format!("list of {}", self::holds(*item)),
        Type::Map(item) => format!("map to {}", self::holds(*item)),
        Type::Any => "not looked into".to_owned(),
    }
}
