//! What a rule does besides forwarding: `redirect`, `directResponse`, `rewrite`.

use outrigger_config::{
    decide::{location, rewritten},
    report::Code,
    snapshot::{Action, DirectResponse, Forward, Redirect, RedirectScheme},
};

use crate::support::{
    MESH, RATINGS, Request, TO_REVIEWS, codes, findings, first_forward, first_route, rules, snapshot, table,
};

fn redirect(rule: &str, port: &str) -> Redirect {
    let snapshot = snapshot(&[MESH, &rules(rule)]);
    let route = &table(&snapshot, port).virtual_hosts[0].routes[0];
    let Action::Redirect(redirect) = &route.action else { panic!("{route:?}") };
    (**redirect).clone()
}

fn direct(fields: &str) -> DirectResponse {
    let snapshot = snapshot(&[MESH, &rules(&format!("  - directResponse: {fields}"))]);
    let route = first_route(&snapshot);
    let Action::Direct(response) = &route.action else { panic!("{route:?}") };
    (**response).clone()
}

/// What a request to `/api/x?q` goes upstream with, by a rule that forwards.
fn path(rule: &str, asked: &str) -> Option<String> {
    let snapshot = snapshot(&[MESH, &rules(&format!("  - {rule}\n    {TO_REVIEWS}"))]);
    let rewrite = first_rewrite(&snapshot, asked);
    rewritten(rewrite, asked).map(std::borrow::Cow::into_owned)
}

fn first_rewrite<'s>(
    snapshot: &'s outrigger_config::snapshot::Snapshot,
    asked: &str,
) -> &'s outrigger_config::snapshot::PathRewrite {
    let host = &table(snapshot, "8080").virtual_hosts[0];
    let request = Request::to("reviews").path(asked);
    let route = outrigger_config::decide::first_match(host, &request.view()).expect("a route");
    let Action::Forward(forward) = &route.action else { panic!("{route:?}") };
    forward.rewrite.as_ref().expect("a rewrite")
}

#[test]
fn a_redirect_is_translated_as_in_istio() {
    let to = redirect("  - redirect: { uri: /new, authority: other.example, scheme: https }", "8080");
    assert_eq!(to.status, 301, "the default");
    assert_eq!((to.scheme, to.port), (Some(RedirectScheme::Https), None));
    let request = Request::to("reviews:8080").path("/old/x?q=1");
    assert_eq!(location(&request.view(), Some(&to)), "https://other.example/new?q=1");
    for code in [301, 302, 303, 307, 308] {
        let to = redirect(&format!("  - redirect: {{ uri: /new, redirectCode: {code} }}"), "8080");
        assert_eq!(to.status, code);
    }
    assert_eq!(redirect("  - redirect: { uri: /new, redirectCode: 0 }", "8080").status, 301);
}

#[test]
fn the_port_of_a_redirect_is_left_out_where_it_goes_without_saying() {
    let port = |fields: &str, listener: &str| {
        redirect(&format!("  - redirect: {{ {fields} }}"), listener).port.map(u16::from)
    };
    assert_eq!(port("port: 8443", "8080"), Some(8443));
    assert_eq!(port("port: 80", "8080"), None);
    assert_eq!(port("port: 80, scheme: https", "8080"), Some(80));
    assert_eq!(port("port: 443, scheme: https", "8080"), None);
    assert_eq!(port("port: 443", "8080"), Some(443));
    assert_eq!(port("uri: /a", "8080"), None);
    assert_eq!(port("derivePort: FROM_PROTOCOL_DEFAULT", "8080"), None);
    assert_eq!(port("derivePort: FROM_REQUEST_PORT", "8080"), Some(8080));
    assert_eq!(port("derivePort: FROM_REQUEST_PORT", "9090"), Some(9090), "that of the listener");
}

#[test]
fn a_redirect_that_no_proxy_can_send_is_an_error() {
    let report = findings(&[MESH, &rules("  - redirect: { uri: /a, redirectCode: 305 }")]);
    assert_eq!(codes(&report), [Code::InvalidValue], "Istio lets it pass, and Envoy refuses it: {report}");
}

#[test]
fn a_direct_response_has_its_status_and_body() {
    let answer = direct("{ status: 503, body: { string: 'later, please' } }");
    assert_eq!((answer.status.as_u16(), &*answer.body), (503, &b"later, please"[..]));
    let answer = direct("{ status: 200 }");
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, &b""[..]));
    assert_eq!(direct("{ status: 600 }").status.as_u16(), 600, "Istio's check allows it");
    for bytes in ["+/8A", "-_8A", "'-_8'", "'+/8='"] {
        let body = direct(&format!("{{ status: 200, body: {{ bytes: {bytes} }} }}")).body;
        assert_eq!(body[..2], [0xfb, 0xff], "{bytes}");
    }
}

#[test]
fn the_size_of_a_direct_response_is_limited_as_in_istio() {
    let of = |bytes: usize| {
        let body = "a".repeat(bytes);
        let rule = format!("  - directResponse: {{ status: 200, body: {{ string: {body} }} }}");
        codes(&findings(&[MESH, &rules(&rule)]))
    };
    assert_eq!(of(100 << 10), []);
    assert_eq!(of((100 << 10) + 1), [Code::LargeBody]);
    assert_eq!(of(1 << 20), [Code::LargeBody]);
    assert_eq!(of((1 << 20) + 1), [Code::InvalidValue]);
}

