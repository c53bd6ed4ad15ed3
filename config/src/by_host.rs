//! Things that are said of hosts, found by a service's name: those that name it, then those whose wildcard covers it.
//! A mesh has thousands of each, and nearly all are exact.

use std::collections::HashMap;

use crate::istio::covers;

/// Positions in a list, by the hosts that their items name.
#[derive(Debug, Default)]
pub(crate) struct ByHost {
    exact: HashMap<Box<str>, Vec<usize>>,
    wildcards: Vec<(Box<str>, usize)>,
}

impl ByHost {
    /// Item number `index` names this host or wildcard. Add in order of the list.
    pub(crate) fn add(&mut self, host: &str, index: usize) {
        if host.starts_with('*') {
            self.wildcards.push((host.into(), index));
        } else {
            self.exact.entry(host.into()).or_default().push(index);
        }
    }

    /// Items that name a service's host, in order, then those that cover it by a wildcard, with their patterns.
    pub(crate) fn of<'s>(&'s self, host: &'s str) -> impl Iterator<Item = (&'s str, usize)> {
        let exact = self.exact.get(host).into_iter().flatten().map(move |index| (host, *index));
        let covering = self.wildcards.iter().filter(move |(pattern, _)| covers(pattern, host));
        exact.chain(covering.map(|(pattern, index)| (&**pattern, *index)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_names_come_first_and_wildcards_only_where_they_cover() {
        let mut hosts = ByHost::default();
        for (index, host) in ["*.shop", "a.shop", "*", "b.shop", "a.shop"].into_iter().enumerate() {
            hosts.add(host, index);
        }
        assert_eq!(
            hosts.of("a.shop").collect::<Vec<_>>(),
            [("a.shop", 1), ("a.shop", 4), ("*.shop", 0), ("*", 2)]
        );
        assert_eq!(hosts.of("c.bar").collect::<Vec<_>>(), [("*", 2)]);
        assert_eq!(hosts.of("*.shop").map(|(_, index)| index).collect::<Vec<_>>(), [0, 2]);
    }
}
