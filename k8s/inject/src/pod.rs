//! One pod: the sidecar put in, or taken out again.
//!
//! An injected pod is injected anew by taking its sidecar out first, so that twice is once and new options count.

use crate::{
    decide::{self, Skip},
    options::Options,
    parts::Context,
    problem::{Path, Problem},
    put_in::put_in,
    record::Injected,
    settings::{STATUS_PORT, Settings, names::is_ignored},
    value::{Map, Value},
    workload::Workload,
};

/// What became of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has the sidecar.
    Injected {
        /// What the user should know.
        notes: Vec<String>,
    },
    /// It is left as it is.
    Skipped(Skip),
    /// The sidecar was taken out.
    Removed,
    /// There was no sidecar to take out.
    NotInjected,
}

/// Puts the sidecar in. `pod` holds `metadata` and `spec`, and stands at the path.
///
/// # Errors
/// What cannot be injected as it says; the pod may be changed in part then, and is not to be used.
pub(crate) fn inject(
    pod: &mut Map,
    path: &Path,
    workload: &Workload,
    options: &Options,
) -> Result<Outcome, Problem> {
    match Injected::find(pod, path)? {
        Some(Injected::ByOther) => return Ok(Outcome::Skipped(Skip::ByOther)),
        Some(Injected::ByUs(record)) => record.undo(pod),
        None => {}
    }
    let spec_at = path.key("spec");
    let Some(spec) = pod.get("spec").and_then(Value::map) else {
        return Err(Problem::new(spec_at, "the pod has no spec", "a mapping with `containers`"));
    };
    let metadata_at = path.key("metadata");
    if let Some(skip) = decide::skip(pod.get("metadata"), spec, &metadata_at, workload, options)? {
        return Ok(Outcome::Skipped(skip));
    }
    let annotations =
        pod.get("metadata").and_then(|metadata| metadata.get("annotations")).and_then(Value::map);
    let settings = Settings::read(annotations, &metadata_at.key("annotations"), options)?;
    let mut notes = notes(annotations, &settings, workload);
    let context = Context { options, settings: &settings, workload };
    notes.extend(put_in(pod, path, &context)?);
    Ok(Outcome::Injected { notes })
}

/// Takes the sidecar out.
///
/// # Errors
/// The record of the injection is broken.
pub(crate) fn uninject(pod: &mut Map, path: &Path) -> Result<Outcome, Problem> {
    Ok(match Injected::find(pod, path)? {
        None => Outcome::NotInjected,
        Some(Injected::ByOther) => Outcome::Skipped(Skip::ByOther),
        Some(Injected::ByUs(record)) => {
            record.undo(pod);
            Outcome::Removed
        }
    })
}

/// What injection cannot do for the pod, or not alone.
fn notes(annotations: Option<&Map>, settings: &Settings, workload: &Workload) -> Vec<String> {
    let names = annotations.into_iter().flat_map(Map::keys).filter(|name| is_ignored(name));
    let mut notes: Vec<_> = names.map(|name| format!("the annotation {name} is not honoured")).collect();
    if workload.is_job() && !settings.native {
        let port = settings.status_port;
        let agent = if port == STATUS_PORT { String::new() } else { format!("--agent 127.0.0.1:{port} ") };
        notes.push(format!(
            "the job does not end while its sidecar runs: start its command by `outrigger run {agent}-- COMMAND`, or \
             have it POST to http://127.0.0.1:{port}/quitquitquit at its end"
        ));
    }
    notes
}
