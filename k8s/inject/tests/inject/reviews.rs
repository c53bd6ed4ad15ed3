//! Answers to reviews: the patch makes the same pod that `inject` prints, and nothing is refused in silence.

use outrigger_inject::{Format, Malformed, OnFailure, Options, Verb, change, review};
use serde_json::{Value as Json, json};

use crate::source;

/// As the API server sends it.
fn request(pod: &Json) -> Json {
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": pod,
            "oldObject": null,
            "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}

fn pod() -> Json {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "web-5d9-",
            "namespace": "shop",
            "creationTimestamp": null,
            "labels": {"app": "web", "pod-template-hash": "5d9"},
            "annotations": {"prometheus.io/port": "9090"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d9", "uid": "1", "controller": true}],
        },
        "spec": {
            "volumes": [{"name": "token", "projected": {"sources": [], "defaultMode": 420}}],
            "initContainers": [{"name": "first", "image": "a"}],
            "containers": [
                {"name": "app", "image": "a", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                 "readinessProbe": {"httpGet": {"path": "/", "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 1}},
                {"name": "istio-proxy", "image": "auto", "resources": {"requests": {"cpu": "7m"}}},
            ],
            "terminationGracePeriodSeconds": 30,
        },
    })
}

fn answer(pod: &Json, on_failure: OnFailure) -> Json {
    let body = request(pod).to_string();
    let answer = review(body.as_bytes(), &Options::default(), on_failure).unwrap();
    let answer: Json = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(
        (&answer["apiVersion"], &answer["kind"]),
        (&"admission.k8s.io/v1".into(), &"AdmissionReview".into())
    );
    assert_eq!(answer["response"]["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
    answer["response"].clone()
}

/// The pod after the answer's patch.
fn patched(mut pod: Json, answer: &Json) -> Json {
    use base64::Engine as _;
    assert_eq!(answer["patchType"], "JSONPatch");
    let patch = base64::engine::general_purpose::STANDARD.decode(answer["patch"].as_str().unwrap()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

#[test]
fn the_patch_makes_the_pod_that_inject_prints() {
    let options = Options { namespace: Some("shop".to_owned()), ..Options::default() };
    let printed = change(&source(&pod().to_string()), Verb::Inject(&options), Format::Json).unwrap().text;
    let answer = answer(&pod(), OnFailure::Allow);
    assert_eq!(answer["allowed"], true);
    let patched = patched(pod(), &answer);
    assert_eq!(patched, serde_json::from_str::<Json>(&printed).unwrap());
    let proxy = &patched["spec"]["initContainers"][1];
    assert_eq!((&proxy["name"], &proxy["restartPolicy"]), (&"istio-proxy".into(), &"Always".into()));
    let env = proxy["env"].as_array().unwrap();
    let value = |name: &str| env.iter().find(|one| one["name"] == name).unwrap()["value"].clone();
    assert_eq!(value("ISTIO_META_WORKLOAD_NAME"), "web");
    assert_eq!(
        value("ISTIO_KUBE_APP_PROBERS"),
        r#"{"/app-health/app/readyz":{"httpGet":{"path":"/","port":8080,"scheme":"HTTP"},"timeoutSeconds":1}}"#
    );
}

#[test]
fn a_pod_that_was_injected_already_is_left_as_it_is() {
    let injected = patched(pod(), &answer(&pod(), OnFailure::Allow));
    let again = answer(&injected, OnFailure::Deny);
    assert_eq!((&again["allowed"], again.get("patch")), (&true.into(), None));
}

#[test]
fn a_pod_that_cannot_be_injected_is_made_with_a_warning_or_refused() {
    let mut wrong = pod();
    wrong["metadata"]["annotations"]["sidecar.istio.io/logLevel"] = "loud".into();
    let allowed = answer(&wrong, OnFailure::Allow);
    assert_eq!((&allowed["allowed"], allowed.get("patch")), (&true.into(), None));
    let warning = allowed["warnings"][0].as_str().unwrap();
    assert!(warning.contains("metadata.annotations[\"sidecar.istio.io/logLevel\"]: \"loud\""), "{warning}");
    let denied = answer(&wrong, OnFailure::Deny);
    assert_eq!(denied["allowed"], false);
    assert!(denied["status"]["message"].as_str().unwrap().contains("trace, debug, info"));
}

#[test]
fn what_is_no_new_pod_passes_and_what_is_no_review_is_an_error() {
    let mut update = request(&pod());
    update["request"]["operation"] = "UPDATE".into();
    let mut service = request(&pod());
    service["request"]["kind"]["kind"] = "Service".into();
    let mut refused = pod();
    refused["spec"]["hostNetwork"] = true.into();
    for review_of in [update, service, request(&refused)] {
        let answer = review(review_of.to_string().as_bytes(), &Options::default(), OnFailure::Deny).unwrap();
        let answer: Json = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(answer["response"]["allowed"], true);
        assert!(answer["response"].get("patch").is_none());
    }
    let error = |body: &str| review(body.as_bytes(), &Options::default(), OnFailure::Allow).unwrap_err();
    assert!(matches!(error("{"), Malformed::Json(_)));
    assert!(matches!(error("{}"), Malformed::Field("request")));
    assert!(matches!(error("{\"request\":{}}"), Malformed::Field("request.uid")));
}

#[test]
fn the_namespace_of_the_request_counts_where_the_pod_names_none() {
    let mut bare = pod();
    bare["metadata"].as_object_mut().unwrap().remove("namespace");
    let mut system = request(&bare);
    system["request"]["namespace"] = "kube-system".into();
    let answer = review(system.to_string().as_bytes(), &Options::default(), OnFailure::Allow).unwrap();
    assert!(answer.summary.contains("kube-system"), "{}", answer.summary);
    assert!(!answer.body.contains("patch"), "{}", answer.body);
}

#[test]
fn a_review_of_too_many_values_is_answered_without_being_looked_into() {
    let mut many = request(&pod());
    many["request"]["object"]["x"] = vec![json!({"": 0}); 30_000].into();
    let text = many.to_string();
    let answer = |on_failure| -> Json {
        let answer = review(text.as_bytes(), &Options::default(), on_failure).unwrap();
        serde_json::from_str::<Json>(&answer.body).unwrap()["response"].clone()
    };
    let why = "the review has more than 50000 values";
    let allowed = answer(OnFailure::Allow);
    assert_eq!(allowed["uid"], many["request"]["uid"]);
    assert_eq!((&allowed["allowed"], allowed.get("patch")), (&true.into(), None));
    assert_eq!(allowed["warnings"][0], format!("no sidecar: {why}"));
    let denied = answer(OnFailure::Deny);
    assert_eq!(denied["allowed"], false);
    assert_eq!(denied["status"]["message"], format!("no sidecar: {why}"));
    // A long text is one value, whatever it holds.
    let mut long = pod();
    long["metadata"]["annotations"]["note"] = "\\\",[{".repeat(30_000).into();
    assert!(self::answer(&long, OnFailure::Deny).get("patch").is_some());
    let error = |body: String| review(body.as_bytes(), &Options::default(), OnFailure::Allow).unwrap_err();
    let values = "0,".repeat(60_000);
    assert!(matches!(error(format!("{{\"x\":[{values}0]}}")), Malformed::Field("request")));
    assert!(matches!(error(format!("[{values}")), Malformed::Json(_)));
}
