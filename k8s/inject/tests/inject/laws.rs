//! Laws for any pod: twice is once, and taking the sidecar out leaves the pod that was there.

use outrigger_config::tree;
use outrigger_inject::{Options, Value, Verb, to_yaml};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::{inject, source, uninject};

fn maybe(strategy: impl Strategy<Value = Json> + 'static) -> BoxedStrategy<Option<Json>> {
    prop::option::of(strategy).boxed()
}

/// Texts that a careless writer would turn into something else.
fn word() -> impl Strategy<Value = String> {
    const ODD: &[&str] = &[
        "",
        "yes",
        "off",
        "y",
        "null",
        "~",
        "012",
        "0x1f",
        "1e3",
        "1_000",
        "-",
        "- a",
        "a: b",
        "#x",
        " lead",
        "trail ",
        "tab\t",
        "two\nlines",
        "ends\n\n",
        "\u{feff}",
        "*a",
        "&b",
        "!c",
        "%d",
        "@e",
        "`f",
        "{g",
        "[h",
        "|",
        ">",
        "<<",
        "=",
        "12:30:00",
        "2001-01-01",
        "'",
        "\"",
        "\\",
        "\u{7}",
        "é",
        "---",
        "...",
        "? x",
        ": x",
        "a #b",
        ".5",
        "+1",
    ];
    prop_oneof![prop::sample::select(ODD).prop_map(str::to_owned), "[a-z]{1,8}", "[ a-z:#'\"\\\\\\n-]{0,120}",]
}

fn handler() -> impl Strategy<Value = Json> {
    prop_oneof![
        Just(json!({"httpGet": {"path": "/x", "port": 8080, "scheme": "HTTPS"}, "timeoutSeconds": 2})),
        Just(
            json!({"periodSeconds": 1, "httpGet": {"port": "http", "httpHeaders": [{"name": "a", "value": "b"}]}})
        ),
        Just(json!({"httpGet": {"host": "192.0.2.1", "port": 80}})),
        Just(json!({"tcpSocket": {"port": "http"}, "failureThreshold": 3})),
        Just(json!({"grpc": {"port": 9000, "service": "s"}})),
        Just(json!({"exec": {"command": ["true"]}})),
        Just(json!({})),
        Just(Json::Null),
    ]
}

fn container(name: &'static str) -> impl Strategy<Value = Json> {
    let fields = ["readinessProbe", "livenessProbe", "startupProbe"]
        .map(|field| maybe(handler()).prop_map(move |probe| (field, probe)).boxed());
    let hooks = maybe(prop_oneof![
        handler().prop_map(|hook| json!({"preStop": hook})),
        handler().prop_map(|hook| json!({"postStart": hook})),
        Just(json!({})),
        Just(Json::Null),
    ]);
    let args = maybe(prop::collection::vec(word(), 0..3).prop_map(|args| json!(args)));
    (fields, hooks, args).prop_map(move |(fields, hooks, args)| {
        let mut container =
            json!({"name": name, "image": "auto", "ports": [{"containerPort": 8080, "name": "http"}]});
        let given = fields.into_iter().chain([("lifecycle", hooks), ("args", args)]);
        for (key, value) in given.filter_map(|(key, value)| Some((key, value?))) {
            container[key] = value;
        }
        container
    })
}

fn containers(names: &[&'static str]) -> BoxedStrategy<Vec<Json>> {
    let all: Vec<_> = names.iter().map(|name| container(name).boxed()).collect();
    let count = all.len();
    (all, prop::collection::vec(any::<bool>(), count))
        .prop_map(|(all, keep)| {
            all.into_iter().zip(keep).filter_map(|(one, keep)| keep.then_some(one)).collect()
        })
        .boxed()
}

fn group(keys: &'static [(&'static str, &'static [&'static str])]) -> BoxedStrategy<Json> {
    let entries: Vec<_> = keys
        .iter()
        .map(|(key, values)| {
            prop::option::of(prop::sample::select(*values)).prop_map(move |value| Some((*key, value?)))
        })
        .collect();
    prop_oneof![
        1 => Just(Json::Null),
        6 => (entries, word()).prop_map(|(entries, word)| {
            let mut group = json!({});
            for (key, value) in entries.into_iter().flatten() {
                group[key] = value.into();
            }
            if word.len() % 3 == 0 {
                group["note"] = word.into();
            }
            group
        }),
    ]
    .boxed()
}

const LABELS: &[(&str, &[&str])] = &[
    ("app", &["web", ""]),
    ("version", &["v1"]),
    ("security.istio.io/tlsMode", &["istio", "disabled"]),
    ("service.istio.io/canonical-name", &["web"]),
];

