//! Puts the sidecar into Kubernetes workloads, and takes it out again.
//!
//! Pure: texts or values in, texts or values out, with the labels, annotations and names that Istio's injector has. No
//! socket, file or clock; the command line and the webhook around it are in the proxy's crate.

mod decide;
mod manifests;
mod merge;
mod options;
mod parts;
mod pod;
mod probes;
mod problem;
mod put_in;
mod record;
mod review;
mod settings;
mod text;
mod value;
mod workload;

pub use decide::{SYSTEM_NAMESPACES, Skip};
pub use manifests::{FailurePolicy, manifests};
pub use options::Options;
pub use pod::Outcome;
pub use problem::{Error, Path, Problem, Refused};
pub use review::{Answer, Malformed, OnFailure, review};
pub use text::{Changed, Done, Format, Verb, change, to_yaml};
pub use value::{Map, Value};
pub use workload::Workload;
