//! The proxy as a whole, in this process: one file a behaviour. Envoy and Istio are the specification; where a value
//! comes from an observation of Envoy 1.40, the end-to-end tests compare it with a real one.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod access_log;
mod actions;
mod admin;
mod agent;
mod application;
mod balancing;
mod bodies;
mod cli;
mod cors;
mod diff;
mod drain;
mod ejection;
mod explain;
mod faults;
mod headers;
mod ingress_tls;
mod inject;
mod metrics;
mod mirrors;
mod otlp;
mod otlp_tls;
mod overload;
mod pooling;
mod registry;
mod reload;
mod retries;
mod revocation;
mod routing;
mod run;
mod strictness;
mod support;
mod tcp;
mod timeouts;
mod tls;
mod tls_refusals;
mod tracing;
mod webhook;
