//! Outlier detection against what was observed with Envoy; the clock is an argument.

use std::sync::Arc;

use super::*;
use crate::upstream::{
    ClusterState, Host,
    testing::{ClusterBuilder, outlier, state},
};

const BAD: Outcome = Outcome::Status(500);
const MS: Duration = Duration::from_millis(1);

fn cluster(hosts: u16, policy: Outlier) -> Arc<ClusterState> {
    state(ClusterBuilder::new(hosts).outlier(policy))
}

fn host(cluster: &ClusterState, index: usize) -> Arc<Host> {
    cluster.hosts().all[index].clone()
}

fn report(cluster: &ClusterState, outcomes: &[Outcome]) -> bool {
    let host = host(cluster, 0);
    for outcome in outcomes {
        cluster.report(&host, *outcome, Instant::now());
    }
    host.is_ejected()
}

#[test]
fn the_last_of_the_consecutive_errors_ejects_at_once() {
    let cluster = cluster(2, outlier(3));
    assert!(!report(&cluster, &[BAD, BAD]));
    assert!(report(&cluster, &[BAD]));
    assert_eq!(cluster.hosts().groups[0].candidates.len(), 1);
    assert_eq!((cluster.stats.membership_total.get(), cluster.stats.membership_healthy.get()), (2, 1));
    let report = host(&cluster, 0).ejection();
    assert_eq!((report.now.unwrap().reason, report.times), (Reason::Consecutive5xx, 1));
    let stats = &cluster.stats;
    assert_eq!(stats.outlier_detection_ejections_active.get(), 1);
    assert_eq!(stats.outlier_detection_ejections_enforced_consecutive_5xx.get(), 1);
}

#[test]
fn a_success_starts_the_count_again_and_a_client_error_is_a_success() {
    for good in [200, 302, 404, 499] {
        let cluster = cluster(2, outlier(2));
        assert!(!report(&cluster, &[BAD, Outcome::Status(good), BAD]), "{good}");
        assert!(report(&cluster, &[BAD]));
    }
}

#[test]
fn every_kind_of_failure_counts() {
    use Outcome::{ConnectFailure, ConnectTimeout, Reset, Timeout};
    let cluster = cluster(2, outlier(5));
    assert!(!report(&cluster, &[ConnectFailure, ConnectTimeout, Timeout, Reset]));
    assert!(report(&cluster, &[Outcome::Status(599)]));
    let host = host(&cluster, 0);
    assert_eq!(
        (host.stats().rq_error.get(), host.stats().rq_timeout.get(), host.stats().rq_success.get()),
        (5, 1, 0)
    );
}

#[test]
fn zero_errors_is_off() {
    let cluster = cluster(2, outlier(0));
    assert!(!report(&cluster, &[BAD; 100]));
}

#[test]
fn gateway_errors_have_their_own_count() {
    let policy = Outlier { consecutive_gateway: 2, ..outlier(5) };
    let gateway = Outcome::Status(503);
    let cluster = cluster(2, policy.clone());
    assert!(!report(&cluster, &[gateway, BAD, gateway]), "another 5xx starts the gateway count again");
    assert!(report(&cluster, &[gateway]));
    assert_eq!(host(&cluster, 0).ejection().now.unwrap().reason, Reason::ConsecutiveGatewayFailure);
    assert_eq!(cluster.stats.outlier_detection_ejections_enforced_consecutive_gateway_failure.get(), 1);

    let other = self::cluster(2, policy);
    assert!(!report(&other, &[Outcome::Reset, BAD, Outcome::ConnectTimeout]));
    assert!(report(&other, &[Outcome::Reset]), "a reset is a gateway error, as a failed connect is");
    assert_eq!(other.stats.outlier_detection_ejections_detected_consecutive_gateway_failure.get(), 1);
}

#[test]
fn split_local_failures_are_counted_apart() {
    let policy = Outlier { split_local_origin: true, consecutive_local_origin: 3, ..outlier(2) };
    let cluster = cluster(2, policy);
    let failure = Outcome::ConnectFailure;
    assert!(!report(&cluster, &[failure, failure, BAD]), "a 500 is none of them");
    host(&cluster, 0).connected();
    assert!(!report(&cluster, &[failure, failure]), "a connection ends their count");
    assert!(report(&cluster, &[failure]));
    assert_eq!(host(&cluster, 0).ejection().now.unwrap().reason, Reason::ConsecutiveLocalOriginFailure);
    let stats = &cluster.stats;
    assert_eq!(stats.outlier_detection_ejections_enforced_consecutive_local_origin_failure.get(), 1);
}

