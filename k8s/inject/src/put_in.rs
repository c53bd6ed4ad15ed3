//! The sidecar put into one pod, part by part, each change recorded.

use crate::{
    merge::merge_container,
    parts::{
        Context, INIT, PROXY, init,
        metadata::{self, Metrics},
        proxy, volumes,
    },
    probes::{self, Rewritten},
    problem::{Path, Problem},
    record::{ContainerList, Group, Made, Merged, Record, STATUS, Undo},
    value::{Map, Value, name_of},
};

/// How long Kubernetes waits for a pod that does not say, in seconds.
const GRACE_PERIOD: u32 = 30;

/// Changes the pod at the path and leaves the record in it. Hands back what the user should know.
///
/// # Errors
/// A field that is not what Kubernetes has there, or a probe of a port that is not there.
pub(crate) fn put_in(pod: &mut Map, path: &Path, context: &Context<'_>) -> Result<Option<String>, Problem> {
    let settings = context.settings;
    let mut undo = Undo::default();
    let (metadata_at, spec_at) = (path.key("metadata"), path.key("spec"));

    let spec = map_of(pod, "spec", path)?;
    let users = take_ours(spec);
    let rewritten = if settings.rewrite_probes {
        probes::rewrite(spec, &spec_at, settings.status_port)?
    } else {
        Rewritten::default()
    };
    let grace_period = match spec.get("terminationGracePeriodSeconds") {
        Some(Value::Number(seconds)) => seconds.as_u64().and_then(|seconds| u32::try_from(seconds).ok()),
        _ => None,
    };
    let application = spec.get("containers").and_then(Value::list).unwrap_or_default().to_vec();
    if application.is_empty() {
        let at = spec_at.key("containers");
        return Err(Problem::new(at, "the pod has no container of an application", "a list of containers"));
    }

    let probers = rewritten.to_json();
    undo.probes = rewritten.record;
    let (prometheus, note) = set_metadata(pod, path, context, &application, &mut undo)?;

    let told = proxy::Told {
        containers: &application,
        probers,
        prometheus,
        grace_period: grace_period.unwrap_or(GRACE_PERIOD),
    };
    let proxy = merged(proxy::container(context, told), &users, &settings.overrides);
    let init = init::container(context).map(|init| merged(init, &users, &settings.overrides));
    undo.merged = users;

    let names = |containers: &[&Value]| -> Vec<String> {
        containers.iter().filter_map(|container| name_of(container)).map(str::to_owned).collect()
    };
    let spec = map_of(pod, "spec", path)?;
    let (init_containers, containers) = if settings.native {
        // First, so that the init containers of the application have the mesh (Istio `reorderPod`).
        let ours: Vec<_> = init.into_iter().chain([proxy]).collect();
        let named = names(&ours.iter().collect::<Vec<_>>());
        let list = make_list(spec, Group::InitContainers, &spec_at, &mut undo.made)?;
        list.splice(0..0, ours);
        (named, Vec::new())
    } else {
        let named = (names(&init.iter().collect::<Vec<_>>()), names(&[&proxy]));
        if let Some(init) = init {
            // Last: nothing is captured while there is no proxy for the init containers of the application.
            make_list(spec, Group::InitContainers, &spec_at, &mut undo.made)?.push(init);
        }
        if let Some(list) = spec.get_mut("containers").and_then(Value::list_mut) {
            let at = if settings.hold { 0 } else { list.len() };
            list.insert(at, proxy);
        }
        named
    };
    let list = make_list(spec, Group::Volumes, &spec_at, &mut undo.made)?;
    let ours = volumes::volumes(context, list);
    let volumes = names(&ours.iter().collect::<Vec<_>>());
    list.extend(ours);

    let record = Record {
        init_containers,
        containers,
        volumes,
        image_pull_secrets: None,
        revision: context.options.revision.clone(),
        outrigger: undo,
    };
    let annotations = map_of(map_of(pod, "metadata", path)?, "annotations", &metadata_at)?;
    // Names and values only: it cannot fail.
    annotations.insert(STATUS.to_owned(), serde_json::to_string(&record).unwrap_or_default().into());
    Ok(note)
}

