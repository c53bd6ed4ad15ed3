//! Who the proxy is and how its mesh is set up: flags first, then Istio's environment and downward-API files, then defaults.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use outrigger_config::snapshot::{ClusterDomain, Interception, InvalidInterception, Locality, Node};

/// Flags that the proxy and its tools share.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct IdentityArgs {
    /// Mesh settings: MeshConfig, or the ConfigMap `istio`.
    #[arg(long, env = "OUTRIGGER_MESH_CONFIG", value_name = "FILE")]
    pub(super) mesh_config: Option<PathBuf>,
    /// Namespace of the workload, and of documents without one [default: POD_NAMESPACE, else `default`].
    #[arg(long, env = "OUTRIGGER_NAMESPACE", value_name = "NS")]
    namespace: Option<String>,
    /// Labels of the workload, by which resources select it.
    #[arg(long, env = "OUTRIGGER_LABELS", value_name = "K=V,...", value_delimiter = ',', value_parser = label)]
    labels: Vec<(Arc<str>, Arc<str>)>,
    /// Where the workload runs [default: its label `istio-locality`, else its labels `topology.kubernetes.io/region`,
    /// `topology.kubernetes.io/zone` and `topology.istio.io/subzone`].
    #[arg(long, env = "OUTRIGGER_LOCALITY", value_name = "REGION/ZONE/SUBZONE")]
    locality: Option<String>,
    /// Domain of the cluster, or `NS.svc.DOMAIN` as in Istio [default: ISTIO_META_DNS_DOMAIN, else `cluster.local`].
    #[arg(long, env = "OUTRIGGER_DOMAIN", value_name = "DOMAIN")]
    domain: Option<String>,
    /// SPIFFE trust domain of the workload [default: TRUST_DOMAIN, else that of the mesh settings, else `cluster.local`].
    #[arg(long, env = "OUTRIGGER_TRUST_DOMAIN", value_name = "DOMAIN")]
    trust_domain: Option<String>,
    /// How rules of the kernel lead the pod's traffic to the proxy: NONE, REDIRECT or TPROXY. But for NONE it listens on
    /// 15001 and 15006 too.
    #[arg(long, env = "ISTIO_META_INTERCEPTION_MODE", value_name = "MODE", default_value = "NONE",
        value_parser = interception)]
    interception_mode: Interception,
    /// Those rules lead its questions to name servers there too: services without an address get one by which their
    /// connections are told apart [default: REDIRECT_DNS, else ISTIO_META_DNS_CAPTURE, as `outrigger init` has it].
    #[arg(long)]
    dns_capture: bool,
}

/// Where Kubernetes puts the pod's labels (Istio mounts the downward API there).
const POD_LABELS: &str = "/etc/istio/pod/labels";

impl IdentityArgs {
    /// The node, by these flags and the process's environment.
    pub(super) fn node(&self) -> Node {
        self.resolve(super::environment, Path::new(POD_LABELS))
    }

    fn resolve(&self, environment: impl Fn(&str) -> Option<String>, pod_labels: &Path) -> Node {
        let text = |name: &str| Arc::<str>::from(environment(name).unwrap_or_default());
        let namespace = self.namespace.clone().or_else(|| environment("POD_NAMESPACE"));
        let domain = self.domain.clone().or_else(|| environment("ISTIO_META_DNS_DOMAIN"));
        let trust_domain = self.trust_domain.clone().or_else(|| environment("TRUST_DOMAIN"));
        let mut labels = std::fs::read_to_string(pod_labels).map(|text| downward(&text)).unwrap_or_default();
        labels
            .extend(environment("ISTIO_METAJSON_LABELS").map(|json| json_labels(&json)).unwrap_or_default());
        labels.extend(self.labels.iter().cloned());
        let redirects = environment("REDIRECT_DNS").or_else(|| environment("ISTIO_META_DNS_CAPTURE"));
        let locality = self.locality.as_deref().map_or_else(|| Locality::of_labels(&labels), Locality::parse);
        Node {
            locality,
            namespace: namespace.unwrap_or_else(|| "default".to_owned()).into(),
            name: text("POD_NAME"),
            address: text("INSTANCE_IP"),
            workload: text("ISTIO_META_WORKLOAD_NAME"),
            cluster: environment("ISTIO_META_CLUSTER_ID").unwrap_or_else(|| "Kubernetes".to_owned()).into(),
            mesh: text("ISTIO_META_MESH_ID"),
            labels,
            domain: domain.as_deref().map(ClusterDomain::of).unwrap_or_default(),
            interception: self.interception_mode,
            dns_capture: self.dns_capture || redirects.as_deref().is_some_and(super::is_true),
            trust_domain: trust_domain.map(Into::into),
        }
    }
}

