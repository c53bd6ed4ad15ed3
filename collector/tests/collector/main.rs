//! The collector from outside: real sockets on port 0, a destination that misbehaves, a ledger of what arrived.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::type_complexity, reason = "a test may panic")]

mod config;
mod delivery;
mod grpc;
mod http;
mod json;
mod pressure;
mod program;
mod sdk;
mod support;
mod walk;
