//! The rules of a `VirtualService`: conditions and destinations.

use proptest::prelude::*;

use crate::{one_of, sometimes};

/// One http rule, as a block of YAML at the indentation of a list item.
pub(crate) fn rule() -> impl Strategy<Value = String> {
    let name = sometimes(60, one_of(["r", "s", "t"]));
    let blocks = prop::collection::vec(block(), 0..3);
    let retries = sometimes(
        40,
        one_of([
            "{ attempts: 0 }",
            "{ attempts: 1, retryOn: '5xx,409' }",
            "{ attempts: 3, perTryTimeout: 20s, retryOn: 'connect-failure,reset', retryIgnorePreviousHosts: false }",
        ]),
    );
    let headers = sometimes(
        40,
        one_of([
            "{ request: { set: { x-set: a, host: other }, remove: [x-user] } }",
            "{ response: { add: { x-code: '%RESPONSE_CODE%' } } }",
            "{ request: { add: { x: b } } }",
        ]),
    );
    (name, blocks, route(), sometimes(30, one_of(["20s", "30s"])), retries, headers).prop_map(
        |(name, blocks, route, timeout, retries, headers)| {
            let mut text = format!("  - route: [{route}]\n");
            let mut field = |name: &str, value: Option<&str>| {
                if let Some(value) = value {
                    text += &format!("    {name}: {value}\n");
                }
            };
            field("name", name);
            field("timeout", timeout);
            field("retries", retries);
            field("headers", headers);
            if !blocks.is_empty() {
                field("match", Some(&format!("[{}]", blocks.join(", "))));
            }
            text
        },
    )
}

/// Destinations of which at least one has a weight, if there are several.
fn route() -> impl Strategy<Value = String> {
    let headers = sometimes(20, one_of(["{ request: { set: { x-destination: d } } }"]));
    let destination = (
        one_of(["a", "a", "b", "b.default.svc.cluster.local", "nobody.default.svc.cluster.local"]),
        sometimes(50, one_of(["v1", "v2", "v9"])),
        sometimes(30, one_of(["8080", "9090", "81"])),
        0_u32..4,
        headers,
    );
    prop::collection::vec(destination, 1..4).prop_map(|destinations| {
        let sum: u32 = destinations.iter().map(|(_, _, _, weight, _)| weight).sum();
        let lone = destinations.len() == 1;
        let texts: Vec<_> = destinations
            .iter()
            .map(|(host, subset, port, weight, headers)| {
                let subset = subset.map(|subset| format!(", subset: {subset}")).unwrap_or_default();
                let port = port.map(|port| format!(", port: {{ number: {port} }}")).unwrap_or_default();
                let weight = match (lone, sum) {
                    (true, _) => String::new(),
                    (false, 0) => ", weight: 1".to_owned(),
                    (false, _) => format!(", weight: {weight}"),
                };
                let headers = headers.map(|headers| format!(", headers: {headers}")).unwrap_or_default();
                format!("{{ destination: {{ host: {host}{subset}{port} }}{weight}{headers} }}")
            })
            .collect();
        texts.join(", ")
    })
}

fn block() -> impl Strategy<Value = String> {
    let uri = one_of([
        "{ exact: /a }",
        "{ exact: /b }",
        "{ prefix: / }",
        "{ prefix: /a }",
        "{ prefix: /a/ }",
        "{ regex: '/a.*' }",
        "{ regex: '/[ab]' }",
    ]);
    let named = || (one_of(["x", "y", "x-user", "x-request-id", "x-forwarded-proto"]), value());
    let query = (one_of(["k", "j"]), value());
    (
        sometimes(60, (uri, any::<bool>())),
        sometimes(15, one_of(["{ exact: GET }", "{ exact: POST }", "{ regex: 'P.*' }"])),
        sometimes(10, one_of(["{ exact: a }", "{ prefix: b }", "{ regex: '.*:8080' }"])),
        sometimes(5, one_of(["{ exact: http }", "{ exact: https }"])),
        sometimes(40, named()),
        sometimes(20, named()),
        sometimes(25, query),
        sometimes(5, one_of(["8080", "9090"])),
    )
        .prop_map(|(uri, method, authority, scheme, header, without, query, port)| {
            let mut fields = Vec::new();
            let map = |field: &str, (name, value): (&str, &str)| format!("{field}: {{ {name}: {value} }}");
            fields.extend(uri.map(|(uri, ignore_case)| format!("uri: {uri}, ignoreUriCase: {ignore_case}")));
            fields.extend(method.map(|value| format!("method: {value}")));
            fields.extend(authority.map(|value| format!("authority: {value}")));
            fields.extend(scheme.map(|value| format!("scheme: {value}")));
            fields.extend(header.map(|pair| map("headers", pair)));
            fields.extend(without.map(|pair| map("withoutHeaders", pair)));
            fields.extend(query.map(|pair| map("queryParams", pair)));
            fields.extend(port.map(|value| format!("port: {value}")));
            // A block needs a field.
            if fields.is_empty() {
                fields.push("uri: { prefix: / }".to_owned());
            }
            format!("{{ {} }}", fields.join(", "))
        })
}

fn value() -> impl Strategy<Value = &'static str> {
    one_of([
        "{ exact: '' }",
        "{ exact: a }",
        "{ exact: b }",
        "{ exact: https }",
        "{ prefix: a }",
        "{ regex: 'a|b' }",
        "{ regex: '[a-z]+' }",
        "{}",
    ])
}
