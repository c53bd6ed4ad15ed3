//! What the proxy answers when its pod asks for the address of a service.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

/// The addresses of one name, at least one.
pub type Addresses = Arc<[IpAddr]>;

/// Names of services and their addresses (Istio's name table). Empty unless DNS is captured.
#[derive(Debug, Default)]
pub struct HostNames {
    exact: HashMap<Box<str>, Addresses>,
    /// By what follows the `*.`.
    below: HashMap<Box<str>, Addresses>,
}

impl HostNames {
    /// The addresses of a name in lower case and without a dot at its end.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Addresses> {
        self.exact(name).or_else(|| self.below(name))
    }

    /// Those of a name that stands there as it is.
    #[must_use]
    pub fn exact(&self, name: &str) -> Option<&Addresses> {
        self.exact.get(name)
    }

    /// Those of a wildcard that covers the name: the longest counts.
    #[must_use]
    pub fn below(&self, name: &str) -> Option<&Addresses> {
        let mut parents = std::iter::successors(name.split_once('.'), |(_, rest)| rest.split_once('.'));
        parents.find_map(|(_, rest)| self.below.get(rest))
    }

    /// All names with their addresses, in no order. A wildcard begins with `*.`.
    pub fn all(&self) -> impl Iterator<Item = (String, &Addresses)> {
        let exact = self.exact.iter().map(|(name, addresses)| (name.to_string(), addresses));
        exact.chain(self.below.iter().map(|(name, addresses)| (format!("*.{name}"), addresses)))
    }

    /// The first one that claims a name has it.
    pub(crate) fn add(&mut self, name: &str, addresses: &Addresses) {
        let name = name.strip_suffix('.').unwrap_or(name);
        let (table, name) = match name.strip_prefix("*.") {
            Some(parent) => (&mut self.below, parent),
            None => (&mut self.exact, name),
        };
        table.entry(name.into()).or_insert_with(|| Arc::clone(addresses));
    }
}
