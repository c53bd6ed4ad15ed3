//! Where the pods of a document are: the pod itself, or the template of the controller that makes them.

use crate::{
    problem::{Path, Problem},
    value::{Map, Value},
};

/// What makes a pod, or the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// Of the controller, where it can be told.
    pub name: String,
    /// As the document or the caller says.
    pub namespace: Option<String>,
}

/// A change of one pod, or of one template: the workload, the mapping that holds `metadata` and `spec`, and its path.
pub(crate) type Change<'c, T> = dyn FnMut(&Workload, &mut Map, &Path) -> Result<T, Problem> + 'c;

/// Applies the change to each pod in the document and hands back what came of it.
///
/// # Errors
/// Those of the change, and a controller without a template.
pub(crate) fn each_pod<T>(
    document: &mut Value,
    namespace: Option<&str>,
    change: &mut Change<'_, T>,
) -> Result<Vec<(Workload, T)>, Problem> {
    let mut done = Vec::new();
    visit(document, namespace, &Path::default(), change, &mut done)?;
    Ok(done)
}

fn visit<T>(
    object: &mut Value,
    namespace: Option<&str>,
    path: &Path,
    change: &mut Change<'_, T>,
    done: &mut Vec<(Workload, T)>,
) -> Result<(), Problem> {
    let kind = object.get("kind").and_then(Value::text).unwrap_or_default();
    let version = object.get("apiVersion").and_then(Value::text).unwrap_or_default();
    if version == "v1" && kind == "List" {
        let items = object.map_mut().and_then(|list| list.get_mut("items")).and_then(Value::list_mut);
        for (index, item) in items.into_iter().flatten().enumerate() {
            visit(item, namespace, &path.key("items").index(index), change, done)?;
        }
        return Ok(());
    }
    let (Some(way), Some(map)) = (way_to_pod(version, kind), object.map()) else { return Ok(()) };
    let workload = Workload::of(map, namespace);
    let mut here = path.clone();
    let mut pod = object;
    for key in way {
        here = here.key(key);
        pod = pod.map_mut().and_then(|map| map.get_mut(*key)).ok_or_else(|| {
            let message = format!("the {} has no pod template", workload.kind);
            Problem::new(here.clone(), message, "a controller makes its pods by a template with a spec")
        })?;
    }
    let Value::Map(pod) = pod else {
        let message = format!("a pod is expected here, not {}", pod.kind());
        return Err(Problem::new(here, message, "a mapping with metadata and spec"));
    };
    let outcome = change(&workload, pod, &here)?;
    done.push((workload, outcome));
    Ok(())
}

