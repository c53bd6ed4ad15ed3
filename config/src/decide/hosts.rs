//! Looks up the virtual host of an authority: Envoy's order, the port ignored, ASCII case ignored.

use std::borrow::Cow;

use crate::snapshot::HostMap;

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
            insert_by_length(&mut self.suffixes, suffix, virtual_host)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            insert_by_length(&mut self.prefixes, prefix, virtual_host)
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
        // A wildcard stands for one character at least.
        let longer = |affix: &str| host.len() > affix.len();
        if let Some((name, virtual_host)) = self.exact.get_key_value(host) {
            return Some((Domain::Exact(name), *virtual_host));
        }
        if let Some((suffix, virtual_host)) =
            self.suffixes.iter().find(|(s, _)| longer(s) && host.ends_with(&**s))
        {
            return Some((Domain::Suffix(suffix), *virtual_host));
        }
        if let Some((prefix, virtual_host)) =
            self.prefixes.iter().find(|(p, _)| longer(p) && host.starts_with(&**p))
        {
            return Some((Domain::Prefix(prefix), *virtual_host));
        }
        self.any.map(|virtual_host| (Domain::Any, virtual_host))
    }
}

/// Keeps the longest affix first.
fn insert_by_length(affixes: &mut Vec<(Box<str>, u32)>, affix: &str, virtual_host: u32) -> bool {
    if affixes.iter().any(|(taken, _)| **taken == *affix) {
        return false;
    }
    let at = affixes.partition_point(|(other, _)| other.len() >= affix.len());
    affixes.insert(at, (affix.into(), virtual_host));
    true
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
