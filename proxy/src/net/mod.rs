//! Sockets: where connections come from and the one wrapper that every downstream connection is read through.
//!
//! Nothing here knows a route or a header's meaning beyond what framing needs.

mod gate;
pub(crate) mod head;
pub mod listen;
pub(crate) mod sniff;
pub(crate) mod socket;