/// The keys from the document to what holds the pod's `metadata` and `spec`.
fn way_to_pod(version: &str, kind: &str) -> Option<&'static [&'static str]> {
    let group = version.split_once('/').map_or(version, |(group, _)| group);
    match (group, kind) {
        ("v1", "Pod") => Some(&[]),
        ("v1", "ReplicationController")
        | ("apps" | "extensions", "Deployment" | "DaemonSet" | "ReplicaSet" | "StatefulSet")
        | ("batch", "Job") => Some(&["spec", "template"]),
        ("batch", "CronJob") => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

impl Workload {
    /// What makes the pod, by the document that holds it. A pod that is being made may lack its name.
    pub(crate) fn of(object: &Map, namespace: Option<&str>) -> Self {
        let text = |key: &str| object.get(key).and_then(Value::text).unwrap_or_default().to_owned();
        let metadata = object.get("metadata");
        let meta = |key: &str| metadata.and_then(|meta| meta.get(key)).and_then(Value::text);
        let generated = || meta("generateName").map(|name| name.trim_end_matches('-'));
        let itself = Self {
            api_version: text("apiVersion"),
            kind: text("kind"),
            name: meta("name").or_else(generated).unwrap_or_default().to_owned(),
            namespace: meta("namespace").or(namespace).map(str::to_owned),
        };
        if itself.kind == "Pod" { Self::owner(metadata, &itself).unwrap_or(itself) } else { itself }
    }

    /// The controller of a pod. A ReplicaSet's name ends with the hash of its template, behind the name of its Deployment;
    /// a Job's with the minute that a CronJob made it in (Istio `GetDeployMetaFromPod`).
    fn owner(metadata: Option<&Value>, pod: &Self) -> Option<Self> {
        let metadata = metadata?;
        let owners = metadata.get("ownerReferences")?.list()?;
        let owner = owners.iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)))?;
        let text = |key: &str| owner.get(key).and_then(Value::text);
        let (kind, name) = (text("kind")?, text("name")?);
        let hash =
            metadata.get("labels").and_then(|labels| labels.get("pod-template-hash")).and_then(Value::text);
        let deployment = hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
        let cron_job = name
            .rsplit_once('-')
            .filter(|(_, minute)| minute.len() >= 8 && minute.bytes().all(|byte| byte.is_ascii_digit()));
        let (kind, name) = match (kind, deployment, cron_job) {
            ("ReplicaSet", Some(name), _) => ("Deployment", name),
            ("Job", _, Some((name, _))) => ("CronJob", name),
            _ => (kind, name),
        };
        Some(Self {
            api_version: text("apiVersion")?.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            namespace: pod.namespace.clone(),
        })
    }

    /// The workload ends by itself, and its pod with it.
    pub(crate) fn is_job(&self) -> bool {
        matches!(&*self.kind, "Job" | "CronJob")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workloads(json: &str) -> Result<Vec<String>, Problem> {
        let mut document: Value = serde_json::from_str(json).unwrap();
        let done = each_pod(&mut document, Some("ns"), &mut |_, _, path| Ok(path.to_string()))?;
        Ok(done.into_iter().map(|(of, path)| format!("{} {} {path}", of.kind, of.name)).collect())
    }

    #[test]
    fn every_kind_has_its_pod_and_other_documents_none() {
        for (json, expected) in [
            (r#"{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"p-"},"spec":{}}"#, "Pod p "),
            (
                r#"{"apiVersion":"batch/v1","kind":"CronJob","metadata":{"name":"c"},"spec":{"jobTemplate":{"spec":{"template":{}}}}}"#,
                "CronJob c spec.jobTemplate.spec.template",
            ),
            (
                r#"{"apiVersion":"v1","kind":"List","items":[{"kind":"Pod"},{"apiVersion":"apps/v1","kind":"Deployment","spec":{"template":{}}}]}"#,
                "Deployment  items[1].spec.template",
            ),
        ] {
            assert_eq!(workloads(json).unwrap(), [expected]);
        }
        let other = r#"{"apiVersion":"example.com/v1","kind":"Deployment","spec":{"template":{}}}"#;
        assert_eq!(workloads(other).unwrap(), [""; 0]);
        let bare = workloads(r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{}}"#).unwrap_err();
        assert_eq!(bare.to_string(), "spec.template: the Deployment has no pod template");
    }

    #[test]
    fn the_controller_of_a_pod_is_told_by_its_owner() {
        let pod = |kind: &str, name: &str| {
            let json = format!(
                r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"labels":{{"pod-template-hash":"5d9"}},
                "ownerReferences":[{{"apiVersion":"apps/v1","kind":"{kind}","name":"{name}","controller":true}}]}}}}"#
            );
            workloads(&json).unwrap().concat()
        };
        assert_eq!(pod("ReplicaSet", "web-5d9"), "Deployment web ");
        assert_eq!(pod("ReplicaSet", "alone"), "ReplicaSet alone ");
        assert_eq!(pod("Job", "report-29012345"), "CronJob report ");
        assert_eq!(pod("Job", "once-7"), "Job once-7 ");
        assert_eq!(pod("StatefulSet", "db"), "StatefulSet db ");
    }
}
