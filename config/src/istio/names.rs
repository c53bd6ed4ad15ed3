//! Names as Istio's validation takes them: hosts, labels, gateways, selectors.

use super::is_ip;
use crate::{
    fields::{Labels, Object, Spanned, did_you_mean},
    report::Code,
    sink::Sink,
    yaml::Entry,
};

/// Whether a rule is for the sidecars: one without gateways is.
pub(crate) fn in_mesh(gateways: &[Box<str>]) -> bool {
    gateways.is_empty() || gateways.iter().any(|gateway| &**gateway == "mesh")
}

/// A DNS name, a wildcard in the first label, or an address.
pub(crate) fn check_host(host: &Spanned<&str>, sink: &mut Sink) -> bool {
    is_ip(host.value) || check_name(host, sink)
}

/// A DNS name or a wildcard in the first label: where Istio takes no address.
pub(crate) fn check_name(host: &Spanned<&str>, sink: &mut Sink) -> bool {
    let why = host_problem(host.value);
    if let Some(why) = why {
        sink.report(Code::InvalidHost, host.span, format!("`{}` is not a host: {why}", host.value));
    }
    why.is_none()
}

fn host_problem(host: &str) -> Option<&'static str> {
    if host == "*" {
        return None;
    }
    if host.is_empty() {
        return Some("it is empty");
    }
    if host.len() > 255 {
        return Some("it is longer than 255 characters");
    }
    let (first, rest) = host.split_once('.').map_or((host, None), |(first, rest)| (first, Some(rest)));
    let after_wildcard = ["*-", "*"].into_iter().find_map(|wildcard| first.strip_prefix(wildcard));
    if host.contains('*')
        && (after_wildcard.unwrap_or(first).contains('*') || rest.is_some_and(|rest| rest.contains('*')))
    {
        return Some("a wildcard may only begin the first label");
    }
    // A trailing dot is fine.
    let rest = rest.map(|rest| rest.strip_suffix('.').unwrap_or(rest)).filter(|rest| !rest.is_empty());
    let first_is_fine = first == "*" || is_label(after_wildcard.unwrap_or(first));
    if !first_is_fine || rest.is_some_and(|rest| !rest.split('.').all(is_label)) {
        return Some("labels hold letters, digits and inner hyphens, 63 characters at most");
    }
    let last = rest.and_then(|rest| rest.rsplit('.').next()).unwrap_or_default();
    let numeric = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    numeric.then_some("the top-level domain is a number")
}

/// Istio's DNS label, in either case: names of subsets, ports and namespaces.
pub(crate) fn is_label(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 63
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// `mesh`, `name`, `namespace/name`, and the legacy `name.namespace.svc...`.
pub(crate) fn check_gateways(names: &[Spanned<&str>], sink: &mut Sink) {
    for name in names {
        let fine = match name.value.split_once('/') {
            Some((namespace, gateway)) => is_label(namespace) && is_label(gateway),
            None => host_problem(name.value).is_none() && !name.value.contains('*'),
        };
        if !fine {
            let message = format!("`{}` is not a gateway's name", name.value);
            sink.report(Code::InvalidValue, name.span, message).help("write `namespace/name`, or `mesh`");
        } else if let Some((gateway, rest)) = name.value.split_once('.') {
            let namespace = rest.split('.').next().unwrap_or_default();
            let message = format!("`{}` is the legacy form of a gateway's name", name.value);
            let found = sink.report(Code::Deprecated, name.span, message);
            found.help(format!("write `{namespace}/{gateway}`"));
        }
    }
}

const PROTOCOLS: [&str; 14] = [
    "HTTP",
    "HTTPS",
    "HTTP2",
    "GRPC",
    "GRPC-WEB",
    "TCP",
    "TLS",
    "UDP",
    "MONGO",
    "REDIS",
    "MYSQL",
    "HBONE",
    "DOUBLE-HBONE",
    "HTTP_PROXY",
];

/// The `protocol` of a port, in either case; none is one that is found out.
pub(crate) fn check_protocol(port: &Object<'_>, sink: &mut Sink) {
    let Some(protocol) = port.text("protocol").filter(|protocol| !protocol.value.is_empty()) else { return };
    if !PROTOCOLS.iter().any(|known| known.eq_ignore_ascii_case(protocol.value)) {
        let guess = did_you_mean(protocol.value, PROTOCOLS.into_iter());
        let message = format!("`{}` is not a protocol", protocol.value);
        let found = sink.report(Code::InvalidValue, protocol.span, message);
        found.help(format!("{guess}protocols are {}", PROTOCOLS.join(", ")));
    }
}

/// Keys and values as Kubernetes has them.
pub(crate) fn check_labels(entries: &[Entry], sink: &mut Sink) {
    for entry in entries {
        let (prefix, name) = entry.key.rsplit_once('/').map_or((None, &*entry.key), |(p, n)| (Some(p), n));
        let prefixed = prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(is_label));
        if !(prefixed && name.len() <= 63 && is_qualified(name)) {
            sink.report(Code::InvalidValue, entry.key_span, format!("`{}` is not a label's name", entry.key));
        }
        if let Some(value) = entry.value.text().filter(|value| !value.is_empty() && !is_qualified(value)) {
            sink.report(Code::InvalidValue, entry.value.span, format!("`{value}` is not a label's value"));
        }
    }
}

fn is_qualified(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// The labels of a selector; without any it selects everything, which Istio warns of.
pub(crate) fn selector(spec: &Object<'_>, field: &str, key: &str, sink: &mut Sink) -> Option<Labels> {
    let object = spec.object(field)?;
    for entry in object.entries(key) {
        let value = entry.value.text().unwrap_or_default();
        if entry.key.is_empty() || entry.key.contains('*') || value.contains('*') {
            let message = format!("`{}: {value}` selects nothing: there are no wildcards here", entry.key);
            sink.report(Code::InvalidValue, entry.key_span, message);
        }
    }
    let labels = object.labels(key);
    if labels.is_empty() {
        let message = format!("`{field}` has no labels");
        let found = sink.report(Code::EmptySelector, spec.key_span(field), message);
        found.label("selects every workload").help("give it labels, or remove it");
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_what_istio_takes_for_one() {
        for host in ["*", "a", "123", "A-b.c", "a.b.", "*.foo.com", "*-x.foo.com", "*x.foo.com"] {
            assert_eq!(host_problem(host), None, "{host}");
        }
        for host in ["", "a_b.c", "a.*.c", "a*.c", "**.c", "*-.c", "-a", "a-.c", "a..b", "a.12", ".a"] {
            assert!(host_problem(host).is_some(), "{host}");
        }
    }

    #[test]
    fn labels_are_kubernetes_own() {
        for text in ["a", "A.b_c-1"] {
            assert!(is_qualified(text), "{text}");
        }
        for text in ["", "-a", "a.", "a b", "v1*"] {
            assert!(!is_qualified(text), "{text}");
        }
    }
}
