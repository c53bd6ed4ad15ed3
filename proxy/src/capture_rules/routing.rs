//! What the rules need beside the table: for TPROXY, packets with the mark are routed to loopback; for inbound IPv6, the
//! sidecar needs an address to call the application from.

use rustix::io::Errno;

use super::{
    Error,
    netlink::{Attributes, Flags, Message, Socket},
    options::Family,
    rules::{Routing, RuleSet},
};

/// `RTM_*`, with the flags that go with it.
#[derive(Debug, Clone, Copy)]
struct Verb(u16, Flags);

const NEW_ADDRESS: Verb = Verb(20, Flags::CREATE_NEW);
const DELETE_ADDRESS: Verb = Verb(21, Flags::CHANGE);
const NEW_ROUTE: Verb = Verb(24, Flags::CREATE_NEW);
const DELETE_ROUTE: Verb = Verb(25, Flags::CHANGE);
const NEW_RULE: Verb = Verb(32, Flags::CREATE_NEW);
const DELETE_RULE: Verb = Verb(33, Flags::CHANGE);
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// The index of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

/// Installs what `rules` count on.
///
/// # Errors
/// What the kernel refused. An address family that the kernel or the pod does not have is none.
pub(super) fn install(socket: &mut Socket, rules: &RuleSet) -> Result<(), Error> {
    if !rules.chains.is_empty() {
        add(socket, &passthrough_address(NEW_ADDRESS), "the address ::6", Family::V6)?;
    }
    if rules.routing.is_used {
        for family in Family::BOTH {
            add(socket, &policy(NEW_RULE, family, rules.routing), "the rule for marked packets", family)?;
            add(socket, &route(NEW_ROUTE, family, rules.routing), "the route for marked packets", family)?;
        }
    }
    Ok(())
}

/// Removes what `rules` do not need.
///
/// # Errors
/// What the kernel refused. What was not there is none.
pub(super) fn tidy(socket: &mut Socket, rules: &RuleSet) -> Result<(), Error> {
    if rules.chains.is_empty() {
        delete(socket, &passthrough_address(DELETE_ADDRESS), "the address ::6")?;
    }
    if !rules.routing.is_used {
        for family in Family::BOTH {
            delete(socket, &policy(DELETE_RULE, family, rules.routing), "the rule for marked packets")?;
            delete(socket, &route(DELETE_ROUTE, family, rules.routing), "the route for marked packets")?;
        }
    }
    Ok(())
}

fn add(socket: &mut Socket, message: &Message, what: &str, family: Family) -> Result<(), Error> {
    match socket.change(message) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(reason) if family == Family::V6 && is_without_ipv6(reason) => Ok(()),
        Err(reason) => Err(Error::refused(what, reason)),
    }
}

fn delete(socket: &mut Socket, message: &Message, what: &str) -> Result<(), Error> {
    match socket.change(message) {
        Ok(()) | Err(Errno::NOENT | Errno::SRCH | Errno::ADDRNOTAVAIL) => Ok(()),
        Err(reason) if is_without_ipv6(reason) => Ok(()),
        Err(reason) => Err(Error::refused(what, reason)),
    }
}

/// The kernel has no IPv6, or it is switched off for this namespace.
const fn is_without_ipv6(reason: Errno) -> bool {
    matches!(reason, Errno::AFNOSUPPORT | Errno::OPNOTSUPP | Errno::ACCESS | Errno::NODEV)
}

/// `::6` on `lo`. IPv4 has all of 127.0.0.0/8 there already (Istio).
fn passthrough_address(Verb(kind, flags): Verb) -> Message {
    const WITHOUT_DUPLICATE_DETECTION: u8 = 2;
    let [a, b, c, d] = LOOPBACK.to_ne_bytes();
    let fixed = [IPV6, 128, WITHOUT_DUPLICATE_DETECTION, 0, a, b, c, d];
    let mut address = [0; 16];
    address[15] = 6;
    Message::new(kind, flags, &fixed, Attributes::new().bytes(1, &address).bytes(2, &address))
}

/// `ip rule add priority 133 fwmark MARK lookup TABLE`
fn policy(Verb(kind, flags): Verb, family: Family, routing: Routing) -> Message {
    const TO_TABLE: u8 = 1;
    /// Before the main table (32766). The kernel would give each new rule a number of its own, so that a second run
    /// would add a second rule.
    const PRIORITY: u32 = 133;
    let fixed = [number(family), 0, 0, 0, 0, 0, 0, TO_TABLE, 0, 0, 0, 0];
    let attributes =
        Attributes::new().ne32(6, PRIORITY).ne32(10, routing.mark.0).ne32(15, routing.table.get());
    Message::new(kind, flags, &fixed, attributes)
}

/// `ip route add local default dev lo table TABLE`
fn route(Verb(kind, flags): Verb, family: Family, routing: Routing) -> Message {
    const BY_OPERATOR: u8 = 3;
    const ON_THIS_HOST: u8 = 254;
    const LOCAL: u8 = 2;
    let fixed = [number(family), 0, 0, 0, 0, BY_OPERATOR, ON_THIS_HOST, LOCAL, 0, 0, 0, 0];
    let attributes = Attributes::new().ne32(4, LOOPBACK).ne32(15, routing.table.get());
    Message::new(kind, flags, &fixed, attributes)
}

const fn number(family: Family) -> u8 {
    match family {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    }
}
