//! The configuration that the project was asked to serve, in both readings.

use outrigger_config::{decide::Decision, report::Code};

use crate::support::{
    DESTINATION_RULE, REGISTRY, Request, VIRTUAL_SERVICE, WEIGHTED, codes, loaded, snapshot, table,
};

const V1: &str = "outbound|4317|v1|otlp-collector.observability.svc.cluster.local";
const V2: &str = "outbound|4317|v2|otlp-collector.observability.svc.cluster.local";

#[test]
fn the_seed_compiles() {
    let loaded = loaded(&[VIRTUAL_SERVICE, DESTINATION_RULE, REGISTRY]);
    insta::assert_snapshot!("seed_warnings", loaded.warnings.to_string());
    assert_eq!(codes(&loaded.warnings), [Code::LoneWeight, Code::LoneWeight, Code::Deprecated]);
    insta::assert_json_snapshot!("seed", loaded.snapshot.to_json());
}

#[test]
fn the_weighted_seed_compiles() {
    let loaded = loaded(&[WEIGHTED, DESTINATION_RULE, REGISTRY]);
    assert_eq!(codes(&loaded.warnings), [Code::Deprecated]);
    insta::assert_json_snapshot!("weighted", loaded.snapshot.to_json());
}

#[test]
fn a_lone_destination_takes_everything_whatever_its_weight() {
    let snapshot = snapshot(&[VIRTUAL_SERVICE, DESTINATION_RULE, REGISTRY]);
    for draw in [0, 9, 10, 89, 90, 99, u64::MAX] {
        let canary = Request::to("otlp-collector:4317").header("version", "canary");
        assert_eq!(canary.answer(&snapshot, "4317", draw), V2);
        assert_eq!(Request::to("127.0.0.1:4317").answer(&snapshot, "4317", draw), V1);
    }
}

#[test]
fn a_lone_weight_of_zero_takes_everything() {
    let zero = VIRTUAL_SERVICE.replace("weight: 90", "weight: 0");
    let snapshot = snapshot(&[&zero, DESTINATION_RULE, REGISTRY]);
    assert_eq!(Request::to("otlp-collector").answer(&snapshot, "4317", 0), V1);
}

#[test]
fn a_lone_weight_is_not_kept() {
    let snapshot = snapshot(&[VIRTUAL_SERVICE, DESTINATION_RULE, REGISTRY]);
    for version in ["canary", "stable"] {
        let request = Request::to("otlp-collector").header("version", version);
        let Decision::Forward { forward, destination, .. } = request.decided(table(&snapshot, "4317"), 0)
        else {
            panic!("not forwarded");
        };
        assert_eq!((forward.total_weight, destination.weight), (1, 1), "{version}");
    }
}

#[test]
fn weights_split_the_draws() {
    let snapshot = snapshot(&[WEIGHTED, DESTINATION_RULE, REGISTRY]);
    let request = Request::to("otlp-collector");
    let v2 = (0..1000).filter(|draw| request.answer(&snapshot, "4317", *draw) == V2).count();
    assert_eq!(v2, 100);
    let canary = Request::to("otlp-collector").header("version", "canary");
    assert!((0..1000).all(|draw| canary.answer(&snapshot, "4317", draw) == V2));
}
