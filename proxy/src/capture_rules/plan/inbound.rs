//! Connections to the pod: which of them the sidecar takes.

use super::{chain, rule};
use crate::capture_rules::{
    options::{CaptureOptions, Mode, Port, Selection},
    rules::{Action, Chain, ChainName, Condition, ConnectionState, Protocol, Rule},
};

pub(super) fn chains(options: &CaptureOptions) -> [Chain; 3] {
    let to_sidecar =
        rule([Condition::Protocol(Protocol::Tcp)], Action::Redirect(options.inbound_port), "to the sidecar");
    [
        chain(ChainName::NatPrerouting, prerouting(options)),
        chain(ChainName::Inbound, inbound(options)),
        chain(ChainName::InboundRedirect, vec![to_sidecar]),
    ]
}

/// Whether there is anything inbound to capture.
pub(super) fn is_captured(options: &CaptureOptions) -> bool {
    options.inbound != Selection::Only(Vec::new())
}

fn prerouting(options: &CaptureOptions) -> Vec<Rule> {
    let mut rules = Vec::new();
    for interface in &options.virtual_interfaces {
        let enters = Condition::In(interface.clone());
        let captured =
            |to| rule(to, Action::Jump(ChainName::OutboundRedirect), "what a virtual machine sends");
        match &options.outbound {
            Selection::All => rules.push(captured(vec![enters.clone()])),
            Selection::Only(networks) => rules.extend(
                networks
                    .iter()
                    .map(|network| captured(vec![enters.clone(), Condition::Destination(*network)])),
            ),
        }
    }
    for interface in &options.virtual_interfaces {
        rules.push(rule(
            [Condition::In(interface.clone())],
            Action::Return,
            "what else a virtual machine sends",
        ));
    }
    for interface in &options.excluded_interfaces {
        rules.push(rule([Condition::In(interface.clone())], Action::Return, "excluded interface"));
    }
    if options.mode == Mode::Redirect && is_captured(options) {
        rules.push(rule(
            [Condition::Protocol(Protocol::Tcp)],
            Action::Jump(ChainName::Inbound),
            "connections to the pod",
        ));
    }
    rules
}

fn inbound(options: &CaptureOptions) -> Vec<Rule> {
    if !is_captured(options) {
        return Vec::new();
    }
    let mut rules = Vec::new();
    if options.mode == Mode::TProxy {
        rules.extend(super::tproxy::never_captured(options));
    }
    // Istio leaves this out in TPROXY mode, which would make a tunnel's end unreachable.
    rules.push(rule([to(options.tunnel_port)], Action::Return, "tunnel"));
    match &options.inbound {
        Selection::All => {
            let excluded = options.inbound_excluded.iter();
            rules.extend(excluded.map(|port| rule([to(*port)], Action::Return, "excluded port")));
            rules.extend(captured(options, &Condition::Protocol(Protocol::Tcp)));
        }
        Selection::Only(ports) => rules.extend(ports.iter().flat_map(|port| captured(options, &to(*port)))),
    }
    rules
}

fn captured(options: &CaptureOptions, which: &Condition) -> Vec<Rule> {
    let takes = |chain| rule([which.clone()], Action::Jump(chain), "captured");
    if options.mode != Mode::TProxy {
        return vec![takes(ChainName::InboundRedirect)];
    }
    let known = [which.clone(), Condition::Connection(ConnectionState::Known)];
    vec![rule(known, Action::Jump(ChainName::Divert), "captured before"), takes(ChainName::TProxy)]
}

const fn to(port: Port) -> Condition {
    Condition::DestinationPort(Protocol::Tcp, port)
}
