//! The container `istio-proxy`, as a native sidecar (an init container that keeps running: it is ready before the
//! application starts, ends after it, and does not keep a Job alive) or in the classic form beside the application.

use super::{Context, PROGRAM, PROXY, USER, set, variable, volumes};
use crate::{
    probes::own_probe,
    settings::{Interception, STATUS_PORT, Settings},
    value::{Map, Value, map, name_of},
};

/// Where readiness is asked for.
const HEALTH_PORT: u16 = 15021;
/// Istio's port of metrics alone.
const METRICS_PORT: u16 = 15090;
/// Seconds that the application waits for the proxy in the classic form (Istio `pilot-agent wait`).
const WAIT: &str = "60";

/// What the pod tells its proxy.
#[derive(Debug)]
pub(crate) struct Told<'t> {
    /// The application's containers, ours not among them.
    pub(crate) containers: &'t [Value],
    /// `ISTIO_KUBE_APP_PROBERS`.
    pub(crate) probers: Option<String>,
    /// `ISTIO_PROMETHEUS_ANNOTATIONS`.
    pub(crate) prometheus: Option<String>,
    /// Seconds from the pod's end to its kill.
    pub(crate) grace_period: u32,
}

/// The container.
pub(crate) fn container(context: &Context<'_>, told: Told<'_>) -> Value {
    let settings = context.settings;
    let mut container = context.container(PROXY);
    set(&mut container, "args", arguments(context).into());
    let port = map([
        ("containerPort", METRICS_PORT.into()),
        ("name", "http-envoy-prom".into()),
        ("protocol", "TCP".into()),
    ]);
    set(&mut container, "ports", vec![port].into());
    set(&mut container, "env", variables(context, told).into());
    if settings.native {
        set(&mut container, "restartPolicy", "Always".into());
        let startup = [
            ("initialDelaySeconds", 0),
            ("periodSeconds", 1),
            ("timeoutSeconds", 3),
            ("failureThreshold", 600),
        ];
        set(&mut container, "startupProbe", own_probe(HEALTH_PORT, startup));
    }
    if let Some(readiness) = &settings.readiness {
        let times = [
            ("initialDelaySeconds", readiness.initial_delay),
            ("periodSeconds", readiness.period),
            ("timeoutSeconds", 3),
            ("failureThreshold", readiness.failures),
        ];
        set(&mut container, "readinessProbe", own_probe(HEALTH_PORT, times));
    }
    set(&mut container, "lifecycle", lifecycle(settings));
    set(&mut container, "resources", settings.resources.clone());
    set(&mut container, "securityContext", security(settings.interception));
    set(&mut container, "volumeMounts", volumes::mounts(context).into());
    container.into()
}

fn arguments(context: &Context<'_>) -> Vec<String> {
    let domain = format!("$(POD_NAMESPACE).svc.{}", context.options.cluster_domain);
    let mut arguments = vec!["proxy", "--config", volumes::CONFIG, "--domain", &domain];
    // The flag stands for both of its defaults: the agent's pages come first, and metrics alone stay where they are.
    let port = context.settings.status_port;
    let [agent, metrics] = [port, METRICS_PORT].map(|port| format!("0.0.0.0:{port}"));
    if port != STATUS_PORT {
        arguments.extend(["--metrics", &agent]);
        if agent != metrics {
            arguments.extend(["--metrics", &metrics]);
        }
    }
    arguments.into_iter().map(str::to_owned).collect()
}

/// Native: the kubelet runs the hook when the pod begins to end, and the signal follows when the application has ended.
fn lifecycle(settings: &Settings) -> Value {
    let run = |arguments: &[&str]| {
        let command: Vec<_> = [PROGRAM].iter().chain(arguments).copied().collect();
        map([("exec", map([("command", command.into())]))])
    };
    let mut hooks = Map::new();
    if !settings.native && settings.hold {
        set(&mut hooks, "postStart", run(&["healthcheck", "--wait", WAIT]));
    }
    let agent = format!("127.0.0.1:{}", settings.status_port);
    let elsewhere: &[&str] = if settings.status_port == STATUS_PORT { &[] } else { &["--address", &agent] };
    set(&mut hooks, "preStop", run(&[&["admin", "POST", "/drain"], elsewhere].concat()));
    hooks.into()
}

