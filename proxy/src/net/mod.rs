//! Sockets: where connections come from and the wrappers that they are read through.
//!
//! Nothing here knows a route or a header's meaning beyond what framing needs.

pub(crate) mod ask;
pub(crate) mod batched;
pub mod capture;
pub(crate) mod complaint;
pub(crate) mod detect;
mod gate;
pub(crate) mod head;
pub mod listen;
pub(crate) mod pages;
pub(crate) mod peek;
pub(crate) mod sniff;
pub(crate) mod socket;
pub(crate) mod tls;
