//! `PeerAuthentication`: whether a workload takes mutual TLS, plain text or both.

use super::{Meta, port, selector};
use crate::{
    fields::{Labels, Message, Object, Spanned, Type, yes},
    report::Code,
    sink::Sink,
};

/// One resource.
#[derive(Debug)]
pub(crate) struct PeerAuthentication {
    pub(crate) meta: Meta,
    /// One without labels selects every workload, as none does.
    pub(crate) selector: Option<Labels>,
    pub(crate) mode: Option<PeerMode>,
    /// `portLevelMtls`, by the workload's own port; `None` is UNSET.
    pub(crate) ports: Vec<(u16, Option<PeerMode>)>,
}

/// `mtls.mode`, UNSET aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerMode {
    Disable,
    Permissive,
    Strict,
}

pub(crate) static PEER_AUTHENTICATION: Message = Message {
    name: "PeerAuthentication",
    fields: &[
        yes("selector", Type::Object(&SELECTOR), "the_most_specific_peer_authentication_wins"),
        yes("mtls", Type::Object(&MUTUAL_TLS), "the_most_specific_peer_authentication_wins"),
        yes("portLevelMtls", Type::Map(&Type::Object(&MUTUAL_TLS)), "ports_have_a_peer_mode_of_their_own"),
    ],
};

/// `istio.type.v1beta1.WorkloadSelector`, which has no `labels`.
static SELECTOR: Message = Message {
    name: "PeerSelector",
    fields: &[yes("matchLabels", Type::Map(&Type::Text), "the_most_specific_peer_authentication_wins")],
};

static MUTUAL_TLS: Message = Message {
    name: "MutualTLS",
    fields: &[yes(
        "mode",
        Type::Enum(&["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]),
        "the_most_specific_peer_authentication_wins",
    )],
};

/// Reads the spec.
pub(crate) fn read(spec: &Object<'_>, meta: Meta, sink: &mut Sink) -> PeerAuthentication {
    let selector = selector(spec, "selector", "matchLabels", sink).filter(|labels| !labels.is_empty());
    if spec.has("portLevelMtls") {
        let span = spec.key_span("portLevelMtls");
        if selector.is_none() {
            sink.report(
                Code::MissingField,
                span,
                "portLevelMtls needs a selector: ports are those of a workload",
            )
            .help("add `selector: { matchLabels: { app: NAME } }`");
        }
        if spec.entries("portLevelMtls").is_empty() {
            sink.report(Code::MissingField, span, "portLevelMtls has no port");
        }
    }
    let mut ports = Vec::new();
    for entry in spec.entries("portLevelMtls") {
        let Ok(number) = entry.key.parse() else {
            let message = format!("`{}` is not a port", entry.key);
            sink.report(Code::InvalidValue, entry.key_span, message).help("write its number");
            continue;
        };
        let number = port(Spanned { value: number, span: entry.key_span }, sink);
        ports.extend(number.map(|number| (number, mode(Object::new(&entry.value, &MUTUAL_TLS)))));
    }
    PeerAuthentication { mode: spec.object("mtls").and_then(mode), selector, ports, meta }
}

fn mode(block: Object<'_>) -> Option<PeerMode> {
    match block.text("mode")?.value {
        "DISABLE" => Some(PeerMode::Disable),
        "PERMISSIVE" => Some(PeerMode::Permissive),
        "STRICT" => Some(PeerMode::Strict),
        _ => None,
    }
}
