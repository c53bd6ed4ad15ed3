//! `ISTIO_KUBE_APP_PROBERS`: the probes and hooks that injection took from the pod's containers, in Kubernetes' JSON,
//! keyed by the path on the agent's port under which kubelet now asks for them. Asking is in `probe`.

use std::{collections::HashMap, str::FromStr, sync::Arc, time::Duration};

use serde_json::{Map, Value};

/// Kubernetes' default of `timeoutSeconds`.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Hooks have no such field: the pod's grace period ends them.
const HOOK: Duration = Duration::from_secs(3600);

/// All probes by their paths.
#[derive(Debug, Clone, Default)]
pub struct Probers(Arc<HashMap<String, Prober>>);

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prober {
    pub(super) check: Check,
    pub(super) timeout: Duration,
}

/// What a container is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Check {
    /// A GET; the path begins with `/`.
    Http { port: u16, path: String, https: bool, headers: Vec<(String, String)> },
    /// Whether it accepts.
    Tcp { port: u16 },
    /// gRPC's health service; an empty name is the server as a whole.
    Grpc { port: u16, service: String },
}

impl Probers {
    pub(super) fn get(&self, path: &str) -> Option<&Prober> {
        self.0.get(path)
    }
}

impl FromStr for Probers {
    type Err = String;

    /// # Errors
    /// What Istio's agent refuses: no JSON, a path that is none of ours, not exactly one kind of probe, a port by name.
    fn from_str(json: &str) -> Result<Self, String> {
        let entries: Map<String, Value> =
            serde_json::from_str(json).map_err(|error| format!("no JSON object of probes: {error}"))?;
        let read = |(path, value): (String, Value)| match prober(&path, &value) {
            Ok(prober) => Ok((path, prober)),
            Err(why) => Err(format!("`{path}`: {why}")),
        };
        Ok(Self(Arc::new(entries.into_iter().map(read).collect::<Result<_, _>>()?)))
    }
}

fn prober(path: &str, value: &Value) -> Result<Prober, String> {
    if !is_ours(path) {
        return Err("a path is /app-health/CONTAINER/{livez,readyz,startupz} or \
                    /app-lifecycle/CONTAINER/{prestopz,poststartz}"
            .to_owned());
    }
    let kinds = ["httpGet", "tcpSocket", "grpc"];
    let mut given = kinds.iter().filter_map(|kind| Some((*kind, value.get(kind).filter(|v| !v.is_null())?)));
    let (Some((kind, settings)), None) = (given.next(), given.next()) else {
        return Err("exactly one of httpGet, tcpSocket and grpc is needed".to_owned());
    };
    let port = port(settings).ok_or_else(|| format!("{kind}.port has to be a number from 1 to 65535"))?;
    let text = |key: &str| settings.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let check = match kind {
        "httpGet" => {
            let path = text("path");
            let path = if path.starts_with('/') { path } else { format!("/{path}") };
            Check::Http { port, path, https: text("scheme") == "HTTPS", headers: headers(settings)? }
        }
        "tcpSocket" => Check::Tcp { port },
        _ => Check::Grpc { port, service: text("service") },
    };
    let seconds = value.get("timeoutSeconds").and_then(Value::as_u64).filter(|seconds| *seconds > 0);
    let usual = if path.starts_with("/app-lifecycle/") { HOOK } else { TIMEOUT };
    Ok(Prober { check, timeout: seconds.map_or(usual, Duration::from_secs) })
}

fn is_ours(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["", "app-health", container, probe] => {
            !container.is_empty() && ["livez", "readyz", "startupz"].contains(probe)
        }
        ["", "app-lifecycle", container, hook] => {
            !container.is_empty() && ["prestopz", "poststartz"].contains(hook)
        }
        _ => false,
    }
}

fn port(settings: &Value) -> Option<u16> {
    settings.get("port")?.as_u64()?.try_into().ok().filter(|port| *port != 0)
}

fn headers(settings: &Value) -> Result<Vec<(String, String)>, String> {
    let Some(list) = settings.get("httpHeaders").filter(|list| !list.is_null()) else {
        return Ok(Vec::new());
    };
    let pair = |entry: &Value| {
        Some((entry.get("name")?.as_str()?.to_owned(), entry.get("value")?.as_str()?.to_owned()))
    };
    let pairs = list.as_array().and_then(|list| list.iter().map(pair).collect());
    pairs.ok_or_else(|| "httpGet.httpHeaders has to be a list of { name, value }".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_read_as_injection_writes_them() {
        let probers: Probers = r#"{
            "/app-health/web/livez": {"httpGet": {"path": "live", "port": 8080, "scheme": "HTTP",
                "httpHeaders": [{"name": "X-A", "value": "1"}]}, "timeoutSeconds": 3, "periodSeconds": 10},
            "/app-health/web/readyz": {"tcpSocket": {"port": 9000}, "timeoutSeconds": 0},
            "/app-health/rpc/startupz": {"grpc": {"port": 9090, "service": null}},
            "/app-lifecycle/web/prestopz": {"httpGet": {"path": "/bye", "port": 8443, "scheme": "HTTPS"}}
        }"#
        .parse()
        .unwrap();
        let live = Check::Http {
            port: 8080,
            path: "/live".to_owned(),
            https: false,
            headers: vec![("X-A".to_owned(), "1".to_owned())],
        };
        let seconds = Duration::from_secs;
        let get = |path: &str| probers.get(path).cloned();
        assert_eq!(get("/app-health/web/livez"), Some(Prober { check: live, timeout: seconds(3) }));
        let ready = Prober { check: Check::Tcp { port: 9000 }, timeout: seconds(1) };
        assert_eq!(get("/app-health/web/readyz"), Some(ready));
        let startup = Check::Grpc { port: 9090, service: String::new() };
        assert_eq!(get("/app-health/rpc/startupz").unwrap().check, startup);
        let hook = get("/app-lifecycle/web/prestopz").unwrap();
        assert!(matches!(hook.check, Check::Http { https: true, .. }));
        assert_eq!(hook.timeout, HOOK, "a hook may take as long as the pod");
        assert_eq!(get("/app-health/web/startupz"), None);
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let refused =
            |path: &str, probe: &str| format!(r#"{{"{path}":{probe}}}"#).parse::<Probers>().unwrap_err();
        let tcp = r#"{"tcpSocket":{"port":80}}"#;
        for path in
            ["/app-health/web/live", "/app-health//livez", "/app-lifecycle/web/livez", "livez", "/a/b/c/d"]
        {
            assert!(refused(path, tcp).starts_with(&format!("`{path}`: a path is /app-health/CONTAINER/")));
        }
        let path = "/app-health/web/livez";
        for (probe, why) in [
            ("{}", "exactly one of httpGet, tcpSocket and grpc is needed"),
            (
                r#"{"tcpSocket":{"port":80},"grpc":{"port":80}}"#,
                "exactly one of httpGet, tcpSocket and grpc is needed",
            ),
            (r#"{"httpGet":{"port":"http"}}"#, "httpGet.port has to be a number from 1 to 65535"),
            (r#"{"tcpSocket":{"port":70000}}"#, "tcpSocket.port has to be a number from 1 to 65535"),
            (
                r#"{"httpGet":{"port":1,"httpHeaders":[{"name":1}]}}"#,
                "httpGet.httpHeaders has to be a list of { name, value }",
            ),
        ] {
            assert_eq!(refused(path, probe), format!("`{path}`: {why}"));
        }
    }
}
