//! What a user asks for, parsed: every value that stands here can be carried out.
//!
//! The words of flags and variables become these types in `commands/init.rs`; what the types mean for the kernel is
//! [`plan`](mod@super::plan)'s business. [`values`] are the single words.

mod values;

use std::{net::IpAddr, str::FromStr};

pub(crate) use values::{Family, Interface, Mark, Network, Port, RouteTable};

/// Which connections go to the sidecar, and how.
#[derive(Debug, Clone)]
pub(crate) struct CaptureOptions {
    pub(crate) mode: Mode,
    /// Takes captured outbound connections.
    pub(crate) outbound_port: Port,
    /// Takes captured inbound connections.
    pub(crate) inbound_port: Port,
    /// Inbound connections to it are never captured (Istio's HBONE).
    pub(crate) tunnel_port: Port,
    /// Users of the sidecar: what they send is let through.
    pub(crate) proxy_users: Vec<u32>,
    /// Groups of the sidecar: the same.
    pub(crate) proxy_groups: Vec<u32>,
    pub(crate) inbound: Selection<Port>,
    /// Ports that are let through where all inbound ports are captured.
    pub(crate) inbound_excluded: Vec<Port>,
    /// Destinations that are captured.
    pub(crate) outbound: Selection<Network>,
    /// Destinations that are let through.
    pub(crate) outbound_excluded: Vec<Network>,
    /// Ports that are captured whatever the destination is.
    pub(crate) outbound_ports: Vec<Port>,
    /// Ports that are let through before all else.
    pub(crate) outbound_ports_excluded: Vec<Port>,
    /// Whose outbound connections are captured.
    pub(crate) owners: Owners,
    /// Connections that come in by these are taken for outbound ones (virtual machines).
    pub(crate) virtual_interfaces: Vec<Interface>,
    /// Connections over these are let through both ways.
    pub(crate) excluded_interfaces: Vec<Interface>,
    pub(crate) dns: DnsCapture,
    pub(crate) drop_invalid: bool,
    /// IPv4 destinations that an application reaches without the sidecar; Istio's is the one address 127.0.0.1.
    pub(crate) loopback: Network,
    pub(crate) tproxy_mark: Mark,
    pub(crate) tproxy_table: RouteTable,
}

/// How inbound connections reach the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The destination is rewritten; the client's address is lost to the application.
    Redirect,
    /// The connection is handed over as it is, so that the client's address can be kept.
    TProxy,
    /// Nothing is captured.
    None,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            // Istio: whatever is not TPROXY redirects, the empty default too.
            "REDIRECT" | "" => Ok(Self::Redirect),
            "TPROXY" => Ok(Self::TProxy),
            "NONE" => Ok(Self::None),
            _ => Err("write REDIRECT, TPROXY or NONE".to_owned()),
        }
    }
}

/// All of something (`*`), or what a list names, which may be nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection<T> {
    All,
    Only(Vec<T>),
}

impl<T: FromStr<Err = String>> FromStr for Selection<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::All);
        }
        Ok(Self::Only(text.parse::<List<T>>()?.0))
    }
}

/// Words with commas between them; an empty text is an empty list, as Istio's templates write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

impl<T: FromStr<Err = String>> FromStr for List<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        words
            .map(|word| word.parse().map_err(|error| format!("`{word}`: {error}")))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Whose outbound connections are captured (Istio `ISTIO_OUTBOUND_OWNER_GROUPS` and `..._EXCLUDE`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owners {
    All,
    Only(Vec<u32>),
    Except(Vec<u32>),
}

/// Whose questions go to the sidecar's DNS proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DnsCapture {
    Off,
    /// Those to any name server.
    All,
    /// Those to the name servers of `/etc/resolv.conf`. Others are let through, so that a name server inside the pod
    /// can ask its own without a loop (Istio).
    Servers(Vec<IpAddr>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_all_some_or_none() {
        assert_eq!("*".parse(), Ok(Selection::<Port>::All));
        assert_eq!("".parse(), Ok(Selection::<Port>::Only(vec![])));
        let two = "80, 443,".parse::<Selection<Port>>().unwrap();
        assert_eq!(two, Selection::Only(vec!["80".parse().unwrap(), "443".parse().unwrap()]));
        assert_eq!("80,*".parse::<Selection<Port>>().unwrap_err(), "`*`: write a port number, 1 to 65535");
        for bad in ["0", "65536", "http", "-1"] {
            bad.parse::<List<Port>>().unwrap_err();
        }
    }
}