/// A variable that is set to nothing is not set.
fn interception(text: &str) -> Result<Interception, InvalidInterception> {
    if text.is_empty() { Ok(Interception::None) } else { text.parse() }
}

fn label(text: &str) -> Result<(Arc<str>, Arc<str>), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().into(), value.trim().into())),
        _ => Err(format!("`{text}` is not of the form key=value")),
    }
}

/// Lines `key="value"`, the value quoted as in JSON.
fn downward(text: &str) -> BTreeMap<Arc<str>, Arc<str>> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .filter_map(|(key, value)| {
            Some((key.trim().into(), serde_json::from_str::<String>(value.trim()).ok()?.into()))
        })
        .collect()
}

fn json_labels(json: &str) -> BTreeMap<Arc<str>, Arc<str>> {
    let labels: BTreeMap<String, String> = serde_json::from_str(json).unwrap_or_else(|error| {
        tracing::warn!(%error, "ISTIO_METAJSON_LABELS is no JSON object of strings: ignored");
        BTreeMap::new()
    });
    labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_environment_and_that_over_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("labels");
        std::fs::write(&file, "app=\"file\"\nversion=\"v\\\"1\"\nzone=\"a\"\n").unwrap();
        let environment = |name: &str| {
            Some(match name {
                "POD_NAMESPACE" => "obs".to_owned(),
                "ISTIO_METAJSON_LABELS" => r#"{"app":"json","tier":"web"}"#.to_owned(),
                "ISTIO_META_WORKLOAD_NAME" => "cart".to_owned(),
                "ISTIO_META_DNS_DOMAIN" => "obs.svc.Example.org".to_owned(),
                "TRUST_DOMAIN" => "td.example".to_owned(),
                _ => return None,
            })
        };
        let args = IdentityArgs { labels: vec![label("tier=flag").unwrap()], ..IdentityArgs::default() };
        let node = args.resolve(environment, &file);
        let labels: Vec<_> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(labels, ["app=json", "tier=flag", "version=v\"1", "zone=a"]);
        assert_eq!((&*node.namespace, &*node.workload, &*node.cluster), ("obs", "cart", "Kubernetes"));

        assert_eq!(
            (&*node.domain.to_string(), node.trust_domain.as_deref()),
            ("example.org", Some("td.example"))
        );

        let args = IdentityArgs {
            namespace: Some("flag".to_owned()),
            domain: Some("flag.local".to_owned()),
            ..args
        };
        let node = args.resolve(environment, &file);
        assert_eq!((&*node.namespace, &*node.domain.to_string()), ("flag", "flag.local"));
    }

    #[test]
    fn captured_dns_is_what_the_init_container_was_told() {
        let captures = |variables: &[(&str, &str)], dns_capture| {
            let found = |name: &str| variables.iter().find(|(known, _)| *known == name);
            let environment = |name: &str| found(name).map(|(_, value)| (*value).to_owned());
            IdentityArgs { dns_capture, ..IdentityArgs::default() }
                .resolve(environment, Path::new(""))
                .dns_capture
        };
        let istio = "ISTIO_META_DNS_CAPTURE";
        assert!(!captures(&[], false) && captures(&[], true));
        assert!(captures(&[(istio, "true")], false) && captures(&[(istio, "True")], false));
        assert!(!captures(&[(istio, "false")], false) && !captures(&[(istio, "yes, please")], false));
        assert!(captures(&[("REDIRECT_DNS", "1")], false));
        assert!(!captures(&[("REDIRECT_DNS", "false"), (istio, "true")], false));
    }

    #[test]
    fn the_flag_says_the_locality_else_the_labels_do() {
        let node = |locality: Option<&str>, labels: &[&str]| {
            let labels = labels.iter().map(|text| label(text).unwrap()).collect();
            let args = IdentityArgs { locality: locality.map(Into::into), labels, ..IdentityArgs::default() };
            args.resolve(|_| None, Path::new("")).locality.to_string()
        };
        let kubernetes = ["topology.kubernetes.io/region=r", "topology.kubernetes.io/zone=z"];
        assert_eq!(node(None, &[]), "");
        assert_eq!(node(None, &kubernetes), "r/z");
        assert_eq!(node(None, &[kubernetes[0], "istio-locality=a.b.c"]), "a/b/c");
        assert_eq!(node(Some("x/y/z"), &["istio-locality=a.b.c"]), "x/y/z");
    }

    #[test]
    fn without_anything_the_namespace_is_default() {
        let node = IdentityArgs::default().resolve(|_| None, Path::new(""));
        assert_eq!((&*node.namespace, &*node.name, node.labels.len()), ("default", "", 0));
        assert_eq!(node.domain.to_string(), "cluster.local");
    }
}