#[test]
fn split_failures_on_a_connection_are_local_and_add_up_to_one() {
    let policy = Outlier { split_local_origin: true, consecutive_local_origin: 2, ..outlier(1) };
    let of_two = cluster(2, policy.clone());
    for failure in [Outcome::Reset, Outcome::Timeout, Outcome::Reset] {
        host(&of_two, 0).connected();
        assert!(!report(&of_two, &[failure]), "no 5xx either");
    }
    let of_one = cluster(2, Outlier { consecutive_local_origin: 1, ..policy });
    host(&of_one, 0).connected();
    assert!(report(&of_one, &[Outcome::Reset]));
    assert_eq!(host(&of_one, 0).ejection().now.unwrap().reason, Reason::ConsecutiveLocalOriginFailure);
}

#[test]
fn error_codes_replace_the_5xx() {
    let policy = Outlier { error_codes: Some([429, 503].into()), ..outlier(2) };
    let cluster = cluster(2, policy);
    assert!(!report(&cluster, &[BAD; 5]), "500 is none of them");
    assert!(!report(&cluster, &[Outcome::Status(429), Outcome::Status(200)]));
    assert!(report(&cluster, &[Outcome::Status(429), Outcome::Status(503)]));
}

#[test]
fn the_share_of_ejected_hosts_may_reach_the_maximum_but_not_pass_it() {
    for (hosts, percent, expected) in
        [(9, 10, 0), (10, 10, 1), (3, 50, 1), (1, 99, 0), (1, 100, 1), (4, 50, 2), (5, 0, 0)]
    {
        let cluster = cluster(hosts, Outlier { max_ejection_percent: percent, ..outlier(1) });
        for index in 0..usize::from(hosts) {
            cluster.report(&host(&cluster, index), BAD, Instant::now());
        }
        let ejected = cluster.hosts().all.iter().filter(|host| host.is_ejected()).count();
        assert_eq!(ejected, expected, "{percent} % of {hosts}");
        let overflow = cluster.stats.outlier_detection_ejections_overflow.get();
        assert_eq!(overflow, u64::from(hosts) - expected as u64);
        assert_eq!(cluster.stats.outlier_detection_ejections_active.get(), expected as u64);
    }
}

#[test]
fn a_refused_ejection_starts_the_count_again() {
    let cluster = cluster(9, Outlier { max_ejection_percent: 10, ..outlier(3) });
    report(&cluster, &[BAD; 3]);
    assert_eq!(cluster.stats.outlier_detection_ejections_overflow.get(), 1);
    report(&cluster, &[BAD; 2]);
    assert_eq!(cluster.stats.outlier_detection_ejections_overflow.get(), 1);
    report(&cluster, &[BAD]);
    assert_eq!(cluster.stats.outlier_detection_ejections_overflow.get(), 2);
}

/// Sweeps at each tick until the host returns; the answer is that tick.
fn returns(cluster: &ClusterState, host: &Host) -> Instant {
    loop {
        let tick = cluster.next_sweep().unwrap();
        assert!(host.is_ejected());
        cluster.sweep(tick - MS);
        assert!(host.is_ejected(), "a host returns at a sweep only");
        cluster.sweep(tick);
        if !host.is_ejected() {
            return tick;
        }
    }
}

/// Observed: base 1 s, interval 0.5 s, five ejections in a row.
#[test]
fn ejections_in_a_row_grow_by_the_base_and_end_at_a_tick() {
    let cluster = cluster(1, outlier(1));
    let host = host(&cluster, 0);
    let mut returned = cluster.next_sweep().unwrap() - 500 * MS;
    // The fourth came just before a tick, the others just after one.
    for (after, expected) in [(1, 1499), (1, 2499), (1, 3499), (499, 4001), (1, 5499)] {
        let ejected = returned + after * MS;
        cluster.report(&host, BAD, ejected);
        assert_eq!(host.ejection().now.unwrap().since, ejected);
        returned = returns(&cluster, &host);
        assert_eq!(returned - ejected, expected * MS, "n times the base, up to the tick");
    }
    assert_eq!((host.ejection().times, host.ejection().now), (5, None));
    assert_eq!(cluster.stats.outlier_detection_ejections_active.get(), 0);
    assert_eq!(cluster.stats.outlier_detection_ejections_total.get(), 5);
}

