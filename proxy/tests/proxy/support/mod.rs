//! The harness: a mesh of one proxy and its origins, all in this process, on ports of the system's choice.

pub(crate) mod certs;
pub(crate) mod client;
pub(crate) mod mesh;
pub(crate) mod origin;
#[path = "../../../src/testing.rs"]
pub(crate) mod ports;
pub(crate) mod secure;
pub(crate) mod wait;
