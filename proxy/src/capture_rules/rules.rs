//! A rule set as data: one table `inet outrigger` of chains of rules, and the policy routing that it counts on.
//!
//! Only what the capture needs; no general model of nftables. A rule here is what a line of `nft list` is.

use super::options::{Family, Interface, Mark, Network, Port, RouteTable};

/// All that the kernel is told. No chains: nothing is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleSet {
    pub(super) chains: Vec<Chain>,
    pub(super) routing: Routing,
}

/// Packets with the mark are delivered here, whatever their destination is (TPROXY).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Routing {
    /// Else there must be none.
    pub(super) is_used: bool,
    pub(super) mark: Mark,
    pub(super) table: RouteTable,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: ChainName,
    pub(super) rules: Vec<Rule>,
}

/// The chains that there can be, each with its place among the kernel's hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChainName {
    RawPrerouting,
    RawOutput,
    ManglePrerouting,
    MangleOutput,
    NatPrerouting,
    NatOutput,
    /// Istio's ISTIO_INBOUND.
    Inbound,
    /// Istio's ISTIO_IN_REDIRECT.
    InboundRedirect,
    /// Istio's ISTIO_OUTPUT.
    Outbound,
    /// Istio's ISTIO_REDIRECT.
    OutboundRedirect,
    /// Istio's ISTIO_OUTPUT_DNS in table nat.
    DnsRedirect,
    /// Istio's ISTIO_TPROXY.
    TProxy,
    /// Istio's ISTIO_DIVERT.
    Divert,
}

impl ChainName {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::RawPrerouting => "raw-prerouting",
            Self::RawOutput => "raw-output",
            Self::ManglePrerouting => "mangle-prerouting",
            Self::MangleOutput => "mangle-output",
            Self::NatPrerouting => "nat-prerouting",
            Self::NatOutput => "nat-output",
            Self::Inbound => "inbound",
            Self::InboundRedirect => "inbound-redirect",
            Self::Outbound => "outbound",
            Self::OutboundRedirect => "outbound-redirect",
            Self::DnsRedirect => "dns-redirect",
            Self::TProxy => "inbound-tproxy",
            Self::Divert => "inbound-divert",
        }
    }

    /// Where packets enter, for a chain that is not only jumped to.
    pub(super) const fn hook(self) -> Option<Hook> {
        match self {
            Self::RawPrerouting => Some(Hook::new("filter", HookPoint::Prerouting, -300)),
            Self::RawOutput => Some(Hook::new("filter", HookPoint::Output, -300)),
            Self::ManglePrerouting => Some(Hook::new("filter", HookPoint::Prerouting, -150)),
            // `route`: a packet whose mark changes is routed again, as in iptables' table mangle.
            Self::MangleOutput => Some(Hook::new("route", HookPoint::Output, -150)),
            Self::NatPrerouting => Some(Hook::new("nat", HookPoint::Prerouting, -100)),
            Self::NatOutput => Some(Hook::new("nat", HookPoint::Output, -100)),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) kind: &'static str,
    pub(super) point: HookPoint,
    /// Lower comes first; conntrack is -200, iptables' tables raw, mangle and nat are -300, -150 and -100.
    pub(super) priority: i32,
}

impl Hook {
    const fn new(kind: &'static str, point: HookPoint, priority: i32) -> Self {
        Self { kind, point, priority }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HookPoint {
    Prerouting,
    Output,
}

/// If all conditions hold, the action is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: Action,
    /// Shown by `nft list` beside the rule; at most 127 letters.
    pub(super) why: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    Protocol(Protocol),
    Source(Network),
    Destination(Network),
    NotDestination(Network),
    SourcePort(Protocol, Port),
    DestinationPort(Protocol, Port),
    NotDestinationPort(Protocol, Port),
    In(Interface),
    Out(Interface),
    /// The socket that sends.
    Owner(Owner),
    NotOwner(Owner),
    Marked(Mark),
    NotMarked(Mark),
    ConnectionMarked(Mark),
    Connection(ConnectionState),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    User(u32),
    Group(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionState {
    /// Replies and what follows the first packet, and ICMP errors about it.
    Known,
    /// Neither new nor known: out of every window.
    Invalid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Return,
    Accept,
    Drop,
    Jump(ChainName),
    /// To a port of this network namespace.
    Redirect(Port),
    /// To the transparent socket at a port, the addresses kept, with the mark.
    TProxy(Family, Port, Mark),
    SetMark(Mark),
    /// The packet's mark becomes the connection's.
    SaveMark,
    /// The connection's mark becomes the packet's.
    RestoreMark,
    /// Connection tracking in a space of its own.
    Zone(u16),
}
