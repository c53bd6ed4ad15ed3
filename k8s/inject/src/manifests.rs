//! What a cluster needs for the webhook: its Deployment and Service, its one right, and the configuration by which the
//! API server asks it. The names are those of `k8s/base`.

use crate::{
    decide::SYSTEM_NAMESPACES,
    options::Options,
    review::OnFailure,
    text::to_yaml,
    value::{Value, map},
};

/// What does not depend on options.
const FIXED: &str = include_str!("manifests.yaml");

const NAME: &str = "outrigger-webhook";
const NAMESPACE: &str = "outrigger-system";

/// What becomes of pods while no webhook answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailurePolicy {
    /// They are not made (Istio's choice): none goes without its sidecar.
    Fail,
    /// They are made without a sidecar.
    Ignore,
}

/// All documents, YAML. The webhook's variables are those of the options.
#[must_use]
pub fn manifests(options: &Options, policy: FailurePolicy, on_failure: OnFailure) -> String {
    [FIXED, &to_yaml(&deployment(options, on_failure)), &to_yaml(&configuration(options, policy))]
        .join("---\n")
}

fn deployment(options: &Options, on_failure: OnFailure) -> Value {
    let labels = || map([("app.kubernetes.io/name", NAME.into())]);
    let labels_of_pod =
        map([("app.kubernetes.io/name", NAME.into()), ("sidecar.istio.io/inject", "false".into())]);
    let pod = map([
        ("serviceAccountName", NAME.into()),
        ("automountServiceAccountToken", true.into()),
        (
            "securityContext",
            map([
                ("runAsNonRoot", true.into()),
                ("runAsUser", 65532_u32.into()),
                ("runAsGroup", 65532_u32.into()),
                ("seccompProfile", map([("type", "RuntimeDefault".into())])),
            ]),
        ),
        ("containers", vec![container(options, on_failure)].into()),
    ]);
    map([
        ("apiVersion", "apps/v1".into()),
        ("kind", "Deployment".into()),
        ("metadata", map([("name", NAME.into()), ("namespace", NAMESPACE.into()), ("labels", labels())])),
        (
            "spec",
            map([
                ("replicas", 2_u32.into()),
                ("selector", map([("matchLabels", labels())])),
                ("template", map([("metadata", map([("labels", labels_of_pod)])), ("spec", pod)])),
            ]),
        ),
    ])
}

fn container(options: &Options, on_failure: OnFailure) -> Value {
    let probe = |path: &str, period: u32| {
        let get = map([("path", path.into()), ("port", "https-webhook".into()), ("scheme", "HTTPS".into())]);
        map([("httpGet", get), ("periodSeconds", period.into()), ("timeoutSeconds", 3_u32.into())])
    };
    map([
        ("name", "webhook".into()),
        ("image", (&*options.image).into()),
        ("args", vec!["webhook"].into()),
        ("env", variables(options, on_failure).into()),
        ("ports", vec![map([("name", "https-webhook".into()), ("containerPort", 8443_u32.into())])].into()),
        ("livenessProbe", probe("/healthz", 10)),
        ("readinessProbe", probe("/readyz", 5)),
        (
            "resources",
            map([
                ("requests", map([("cpu", "20m".into()), ("memory", "32Mi".into())])),
                ("limits", map([("memory", "256Mi".into())])),
            ]),
        ),
        (
            "securityContext",
            map([
                ("allowPrivilegeEscalation", false.into()),
                ("readOnlyRootFilesystem", true.into()),
                ("capabilities", map([("drop", vec!["ALL"].into())])),
            ]),
        ),
    ])
}

