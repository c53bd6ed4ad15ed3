//! Probes of the application by way of the sidecar (Istio `app_probe.go`).
//!
//! The kubelet speaks plain text and does not pass the sidecar as a client of the mesh would, so under strict TLS or
//! captured TCP its answer would mean nothing. It asks the sidecar's own port instead, and the sidecar asks the
//! application; what to ask stands in the variable `ISTIO_KUBE_APP_PROBERS`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    problem::{Path, Problem},
    record::{ContainerList, Probe, ProbeField},
    value::{Map, Value, map, name_of},
};

/// One entry of `ISTIO_KUBE_APP_PROBERS`, in Istio's format.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Prober {
    #[serde(skip_serializing_if = "Option::is_none")]
    http_get: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_socket: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_seconds: Option<Value>,
}

/// What was rewritten.
#[derive(Debug, Default)]
pub(crate) struct Rewritten {
    probers: BTreeMap<String, Prober>,
    pub(crate) record: Vec<Probe>,
}

impl Rewritten {
    /// The variable's value; `None` if nothing was rewritten.
    pub(crate) fn to_json(&self) -> Option<String> {
        // Names and values only: it cannot fail.
        (!self.probers.is_empty()).then(|| serde_json::to_string(&self.probers).unwrap_or_default())
    }
}

/// Rewrites every probe and hook of every container that the kubelet would send to the application's ports. `path` leads
/// to the pod's spec.
///
/// # Errors
/// A port's name that its container does not have.
pub(crate) fn rewrite(spec: &mut Map, path: &Path, status_port: u16) -> Result<Rewritten, Problem> {
    let mut rewritten = Rewritten::default();
    for list in ContainerList::ALL {
        let containers = spec.get_mut(list.key()).and_then(Value::list_mut);
        for (index, container) in containers.into_iter().flatten().enumerate() {
            let path = path.key(list.key()).index(index);
            let Some(name) = name_of(container).map(str::to_owned) else {
                return Err(Problem::new(path, "the container has no name", "every container has a name"));
            };
            let ports = container.get("ports").cloned();
            for field in ProbeField::ALL {
                let Some(handler) = field.of(container) else { continue };
                let page = field.page(&name);
                let ports = Ports { of: ports.as_ref(), path: path.keys(field.keys()) };
                let Some(prober) = prober(handler, &ports)? else { continue };
                let from = handler.clone();
                point_to(handler, &page, status_port);
                rewritten.record.push(Probe { container: name.clone(), field, from, to: page.clone() });
                rewritten.probers.insert(page, prober);
            }
        }
    }
    Ok(rewritten)
}

/// What the sidecar has to ask; `None` where the kubelet asks nobody (`exec`, `sleep`) or another host.
fn prober(handler: &Value, ports: &Ports<'_>) -> Result<Option<Prober>, Problem> {
    let http_get = ports.action(handler, "httpGet")?;
    let tcp_socket = ports.action(handler, "tcpSocket")?;
    let grpc = ports.action(handler, "grpc")?;
    if [&http_get, &tcp_socket, &grpc].into_iter().all(Option::is_none) {
        return Ok(None);
    }
    let timeout_seconds = handler.get("timeoutSeconds").cloned();
    Ok(Some(Prober { http_get, tcp_socket, grpc, timeout_seconds }))
}

/// The ports of a container, and where the handler stands.
struct Ports<'p> {
    of: Option<&'p Value>,
    path: Path,
}

impl Ports<'_> {
    /// The action with the number of its port.
    fn action(&self, handler: &Value, key: &str) -> Result<Option<Value>, Problem> {
        let Some(action) = handler.get(key) else { return Ok(None) };
        if action.get("host").is_some() {
            return Ok(None);
        }
        let mut action = action.clone();
        if let Some(Value::Text(name)) = action.get("port") {
            let number = port_number(name, self.of).ok_or_else(|| {
                let message = format!("no port of the container is named `{name}`");
                Problem::new(
                    self.path.keys(&[key, "port"]),
                    message,
                    "name one of its `ports`, or give the number",
                )
            })?;
            if let Some(map) = action.map_mut() {
                map.insert("port".to_owned(), number);
            }
        }
        Ok(Some(action))
    }
}

/// The number of a port that is given by its number or by its name among the container's `ports`.
pub(crate) fn port_number(name: &str, ports: Option<&Value>) -> Option<Value> {
    if let Ok(number) = name.parse::<u16>() {
        return Some(number.into());
    }
    let port = ports?.list()?.iter().find(|port| name_of(port) == Some(name))?;
    port.get("containerPort").cloned()
}

/// Sends the kubelet to the sidecar. Headers stay, since the sidecar passes them on; the sidecar speaks TLS with the
/// application where the probe did.
fn point_to(handler: &mut Value, page: &str, port: u16) {
    let Some(handler) = handler.map_mut() else { return };
    let at = ["httpGet", "tcpSocket", "grpc"].iter().find_map(|key| handler.get_index_of(*key));
    let mut action = match handler.get("httpGet") {
        Some(Value::Map(action)) => action.clone(),
        _ => Map::new(),
    };
    action.insert("path".to_owned(), page.into());
    action.insert("port".to_owned(), port.into());
    if let Some(scheme) = action.get_mut("scheme") {
        *scheme = "HTTP".into();
    }
    handler.retain(|key, _| !matches!(&**key, "httpGet" | "tcpSocket" | "grpc"));
    handler.shift_insert(at.unwrap_or_default().min(handler.len()), "httpGet".to_owned(), action.into());
}

/// A probe of the sidecar itself.
pub(crate) fn own_probe(port: u16, times: [(&str, u32); 4]) -> Value {
    let get = map([("path", "/healthz/ready".into()), ("port", port.into())]);
    let mut probe = Map::from([("httpGet".to_owned(), get)]);
    let times = times.into_iter().filter(|(key, value)| *key != "initialDelaySeconds" || *value > 0);
    probe.extend(times.map(|(key, value)| (key.to_owned(), value.into())));
    probe.into()
}
