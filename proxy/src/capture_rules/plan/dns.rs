//! Questions to name servers, which the sidecar's DNS proxy answers or passes on.

use super::{captures_dns, chain, proxy, rule};
use crate::capture_rules::{
    options::{CaptureOptions, DnsCapture, Network, Port},
    rules::{Action, Chain, ChainName, Condition, Owner, Protocol, Rule},
};

/// Between the sidecar and name servers.
const UPSTREAM: u16 = 1;
/// Between applications and the sidecar.
const DOWNSTREAM: u16 = 2;

/// The chain that [`outbound`](super::outbound) jumps to.
pub(super) fn redirect(options: &CaptureOptions) -> Option<Chain> {
    if !captures_dns(options) {
        return None;
    }
    let rules = [Protocol::Tcp, Protocol::Udp].into_iter().flat_map(|protocol| {
        let asks = Condition::DestinationPort(protocol, Port::DNS);
        at_servers(
            options,
            Condition::Destination,
            asks,
            Action::Redirect(Port::DNS_PROXY),
            "to the DNS proxy",
        )
    });
    Some(chain(ChainName::DnsRedirect, rules.collect()))
}

/// Tracks the two sides of the DNS proxy apart. An application's question and the proxy's own can have the same ports
/// and the same server; in one table of UDP connections they would be taken for each other (Istio).
pub(super) fn zones(options: &CaptureOptions) -> Vec<Chain> {
    if !captures_dns(options) {
        return Vec::new();
    }
    let asks = Condition::DestinationPort(Protocol::Udp, Port::DNS);
    let mut sent: Vec<_> = proxy(options).flat_map(of_proxy).collect();
    let zone = Action::Zone(DOWNSTREAM);
    sent.extend(at_servers(options, Condition::Destination, asks, zone, "the application asks"));
    let answers = Condition::SourcePort(Protocol::Udp, Port::DNS);
    let zone = Action::Zone(UPSTREAM);
    let came = at_servers(options, Condition::Source, answers, zone, "a name server answers");
    vec![chain(ChainName::RawPrerouting, came), chain(ChainName::RawOutput, sent)]
}

fn of_proxy(owner: Owner) -> [Rule; 2] {
    let asks = [Condition::DestinationPort(Protocol::Udp, Port::DNS), Condition::Owner(owner)];
    let answers = [Condition::SourcePort(Protocol::Udp, Port::DNS_PROXY), Condition::Owner(owner)];
    [
        rule(asks, Action::Zone(UPSTREAM), "the sidecar asks"),
        rule(answers, Action::Zone(DOWNSTREAM), "the sidecar answers"),
    ]
}

/// A rule for each name server, or one for all.
fn at_servers(
    options: &CaptureOptions,
    place: fn(Network) -> Condition,
    which: Condition,
    action: Action,
    why: &'static str,
) -> Vec<Rule> {
    match &options.dns {
        DnsCapture::Off => Vec::new(),
        DnsCapture::All => vec![rule([which], action, why)],
        DnsCapture::Servers(servers) => {
            let servers = servers.iter().map(|server| place(Network::host(*server)));
            servers.map(|server| rule([server, which.clone()], action, why)).collect()
        }
    }
}
