//! Why rules cannot be installed, checked or removed, and what an operator can do about it.

use std::net::SocketAddr;

use rustix::io::Errno;
use thiserror::Error;

/// With all but [`Error::Differs`] after an installation, the table is as it was.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error(
        "not permitted: this process lacks the capability NET_ADMIN in its network namespace\n\
         hint: give the init container `securityContext: {{ runAsUser: 0, capabilities: {{ add: [NET_ADMIN] }} }}`"
    )]
    NotPermitted,
    #[error(
        "the kernel has no nf_tables ({0})\n\
         hint: load its modules on the node: modprobe -a nf_tables nft_redir nft_ct nft_tproxy"
    )]
    NoNetfilter(Errno),
    #[error(
        "the kernel does not know {what} ({reason})\n\
         hint: load the modules on the node: modprobe -a nft_chain_nat nft_redir nft_ct nft_tproxy"
    )]
    Unknown { what: String, reason: Errno },
    #[error("the kernel refused {what}: {reason}")]
    Refused { what: String, reason: Errno },
    #[error("netlink: {0}")]
    Netlink(Errno),
    #[error(
        "the rules in the kernel are not those that were asked for: {0}\nhint: run `outrigger init` again"
    )]
    Differs(String),
    #[error(
        "no connection was captured: to {dialled}, {why}\n\
         hint: the rules are not installed in this network namespace, or for other users: see `outrigger init --help`"
    )]
    NotCaptured { dialled: SocketAddr, why: String },
}

impl Error {
    /// For the kernel's answer to one change.
    pub(super) fn refused(what: &str, reason: Errno) -> Self {
        let what = what.to_owned();
        match reason {
            Errno::PERM => Self::NotPermitted,
            // What a missing module is answered with.
            Errno::NOENT | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT => Self::Unknown { what, reason },
            _ => Self::Refused { what, reason },
        }
    }
}
