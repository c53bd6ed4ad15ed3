//! Who reports: the attributes of OTLP's `Resource`.

use outrigger_config::snapshot::Node;

use super::wire::{Any, attribute};

/// What the environment adds: `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`.
#[derive(Debug, Clone, Default)]
pub struct Resource {
    /// Wins over every other source of `service.name`.
    pub service_name: Option<String>,
    /// Keys and values; they win over those that we know.
    pub attributes: Vec<(String, String)>,
    /// For tags that show a variable.
    pub environment: Environment,
}

/// Reads a variable of the process's environment.
#[derive(Debug, Clone, Copy)]
pub struct Environment(pub fn(&str) -> Option<String>);

impl Default for Environment {
    /// An empty one.
    fn default() -> Self {
        Self(|_| None)
    }
}

impl Resource {
    /// The encoded message. `service.name` is Istio's `app.namespace`, or, where the provider says so
    /// (`serviceAttributeEnrichment`), what the semantic conventions make of a pod; `log_name` is Envoy's.
    pub(super) fn encode(&self, node: &Node, semantic: bool, log_name: Option<&str>) -> Box<[u8]> {
        let mut pairs: Vec<(&str, String)> = vec![
            ("service.name", self.service_name(node, semantic)),
            ("telemetry.sdk.language", "rust".to_owned()),
            ("telemetry.sdk.name", "outrigger".to_owned()),
            ("telemetry.sdk.version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        for (key, value) in [
            ("k8s.namespace.name", &node.namespace),
            ("k8s.pod.name", &node.name),
            ("k8s.pod.ip", &node.address),
            ("service.instance.id", &node.name),
        ] {
            if !value.is_empty() {
                pairs.push((key, value.to_string()));
            }
        }
        if let Some(version) = label(node, &["app.kubernetes.io/version", "version"]) {
            pairs.push(("service.version", version.to_owned()));
        }
        if semantic {
            pairs.push(("service.namespace", node.namespace.to_string()));
        }
        if let Some(name) = log_name {
            pairs.push(("log_name", name.to_owned()));
        }
        for (key, value) in self.attributes.iter().filter(|(key, _)| key != "service.name") {
            match pairs.iter_mut().find(|(known, _)| known == key) {
                Some((_, known)) => known.clone_from(value),
                None => pairs.push((key, value.clone())),
            }
        }
        let mut out = Vec::new();
        for (key, value) in pairs {
            attribute(1, key, Any::Text(&value), &mut out);
        }
        out.into()
    }

    fn service_name(&self, node: &Node, semantic: bool) -> String {
        let given = self.attributes.iter().find(|(key, _)| key == "service.name").map(|(_, value)| value);
        if let Some(name) = self.service_name.as_ref().or(given) {
            return name.clone();
        }
        if semantic {
            let chain = label(node, &["app.kubernetes.io/instance", "app.kubernetes.io/name"]);
            let chain = chain.into_iter().chain([&*node.workload, &*node.name]);
            let named = chain.into_iter().find(|name| !name.is_empty());
            return named.unwrap_or("unknown_service").to_owned();
        }
        // Istio's service cluster: `app.namespace`, by the workload where there is no such label.
        let app = label(node, &["app"]).or(Some(&*node.workload)).filter(|app| !app.is_empty());
        match app {
            Some(app) => format!("{app}.{}", node.namespace),
            None => "istio-proxy".to_owned(),
        }
    }
}

fn label<'n>(node: &'n Node, names: &[&str]) -> Option<&'n str> {
    let mut found = names.iter().filter_map(|name| node.labels.get(*name));
    found.find(|value| !value.is_empty()).map(|value| &**value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(labels: &[(&str, &str)]) -> Node {
        Node {
            namespace: "shop".into(),
            name: "cart-1".into(),
            workload: "cart-deploy".into(),
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            ..Node::default()
        }
    }

    #[test]
    fn the_service_name_is_istios_unless_conventions_or_the_environment_say_otherwise() {
        let name = |resource: &Resource, labels, semantic| resource.service_name(&node(labels), semantic);
        let plain = Resource::default();
        assert_eq!(name(&plain, &[("app", "cart")], false), "cart.shop");
        assert_eq!(name(&plain, &[], false), "cart-deploy.shop");
        assert_eq!(plain.service_name(&Node::default(), false), "istio-proxy");
        assert_eq!(name(&plain, &[("app.kubernetes.io/name", "cart"), ("app", "x")], true), "cart");
        assert_eq!(name(&plain, &[("app", "x")], true), "cart-deploy");
        assert_eq!(plain.service_name(&Node::default(), true), "unknown_service");
        let attributes = vec![("service.name".to_owned(), "by attribute".to_owned())];
        let given = Resource { attributes, ..Resource::default() };
        assert_eq!(name(&given, &[("app", "cart")], false), "by attribute");
        let named = Resource { service_name: Some("by name".to_owned()), ..given };
        assert_eq!(name(&named, &[("app", "cart")], true), "by name");
    }

    #[test]
    fn attributes_of_the_environment_win() {
        let attributes =
            vec![("k8s.pod.name".to_owned(), "other".to_owned()), ("x".to_owned(), "y".to_owned())];
        let resource = Resource { attributes, ..Resource::default() };
        let bytes = resource.encode(&node(&[]), false, None);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains("other") && text.contains('y'), "{text}");
        assert_eq!(text.matches("k8s.pod.name").count(), 1, "{text}");
    }
}
