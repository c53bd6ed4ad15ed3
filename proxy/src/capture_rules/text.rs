//! A rule set as `nft -f` reads it, for `--dry-run` and golden tests. The kernel gets [`nftables`](super::nftables).

use std::fmt;

use super::{
    options::{Family, Interface, Network},
    rules::{
        Action, Chain, Condition, ConnectionState, Hook, HookPoint, Owner, Protocol, Routing, Rule, RuleSet,
    },
};

/// The name of our one table, in family `inet`.
pub(super) const TABLE: &str = "outrigger";

impl fmt::Display for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // To add, to delete and to add again replaces the table in one transaction, whether there is one or not.
        writeln!(f, "add table inet {TABLE}")?;
        writeln!(f, "delete table inet {TABLE}")?;
        if self.routing.is_used {
            write!(f, "{}", self.routing)?;
        }
        if self.chains.is_empty() {
            return Ok(());
        }
        writeln!(f, "table inet {TABLE} {{")?;
        for (index, chain) in self.chains.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mark, table, .. } = self;
        for option in ["-4", "-6"] {
            writeln!(f, "# ip {option} rule add priority 133 fwmark {} lookup {}", mark.0, table.get())?;
            writeln!(f, "# ip {option} route add local default dev lo table {}", table.get())?;
        }
        Ok(())
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name.as_str())?;
        if let Some(Hook { kind, point, priority }) = self.name.hook() {
            let point = match point {
                HookPoint::Prerouting => "prerouting",
                HookPoint::Output => "output",
            };
            writeln!(f, "\t\ttype {kind} hook {point} priority {priority}; policy accept;")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.conditions {
            write!(f, "{condition} ")?;
        }
        write!(f, "counter {} comment \"{}\"", self.action, self.why)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(protocol) => write!(f, "meta l4proto {}", word(*protocol)),
            Self::Source(network) => address(f, "saddr", "", *network),
            Self::Destination(network) => address(f, "daddr", "", *network),
            Self::NotDestination(network) => address(f, "daddr", "!= ", *network),
            Self::SourcePort(protocol, port) => write!(f, "{} sport {port}", word(*protocol)),
            Self::DestinationPort(protocol, port) => write!(f, "{} dport {port}", word(*protocol)),
            Self::NotDestinationPort(protocol, port) => write!(f, "{} dport != {port}", word(*protocol)),
            Self::In(interface) => write!(f, "iifname {}", Quoted(interface)),
            Self::Out(interface) => write!(f, "oifname {}", Quoted(interface)),
            Self::Owner(owner) => socket(f, "", *owner),
            Self::NotOwner(owner) => socket(f, "!= ", *owner),
            Self::Marked(mark) => write!(f, "meta mark {}", mark.0),
            Self::NotMarked(mark) => write!(f, "meta mark != {}", mark.0),
            Self::ConnectionMarked(mark) => write!(f, "ct mark {}", mark.0),
            Self::Connection(ConnectionState::Known) => write!(f, "ct state established,related"),
            Self::Connection(ConnectionState::Invalid) => write!(f, "ct state invalid"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Return => write!(f, "return"),
            Self::Accept => write!(f, "accept"),
            Self::Drop => write!(f, "drop"),
            Self::Jump(chain) => write!(f, "jump {}", chain.as_str()),
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
            Self::TProxy(family, port, mark) => {
                write!(f, "tproxy {} to :{port} meta mark set {} accept", ip(*family), mark.0)
            }
            Self::SetMark(mark) => write!(f, "meta mark set {}", mark.0),
            Self::SaveMark => write!(f, "ct mark set meta mark"),
            Self::RestoreMark => write!(f, "meta mark set ct mark"),
            Self::Zone(zone) => write!(f, "ct zone set {zone}"),
        }
    }
}

const fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

const fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn address(f: &mut fmt::Formatter<'_>, field: &str, negation: &str, network: Network) -> fmt::Result {
    if network.prefix() == 0 && negation.is_empty() {
        // Every address: nft has no word for it but the family.
        let family = match network.family() {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        return write!(f, "meta nfproto {family}");
    }
    write!(f, "{} {field} {negation}{network}", ip(network.family()))
}

fn socket(f: &mut fmt::Formatter<'_>, negation: &str, owner: Owner) -> fmt::Result {
    match owner {
        Owner::User(id) => write!(f, "meta skuid {negation}{id}"),
        Owner::Group(id) => write!(f, "meta skgid {negation}{id}"),
    }
}

/// As nft quotes names, with its own sign for any rest.
struct Quoted<'a>(&'a Interface);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.beginning() {
            Some(beginning) => write!(f, "\"{beginning}*\""),
            None => write!(f, "\"{}\"", self.0.as_str()),
        }
    }
}
