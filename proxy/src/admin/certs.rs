//! `/certs`: the certificates in use, as Envoy shows them, and when they end. No key is shown.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use serde_json::{Value, json};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::server::{counter, gauge};
use crate::{
    net::tls::{CertificateFile, Secrets},
    telemetry::Sample,
};

const DAY: i64 = 24 * 3600;

/// Envoy groups certificates by what uses them; here it is by file. What was never loaded is told by its reason.
pub(super) fn page(secrets: &Secrets) -> Value {
    let now = now();
    let entry = |file: &CertificateFile| {
        let path = file.path.display().to_string();
        let shown = file.certificates.iter().filter_map(|der| {
            let (_, certificate) = X509Certificate::from_der(der).ok()?;
            Some(shown(&path, &certificate, now))
        });
        json!({ if file.authority { "ca_cert" } else { "cert_chain" }: shown.collect::<Vec<_>>() })
    };
    let unusable: Vec<_> = secrets.unusable().into_iter().map(|why| Value::from(&*why)).collect();
    json!({
        "certificates": secrets.certificates().iter().map(entry).collect::<Vec<_>>(),
        "unusable": unusable,
    })
}

fn shown(path: &str, certificate: &X509Certificate<'_>, now: i64) -> Value {
    let validity = certificate.validity();
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::URI(uri) => Some(json!({ "uri": uri })),
        GeneralName::DNSName(name) => Some(json!({ "dns": name })),
        _ => None,
    });
    json!({
        "path": path,
        "serial_number": format!("{:x}", certificate.serial),
        "subject_alt_names": names.collect::<Vec<_>>(),
        "days_until_expiration": days(validity.not_after.timestamp() - now).to_string(),
        "valid_from": time(validity.not_before.timestamp()),
        "expiration_time": time(validity.not_after.timestamp()),
    })
}

fn days(seconds: i64) -> i64 {
    seconds.max(0) / DAY
}

fn time(seconds: i64) -> Option<String> {
    Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// When the first certificate ends, by file (Istio's agent has `istio_agent_cert_expiry_seconds`), and what became of
/// changes.
pub(crate) fn certificate_samples(secrets: Arc<Secrets>) -> impl Fn() -> Vec<Sample> + Send + Sync + 'static {
    move || {
        let now = now();
        let (loaded, rejected) = secrets.counts();
        let mut samples = vec![
            counter("outrigger_certificates_loaded_total", "Certificates that were read and taken", loaded),
            counter(
                "outrigger_certificates_rejected_total",
                "Certificates, keys or roots that could not be used, the last good ones being kept",
                rejected,
            ),
            gauge(
                "outrigger_certificates_unusable",
                "Sets of certificates and keys that were never loaded, so that whoever needs them is refused",
                count(secrets.unusable().len()),
            ),
        ];
        let mut first = None::<i64>;
        for file in secrets.certificates() {
            let ends = file.certificates.iter().filter_map(|der| {
                let (_, certificate) = X509Certificate::from_der(der).ok()?;
                Some(certificate.validity().not_after.timestamp() - now)
            });
            let Some(left) = ends.min() else { continue };
            first = Some(first.map_or(left, |first| first.min(left)));
            samples.push(Sample {
                labels: vec![("resource_name", file.path.display().to_string().into())],
                ..gauge(
                    "istio_agent_cert_expiry_seconds",
                    "Seconds until the first certificate ends",
                    seconds(left),
                )
            });
        }
        if let Some(left) = first {
            let help = "Days until the first certificate ends";
            samples.push(gauge("envoy_server_days_until_first_cert_expiring", help, seconds(days(left))));
        }
        samples
    }
}

#[expect(clippy::cast_precision_loss, reason = "a sample is a float")]
fn count(sets: usize) -> f64 {
    sets as f64
}

#[expect(clippy::cast_precision_loss, reason = "a sample is a float")]
fn seconds(seconds: i64) -> f64 {
    seconds as f64
}
