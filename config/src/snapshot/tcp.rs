//! Raw connections: which clusters take one, by the address it was going to and the server name that its TLS hello asks
//! for. Nothing here ends TLS.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use super::{action::ClusterRef, origin::Origin, route::HostMap};

/// The routes of one listener, as Envoy keeps filter chains.
#[derive(Debug, Default)]
pub struct TcpRoutes {
    /// Longest prefix first. The first that holds the address decides, whether or not one of its names fits: there is
    /// no way back.
    pub destinations: Box<[TcpDestination]>,
    /// By the indexes of the host maps.
    pub routes: Box<[TcpRoute]>,
    /// The route of what no other takes.
    pub last_resort: u32,
    /// Some route asks for a server name: the client's first bytes are looked at.
    pub by_server_name: bool,
}

/// Routes of one range of addresses.
#[derive(Debug)]
pub struct TcpDestination {
    /// The range; `None` is every address.
    pub subnet: Option<Subnet>,
    /// From the server name of a TLS hello to an index of `routes`. A connection without one has the domain `*` only.
    pub names: HostMap,
}

/// What is to happen with a connection.
#[derive(Debug)]
pub struct TcpRoute {
    /// At least one; weights are positive.
    pub clusters: Box<[TcpCluster]>,
    /// Sum of the weights.
    pub total_weight: u64,
    /// Closed if no byte passes for so long; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// The key for ring hash and Maglev is the client's address (Istio `useSourceIp`); no other key has a connection.
    pub hash_source_ip: bool,
    /// The rule, or the service itself where none applies.
    pub origin: Origin,
}

/// One destination of a route with its share.
#[derive(Debug)]
pub struct TcpCluster {
    /// The cluster, if there is one.
    pub cluster: ClusterRef,
    /// Share of [`TcpRoute::total_weight`]; 1 for a lone destination.
    pub weight: u32,
}

/// A range of addresses: `10.0.0.0/8`; an address alone is a range of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    address: IpAddr,
    bits: u8,
}

impl Subnet {
    /// How many leading bits count.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether the address is in the range.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        masked(address, self.bits) == Some(self.address)
    }
}

/// The range's first address; `None` if the address has fewer bits.
fn masked(address: IpAddr, bits: u8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => {
            let host_bits = 32_u32.checked_sub(bits.into())?;
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            Some(IpAddr::V4((v4.to_bits() & mask).into()))
        }
        IpAddr::V6(v6) => {
            let host_bits = 128_u32.checked_sub(bits.into())?;
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            Some(IpAddr::V6((v6.to_bits() & mask).into()))
        }
    }
}

/// The text is no range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidSubnet;

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    /// Bits behind the prefix do not count, as in Envoy.
    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidSubnet)?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().map_err(|_| InvalidSubnet)?,
            None => all,
        };
        let address = masked(address, bits).ok_or(InvalidSubnet)?;
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_the_addresses_of_its_prefix() {
        for (range, inside, outside) in [
            ("10.1.0.0/16", "10.1.255.3", "10.2.0.0"),
            ("10.1.2.3/8", "10.200.0.1", "11.1.2.3"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("0.0.0.0/0", "255.1.1.1", "::1"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::"),
            ("::/0", "::1", "127.0.0.1"),
        ] {
            let subnet: Subnet = range.parse().unwrap();
            assert!(subnet.holds(inside.parse().unwrap()), "{range} {inside}");
            assert!(!subnet.holds(outside.parse().unwrap()), "{range} {outside}");
        }
        assert_eq!("10.1.2.3/8".parse::<Subnet>().unwrap().to_string(), "10.0.0.0/8");
        for text in ["", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "::/129", "a/8"] {
            assert_eq!(text.parse::<Subnet>(), Err(InvalidSubnet), "{text}");
        }
    }
}
