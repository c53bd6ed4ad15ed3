//! Words of the command line that mean something only there.

use std::{fs, net::IpAddr, str::FromStr, time::Duration};

use crate::{capture_rules::options::Network, commands::proxy::duration};

/// The number of a user or a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(pub(super) u32);

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The last number is "none" to the kernel.
        match text.parse() {
            Ok(id) if id != u32::MAX => Ok(Self(id)),
            _ => Err("write the number of a user or group, such as 1337".to_owned()),
        }
    }
}

/// A group by number, or by a name of `/etc/group`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group(pub(super) u32);

impl FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || fs::read_to_string("/etc/group").unwrap_or_default();
        let Id(id) = text.parse().or_else(|_| {
            named(text, &known())
                .ok_or_else(|| "no group of /etc/group has this name: write its number".to_owned())
        })?;
        Ok(Self(id))
    }
}

/// A line is `name:password:number:members`.
fn named(name: &str, groups: &str) -> Option<Id> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// The part of IPv4's loopback that is not captured (Istio `ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR`).
pub(super) fn loopback(text: &str) -> Result<Network, String> {
    let network: Network = text.parse()?;
    match network.address() {
        IpAddr::V4(address) if address.is_loopback() && network.prefix() >= 8 => Ok(network),
        _ => Err("write a range within 127.0.0.0/8".to_owned()),
    }
}

/// A duration above zero.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    let hint = || "write a duration such as 5s or 500ms".to_owned();
    duration(text).filter(|duration| !duration.is_zero()).ok_or_else(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_name_and_not_by_a_part_of_one() {
        let file = "root:x:0:\njava:x:202:app,web\nbroken\nnumberless:x::\n";
        assert_eq!(named("java", file), Some(Id(202)));
        assert_eq!(named("root", file), Some(Id(0)));
        for absent in ["jav", "app", "broken", "numberless", ""] {
            assert_eq!(named(absent, file), None, "{absent}");
        }
        assert_eq!("202".parse(), Ok(Group(202)));
        assert!("no-such-group".parse::<Group>().unwrap_err().contains("/etc/group"));
        "4294967295".parse::<Id>().unwrap_err();
    }

    #[test]
    fn the_range_that_is_let_through_is_one_of_loopback() {
        assert_eq!(loopback("127.0.0.0/8").unwrap().to_string(), "127.0.0.0/8");
        for bad in ["10.0.0.0/8", "127.0.0.1", "::1/128", "126.0.0.0/7", "0.0.0.0/0"] {
            loopback(bad).unwrap_err();
        }
    }
}
