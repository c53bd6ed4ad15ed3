//! Certificates that are not believed, shown by an endpoint and by a client. One that is gets through, so that the others
//! are refused for what is wrong with them.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::CertificateDer;

use crate::support::{
    certs::{self, Authority, Pair, Shows, dns, named, raw_uris, uri, workload},
    mesh::{Mesh, destination_rule},
    origin::Origin,
    secure::{Front, asked},
    wait::eventually,
};

const GOOD: &str = "spiffe://cluster.local/ns/default/sa/web";

/// What is wrong, a certificate, and how the reason reads.
type Bad = (&'static str, Pair, &'static str);

fn changed(authority: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Pair {
    let mut params = workload(GOOD);
    change(&mut params);
    authority.issue(&params)
}

/// The names of a certificate are no workload's.
fn by_name(authority: &Authority) -> Vec<Bad> {
    const NO_WORKLOAD: &str = "its URI is no SPIFFE identity";
    let long = format!("spiffe://cluster.local/{}", "x".repeat(2100));
    let one = |text: &str| authority.workload(text);
    let raw = |uris: &[&[u8]]| {
        changed(authority, |params| {
            params.subject_alt_names.clear();
            params.custom_extensions.push(raw_uris(uris));
        })
    };
    let named_otherwise = |change: fn(&mut CertificateParams)| {
        changed(authority, |params| {
            params.subject_alt_names.clear();
            change(params);
        })
    };
    vec![
        ("no name", named_otherwise(|_| {}), "there is no URI"),
        ("a common name alone", named_otherwise(|it| it.distinguished_name = named(GOOD)), "there is no URI"),
        (
            "a DNS name alone",
            named_otherwise(|it| it.subject_alt_names.push(dns("web.default"))),
            "there is no URI",
        ),
        ("an identity as a DNS name", named_otherwise(|it| it.subject_alt_names.push(dns(GOOD))), ""),
        (
            "two identities",
            changed(authority, |it| it.subject_alt_names.push(uri("spiffe://cluster.local/b"))),
            "it has 2 URIs",
        ),
        (
            "the same identity twice",
            changed(authority, |it| it.subject_alt_names.push(uri(GOOD))),
            "it has 2 URIs",
        ),
        (
            "another URI beside it",
            changed(authority, |it| it.subject_alt_names.push(uri("https://a/b"))),
            "it has 2 URIs",
        ),
        ("a second URI that is no text", raw(&[GOOD.as_bytes(), b"\xff\xfe"]), ""),
        ("a URI that is no text", raw(&[b"spiffe://cluster.local/\xff"]), ""),
        ("NUL in the path", raw(&[b"spiffe://cluster.local/ns/default\0/sa/web"]), ""),
        ("NUL behind the trust domain", raw(&[b"spiffe://cluster.local\0.evil/ns/default/sa/web"]), ""),
        ("another trust domain", one("spiffe://evil.local/ns/default/sa/web"), "the trust domain"),
        ("a domain below", one("spiffe://a.cluster.local/ns/default/sa/web"), "the trust domain"),
        ("a longer domain", one("spiffe://cluster.local.evil/ns/default/sa/web"), "the trust domain"),
        ("a shorter domain", one("spiffe://cluster/ns/default/sa/web"), "the trust domain"),
        ("an upper case domain", one("spiffe://Cluster.local/ns/default/sa/web"), NO_WORKLOAD),
        ("an upper case scheme", one("SPIFFE://cluster.local/ns/default/sa/web"), NO_WORKLOAD),
        ("another scheme", one("https://cluster.local/ns/default/sa/web"), NO_WORKLOAD),
        ("a wildcard", one("spiffe://*/ns/default/sa/web"), NO_WORKLOAD),
        ("no domain", one("spiffe:///ns/default/sa/web"), NO_WORKLOAD),
        ("no path", one("spiffe://cluster.local"), NO_WORKLOAD),
        ("an empty path", one("spiffe://cluster.local/"), NO_WORKLOAD),
        ("an empty part", one("spiffe://cluster.local/ns//sa/web"), NO_WORKLOAD),
        ("a last slash", one("spiffe://cluster.local/ns/default/sa/web/"), NO_WORKLOAD),
        ("dots", one("spiffe://cluster.local/ns/../sa/web"), NO_WORKLOAD),
        ("a query", one("spiffe://cluster.local/ns/default/sa/web?a"), NO_WORKLOAD),
        ("a fragment", one("spiffe://cluster.local/ns/default/sa/web#a"), NO_WORKLOAD),
        ("a port", one("spiffe://cluster.local:443/ns/default/sa/web"), NO_WORKLOAD),
        ("a user", one("spiffe://cluster.local@evil/ns/default/sa/web"), NO_WORKLOAD),
        ("an escape", one("spiffe://cluster.local/ns/default/sa/%77eb"), NO_WORKLOAD),
        ("a long identity", one(&long), NO_WORKLOAD),
    ]
}

/// Its names are fine, but nobody vouches for it, or not for this.
fn by_chain(authority: &Authority) -> Vec<Bad> {
    let other = Authority::new();
    let own_key = KeyPair::generate().unwrap();
    let own = workload(GOOD).self_signed(&own_key).unwrap();
    let self_signed = Pair { chain: vec![own.der().clone()], pem: own.pem(), key: own_key };
    vec![
        ("expired", changed(authority, |it| it.not_after = date_time_ymd(2020, 1, 1)), "expired"),
        (
            "not yet valid",
            changed(authority, |it| it.not_before = date_time_ymd(2999, 1, 1)),
            "not valid yet",
        ),
        (
            "for other purposes",
            changed(authority, |it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
            "Purpose",
        ),
        ("of another root of the same name", other.workload(GOOD), ""),
        ("of its own", self_signed, ""),
        (
            "an authority",
            changed(authority, |it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            "CaUsedAsEndEntity",
        ),
        (
            "a signer of certificates",
            changed(authority, |it| it.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            "its key signs certificates",
        ),
        (
            "a signer of revocations",
            changed(authority, |it| it.key_usages.push(KeyUsagePurpose::CrlSign)),
            "its key signs certificates",
        ),
        (
            "no signer at all",
            changed(authority, |it| it.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
            "its key usage allows no signature",
        ),
        ("of a workload", of_a_workload(authority), ""),
        (
            "with a critical part that nobody knows",
            changed(authority, |it| {
                let mut unknown = CustomExtension::from_oid_content(&[1, 3, 9999, 1], vec![5, 0]);
                unknown.set_criticality(true);
                it.custom_extensions.push(unknown);
            }),
            "UnsupportedCriticalExtension",
        ),
    ]
}

/// Signed by a certificate that may not sign.
fn of_a_workload(authority: &Authority) -> Pair {
    let key = KeyPair::generate().unwrap();
    let params = workload("spiffe://cluster.local/ns/default/sa/evil");
    let signer = params.signed_by(&key, authority.issuer()).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let certificate = workload(GOOD).signed_by(&key, &issuer).unwrap();
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone(), signer.der().clone()];
    Pair { chain, pem: certificate.pem(), key }
}

fn all(authority: &Authority) -> Vec<Bad> {
    let mut all = by_name(authority);
    all.extend(by_chain(authority));
    assert!(all.len() > 40);
    all
}

#[tokio::test]
async fn endpoints_with_a_bad_certificate_get_no_request_and_the_log_says_why() {
    let authority = Authority::new();
    let origin = Origin::named("hello").await;
    let good = authority.workload(GOOD);
    let shows = Shows::new(&good);
    let front = Front::before(origin.address(), certs::server(shows.clone(), None, &["http/1.1"])).await;
    let identity = authority.identity("spiffe://cluster.local/ns/default/sa/client");
    // Each request shakes hands anew, once.
    let rule = destination_rule(
        "web",
        "tls: { mode: ISTIO_MUTUAL }\nconnectionPool: { http: { maxRequestsPerConnection: 1 } }",
    );
    let routes = "- retries: { attempts: 0 }\n  route: [{ destination: { host: web } }]";
    let mesh = Mesh::new().http("web", &[(front.address(), "v1")]).rules(rule).routes(routes);
    let proxy = mesh.identity(identity.path()).start().await;
    assert_eq!(proxy.get("web", "/").await.text(), "hello");
    let mut lines = 1;
    for (name, bad, why) in all(&authority) {
        shows.show(&bad);
        assert_eq!(proxy.get("web", "/").await.status, 503, "{name}");
        lines += 1;
        let log = proxy.logged(lines).await.swap_remove(lines - 1);
        let reason = log["upstream_transport_failure_reason"].as_str().unwrap().to_owned();
        let expected = why.replace(' ', "_");
        assert!(
            reason.starts_with("TLS_error:_certificate_refused") && reason.contains(&expected),
            "{name}: {reason}"
        );
        assert_eq!(log["response_flags"], "UF", "{name}");
    }
    shows.show(&good);
    assert_eq!(proxy.get("web", "/").await.text(), "hello");
    assert_eq!(origin.hits(), 2);
}

#[tokio::test]
async fn clients_with_a_bad_certificate_reach_nobody() {
    let authority = Authority::new();
    let origin = Origin::named("hello").await;
    let identity = authority.identity(GOOD);
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: a }\nspec: { mtls: { mode: STRICT } }";
    let mesh = Mesh::new().ingress(7070, "HTTP", origin.address()).identity(identity.path()).rules(strict);
    let proxy = mesh.start().await;
    let asked = async |pair: &Pair| {
        let config = certs::client(Some(pair), &["istio-http/1.1", "istio", "http/1.1"]);
        asked(proxy.address("127.0.0.1_7070"), config).await
    };
    let mut bad = 0.0;
    for (name, pair, _) in all(&authority) {
        assert_eq!(asked(&pair).await, None, "{name}");
        bad += 1.0;
    }
    let refused = async || {
        let failed = ["envoy_listener_ssl_fail_verify_san", "envoy_listener_ssl_fail_verify_error"];
        proxy.sum(failed[0], &[]).await + proxy.sum(failed[1], &[]).await
    };
    // The client may hear of it before it is counted.
    eventually("each to be counted", async || (refused().await == bad).then_some(())).await;
    assert_eq!(asked(&authority.workload(GOOD)).await.as_deref(), Some(&b"HTTP/1.1 200"[..]));
    assert_eq!(origin.hits(), 1);
}
