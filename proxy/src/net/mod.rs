//! Sockets: where connections come from and the wrappers that they are read through.
//!
//! Nothing here knows a route or a header's meaning beyond what framing needs.

pub(crate) mod batched;
mod gate;
pub(crate) mod head;
pub mod listen;
pub(crate) mod sniff;
pub(crate) mod socket;
pub(crate) mod tls;
