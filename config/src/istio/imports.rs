//! `hosts` of an egress listener: which services and virtual services it carries, each by its own namespace.

use super::covers;
use crate::{fields::Spanned, report::Code, sink::Sink};

/// The whole list: what is taken but for what is excluded.
#[derive(Debug, Default)]
pub(crate) struct Imports {
    taken: Vec<HostFilter>,
    excluded: Vec<HostFilter>,
}

/// `namespace/host`
#[derive(Debug)]
struct HostFilter {
    /// `None` is any namespace.
    namespace: Option<Box<str>>,
    host: Box<str>,
}

impl Imports {
    /// `.` is the namespace of the proxy, in a Sidecar of the root namespace too.
    pub(crate) fn read(hosts: &[Spanned<&str>], own: &str, sink: &mut Sink) -> Self {
        let mut imports = Self::default();
        for text in hosts {
            let Some((namespace, host)) = text.value.split_once('/') else {
                let message = format!("`{}` has no namespace", text.value);
                let found = sink.report(Code::InvalidHost, text.span, message);
                found.help("write `./host`, `*/host` or `namespace/host`, with `~` before it to exclude");
                continue;
            };
            let filter = |namespace: &str| HostFilter {
                namespace: match namespace {
                    "*" => None,
                    "." => Some(own.into()),
                    name => Some(name.into()),
                },
                host: host.to_ascii_lowercase().into(),
            };
            match namespace.strip_prefix('~') {
                // `~/*` is nothing at all.
                Some("") => {}
                Some(namespace) => imports.excluded.push(filter(namespace)),
                None => imports.taken.push(filter(namespace)),
            }
        }
        imports
    }

    /// `*/*`
    pub(crate) fn everything() -> Self {
        Self { taken: vec![HostFilter { namespace: None, host: "*".into() }], excluded: Vec::new() }
    }

    /// A service with a wildcard host is taken by a wildcard as wide, not by a name below it.
    pub(crate) fn service(&self, namespace: &str, host: &str) -> bool {
        let matches = |filter: &HostFilter| filter.is_in(namespace) && covers(&filter.host, host);
        self.taken.iter().any(matches) && !self.excluded.iter().any(matches)
    }

    /// A virtual service is taken by any of its hosts; a wildcard of its own also meets the names below it.
    pub(crate) fn virtual_service<'h>(&self, namespace: &str, hosts: impl Iterator<Item = &'h str>) -> bool {
        let meets = |filter: &HostFilter, host: &str| {
            filter.is_in(namespace) && (covers(&filter.host, host) || covers(host, &filter.host))
        };
        let hides = |filter: &HostFilter, host: &str| filter.is_in(namespace) && covers(&filter.host, host);
        let mut hosts = hosts;
        hosts.any(|host| {
            self.taken.iter().any(|filter| meets(filter, host))
                && !self.excluded.iter().any(|filter| hides(filter, host))
        })
    }
}

impl HostFilter {
    fn is_in(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
    }
}
