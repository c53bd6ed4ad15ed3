//! From options to rules: one pure function, in the order that Istio's `istio-iptables` has given its chains.
//!
//! Istio's rules return from a chain to say "not ours", so that the order is the meaning. Where these differ from
//! Istio's on purpose, the rule says so.

mod dns;
mod inbound;
mod outbound;
mod tproxy;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    options::{CaptureOptions, DnsCapture, Mode, Network},
    rules::{Action, Chain, ChainName, Condition, Owner, Routing, Rule, RuleSet},
};

/// The rules that carry out `options`.
pub(crate) fn plan(options: &CaptureOptions) -> RuleSet {
    let mut chains = Vec::new();
    if options.mode != Mode::None {
        chains.extend(dns::zones(options));
        chains.extend(tproxy::hooks(options));
        chains.extend(inbound::chains(options));
        chains.extend(outbound::chains(options));
        chains.extend(dns::redirect(options));
    }
    chains.retain(|chain| !chain.rules.is_empty());
    let routing =
        Routing { is_used: tproxy::is_used(options), mark: options.tproxy_mark, table: options.tproxy_table };
    RuleSet { chains, routing }
}

fn chain(name: ChainName, rules: Vec<Rule>) -> Chain {
    Chain { name, rules }
}

fn rule(conditions: impl Into<Vec<Condition>>, action: Action, why: &'static str) -> Rule {
    Rule { conditions: conditions.into(), action, why }
}

/// Destinations that applications of a pod reach directly, in both families. Of 127.0.0.0/8 that is one address.
fn loopback(options: &CaptureOptions) -> [Network; 2] {
    [options.loopback, Network::host(IpAddr::V6(Ipv6Addr::LOCALHOST))]
}

/// What the sidecar binds to when it calls the application for an inbound connection (Istio).
fn passthrough_sources() -> [Network; 2] {
    [
        Network::host(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6))),
        Network::host(IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6))),
    ]
}

/// Who the sidecar is.
fn proxy(options: &CaptureOptions) -> impl Iterator<Item = Owner> {
    let users = options.proxy_users.iter().copied().map(Owner::User);
    users.chain(options.proxy_groups.iter().copied().map(Owner::Group))
}

fn captures_dns(options: &CaptureOptions) -> bool {
    match &options.dns {
        DnsCapture::Off => false,
        DnsCapture::All => true,
        DnsCapture::Servers(servers) => !servers.is_empty(),
    }
}
