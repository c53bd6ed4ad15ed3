//! Single words of the options: ports, ranges of addresses, names of interfaces, marks and routing tables.

use std::{fmt, net::IpAddr, num::NonZeroU16, str::FromStr};

/// A TCP or UDP port, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port(NonZeroU16);

impl Port {
    /// Where the sidecar answers DNS (Istio: 15053).
    pub(crate) const DNS_PROXY: Self = Self::of(15053);
    /// Where name servers answer.
    pub(crate) const DNS: Self = Self::of(53);

    pub(crate) const fn get(self) -> u16 {
        self.0.get()
    }

    const fn of(number: u16) -> Self {
        match NonZeroU16::new(number) {
            Some(number) => Self(number),
            None => panic!("port 0"),
        }
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| "write a port number, 1 to 65535".to_owned())
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A range of addresses in CIDR form. Bits behind the prefix are cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// The range that holds one address.
    pub(crate) const fn host(address: IpAddr) -> Self {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        Self { address, prefix }
    }

    pub(crate) const fn address(self) -> IpAddr {
        self.address
    }

    /// Bits that count, at most 32 or 128.
    pub(crate) const fn prefix(self) -> u8 {
        self.prefix
    }

    pub(crate) const fn family(self) -> Family {
        if self.address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The bits that count, as a mask.
    pub(crate) fn mask(self) -> Vec<u8> {
        match self.address {
            IpAddr::V4(_) => {
                u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0).to_be_bytes().into()
            }
            IpAddr::V6(_) => {
                u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0).to_be_bytes().into()
            }
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = || "write a range of addresses, such as 10.0.0.0/8 or fd00::/8".to_owned();
        let (address, prefix) = text.split_once('/').ok_or_else(hint)?;
        let address: IpAddr = address.parse().map_err(|_| hint())?;
        let prefix: u8 = prefix.parse().map_err(|_| hint())?;
        let most = Self::host(address).prefix;
        if prefix > most {
            return Err(format!("the prefix is at most {most}"));
        }
        let range = Self { address, prefix };
        let kept = range.mask();
        let address = match address {
            IpAddr::V4(address) => {
                let octets = cleared(address.octets(), &kept);
                octets.into()
            }
            IpAddr::V6(address) => cleared(address.octets(), &kept).into(),
        };
        Ok(Self { address, prefix })
    }
}

fn cleared<const N: usize>(mut octets: [u8; N], mask: &[u8]) -> [u8; N] {
    for (octet, mask) in octets.iter_mut().zip(mask) {
        *octet &= mask;
    }
    octets
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::host(self.address) {
            return self.address.fmt(f);
        }
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The two kinds of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

/// The name of an interface; a `+` at its end stands for any rest, as in iptables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface(String);

impl Interface {
    pub(crate) fn loopback() -> Self {
        Self("lo".to_owned())
    }

    /// The beginning that counts, if the rest does not.
    pub(crate) fn beginning(&self) -> Option<&str> {
        self.0.strip_suffix('+')
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Interface {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '"' | '*' | '\\' | '+');
        let name = text.strip_suffix('+').unwrap_or(text);
        if name.is_empty() || name.len() > 15 || !name.chars().all(plain) {
            return Err(
                "write the name of an interface, such as eth0 or tap+, of at most 15 letters".to_owned()
            );
        }
        Ok(Self(text.to_owned()))
    }
}

/// A packet mark, which the kernel keeps beside a packet and nobody else sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(pub(crate) u32);

impl Mark {
    /// On what the sidecar sends to its own pod (Istio, TPROXY).
    pub(crate) const TO_SELF: Self = Self(1338);
}

impl FromStr for Mark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        match parsed.map(Self) {
            Ok(Self(0)) | Err(_) => Err("write a mark, 1 to 4294967295 or 0x1 to 0xffffffff".to_owned()),
            Ok(Self::TO_SELF) => Err("1338 is the mark of what the sidecar sends to its own pod".to_owned()),
            Ok(mark) => Ok(mark),
        }
    }
}

/// The number of a routing table of our own, 1 to 252 or from 256: the kernel has filled those between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteTable(u32);

impl RouteTable {
    pub(crate) const fn get(self) -> u32 {
        self.0
    }
}

impl FromStr for RouteTable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(0 | 253..=255) | Err(_) => {
                Err("write the number of a routing table, 1 to 252 or from 256".to_owned())
            }
            Ok(number) => Ok(Self(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_to_its_prefix_and_checked() {
        let range = |text: &str| text.parse::<Network>().map(|range| range.to_string());
        assert_eq!(range("10.1.2.3/8").unwrap(), "10.0.0.0/8");
        assert_eq!(range("10.1.2.3/32").unwrap(), "10.1.2.3");
        assert_eq!(range("fd77:1::5/64").unwrap(), "fd77:1::/64");
        assert_eq!(range("0.0.0.0/0").unwrap(), "0.0.0.0/0");
        assert_eq!(range("::/0").unwrap(), "::/0");
        for bad in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "web/8", "10.0.0.0/-1", "/8", ""] {
            range(bad).unwrap_err();
        }
    }

    #[test]
    fn names_of_interfaces_cannot_carry_anything_else() {
        for good in ["eth0", "tap+", "net1.5", "a23456789012345"] {
            good.parse::<Interface>().unwrap();
        }
        for bad in ["", "+", "a b", "a\"b", "a/b", "a234567890123456", "é0", "e*"] {
            bad.parse::<Interface>().unwrap_err();
        }
    }

    #[test]
    fn marks_and_tables_leave_those_of_others_alone() {
        assert_eq!("0x539".parse(), Ok(Mark(1337)));
        assert_eq!("1337".parse(), Ok(Mark(1337)));
        for bad in ["0", "1338", "x", "4294967296"] {
            bad.parse::<Mark>().unwrap_err();
        }
        assert_eq!("133".parse(), Ok(RouteTable(133)));
        for bad in ["0", "253", "254", "255", "main"] {
            bad.parse::<RouteTable>().unwrap_err();
        }
    }
}
