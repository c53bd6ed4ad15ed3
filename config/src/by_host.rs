//! Things that are said of hosts, found by a service's name: those that name it, then those whose wildcard covers it.
//! A mesh has thousands of each, and nearly all are exact.

use std::collections::HashMap;

/// Positions in a list, by the hosts that their items name.
#[derive(Debug, Default)]
pub(crate) struct ByHost {
    exact: HashMap<Box<str>, Vec<usize>>,
    /// By the whole wildcard.
    wildcards: HashMap<Box<str>, Vec<usize>>,
    /// Bytes of the wildcards, each number once, the greatest first.
    lengths: Vec<usize>,
}

impl ByHost {
    /// Item number `index` names this host or wildcard. Add in order of the list.
    pub(crate) fn add(&mut self, host: &str, index: usize) {
        if host.starts_with('*') {
            self.wildcards.entry(host.into()).or_default().push(index);
            if let Err(at) = self.lengths.binary_search_by(|length| host.len().cmp(length)) {
                self.lengths.insert(at, host.len());
            }
        } else {
            self.exact.entry(host.into()).or_default().push(index);
        }
    }

    /// Items that name a service's host, in order, then those that cover it by a wildcard, with their patterns, the
    /// longest first.
    pub(crate) fn of<'s>(&'s self, host: &'s str) -> impl Iterator<Item = (&'s str, usize)> {
        let exact = self.exact.get_key_value(host);
        let covering = self.lengths.iter().filter_map(move |length| {
            // The asterisk stands for one character at least.
            let suffix = host.get((host.len() + 1).checked_sub(*length).filter(|cut| *cut > 0)?..)?;
            self.wildcards.get_key_value(&*format!("*{suffix}"))
        });
        let found = exact.into_iter().chain(covering);
        found.flat_map(|(pattern, indices)| indices.iter().map(move |index| (&**pattern, *index)))
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