#[test]
fn a_prefix_is_replaced_by_its_length_and_any_other_match_as_a_whole() {
    for (rule, asked, new) in [
        ("match: [{ uri: { prefix: /api } }]\n    rewrite: { uri: /v2 }", "/api/x?y=/api", "/v2/x?y=/api"),
        ("match: [{ uri: { prefix: /api/ } }]\n    rewrite: { uri: / }", "/api/x", "/x"),
        (
            "match: [{ uri: { prefix: /Api }, ignoreUriCase: true }]\n    rewrite: { uri: /v2 }",
            "/aPI/x",
            "/v2/x",
        ),
        ("match: [{ uri: { exact: /api } }]\n    rewrite: { uri: /v2 }", "/api?y", "/v2?y"),
        ("match: [{ uri: { regex: '/a.*' } }]\n    rewrite: { uri: /v2 }", "/api/x?y", "/v2?y"),
        ("rewrite: { uri: /v2 }", "/x?y", "/v2x?y"),
    ] {
        assert_eq!(path(rule, asked).as_deref(), Some(new), "{rule}");
    }
    let blocks = "match: [{ uri: { prefix: /a } }, { uri: { exact: /bcd } }]\n    rewrite: { uri: /v2 }";
    assert_eq!(path(blocks, "/a/x").as_deref(), Some("/v2/x"));
    assert_eq!(path(blocks, "/bcd").as_deref(), Some("/v2"), "each block by its own match");
    let to = redirect(
        "  - match: [{ uri: { prefix: /Old }, ignoreUriCase: true }]\n    redirect: { prefixRewrite: /new }",
        "8080",
    );
    let request = Request::to("reviews").path("/oLD/x?q");
    assert_eq!(location(&request.view(), Some(&to)), "http://reviews/new/x?q");
}

#[test]
fn a_substitution_is_translated_from_re2() {
    let rule = r"rewrite: { uriRegexRewrite: { match: '/([a-z]+)/([0-9]*)', rewrite: '/\2-\1$1' } }";
    assert_eq!(path(rule, "/wx/12/ab/3?q=/ab/1").as_deref(), Some("/12-wx$1/3-ab$1?q=/ab/1"));
}

fn authorities(forward: &Forward) -> Vec<Option<&str>> {
    let all =
        std::iter::once(&forward.authority).chain(forward.clusters.iter().map(|entry| &entry.authority));
    all.map(|authority| authority.as_ref().map(|value| value.to_str().unwrap())).collect()
}

#[test]
fn the_authority_of_a_rewrite_is_that_of_the_route() {
    let of = |rule: &str| {
        let snapshot = snapshot(&[MESH, &rules(rule)]);
        let forward = first_forward(&snapshot);
        authorities(forward).into_iter().map(|value| value.map(str::to_owned)).collect::<Vec<_>>()
    };
    let set = |host: &str| format!("headers: {{ request: {{ set: {{ host: {host} }} }} }}");
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(of(&format!("  - rewrite: {{ authority: a }}\n    {TO_REVIEWS}")), [some("a"), None]);
    let lone = format!("route: [{{ destination: {{ host: reviews }}, {} }}]", set("d"));
    assert_eq!(of(&format!("  - {lone}")), [some("d"), None]);
    assert_eq!(
        of(&format!("  - rewrite: {{ authority: a }}\n    {lone}")),
        [some("a"), None],
        "Istio's order"
    );
}

#[test]
fn each_of_several_destinations_may_set_its_authority() {
    let set = |host: &str| format!("headers: {{ request: {{ set: {{ host: {host} }} }} }}");
    let two = format!(
        "route:\n    - {{ destination: {{ host: reviews }}, weight: 1, {} }}\n    \
         - {{ destination: {{ host: {RATINGS} }}, weight: 1 }}",
        set("d")
    );
    let own = snapshot(&[MESH, &rules(&format!("  - {two}"))]);
    assert_eq!(authorities(first_forward(&own)), [None, Some("d"), None]);
    let both = rules(&format!("  - rewrite: {{ authority: a }}\n    {two}"));
    assert_eq!(codes(&findings(&[MESH, &both])), [Code::IgnoredAuthority]);
    assert_eq!(authorities(first_forward(&snapshot(&[MESH, &both]))), [Some("a"), Some("d"), None]);
}

#[test]
fn answers_of_the_proxy_have_names_and_header_operations_too() {
    let rule = "  - name: gone\n    match: [{ name: here, uri: { prefix: /x } }]\n    redirect: { uri: /y }\n    \
                headers: { response: { set: { x-a: '1' } } }";
    let snapshot = snapshot(&[MESH, &rules(rule)]);
    let route = &table(&snapshot, "8080").virtual_hosts[0].routes[0];
    assert_eq!(&*route.name, "gone.here");
    assert_eq!(route.response_headers.set.len(), 1);
    assert_eq!(route.operation.as_ref().unwrap(), "reviews:8080/x*", "called by the virtual service");
    assert_eq!(route.origin.line, 8);
}
