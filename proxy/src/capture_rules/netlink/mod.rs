//! Netlink: messages of attributes to the kernel and back, over a socket of `rustix`.
//!
//! A small encoder of our own: of the crates that could be linked, one has neither redirection, TPROXY, connection
//! tracking nor counters of nftables, one is under the GPL, and the others stop at the framing (docs/adr/0010). It knows
//! no table and no route: [`nftables`](super::nftables) and [`routing`](super::routing) do.

mod attributes;
mod message;
mod socket;

pub(super) use attributes::{Attributes, attributes};
pub(super) use message::{Flags, Message};
pub(super) use socket::{Socket, Subsystem};
