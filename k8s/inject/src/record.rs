//! What an injection did to a pod, kept in the pod itself (annotation `sidecar.istio.io/status`): by this it is
//! recognised, taken out again, and renewed.
//!
//! The annotation is Istio's, so that its users and Kiali find it; `outrigger` is our key in it.

use serde::{Deserialize, Serialize};

use crate::{
    problem::{Path, Problem},
    value::{Map, Value, name_of},
};

/// Istio's annotation.
pub(crate) const STATUS: &str = "sidecar.istio.io/status";

/// The annotation's JSON. The lists are Istio's.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) init_containers: Vec<String>,
    pub(crate) containers: Vec<String>,
    pub(crate) volumes: Vec<String>,
    pub(crate) image_pull_secrets: Option<Vec<String>>,
    pub(crate) revision: String,
    pub(crate) outrigger: Undo,
}

/// What the pod had before.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Undo {
    /// Groups that were made; `null` where a null stood.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) made: Vec<Made>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) labels: Vec<Changed>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) annotations: Vec<Changed>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) probes: Vec<Probe>,
    /// Containers of the user that were merged into ours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) merged: Vec<Merged>,
}

/// A group of fields that an injection may have to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Group {
    Metadata,
    Labels,
    Annotations,
    InitContainers,
    Volumes,
}

impl Group {
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Labels => "labels",
            Self::Annotations => "annotations",
            Self::InitContainers => "initContainers",
            Self::Volumes => "volumes",
        }
    }

    /// What holds it; `None` for the pod itself.
    fn within(self) -> Option<&'static str> {
        match self {
            Self::Metadata => None,
            Self::Labels | Self::Annotations => Some("metadata"),
            Self::InitContainers | Self::Volumes => Some("spec"),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) group: Group,
    /// A null stood there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) null: bool,
}

/// A label or annotation that was set.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Changed {
    pub(crate) key: String,
    /// Ours: what the user has changed since is the user's.
    pub(crate) to: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<Value>,
}

/// A handler that was rewritten.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Probe {
    pub(crate) container: String,
    pub(crate) field: ProbeField,
    pub(crate) from: Value,
    pub(crate) to: String,
}

/// Where a handler stands in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ProbeField {
    ReadinessProbe,
    LivenessProbe,
    StartupProbe,
    PreStop,
    PostStart,
}

impl ProbeField {
    pub(crate) const ALL: [Self; 5] =
        [Self::ReadinessProbe, Self::LivenessProbe, Self::StartupProbe, Self::PreStop, Self::PostStart];

    /// The keys within the container.
    pub(crate) fn keys(self) -> &'static [&'static str] {
        match self {
            Self::ReadinessProbe => &["readinessProbe"],
            Self::LivenessProbe => &["livenessProbe"],
            Self::StartupProbe => &["startupProbe"],
            Self::PreStop => &["lifecycle", "preStop"],
            Self::PostStart => &["lifecycle", "postStart"],
        }
    }

    /// The path that the sidecar answers it by (Istio `FormatProberURL`).
    pub(crate) fn page(self, container: &str) -> String {
        match self {
            Self::ReadinessProbe => format!("/app-health/{container}/readyz"),
            Self::LivenessProbe => format!("/app-health/{container}/livez"),
            Self::StartupProbe => format!("/app-health/{container}/startupz"),
            Self::PreStop => format!("/app-lifecycle/{container}/prestopz"),
            Self::PostStart => format!("/app-lifecycle/{container}/poststartz"),
        }
    }

    /// The handler in a container.
    pub(crate) fn of(self, container: &mut Value) -> Option<&mut Value> {
        self.keys().iter().try_fold(container, |value, key| value.map_mut()?.get_mut(*key))
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Merged {
    pub(crate) list: ContainerList,
    pub(crate) at: usize,
    pub(crate) container: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ContainerList {
    InitContainers,
    Containers,
}

impl ContainerList {
    pub(crate) const ALL: [Self; 2] = [Self::InitContainers, Self::Containers];

    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::InitContainers => "initContainers",
            Self::Containers => "containers",
        }
    }
}

/// Who injected a pod.
#[derive(Debug)]
pub(crate) enum Injected {
    ByUs(Box<Record>),
    ByOther,
}

