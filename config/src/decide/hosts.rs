//! Looks up the virtual host of an authority: Envoy's order, the port ignored, ASCII case ignored.

use std::borrow::Cow;

use crate::snapshot::{Affixes, HostMap};

/// The domain by which an authority was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain<'s> {
    /// The very name, in lower case.
    Exact(&'s str),
    /// `*` and this.
    Suffix(&'s str),
    /// This and `*`.
    Prefix(&'s str),
    /// `*`: nothing else fits.
    Any,
}

impl HostMap {
    /// Adds a domain: a name, `*.suffix`, `prefix.*` or `*`. False if the domain was taken: the first keeps it.
    pub fn insert(&mut self, domain: &str, virtual_host: u32) -> bool {
        let domain = domain.to_ascii_lowercase();
        if domain == "*" {
            let free = self.any.is_none();
            self.any.get_or_insert(virtual_host);
            free
        } else if let Some(suffix) = domain.strip_prefix('*') {
            self.suffixes.insert(suffix, virtual_host)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            self.prefixes.insert(prefix, virtual_host)
        } else {
            let mut free = false;
            self.exact.entry(domain.into()).or_insert_with(|| {
                free = true;
                virtual_host
            });
            free
        }
    }

    /// The virtual host of an authority, with or without a port.
    #[must_use]
    pub fn find(&self, authority: &str) -> Option<u32> {
        self.find_domain(authority).map(|(_, virtual_host)| virtual_host)
    }

    /// The same with the domain that fits.
    // The request path drops the domain: inlined, it is never made.
    #[must_use]
    #[inline(always)]
    pub fn find_domain(&self, authority: &str) -> Option<(Domain<'_>, u32)> {
        let host = lower_case(without_port(authority));
        let host = &*host;
        if let Some((name, virtual_host)) = self.exact.get_key_value(host) {
            return Some((Domain::Exact(name), *virtual_host));
        }
        let suffix = self.suffixes.find(host, |length| host.get(host.len() - length..));
        if let Some((suffix, virtual_host)) = suffix {
            return Some((Domain::Suffix(suffix), virtual_host));
        }
        if let Some((prefix, virtual_host)) = self.prefixes.find(host, |length| host.get(..length)) {
            return Some((Domain::Prefix(prefix), virtual_host));
        }
        self.any.map(|virtual_host| (Domain::Any, virtual_host))
    }
}

impl Affixes {
    fn insert(&mut self, affix: &str, virtual_host: u32) -> bool {
        if self.by_text.contains_key(affix) {
            return false;
        }
        self.by_text.insert(affix.into(), virtual_host);
        let place = self.lengths.binary_search_by(|length| affix.len().cmp(length));
        if let Err(at) = place {
            self.lengths.insert(at, affix.len());
        }
        true
    }

    /// The longest that is a part of the host; `part` cuts one of that length. A wildcard stands for one character at
    /// least.
    fn find<'h>(&self, host: &str, part: impl Fn(usize) -> Option<&'h str>) -> Option<(&str, u32)> {
        let shorter = self.lengths.iter().filter(|length| **length < host.len());
        let mut known = shorter.filter_map(|length| self.by_text.get_key_value(part(*length)?));
        known.next().map(|(text, virtual_host)| (&**text, *virtual_host))
    }
}

/// `[::1]:80` is `[::1]`, `a:80` is `a`; a lone IPv6 address has no port.
pub(crate) fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (host.ends_with(']') || !host.contains(':')) =>
        {
            host
        }
        _ => authority,
    }
}

fn lower_case(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(domains: &[&str]) -> HostMap {
        let mut map = HostMap::default();
        for (index, domain) in (0_u32..).zip(domains) {
            assert!(map.insert(domain, index), "{domain} is new");
        }
        map
    }

    #[test]
    fn exact_beats_suffix_beats_prefix_beats_any() {
        let map = map(&["a.foo.com", "*.foo.com", "*.com", "a.foo.*", "*"]);
        assert_eq!(map.find("a.foo.com"), Some(0));
        assert_eq!(map.find("c.foo.com"), Some(1));
        assert_eq!(map.find("foo.com"), Some(2), "a wildcard needs a character");
        assert_eq!(map.find("a.foo.org"), Some(3));
        assert_eq!(map.find("elsewhere"), Some(4));
    }

    #[test]
    fn the_longest_wildcard_wins_whatever_the_order() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut map = HostMap::default();
            for index in order {
                let (suffix, prefix) = [("*.c", "a.*"), ("*.b.c", "a.b.*"), ("*-x.b.c", "a.b-*")][index];
                assert!(map.insert(suffix, u32::try_from(index).unwrap()));
                assert!(map.insert(prefix, 10 + u32::try_from(index).unwrap()));
            }
            let found =
                ["1-x.b.c", "1.b.c", "1.c", "a.b-1", "a.b.1", "a.1", ".c", "é.c"].map(|host| map.find(host));
            assert_eq!(found, [Some(2), Some(1), Some(0), Some(12), Some(11), Some(10), None, Some(0)]);
        }
    }

    #[test]
    fn port_and_case_do_not_count_but_a_trailing_dot_does() {
        let map = map(&["a", "[::1]", "127.0.0.1"]);
        assert_eq!(map.find("A:8080"), Some(0));
        assert_eq!(map.find("[::1]:4317"), Some(1));
        assert_eq!(map.find("[::1]"), Some(1));
        assert_eq!(map.find("127.0.0.1:4317"), Some(2));
        assert_eq!(map.find("a."), None);
    }

    #[test]
    fn the_first_owner_of_a_domain_keeps_it() {
        let mut map = map(&["a", "*.b", "*"]);
        assert!(!map.insert("A", 9));
        assert!(!map.insert("*.b", 9));
        assert!(!map.insert("*", 9));
        assert_eq!((map.find("a"), map.find("x.b"), map.find("c")), (Some(0), Some(1), Some(2)));
    }
}
