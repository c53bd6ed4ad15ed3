//! What an injection puts into a pod, a file each: the capture container, the proxy, volumes, labels and annotations.

pub(crate) mod init;
pub(crate) mod metadata;
pub(crate) mod proxy;
pub(crate) mod volumes;

use crate::{
    options::Options,
    settings::Settings,
    value::{Map, Value, map},
    workload::Workload,
};

/// The container that installs the capture rules and ends.
pub(crate) const INIT: &str = "istio-init";
/// The sidecar.
pub(crate) const PROXY: &str = "istio-proxy";
/// The program in the image: it is from scratch, and hooks are run without a shell.
const PROGRAM: &str = "/outrigger";
/// User and group of the proxy, whose traffic is not captured.
const USER: u32 = 1337;

/// What the parts are made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'c> {
    pub(crate) options: &'c Options,
    pub(crate) settings: &'c Settings,
    pub(crate) workload: &'c Workload,
}

impl Context<'_> {
    /// The fields that both containers begin with.
    fn container(&self, name: &str) -> Map {
        let mut container = Map::from([
            ("name".to_owned(), name.into()),
            ("image".to_owned(), (&*self.settings.image).into()),
        ]);
        if let Some(policy) = &self.options.pull_policy {
            container.insert("imagePullPolicy".to_owned(), (&**policy).into());
        }
        container
    }

    fn metadata_variables(&self) -> impl Iterator<Item = Value> {
        self.settings.metadata.iter().map(|(name, value)| variable(name, value))
    }
}

fn variable(name: &str, value: &str) -> Value {
    map([("name", name.into()), ("value", value.into())])
}

fn set(container: &mut Map, key: &str, value: Value) {
    container.insert(key.to_owned(), value);
}
