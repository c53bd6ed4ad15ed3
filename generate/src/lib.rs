//! Random meshes and requests, for tests that compare two readings of the same configuration: explain and the proxy, or
//! the proxy and Envoy.
//!
//! A mesh is Istio YAML, so that whoever reads Istio YAML can be asked. Names and values are few, so that rules and
//! requests meet; every mesh loads without an error. Nothing here reads what it wrote.

mod mesh;
mod request;
mod rules;

use std::net::SocketAddr;

use proptest::prelude::*;

pub use request::Asked;

/// Namespace of the proxy and of all resources.
pub const NAMESPACE: &str = "default";
/// The port of the listener that the requests come to.
pub const PORT: u16 = 8080;

/// A configuration, and requests to its listener.
#[derive(Debug, Clone)]
pub struct Case {
    /// Istio documents.
    pub yaml: String,
    /// In order.
    pub requests: Vec<Asked>,
}

/// A case whose endpoints are among `endpoints`, which need not exist.
pub fn case(endpoints: &[SocketAddr], requests: usize) -> impl Strategy<Value = Case> + use<> {
    (mesh::mesh(endpoints.to_vec()), prop::collection::vec(request::asked(), requests))
        .prop_map(|(yaml, requests)| Case { yaml, requests })
}

/// Endpoints that do not exist.
#[must_use]
pub fn nowhere() -> Vec<SocketAddr> {
    (1..=6).map(|n| SocketAddr::from(([10, 1, 0, n], 8000 + u16::from(n)))).collect()
}

/// One of several texts.
fn one_of<const N: usize>(texts: [&'static str; N]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(texts.to_vec())
}

/// With these odds, in a hundred.
fn sometimes<S: Strategy>(percent: u32, strategy: S) -> impl Strategy<Value = Option<S::Value>> {
    prop::option::weighted(f64::from(percent) / 100.0, strategy)
}
