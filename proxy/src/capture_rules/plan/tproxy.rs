//! What goes on before addresses are rewritten: the hand-over with all addresses kept (TPROXY), and the drop of invalid
//! packets.
//!
//! A mark of 1337 means "deliver here, whatever the destination is": policy routing sends such packets to loopback. The
//! sidecar sets it, too, on what it sends to the application under the client's address; the connection keeps the mark,
//! so that the application's answers come back to the sidecar.

use super::{chain, inbound, loopback, passthrough_sources, proxy, rule};
use crate::capture_rules::{
    options::{CaptureOptions, Family, Interface, Mark, Mode},
    rules::{Action, Chain, ChainName, Condition, ConnectionState, Protocol, Rule},
};

/// Whether packets are handed over and need routing for that.
pub(super) fn is_used(options: &CaptureOptions) -> bool {
    options.mode == Mode::TProxy && inbound::is_captured(options)
}

pub(super) fn hooks(options: &CaptureOptions) -> Vec<Chain> {
    let mut chains = vec![chain(ChainName::ManglePrerouting, prerouting(options))];
    if is_used(options) {
        chains.push(chain(ChainName::MangleOutput, output(options)));
        chains.push(chain(ChainName::TProxy, tproxy(options)));
        chains.push(chain(ChainName::Divert, divert(options)));
    }
    chains
}

/// The beginning of the chain for inbound connections.
pub(super) fn never_captured(options: &CaptureOptions) -> Vec<Rule> {
    let marked = Condition::Marked(options.tproxy_mark);
    let mut rules =
        vec![rule([tcp(), marked], Action::Return, "the sidecar to the application, as the client")];
    for source in passthrough_sources() {
        let from = [from_loopback(), tcp(), Condition::Source(source)];
        rules.push(rule(from, Action::Return, "the sidecar to the application"));
    }
    let inside = [from_loopback(), tcp(), Condition::NotMarked(Mark::TO_SELF)];
    rules.push(rule(inside, Action::Return, "inside the pod"));
    rules
}

fn prerouting(options: &CaptureOptions) -> Vec<Rule> {
    let mut rules = Vec::new();
    if is_used(options) {
        // Istio hands these over before its table nat can take them for outbound ones.
        for interface in &options.virtual_interfaces {
            rules.push(rule([Condition::In(interface.clone())], Action::Return, "a virtual machine"));
        }
        for interface in &options.excluded_interfaces {
            rules.push(rule([Condition::In(interface.clone())], Action::Return, "excluded interface"));
        }
    }
    if options.drop_invalid {
        let invalid = [tcp(), Condition::Connection(ConnectionState::Invalid)];
        rules.push(rule(invalid, Action::Drop, "out of every window: a reset would end the connection"));
    }
    if is_used(options) {
        rules.push(rule([tcp()], Action::Jump(ChainName::Inbound), "connections to the pod"));
        let marked = [tcp(), Condition::Marked(options.tproxy_mark)];
        rules.push(rule(marked, Action::SaveMark, "answers come back to the sidecar"));
    }
    rules
}

fn output(options: &CaptureOptions) -> Vec<Rule> {
    let excluded = options.excluded_interfaces.iter();
    let mut rules: Vec<_> = excluded
        .map(|interface| rule([Condition::Out(interface.clone())], Action::Return, "excluded interface"))
        .collect();
    let over_loopback = Condition::Out(Interface::loopback());
    let marked = [over_loopback.clone(), tcp(), Condition::Marked(options.tproxy_mark)];
    rules.push(rule(marked, Action::Return, "the sidecar to the application, as the client"));
    for owner in proxy(options) {
        for network in loopback(options) {
            let conditions =
                [over_loopback.clone(), tcp(), Condition::NotDestination(network), Condition::Owner(owner)];
            rules.push(rule(conditions, Action::SetMark(Mark::TO_SELF), "the sidecar to its own pod"));
        }
    }
    let back = [tcp(), Condition::ConnectionMarked(options.tproxy_mark)];
    rules.push(rule(back, Action::RestoreMark, "the application's answer to the sidecar"));
    rules
}

fn tproxy(options: &CaptureOptions) -> Vec<Rule> {
    let families = Family::BOTH.into_iter().zip(loopback(options));
    families
        .map(|(family, network)| {
            let action = Action::TProxy(family, options.inbound_port, options.tproxy_mark);
            rule([tcp(), Condition::NotDestination(network)], action, "to the sidecar")
        })
        .collect()
}

fn divert(options: &CaptureOptions) -> Vec<Rule> {
    vec![
        rule([], Action::SetMark(options.tproxy_mark), "to the sidecar's socket"),
        rule([], Action::Accept, "no more to decide"),
    ]
}

const fn tcp() -> Condition {
    Condition::Protocol(Protocol::Tcp)
}

fn from_loopback() -> Condition {
    Condition::In(Interface::loopback())
}