/// TPROXY opens sockets of foreign addresses, which takes a capability, and that a user other than root would lose at
/// exec (Istio's template).
fn security(interception: Interception) -> Value {
    let is_tproxy = interception == Interception::Tproxy;
    let mut capabilities = Map::new();
    if is_tproxy {
        set(&mut capabilities, "add", vec!["NET_ADMIN"].into());
    }
    set(&mut capabilities, "drop", vec!["ALL"].into());
    map([
        ("allowPrivilegeEscalation", false.into()),
        ("capabilities", capabilities.into()),
        ("privileged", false.into()),
        ("readOnlyRootFilesystem", true.into()),
        ("runAsGroup", USER.into()),
        ("runAsNonRoot", (!is_tproxy).into()),
        ("runAsUser", if is_tproxy { 0 } else { USER }.into()),
    ])
}

/// Istio's variables, as far as the proxy reads them or a user looks for them; those of `proxyMetadata` win.
fn variables(context: &Context<'_>, told: Told<'_>) -> Vec<Value> {
    let (settings, options) = (context.settings, context.options);
    let config = Value::Map(settings.proxy_config.clone()).to_json();
    let ports = told.containers.iter().filter_map(|container| container.get("ports")?.list()).flatten();
    let ports = Value::List(ports.cloned().collect()).to_json();
    let names: Vec<_> = told.containers.iter().filter_map(name_of).collect();
    let mut variables = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("INSTANCE_IP", "status.podIP"),
        field("HOST_IP", "status.hostIP"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("ISTIO_META_NODE_NAME", "spec.nodeName"),
        cpu_limit(),
        variable("PROXY_CONFIG", &config),
        variable("ISTIO_META_POD_PORTS", &ports),
        variable("ISTIO_META_APP_CONTAINERS", &names.join(",")),
        variable("ISTIO_META_CLUSTER_ID", &options.cluster_id),
        variable("ISTIO_META_INTERCEPTION_MODE", settings.interception.as_str()),
        variable("ISTIO_META_MESH_ID", &options.trust_domain),
        variable("TRUST_DOMAIN", &options.trust_domain),
        variable("TERMINATION_GRACE_PERIOD_SECONDS", &told.grace_period.to_string()),
    ];
    variables.extend(owner(context));
    let known = [
        ("ISTIO_KUBE_APP_PROBERS", told.probers),
        ("ISTIO_PROMETHEUS_ANNOTATIONS", told.prometheus),
        ("OUTRIGGER_LOG", settings.log_level.map(str::to_owned)),
    ];
    variables.extend(known.into_iter().filter_map(|(name, value)| Some(variable(name, &value?))));
    for (name, value) in &settings.metadata {
        variables.retain(|known| name_of(known) != Some(name));
        variables.push(variable(name, value));
    }
    variables
}

/// The controller, for metrics (`source_workload`) and telemetry. A bare pod of no name has none.
fn owner(context: &Context<'_>) -> Vec<Value> {
    let workload = context.workload;
    if workload.name.is_empty() {
        return Vec::new();
    }
    let kind = workload.kind.to_lowercase();
    let namespace = workload.namespace.as_deref().unwrap_or("default");
    let owner = format!(
        "kubernetes://apis/{}/namespaces/{namespace}/{kind}s/{}",
        workload.api_version, workload.name
    );
    let resource = format!("k8s.{kind}.name={},k8s.node.name=$(ISTIO_META_NODE_NAME)", workload.name);
    vec![
        variable("ISTIO_META_WORKLOAD_NAME", &workload.name),
        variable("ISTIO_META_OWNER", &owner),
        variable("OTEL_RESOURCE_ATTRIBUTES", &resource),
    ]
}

fn field(name: &str, path: &str) -> Value {
    let reference = map([("fieldRef", map([("fieldPath", path.into())]))]);
    map([("name", name.into()), ("valueFrom", reference)])
}

fn cpu_limit() -> Value {
    let reference =
        map([("resourceFieldRef", map([("divisor", "1".into()), ("resource", "limits.cpu".into())]))]);
    map([("name", "ISTIO_CPU_LIMIT".into()), ("valueFrom", reference)])
}
