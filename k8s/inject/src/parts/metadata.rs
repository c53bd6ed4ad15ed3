//! Labels and annotations that an injection sets, with what they were before.

use super::{Context, volumes::has_certificate};
use crate::{
    probes::port_number,
    record::Changed,
    value::{Map, Value, map, name_of},
};

/// What Prometheus is told: where to scrape.
const PROMETHEUS: [&str; 3] = ["prometheus.io/scrape", "prometheus.io/path", "prometheus.io/port"];

/// Sets labels of the pod that are not there (Istio's template): that it takes mutual TLS, if it has a certificate for it,
/// and its canonical service.
pub(crate) fn label(labels: &mut Map, context: &Context<'_>) -> Vec<Changed> {
    let first = |keys: &[&str]| {
        let found = keys.iter().find_map(|key| labels.get(*key)?.text());
        found.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let name = first(&["app.kubernetes.io/name", "app"]).unwrap_or_else(|| context.workload.name.clone());
    let revision = first(&["app.kubernetes.io/version", "version"]).unwrap_or_else(|| "latest".to_owned());
    let tls_mode = if has_certificate(context) { "istio" } else { "" };
    let mut wanted = vec![
        ("security.istio.io/tlsMode", tls_mode.to_owned()),
        ("service.istio.io/canonical-name", label_value(&name)),
        ("service.istio.io/canonical-revision", label_value(&revision)),
    ];
    wanted.retain(|(_, value)| !value.is_empty());
    wanted.into_iter().filter_map(|(key, value)| set_absent(labels, key, value)).collect()
}

/// As much of a name as a label holds: a workload's own may have 253 characters (Istio's `sanitize`).
fn label_value(text: &str) -> String {
    let most = text.chars().take(63).collect::<String>();
    most.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

/// Sets annotations that are not there: the injector's revision, and that `kubectl exec` and `logs` mean the application.
pub(crate) fn annotate(annotations: &mut Map, context: &Context<'_>, containers: &[Value]) -> Vec<Changed> {
    let mut wanted = Vec::new();
    if let Some(first) = containers.first().and_then(name_of) {
        wanted.push(("kubectl.kubernetes.io/default-container", first.to_owned()));
        wanted.push(("kubectl.kubernetes.io/default-logs-container", first.to_owned()));
    }
    wanted.push(("istio.io/rev", context.options.revision.clone()));
    wanted.into_iter().filter_map(|(key, value)| set_absent(annotations, key, value)).collect()
}

fn set_absent(all: &mut Map, key: &str, value: String) -> Option<Changed> {
    if all.contains_key(key) {
        return None;
    }
    all.insert(key.to_owned(), (&*value).into());
    Some(Changed { key: key.to_owned(), to: value, from: None })
}

/// What becomes of the metrics of a pod.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// The variable that tells the sidecar where the application is, if the pod says that.
    pub(crate) application: Option<String>,
    pub(crate) changes: Vec<Changed>,
    /// Why the application is not scraped.
    pub(crate) note: Option<String>,
}

/// Has Prometheus scrape the sidecar, which merges in what the application says (Istio `applyPrometheusMerge`). The port
/// may be a name, which says nothing to the sidecar.
pub(crate) fn scrape_sidecar(annotations: &mut Map, status_port: u16, containers: &[Value]) -> Metrics {
    let said = |key: &str| annotations.get(key).and_then(Value::text).unwrap_or_default().to_owned();
    let [scrape, path, mut port] = PROMETHEUS.map(said);
    let status_port = status_port.to_string();
    if crate::settings::flag(&scrape) == Some(false) || port == status_port {
        return Metrics::default();
    }
    let is_given = [&scrape, &path, &port].into_iter().any(|text| !text.is_empty());
    let mut note = None;
    if !port.is_empty() {
        let number = containers.iter().find_map(|container| port_number(&port, container.get("ports")));
        match number {
            Some(number) => port = number.to_json(),
            None => {
                let scraped = "the application is not scraped";
                note = Some(format!("{scraped}: no port of its containers is `{port}` (prometheus.io/port)"));
            }
        }
    }
    let application = map([("scrape", scrape.into()), ("path", path.into()), ("port", port.into())]);
    let wanted = ["true".to_owned(), "/stats/prometheus".to_owned(), status_port];
    let changes = PROMETHEUS.into_iter().zip(wanted).map(|(key, to)| {
        let from = annotations.insert(key.to_owned(), (&*to).into());
        Changed { key: key.to_owned(), to, from }
    });
    let changes = changes.collect();
    let application = (is_given && note.is_none()).then(|| application.to_json());
    Metrics { application, changes, note }
}
