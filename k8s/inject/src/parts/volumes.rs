//! Volumes and their mounts in the proxy.
//!
//! The mesh's YAML is mounted as a folder and not by `subPath`: the kubelet swaps the folder when the ConfigMap changes,
//! and the proxy sees it; a file mounted by `subPath` would stay as it was when the pod started.

use super::Context;
use crate::value::{Map, Value, map, name_of, named};

/// Where the proxy reads the mesh's documents.
pub(super) const CONFIG: &str = "/etc/outrigger/config";

const CONFIG_VOLUME: &str = "outrigger-config";
/// Labels and annotations of the pod, as Istio mounts them.
const POD_INFO_VOLUME: &str = "istio-podinfo";
const CERTIFICATES_VOLUME: &str = "workload-certs";
/// Where the proxy looks for its certificate, as Istio's agent does for those that others have made.
const CERTIFICATES: &str = "/var/run/secrets/workload-spiffe-credentials";

/// Those that the pod does not have yet.
pub(crate) fn volumes(context: &Context<'_>, own: &[Value]) -> Vec<Value> {
    let (options, settings) = (context.options, context.settings);
    let config = map([("name", (&*options.mesh_config_map).into())]);
    let item = |name: &str| {
        let path = format!("metadata.{name}");
        map([("path", name.into()), ("fieldRef", map([("fieldPath", path.into())]))])
    };
    let pod_info = map([("items", vec![item("labels"), item("annotations")].into())]);
    let mut volumes = vec![
        map([("name", CONFIG_VOLUME.into()), ("configMap", config)]),
        map([("name", POD_INFO_VOLUME.into()), ("downwardAPI", pod_info)]),
    ];
    if let Some(secret) = &options.certificates_secret {
        // Not optional: the pod waits for its certificate.
        let secret = map([("secretName", (&**secret).into())]);
        volumes.push(map([("name", CERTIFICATES_VOLUME.into()), ("secret", secret)]));
    }
    for (name, volume) in &settings.volumes {
        let mut with_name = Map::from([("name".to_owned(), (&**name).into())]);
        with_name.extend(volume.map().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
        volumes.push(with_name.into());
    }
    volumes.retain(|volume| name_of(volume).is_none_or(|name| named(own, name).is_none()));
    volumes
}

/// Whether the proxy finds a certificate: of the options, or of a volume that the pod has mounted there.
pub(super) fn has_certificate(context: &Context<'_>) -> bool {
    let path = |mount: &Value| Some(mount.get("mountPath")?.text()?.trim_end_matches('/').to_owned());
    context.options.certificates_secret.is_some()
        || context.settings.mounts.values().any(|mount| path(mount).is_some_and(|path| path == CERTIFICATES))
}

/// The mounts of the proxy.
pub(super) fn mounts(context: &Context<'_>) -> Vec<Value> {
    let mount = |name: &str, path: &str| {
        map([("name", name.into()), ("mountPath", path.into()), ("readOnly", true.into())])
    };
    let mut mounts = vec![mount(CONFIG_VOLUME, CONFIG), mount(POD_INFO_VOLUME, "/etc/istio/pod")];
    if context.options.certificates_secret.is_some() {
        mounts.push(mount(CERTIFICATES_VOLUME, CERTIFICATES));
    }
    for (name, own) in &context.settings.mounts {
        let mut with_name = Map::from([("name".to_owned(), (&**name).into())]);
        with_name.extend(own.map().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
        mounts.push(with_name.into());
    }
    mounts
}
