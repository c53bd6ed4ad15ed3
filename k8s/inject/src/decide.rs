//! Whether a pod gets a sidecar. Istio's rules (`injectRequired`): never into the host's network or the system's
//! namespaces; then the pod's label, its annotation, the policy.

use std::fmt;

use crate::{
    options::Options,
    problem::{Path, Problem},
    settings::{Annotations, names::Setting},
    value::{Map, Value},
    workload::Workload,
};

/// Namespaces that are never injected (Istio `IgnoredNamespaces`).
pub const SYSTEM_NAMESPACES: [&str; 4] =
    ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// Why a pod is left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skip {
    /// Its traffic cannot be told from the node's.
    HostNetwork,
    /// One of [`SYSTEM_NAMESPACES`].
    SystemNamespace(String),
    /// The pod says so, by this label or annotation.
    Refused(String),
    /// The pod says nothing, and pods have to ask.
    NotAsked,
    /// It asks for a template that there is not.
    Template(String),
    /// It runs on Windows.
    Windows,
    /// Another injector was there before.
    ByOther,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostNetwork => f.write_str("it uses the network of its node"),
            Self::SystemNamespace(name) => write!(f, "it is in the system's namespace {name}"),
            Self::Refused(name) => write!(f, "{name} says so"),
            Self::NotAsked => f.write_str("it does not ask for a sidecar, and the policy is to be asked"),
            Self::Template(name) => {
                write!(f, "it asks for the template `{name}`, and there is only `sidecar`")
            }
            Self::Windows => f.write_str("it runs on Windows"),
            Self::ByOther => f.write_str("another injector has put its sidecar in (sidecar.istio.io/status)"),
        }
    }
}

/// Why not to inject, or `None` to do it. `metadata` is at the path.
///
/// # Errors
/// The label or the annotation is no string.
pub(crate) fn skip(
    metadata: Option<&Value>,
    spec: &Map,
    path: &Path,
    workload: &Workload,
    options: &Options,
) -> Result<Option<Skip>, Problem> {
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        return Ok(Some(Skip::HostNetwork));
    }
    let namespace = workload.namespace.as_deref().unwrap_or("default");
    if SYSTEM_NAMESPACES.contains(&namespace) {
        return Ok(Some(Skip::SystemNamespace(namespace.to_owned())));
    }
    let os = spec.get("os").and_then(|os| os.get("name")).and_then(Value::text);
    let selected =
        spec.get("nodeSelector").and_then(|labels| labels.get("kubernetes.io/os")).and_then(Value::text);
    if os.or(selected) == Some("windows") {
        return Ok(Some(Skip::Windows));
    }
    let group = |key: &str| metadata.and_then(|metadata| metadata.get(key)).and_then(Value::map);
    let (labels_at, annotations_at) = (path.key("labels"), path.key("annotations"));
    let annotations = Annotations::new(group("annotations"), &annotations_at);
    let label = Annotations::new(group("labels"), &labels_at).find(Setting::Inject)?;
    let asked = match label {
        Some(label) => Some(label),
        None => annotations.find(Setting::Inject)?,
    };
    match asked.as_ref().map(|asked| asked.text) {
        Some("true") => {}
        None | Some("") => {
            if !options.by_default {
                return Ok(Some(Skip::NotAsked));
            }
        }
        // As in Istio, whatever else it says.
        Some(_) => return Ok(asked.map(|asked| Skip::Refused(asked.path.to_string()))),
    }
    let template = annotations.text(Setting::Templates)?.filter(|name| name != "sidecar");
    Ok(template.map(Skip::Template))
}