/// The options, where they differ from what the program has by itself; the image always, which has to be that of the
/// webhook.
fn variables(options: &Options, on_failure: OnFailure) -> Vec<Value> {
    let defaults = Options::default();
    let field = map([("fieldRef", map([("fieldPath", "metadata.namespace".into())]))]);
    let mut variables = vec![map([("name", "POD_NAMESPACE".into()), ("valueFrom", field)])];
    let mut set = |name: &str, value: &str, is_default: bool| {
        if !is_default {
            variables.push(map([("name", name.into()), ("value", value.into())]));
        }
    };
    set("OUTRIGGER_IMAGE", &options.image, false);
    for (name, value, default) in [
        ("OUTRIGGER_MESH_CONFIG_MAP", &options.mesh_config_map, &defaults.mesh_config_map),
        ("OUTRIGGER_REVISION", &options.revision, &defaults.revision),
        ("OUTRIGGER_CLUSTER_DOMAIN", &options.cluster_domain, &defaults.cluster_domain),
        ("OUTRIGGER_TRUST_DOMAIN", &options.trust_domain, &defaults.trust_domain),
        ("OUTRIGGER_CLUSTER_ID", &options.cluster_id, &defaults.cluster_id),
    ] {
        set(name, value, value == default);
    }
    let given = [
        ("OUTRIGGER_IMAGE_PULL_POLICY", &options.pull_policy),
        ("OUTRIGGER_CERTIFICATES_SECRET", &options.certificates_secret),
    ];
    for (name, value) in given {
        set(name, value.as_deref().unwrap_or_default(), value.is_none());
    }
    let metadata: Vec<_> =
        options.proxy_metadata.iter().map(|(name, value)| format!("{name}={value}")).collect();
    set("OUTRIGGER_PROXY_METADATA", &metadata.join(","), metadata.is_empty());
    set("OUTRIGGER_SIDECAR", "classic", options.native);
    set("OUTRIGGER_INJECTION_POLICY", "disabled", options.by_default);
    set("OUTRIGGER_ON_FAILURE", "deny", on_failure == OnFailure::Allow);
    variables
}

/// Istio's four ways to ask: the namespace or the pod, by a switch or by the revision. The switch wins over the revision
/// of a namespace.
fn configuration(options: &Options, policy: FailurePolicy) -> Value {
    let not_false = || is("sidecar.istio.io/inject", "NotIn", &["false"]);
    let revision = || is("istio.io/rev", "In", &[&options.revision]);
    let no_revision = || exists_not("istio.io/rev");
    let no_switch = || exists_not("istio-injection");
    let enabled = is("istio-injection", "In", &["enabled"]);
    let asked = is("sidecar.istio.io/inject", "In", &["true"]);
    let webhooks = vec![
        webhook("rev.namespace", policy, vec![revision(), no_switch()], vec![not_false()]),
        webhook("rev.object", policy, vec![no_revision(), no_switch()], vec![not_false(), revision()]),
        webhook("namespace", policy, vec![enabled], vec![not_false()]),
        webhook("object", policy, vec![no_switch(), no_revision()], vec![asked, no_revision()]),
    ];
    map([
        ("apiVersion", "admissionregistration.k8s.io/v1".into()),
        ("kind", "MutatingWebhookConfiguration".into()),
        ("metadata", map([("name", "outrigger-injector".into())])),
        ("webhooks", webhooks.into()),
    ])
}

fn webhook(name: &str, policy: FailurePolicy, namespaces: Vec<Value>, objects: Vec<Value>) -> Value {
    let never: Vec<_> = [NAMESPACE].into_iter().chain(SYSTEM_NAMESPACES).collect();
    let namespaces: Vec<_> =
        [is("kubernetes.io/metadata.name", "NotIn", &never)].into_iter().chain(namespaces).collect();
    let service = map([
        ("name", NAME.into()),
        ("namespace", NAMESPACE.into()),
        ("path", "/inject".into()),
        ("port", 443_u32.into()),
    ]);
    let rule = map([
        ("apiGroups", vec![""].into()),
        ("apiVersions", vec!["v1"].into()),
        ("operations", vec!["CREATE"].into()),
        ("resources", vec!["pods"].into()),
        ("scope", "Namespaced".into()),
    ]);
    let policy = match policy {
        FailurePolicy::Fail => "Fail",
        FailurePolicy::Ignore => "Ignore",
    };
    map([
        ("name", format!("{name}.injector.outrigger.dev").into()),
        ("admissionReviewVersions", vec!["v1"].into()),
        ("clientConfig", map([("service", service)])),
        ("failurePolicy", policy.into()),
        ("matchPolicy", "Equivalent".into()),
        ("reinvocationPolicy", "Never".into()),
        ("sideEffects", "None".into()),
        ("timeoutSeconds", 10_u32.into()),
        ("rules", vec![rule].into()),
        ("namespaceSelector", map([("matchExpressions", namespaces.into())])),
        ("objectSelector", map([("matchExpressions", objects.into())])),
    ])
}

fn is(key: &str, operator: &str, values: &[&str]) -> Value {
    map([("key", key.into()), ("operator", operator.into()), ("values", values.to_vec().into())])
}

fn exists_not(key: &str) -> Value {
    map([("key", key.into()), ("operator", "DoesNotExist".into())])
}