/// Labels and annotations; hands back what the sidecar is to scrape, or why it is not.
fn set_metadata(
    pod: &mut Map,
    path: &Path,
    context: &Context<'_>,
    application: &[Value],
    undo: &mut Undo,
) -> Result<(Option<String>, Option<String>), Problem> {
    let at = path.key("metadata");
    let metadata = make_map(pod, Group::Metadata, path, &mut undo.made)?;
    let labels = make_map(metadata, Group::Labels, &at, &mut undo.made)?;
    undo.labels = metadata::label(labels, context);
    let annotations = make_map(metadata, Group::Annotations, &at, &mut undo.made)?;
    let Metrics { application: application_metrics, mut changes, note } = if context.settings.merge_metrics {
        metadata::scrape_sidecar(annotations, context.settings.status_port, application)
    } else {
        Metrics::default()
    };
    changes.extend(metadata::annotate(annotations, context, application));
    undo.annotations = changes;
    Ok((application_metrics, note))
}

/// Takes containers out that have our names: what a user says of ours.
fn take_ours(spec: &mut Map) -> Vec<Merged> {
    let mut taken = Vec::new();
    for list in ContainerList::ALL {
        let Some(containers) = spec.get_mut(list.key()).and_then(Value::list_mut) else { continue };
        let is_ours =
            |container: &Value| name_of(container).is_some_and(|name| [INIT, PROXY].contains(&name));
        let ours = containers.iter().enumerate().filter(|(_, container)| is_ours(container));
        taken.extend(ours.map(|(at, container)| Merged { list, at, container: container.clone() }));
        containers.retain(|container| !is_ours(container));
    }
    taken
}

fn merged(mut ours: Value, users: &[Merged], overrides: &Map) -> Value {
    let name = name_of(&ours).unwrap_or_default().to_owned();
    let annotated = ContainerList::ALL.iter().filter_map(|list| overrides.get(list.key())?.list()).flatten();
    for over in users.iter().map(|merged| &merged.container).chain(annotated) {
        if name_of(over) == Some(&name) {
            merge_container(&mut ours, over);
        }
    }
    ours
}

fn map_of<'m>(parent: &'m mut Map, key: &str, path: &Path) -> Result<&'m mut Map, Problem> {
    let wrong =
        || Problem::new(path.key(key), format!("there is no mapping `{key}`"), "write it as a mapping");
    parent.get_mut(key).and_then(Value::map_mut).ok_or_else(wrong)
}

fn make_map<'m>(
    parent: &'m mut Map,
    group: Group,
    path: &Path,
    made: &mut Vec<Made>,
) -> Result<&'m mut Map, Problem> {
    let value = make(parent, group, Value::Map(Map::new()), made);
    let kind = value.kind();
    value.map_mut().ok_or_else(|| wrong_kind(group, path, kind, "a mapping"))
}

fn make_list<'m>(
    parent: &'m mut Map,
    group: Group,
    path: &Path,
    made: &mut Vec<Made>,
) -> Result<&'m mut Vec<Value>, Problem> {
    let value = make(parent, group, Value::List(Vec::new()), made);
    let kind = value.kind();
    value.list_mut().ok_or_else(|| wrong_kind(group, path, kind, "a list"))
}

/// The group's value; `empty`, recorded, where there is none.
fn make<'m>(parent: &'m mut Map, group: Group, empty: Value, made: &mut Vec<Made>) -> &'m mut Value {
    let null = parent.contains_key(group.key());
    let value = parent.entry(group.key().to_owned()).or_insert(Value::Null);
    if matches!(value, Value::Null) {
        made.push(Made { group, null });
        *value = empty;
    }
    value
}

fn wrong_kind(group: Group, path: &Path, kind: &str, expected: &str) -> Problem {
    let key = group.key();
    Problem::new(path.key(key), format!("`{key}` is {kind}"), format!("write {expected}"))
}