impl Injected {
    /// What the annotation says; `None` where there is none.
    ///
    /// # Errors
    /// Our part of it was broken by hand.
    pub(crate) fn find(pod: &Map, path: &Path) -> Result<Option<Self>, Problem> {
        let annotations = pod.get("metadata").and_then(|metadata| metadata.get("annotations"));
        let Some(text) = annotations.and_then(|all| all.get(STATUS)).and_then(Value::text) else {
            return Ok(None);
        };
        let is_ours =
            serde_json::from_str::<Value>(text).is_ok_and(|status| status.get("outrigger").is_some());
        if !is_ours {
            return Ok(Some(Self::ByOther));
        }
        let record = serde_json::from_str(text).map_err(|error| {
            let path = path.keys(&["metadata", "annotations", STATUS]);
            let help = "restore the annotation, or inject the document that you keep";
            Problem::new(path, format!("the record of the injection is broken: {error}"), help)
        })?;
        Ok(Some(Self::ByUs(Box::new(record))))
    }
}

impl Record {
    /// Takes everything out of the pod that the record names, and puts back what it keeps.
    pub(crate) fn undo(self, pod: &mut Map) {
        let Undo { made, labels, annotations, probes, merged } = self.outrigger;
        if let Some(spec) = pod.get_mut("spec").and_then(Value::map_mut) {
            remove_named(spec, "initContainers", &self.init_containers);
            remove_named(spec, "containers", &self.containers);
            remove_named(spec, "volumes", &self.volumes);
            for Merged { list, at, container } in merged {
                let containers = spec.entry(list.key().to_owned()).or_insert_with(|| Value::List(Vec::new()));
                if let Some(containers) = containers.list_mut() {
                    containers.insert(at.min(containers.len()), container);
                }
            }
            for probe in probes {
                restore(spec, probe);
            }
        }
        if let Some(metadata) = pod.get_mut("metadata").and_then(Value::map_mut) {
            if let Some(all) = metadata.get_mut("annotations").and_then(Value::map_mut) {
                all.shift_remove(STATUS);
                change_back(all, annotations);
            }
            if let Some(all) = metadata.get_mut("labels").and_then(Value::map_mut) {
                change_back(all, labels);
            }
        }
        // The inner ones were made after the outer.
        for made in made.into_iter().rev() {
            remove_empty(pod, made);
        }
    }
}

fn remove_named(spec: &mut Map, list: &str, names: &[String]) {
    if let Some(items) = spec.get_mut(list).and_then(Value::list_mut) {
        items.retain(|item| !name_of(item).is_some_and(|name| names.iter().any(|one| one == name)));
    }
}

/// Unless the user has written another probe since.
fn restore(spec: &mut Map, probe: Probe) {
    let containers = ContainerList::ALL.iter().find_map(|list| {
        let items = spec.get(list.key())?.list()?;
        let at = items.iter().position(|item| name_of(item) == Some(&probe.container))?;
        Some((list.key(), at))
    });
    let Some((list, at)) = containers else { return };
    let container = spec.get_mut(list).and_then(Value::list_mut).and_then(|items| items.get_mut(at));
    let Some(handler) = container.and_then(|container| probe.field.of(container)) else { return };
    let page = handler.get("httpGet").and_then(|get| get.get("path")).and_then(Value::text);
    if page == Some(&probe.to) {
        *handler = probe.from;
    }
}

fn change_back(all: &mut Map, changes: Vec<Changed>) {
    for Changed { key, to, from } in changes.into_iter().rev() {
        if all.get(&key).and_then(Value::text) != Some(&to) {
            continue;
        }
        match from {
            Some(from) => all.insert(key, from),
            None => all.shift_remove(&key),
        };
    }
}

fn remove_empty(pod: &mut Map, Made { group, null }: Made) {
    let parent = match group.within() {
        None => Some(pod),
        Some(within) => pod.get_mut(within).and_then(Value::map_mut),
    };
    let (Some(parent), key) = (parent, group.key()) else { return };
    let is_empty = match parent.get(key) {
        Some(Value::Map(map)) => map.is_empty(),
        Some(Value::List(items)) => items.is_empty(),
        _ => false,
    };
    match (is_empty, null) {
        (false, _) => {}
        (true, true) => {
            parent.insert(key.to_owned(), Value::Null);
        }
        (true, false) => {
            parent.shift_remove(key);
        }
    }
}
