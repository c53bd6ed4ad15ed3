//! Connections that start in the pod: the application's go to the sidecar, the sidecar's own go out.

use super::{captures_dns, chain, loopback, passthrough_sources, proxy, rule, tproxy};
use crate::capture_rules::{
    options::{CaptureOptions, Interface, Owners, Port, Selection},
    rules::{Action, Chain, ChainName, Condition, Owner, Protocol, Rule},
};

pub(super) fn chains(options: &CaptureOptions) -> [Chain; 3] {
    let excluded = options.excluded_interfaces.iter();
    let mut output: Vec<_> = excluded
        .map(|interface| rule([Condition::Out(interface.clone())], Action::Return, "excluded interface"))
        .collect();
    output.push(rule([], Action::Jump(ChainName::Outbound), "connections from the pod"));
    let to_sidecar =
        rule([Condition::Protocol(Protocol::Tcp)], Action::Redirect(options.outbound_port), "to the sidecar");
    [
        chain(ChainName::NatOutput, output),
        chain(ChainName::Outbound, outbound(options)),
        chain(ChainName::OutboundRedirect, vec![to_sidecar]),
    ]
}

fn outbound(options: &CaptureOptions) -> Vec<Rule> {
    let mut rules = Vec::new();
    for port in &options.outbound_ports_excluded {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let to = Condition::DestinationPort(protocol, *port);
            rules.push(rule([to], Action::Return, "excluded port"));
        }
    }
    if tproxy::is_used(options) {
        // Istio has no such rule: the connection would come back to the inbound side.
        let marked =
            [over_loopback(), Condition::Protocol(Protocol::Tcp), Condition::Marked(options.tproxy_mark)];
        rules.push(rule(marked, Action::Return, "the sidecar to the application, as the client"));
    }
    for source in passthrough_sources() {
        let from = [over_loopback(), Condition::Source(source)];
        rules.push(rule(from, Action::Return, "the sidecar to the application"));
    }
    for owner in proxy(options) {
        rules.extend(of_proxy(options, owner));
    }
    rules.extend(of_other_groups(options));
    if captures_dns(options) {
        rules.push(rule([], Action::Jump(ChainName::DnsRedirect), "questions to name servers"));
    }
    for network in loopback(options) {
        rules.push(rule([Condition::Destination(network)], Action::Return, "inside the pod"));
    }
    for network in &options.outbound_excluded {
        rules.push(rule([Condition::Destination(*network)], Action::Return, "excluded range"));
    }
    let captured = |conditions| rule(conditions, Action::Jump(ChainName::OutboundRedirect), "captured");
    for port in &options.outbound_ports {
        rules.push(captured(vec![Condition::DestinationPort(Protocol::Tcp, *port)]));
    }
    match &options.outbound {
        Selection::All => rules.push(captured(vec![])),
        Selection::Only(networks) => {
            rules.extend(networks.iter().map(|network| captured(vec![Condition::Destination(*network)])));
        }
    }
    rules
}

/// What tells the sidecar's own connections from the application's; without it a connection would go round for ever.
fn of_proxy(options: &CaptureOptions, owner: Owner) -> Vec<Rule> {
    let mut rules = Vec::new();
    for network in loopback(options) {
        let mut calls_itself = vec![over_loopback(), Condition::NotDestination(network)];
        if captures_dns(options) {
            // The sidecar's question to a name server in the pod goes there, not through its own inbound side.
            calls_itself.push(Condition::NotDestinationPort(Protocol::Tcp, Port::DNS));
        }
        calls_itself.push(Condition::NotDestinationPort(Protocol::Tcp, options.tunnel_port));
        calls_itself.push(Condition::Owner(owner));
        let action = Action::Jump(ChainName::InboundRedirect);
        rules.push(rule(calls_itself, action, "the sidecar to its own pod"));
    }
    if !captures_loopback(options) {
        let mut calls_itself = vec![over_loopback()];
        if captures_dns(options) {
            // A question to a name server in the pod is captured below. By TCP only: Istio.
            calls_itself.push(Condition::NotDestinationPort(Protocol::Tcp, Port::DNS));
        }
        calls_itself.push(Condition::NotOwner(owner));
        rules.push(rule(calls_itself, Action::Return, "the application to itself"));
    }
    rules.push(rule([Condition::Owner(owner)], Action::Return, "the sidecar"));
    rules
}

/// A range that the user wants captured lies on loopback.
fn captures_loopback(options: &CaptureOptions) -> bool {
    match &options.outbound {
        Selection::All => false,
        Selection::Only(networks) => networks.iter().any(|network| network.address().is_loopback()),
    }
}

fn of_other_groups(options: &CaptureOptions) -> Vec<Rule> {
    match &options.owners {
        Owners::All => Vec::new(),
        Owners::Except(groups) => {
            let excluded = groups.iter().map(|group| Condition::Owner(Owner::Group(*group)));
            excluded.map(|owner| rule([owner], Action::Return, "excluded group")).collect()
        }
        Owners::Only(groups) => {
            let none: Vec<_> = groups.iter().map(|group| Condition::NotOwner(Owner::Group(*group))).collect();
            vec![rule(none, Action::Return, "none of the groups")]
        }
    }
}

fn over_loopback() -> Condition {
    Condition::Out(Interface::loopback())
}
