//! What the operator chooses for all pods; a pod may refine it by its annotations.

/// Options of an injection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Image of the proxy and of the init container.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`; Kubernetes' default for the image where it is not given.
    pub pull_policy: Option<String>,
    /// ConfigMap of the pod's namespace whose keys are the mesh's YAML files.
    pub mesh_config_map: String,
    /// Secret of the pod's namespace with `tls.crt`, `tls.key` and `ca.crt`: the workload's certificate. The pod starts
    /// when it is there.
    pub certificates_secret: Option<String>,
    /// Istio's name for one of several injectors beside each other.
    pub revision: String,
    /// Of documents that name none.
    pub namespace: Option<String>,
    /// Of the cluster's services.
    pub cluster_domain: String,
    /// Of the workloads' identities.
    pub trust_domain: String,
    /// Label `source_cluster` of metrics.
    pub cluster_id: String,
    /// Variables of every proxy (Istio `meshConfig.defaultConfig.proxyMetadata`); a pod's annotation wins.
    pub proxy_metadata: Vec<(String, String)>,
    /// Sidecars as init containers that keep running, the default since Kubernetes 1.29.
    pub native: bool,
    /// Pods that say nothing are injected.
    pub by_default: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            image: concat!("ghcr.io/outrigger/outrigger:", env!("CARGO_PKG_VERSION")).to_owned(),
            pull_policy: None,
            mesh_config_map: "outrigger-mesh".to_owned(),
            certificates_secret: None,
            // `default` is Istio's own: both would inject the same pods.
            revision: "outrigger".to_owned(),
            namespace: None,
            cluster_domain: "cluster.local".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            proxy_metadata: Vec::new(),
            native: true,
            by_default: true,
        }
    }
}
