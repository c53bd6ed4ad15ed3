//! Istio YAML in, an immutable [`Snapshot`](snapshot::Snapshot) or diagnostics out; and the pure decision that both
//! the proxy and its tools make with it.
//!
//! Nothing here touches a socket, a file, a clock or a random source: what a decision needs of these is an argument.

pub mod decide;
pub mod format;
pub mod snapshot;
