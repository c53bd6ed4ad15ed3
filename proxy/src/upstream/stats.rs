//! Counters of clusters, endpoints and filters under Envoy's names, as plain atomics: workers add, the control thread reads.
//!
//! Gauges of what is in use are not here: the breakers already count it (see [`super::Breaker`]).

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use rustls::{CertificateError, Error};

use crate::net::tls::TlsFailure;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The current value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds one and returns the new value.
    pub fn inc(&self) -> u64 {
        self.0.fetch_add(1, Relaxed) + 1
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// Replaces the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The current value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Whether a statistic only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

macro_rules! statistics {
    ($(#[$meta:meta])* $name:ident { $($kind:ident $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        #[expect(missing_docs, reason = "each field is Envoy's statistic of the same name")]
        pub struct $name { $(pub $field: $kind,)* }

        impl $name {
            /// Calls `see` with the name, kind and value of each statistic.
            pub fn each(&self, mut see: impl FnMut(&'static str, Kind, u64)) {
                $(see(stringify!($field), Kind::$kind, self.$field.get());)*
            }
        }
    };
}

statistics! {
    /// What a cluster counts (Envoy `envoy_cluster_*`).
    ClusterStats {
        Counter upstream_rq_total,
        Counter upstream_rq_completed,
        Counter upstream_rq_1xx,
        Counter upstream_rq_2xx,
        Counter upstream_rq_3xx,
        Counter upstream_rq_4xx,
        Counter upstream_rq_5xx,
        Counter upstream_rq_pending_total,
        Counter upstream_rq_pending_overflow,
        Counter upstream_rq_pending_failure_eject,
        Counter upstream_rq_active_overflow,
        Counter upstream_rq_cancelled,
        Counter upstream_rq_timeout,
        Counter upstream_rq_per_try_timeout,
        Counter upstream_rq_retry,
        Counter upstream_rq_retry_success,
        Counter upstream_rq_retry_overflow,
        Counter upstream_rq_retry_limit_exceeded,
        Counter upstream_rq_retry_backoff_exponential,
        Counter upstream_rq_rx_reset,
        Counter upstream_rq_tx_reset,
        Counter upstream_cx_total,
        Counter upstream_cx_http1_total,
        Counter upstream_cx_http2_total,
        Counter upstream_cx_connect_fail,
        Counter upstream_cx_connect_timeout,
        Counter upstream_cx_connect_attempts_exceeded,
        Counter upstream_cx_destroy,
        Counter upstream_cx_destroy_local,
        Counter upstream_cx_destroy_remote,
        Counter upstream_cx_destroy_with_active_rq,
        Counter upstream_cx_destroy_local_with_active_rq,
        Counter upstream_cx_destroy_remote_with_active_rq,
        Counter upstream_cx_idle_timeout,
        Counter upstream_cx_max_requests,
        Counter upstream_cx_none_healthy,
        Counter upstream_cx_overflow,
        Counter upstream_cx_protocol_error,
        Counter http2_keepalive_timeout,
        Counter retry_or_shadow_abandoned,
        Counter update_attempt,
        Counter update_success,
        Counter update_failure,
        Counter membership_change,
        Gauge membership_total,
        Gauge membership_healthy,
        Counter lb_healthy_panic,
        Gauge outlier_detection_ejections_active,
        Counter outlier_detection_ejections_total,
        Counter outlier_detection_ejections_overflow,
        Counter outlier_detection_ejections_enforced_total,
        Counter outlier_detection_ejections_consecutive_5xx,
        Counter outlier_detection_ejections_detected_consecutive_5xx,
        Counter outlier_detection_ejections_enforced_consecutive_5xx,
        Counter outlier_detection_ejections_detected_consecutive_gateway_failure,
        Counter outlier_detection_ejections_enforced_consecutive_gateway_failure,
        Counter outlier_detection_ejections_detected_consecutive_local_origin_failure,
        Counter outlier_detection_ejections_enforced_consecutive_local_origin_failure,
    }
}

statistics! {
    /// What comes of TLS handshakes, by cluster or for all listeners (Envoy `ssl.*`).
    TlsStats {
        Counter ssl_handshake,
        Counter ssl_connection_error,
        Counter ssl_fail_verify_error,
        Counter ssl_fail_verify_no_cert,
        Counter ssl_fail_verify_san,
    }
}

impl TlsStats {
    /// Counts a handshake that failed; what is wrong with the socket alone is none.
    pub(crate) fn failed(&self, error: &io::Error) {
        let Some(failure) = TlsFailure::within(error) else { return };
        match failure {
            TlsFailure::Handshake(Error::NoCertificatesPresented) => self.ssl_fail_verify_no_cert.inc(),
            TlsFailure::Handshake(Error::InvalidCertificate(
                CertificateError::Other(_) | CertificateError::NotValidForName,
            )) => self.ssl_fail_verify_san.inc(),
            TlsFailure::Handshake(Error::InvalidCertificate(_)) => self.ssl_fail_verify_error.inc(),
            _ => self.ssl_connection_error.inc(),
        }
    }
}

impl ClusterStats {
    /// Counts the end of a connection, whose end it was.
    pub(super) fn end_connection(&self, by_peer: bool) {
        if by_peer {
            self.upstream_cx_destroy_remote.inc();
        } else {
            self.upstream_cx_destroy_local.inc();
        }
    }

    /// Counts a request that was under way when its connection ended.
    pub(super) fn cut_request(&self, by_peer: bool) {
        self.upstream_cx_destroy_with_active_rq.inc();
        if by_peer {
            self.upstream_cx_destroy_remote_with_active_rq.inc();
        } else {
            self.upstream_cx_destroy_local_with_active_rq.inc();
        }
    }

    /// Counts a finished request by the class of its final status, whoever made the answer (Envoy
    /// `chargeBasicResponseStat`); a try that was retried is not finished.
    pub fn charge(&self, status: u16) {
        self.upstream_rq_completed.inc();
        match status / 100 {
            1 => self.upstream_rq_1xx.inc(),
            2 => self.upstream_rq_2xx.inc(),
            3 => self.upstream_rq_3xx.inc(),
            4 => self.upstream_rq_4xx.inc(),
            5 => self.upstream_rq_5xx.inc(),
            _ => {}
        }
    }
}

statistics! {
    /// What an endpoint counts (the per host lines of Envoy's `/clusters`).
    HostStats {
        Gauge cx_active,
        Counter cx_connect_fail,
        Counter cx_total,
        Gauge rq_active,
        Counter rq_error,
        Counter rq_success,
        Counter rq_timeout,
        Counter rq_total,
    }
}

statistics! {
    /// What is counted before the router (Envoy `envoy_http_*`).
    FilterStats {
        Counter cors_origin_invalid,
        Counter cors_origin_valid,
        Counter downstream_rq_overload_close,
        Counter fault_aborts_injected,
        Gauge fault_active_faults,
        Counter fault_delays_injected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_charged_to_its_class() {
        let stats = ClusterStats::default();
        for status in [200, 204, 404, 503] {
            stats.charge(status);
        }
        let mut seen = std::collections::HashMap::new();
        stats.each(|name, _, value| {
            seen.insert(name, value);
        });
        assert_eq!((seen["upstream_rq_2xx"], seen["upstream_rq_4xx"], seen["upstream_rq_5xx"]), (2, 1, 1));
        assert_eq!((seen["upstream_rq_completed"], seen["upstream_rq_3xx"]), (4, 0));
    }
}