/// Observed: 0.6 s healthy takes nothing off the back-off, 1.2 s one, 2.2 s three.
#[test]
fn back_off_decays_at_each_sweep_but_the_first_after_the_return() {
    for (healthy, less) in [(600, 0), (1200, 1), (2200, 3)] {
        let cluster = cluster(1, outlier(1));
        let host = host(&cluster, 0);
        let mut at = cluster.next_sweep().unwrap();
        for _ in 0..4 {
            cluster.report(&host, BAD, at);
            at = returns(&cluster, &host);
        }
        let bad_again = at + healthy * MS;
        while let Some(tick) = cluster.next_sweep().filter(|tick| *tick <= bad_again) {
            cluster.sweep(tick);
        }
        cluster.report(&host, BAD, bad_again);
        let ejection = host.ejection().now.unwrap();
        assert_eq!(ejection.until - ejection.since, Duration::from_secs(5 - less), "{healthy} ms healthy");
    }
}

#[test]
fn no_ejection_is_longer_than_five_minutes_or_a_longer_base() {
    for (base, longest) in [(100, 300), (400, 400)] {
        let policy = Outlier { base_ejection_time: Duration::from_secs(base), ..outlier(1) };
        let cluster = cluster(1, policy);
        let host = host(&cluster, 0);
        let mut at = Instant::now();
        for _ in 0..6 {
            cluster.report(&host, BAD, at);
            at = returns(&cluster, &host);
        }
        cluster.report(&host, BAD, at);
        let ejection = host.ejection().now.unwrap();
        assert_eq!(ejection.until - ejection.since, Duration::from_secs(longest));
    }
}

#[test]
fn the_count_is_zero_on_return() {
    let cluster = cluster(1, outlier(2));
    let host = host(&cluster, 0);
    assert!(report(&cluster, &[BAD, BAD, BAD]), "the third is counted while ejected");
    returns(&cluster, &host);
    assert_eq!(cluster.hosts().groups[0].candidates.len(), 1);
    assert!(!report(&cluster, &[BAD]));
    assert!(report(&cluster, &[BAD]));
}

#[test]
fn a_late_sweep_counts_once_and_keeps_the_cadence() {
    let cluster = cluster(1, outlier(1));
    let tick = cluster.next_sweep().unwrap();
    cluster.sweep(tick + 1700 * MS);
    assert_eq!(cluster.next_sweep().unwrap(), tick + 2000 * MS);
}

#[test]
fn workers_that_report_at_once_cannot_pass_the_maximum() {
    let cluster = cluster(8, Outlier { max_ejection_percent: 50, ..outlier(1) });
    std::thread::scope(|scope| {
        for index in 0..8 {
            let cluster = &cluster;
            scope.spawn(move || cluster.report(&host(cluster, index), BAD, Instant::now()));
        }
    });
    assert_eq!(cluster.hosts().all.iter().filter(|host| host.is_ejected()).count(), 4);
    assert_eq!(cluster.hosts().groups[0].candidates.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_control_thread_sweeps_at_the_ticks() {
    use crate::upstream::{Upstreams, testing::snapshot};
    use outrigger_config::snapshot::ClusterId;

    let upstreams = Upstreams::new();
    let published = upstreams.publish(snapshot([ClusterBuilder::new(2).outlier(outlier(1))]));
    let cluster = published.cluster(ClusterId(0)).clone();
    let began = Instant::now();
    let host = host(&cluster, 0);
    cluster.report(&host, BAD, began + MS);
    tokio::select! {
        never = upstreams.maintain() => match never {},
        () = async {
            while host.is_ejected() {
                tokio::time::sleep(MS).await;
            }
        } => {}
    }
    let took = began.elapsed();
    assert!(took >= 1500 * MS && took < 1510 * MS, "{took:?}");
}