const ANNOTATIONS: &[(&str, &[&str])] = &[
    ("prometheus.io/scrape", &["true", "false"]),
    ("prometheus.io/port", &["9090", "15020"]),
    ("prometheus.io/path", &["/m", "/stats/prometheus"]),
    ("sidecar.istio.io/nativeSidecar", &["true", "false"]),
    ("sidecar.istio.io/interceptionMode", &["NONE", "TPROXY"]),
    ("sidecar.istio.io/rewriteAppHTTPProbers", &["false"]),
    ("sidecar.istio.io/userVolume", &[r#"{"more":{"emptyDir":{}}}"#]),
    (
        "proxy.istio.io/config",
        &["holdApplicationUntilProxyStarts: false", "proxyMetadata: {TRUST_DOMAIN: x}"],
    ),
    ("kubectl.kubernetes.io/default-container", &["app"]),
    ("istio.io/rev", &["default", "other"]),
];

/// Any pod that can be injected, with and without each part that injection touches.
fn pod() -> impl Strategy<Value = Json> {
    let metadata = prop_oneof![
        1 => Just(None),
        1 => Just(Some(Json::Null)),
        8 => (maybe(group(LABELS)), maybe(group(ANNOTATIONS))).prop_map(|(labels, annotations)| {
            let mut metadata = json!({"name": "p"});
            for (key, value) in [("labels", labels), ("annotations", annotations)] {
                if let Some(value) = value {
                    metadata[key] = value;
                }
            }
            Some(metadata)
        }),
    ];
    let init = prop_oneof![
        Just(None),
        Just(Some(Json::Null)),
        containers(&["istio-init", "first", "istio-proxy", "second"]).prop_map(|all| Some(json!(all))),
    ];
    let volumes = prop_oneof![
        Just(None),
        Just(Some(Json::Null)),
        Just(Some(json!([]))),
        Just(Some(json!([{"name": "istio-podinfo", "emptyDir": {}}, {"name": "more", "emptyDir": {}}]))),
    ];
    let application = (containers(&["istio-proxy", "app-a"]), container("app"), containers(&["app-b"]))
        .prop_map(|(before, app, after)| [before, vec![app], after].concat());
    (metadata, init, application, volumes).prop_map(|(metadata, init, application, volumes)| {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": application}});
        if let Some(metadata) = metadata {
            pod["metadata"] = metadata;
        }
        for (key, value) in [("initContainers", init), ("volumes", volumes)] {
            if let Some(value) = value {
                pod["spec"][key] = value;
            }
        }
        pod
    })
}

/// The values of a text as our reader sees them.
fn read(text: &str) -> Vec<Value> {
    let source = source(text);
    let stretches = tree::stretches(&source[0]).unwrap();
    stretches.iter().flat_map(|stretch| &stretch.documents).map(Value::of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn twice_is_once_and_out_is_as_before(pod in pod()) {
        let text = pod.to_string();
        let once = inject(&text);
        prop_assert!(once.contains("sidecar.istio.io/status"));
        prop_assert_eq!(&inject(&once), &once, "twice");
        prop_assert_eq!(read(&uninject(&once)), read(&text), "out again");
    }

    #[test]
    fn what_is_written_is_read_as_the_same(words in prop::collection::vec((word(), word()), 1..6)) {
        let map: Value = serde_json::from_value(Json::Object(
            words.into_iter().map(|(key, value)| (format!("k{key}"), json!([value]))).collect(),
        )).unwrap();
        let text = to_yaml(&map);
        prop_assert_eq!(read(&text), vec![map], "{}", text);
    }
}

#[test]
fn injected_and_left_pods_have_no_probe_of_their_own_ports() {
    // Every handler that the kubelet would send to the application goes to the sidecar.
    let probes = ["readinessProbe", "livenessProbe", "startupProbe"];
    let actions =
        [json!({"httpGet": {"port": 1}}), json!({"tcpSocket": {"port": 1}}), json!({"grpc": {"port": 1}})];
    for list in ["containers", "initContainers"] {
        for (probe, action) in
            probes.iter().flat_map(|probe| actions.iter().map(move |action| (probe, action)))
        {
            let mut pod: Json = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": "pre"}]}});
            pod["spec"][list][0][*probe] = action.clone();
            let mut value: Value = serde_json::from_value(pod).unwrap();
            Verb::Inject(&Options::default()).change(&mut value).unwrap();
            let after = serde_json::to_value(&value).unwrap();
            let items = after["spec"][list].as_array().unwrap();
            let container = items.iter().find(|one| one["name"] == "app" || one["name"] == "pre").unwrap();
            assert_eq!(container[*probe]["httpGet"]["port"], 15020, "{list} {probe} {action}");
            assert!(container[*probe].get("tcpSocket").is_none() && container[*probe].get("grpc").is_none());
        }
    }
}
