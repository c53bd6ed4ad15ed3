//! `caCrl`: certificates that were revoked are refused on the way out and on the way in, as soon as the list says so.

use std::{net::SocketAddr, path::Path};

use crate::support::{
    certs::{self, Authority, Pair, Shows, dns, workload},
    mesh::{Mesh, Proxy},
    origin::Origin,
    secure::{Front, asked},
    wait::eventually,
};

const PORT: u16 = 7070;

/// A certificate for `web` with this serial number.
fn numbered(authority: &Authority, serial: u64) -> Pair {
    let mut params = workload("spiffe://cluster.local/ns/default/sa/web");
    params.subject_alt_names = vec![dns("web")];
    params.serial_number = Some(serial.into());
    authority.issue(&params)
}

/// By renaming, as whoever renews the list does.
fn write(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

#[tokio::test]
async fn an_endpoint_whose_certificate_was_revoked_is_refused_from_then_on() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let origin = Origin::named("secret").await;
    let front = async |serial: u64| {
        let shows = Shows::new(&numbered(&authority, serial));
        Front::before(origin.address(), certs::server(shows, None, &["http/1.1"])).await
    };
    let (kept, revoked) = (front(1).await, front(2).await);
    let (roots, list) = (folder.path().join("ca.pem"), folder.path().join("crl.pem"));
    std::fs::write(&roots, authority.pem()).unwrap();
    write(&list, &authority.revoking(&[2]));
    let policy =
        format!("tls: {{ mode: SIMPLE, caCertificates: {}, caCrl: {} }}", roots.display(), list.display());
    let start = async |front: &Front| {
        // A connection a request: the list is asked in each handshake.
        let policy = format!("{policy}\nconnectionPool: {{ http: {{ maxRequestsPerConnection: 1 }} }}");
        Mesh::new().http("web", &[(front.address(), "v1")]).policy(&policy).start().await
    };
    let (good, bad) = (start(&kept).await, start(&revoked).await);
    assert_eq!(good.get("web", "/").await.text(), "secret");
    assert_eq!(bad.get("web", "/").await.status, 503);
    let reason = bad.logged_one().await["upstream_transport_failure_reason"].to_string();
    assert!(reason.to_lowercase().contains("revoked"), "{reason}");
    assert_eq!(origin.hits(), 1);

    write(&list, &authority.revoking(&[1]));
    let becomes = async |proxy: &Proxy, status: u16| {
        eventually("the new list", async || (proxy.get("web", "/").await.status == status).then_some(()))
            .await;
    };
    becomes(&bad, 200).await;
    becomes(&good, 503).await;

    // A list that cannot be read keeps the last good one.
    let rejected = good.sum("outrigger_certificates_rejected", &[]).await;
    write(&list, "no list");
    good.metric("outrigger_certificates_rejected", &[], rejected + 1.0).await;
    assert_eq!(good.get("web", "/").await.status, 503);
}

#[tokio::test]
async fn a_client_whose_certificate_was_revoked_is_refused_from_then_on() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let origin = Origin::named("hello").await;
    let [chain, key] = numbered(&authority, 9).files(folder.path(), "server");
    let (roots, list) = (folder.path().join("ca.pem"), folder.path().join("crl.pem"));
    std::fs::write(&roots, authority.pem()).unwrap();
    write(&list, &authority.revoking(&[2]));
    let [chain, key, roots] = [&chain, &key, &roots].map(|path| path.display());
    let tls = format!(
        "mode: MUTUAL, serverCertificate: {chain}, privateKey: {key}, caCertificates: {roots}, caCrl: {}",
        list.display()
    );
    let proxy = Mesh::new().ingress(PORT, "HTTPS", origin.address()).ingress_tls(&tls).start().await;
    let address = proxy.address(&format!("127.0.0.1_{PORT}"));
    let pairs = [1, 2].map(|serial| numbered(&authority, serial));
    let taken = async || [served(address, &pairs[0]).await, served(address, &pairs[1]).await];
    assert_eq!(taken().await, [true, false]);
    proxy.metric("envoy_listener_ssl_fail_verify_error", &[], 1.0).await;
    write(&list, &authority.revoking(&[1]));
    eventually("the new list", async || (taken().await == [false, true]).then_some(())).await;
}

/// Whether a client that shows this is answered.
async fn served(address: SocketAddr, shows: &Pair) -> bool {
    asked(address, certs::client(Some(shows), &["http/1.1"])).await.is_some()
}
