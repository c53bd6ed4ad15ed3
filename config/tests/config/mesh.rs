//! Mesh settings.

use std::time::Duration;

use outrigger_config::{
    TEXT_LOG_FORMAT,
    snapshot::{
        AccessLog, Action, Balancer, ClusterDomain, LogEncoding, LogSink, PathNormalization, Propagation,
        Protocol, Snapshot,
    },
};

use crate::support::{
    MESH, RATINGS, REVIEWS, Request, cluster, codes, first_forward, options, outbound, rule, table, try_load,
    with_mesh,
};

fn compiled(settings: &str) -> Snapshot {
    try_load(&[MESH], &with_mesh(settings)).unwrap_or_else(|report| panic!("{report}")).snapshot
}

/// The one log of a mesh, which takes both directions.
fn log(snapshot: Snapshot) -> AccessLog {
    assert_eq!(snapshot.inbound.access_logs.len(), 1);
    let [log] = <[AccessLog; 1]>::try_from(snapshot.outbound.access_logs.into_vec()).unwrap();
    log
}

fn file(snapshot: Snapshot) -> String {
    match log(snapshot).to {
        LogSink::File(path) => path.to_string(),
        LogSink::Otlp { .. } => panic!("OTLP"),
    }
}

#[test]
fn the_access_log_is_compiled() {
    let is_off = |settings: &str| {
        let snapshot = compiled(settings);
        snapshot.outbound.access_logs.is_empty() && snapshot.inbound.access_logs.is_empty()
    };
    assert!(is_off("{}"), "off by default");
    assert!(is_off("accessLogFile: ''"));
    assert!(is_off("accessLogEncoding: JSON"), "no file, no log");
    let text = |settings: &str| match log(compiled(settings)).encoding {
        LogEncoding::Text(format) => format.to_string(),
        LogEncoding::Json(_) => panic!("JSON"),
    };
    assert_eq!(file(compiled("accessLogFile: /dev/stdout")), "/dev/stdout");
    assert_eq!(text("accessLogFile: /dev/stdout"), TEXT_LOG_FORMAT);
    assert_eq!(text("accessLogFile: x\naccessLogFormat: '%PROTOCOL%'"), "%PROTOCOL%\n");
    let keys = |settings: &str| match log(compiled(settings)).encoding {
        LogEncoding::Json(pairs) => pairs.iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>(),
        LogEncoding::Text(_) => panic!("text"),
    };
    let default = keys("accessLogFile: x\naccessLogEncoding: JSON");
    assert_eq!(default.len(), 24);
    assert!(default.is_sorted(), "as Envoy writes them");
    let own =
        "accessLogFile: x\naccessLogEncoding: JSON\naccessLogFormat: '{\"b\": \"%PROTOCOL%\", \"a\": \"-\"}'";
    assert_eq!(keys(own), ["a", "b"]);
}

#[test]
fn tracing_settings_are_compiled() {
    let of = |settings: &str| {
        let tracing = compiled(settings).outbound.tracing;
        (tracing.propagation, tracing.sampling)
    };
    let provider = |body: &str| {
        format!("extensionProviders: [{{ name: p, {body} }}]\ndefaultProviders: {{ tracing: [p] }}\n")
    };
    assert_eq!(of("{}"), (Propagation::B3AndW3c, 100));
    assert_eq!(of("enableTracing: false").0, Propagation::Off);
    assert_eq!(of("defaultConfig: { tracing: { sampling: 12.34 } }").1, 1234);
    assert_eq!(of("defaultConfig: { tracing: { sampling: 100 } }").1, 10000);
    assert_eq!(of("defaultConfig: { tracing: { sampling: 0 } }").1, 100, "zero is unset");
    assert_eq!(of("defaultConfig: { tracing: { sampling: 101 } }").1, 100);
    assert_eq!(of("defaultConfig: { tracing: { zipkin: {} } }").0, Propagation::B3);
    assert_eq!(of(&provider("opentelemetry: {}")).0, Propagation::W3c);
    assert_eq!(of(&provider("zipkin: {}")).0, Propagation::B3);
    let both = provider("zipkin: { traceContextOption: USE_B3_WITH_W3C_PROPAGATION }");
    assert_eq!(of(&both).0, Propagation::B3AndW3c);
    assert_eq!(of("extensionProviders: [{ name: p, zipkin: {} }]").0, Propagation::B3AndW3c, "not chosen");
}

#[test]
fn mesh_defaults_reach_every_cluster() {
    let snapshot = compiled(
        "connectTimeout: 3s\ntcpKeepalive: { time: 5s }\n\
         defaultHttpRetryPolicy: { attempts: 4, retryOn: reset }\n",
    );
    let reviews = cluster(&snapshot, &outbound(8080, "", REVIEWS));
    assert_eq!(reviews.connect_timeout, Duration::from_secs(3));
    assert_eq!(reviews.keepalive.unwrap().time, Some(Duration::from_secs(5)));
    let retry = first_forward(&snapshot).retry.as_ref().unwrap();
    assert!(retry.attempts.get() == 4 && retry.on.reset && !retry.on.connect_failure);
    let off = compiled("defaultHttpRetryPolicy: { attempts: 0 }");
    assert_eq!(first_forward(&off).retry, None);
}

const CONFIG_MAP: &str = "apiVersion: v1
kind: ConfigMap
metadata:
  name: istio
  namespace: istio-system
data:
  meshNetworks: 'networks: {}'
  mesh: |-
    accessLogFile: /dev/stderr
    defaultConfig:
      discoveryAddress: istiod.istio-system.svc:15012
    rootNamespase: istio-system
";

#[test]
fn a_config_map_is_read_and_its_findings_point_into_it() {
    let report = try_load(&[MESH, CONFIG_MAP], &options()).unwrap_err();
    insta::assert_snapshot!("config_map", report.to_string());
    let spaced = CONFIG_MAP.replace("mesh: |-\n", "mesh: |-\n\n\n");
    let report = try_load(&[MESH, &spaced], &options()).unwrap_err();
    assert_eq!(report.diagnostics[0].source, "    rootNamespase: istio-system");
    let fixed = CONFIG_MAP.replace("    rootNamespase: istio-system\n", "");
    let loaded = try_load(&[MESH, &fixed], &options()).unwrap();
    assert_eq!(codes(&loaded.warnings), []);
    assert_eq!(file(loaded.snapshot), "/dev/stderr");
    let own = try_load(&[MESH, &fixed], &with_mesh("accessLogFile: mine")).unwrap();
    assert_eq!(file(own.snapshot), "mine", "a file of its own wins");
}

#[test]
fn the_mesh_upgrades_named_http_ports() {
    let protocols = |mesh: &str, policy: &str| {
        let unnamed = MESH.replace(
            "{ number: 8080, name: http }\n  - { number: 9090",
            "{ number: 8080, name: web }\n  - { number: 9090",
        );
        let plain = policy.is_empty();
        let rule = rule(&format!("  trafficPolicy: {{ connectionPool: {{ http: {policy} }} }}"));
        let of = |text: &str| {
            let texts: &[&str] = if plain { &[text] } else { &[text, &rule] };
            let loaded = try_load(texts, &with_mesh(mesh)).unwrap_or_else(|report| panic!("{report}"));
            cluster(&loaded.snapshot, &outbound(8080, "", REVIEWS)).protocol
        };
        (of(MESH), of(&unnamed))
    };
    let upgrade = "h2UpgradePolicy: UPGRADE";
    assert_eq!(protocols("{}", ""), (Protocol::Http1, Protocol::Client));
    assert_eq!(protocols(upgrade, ""), (Protocol::Http2, Protocol::Client), "not where it is sniffed");
    assert_eq!(protocols(upgrade, "{ h2UpgradePolicy: DEFAULT }"), (Protocol::Http2, Protocol::Client));
    assert_eq!(
        protocols(upgrade, "{ h2UpgradePolicy: DO_NOT_UPGRADE }"),
        (Protocol::Http1, Protocol::Client)
    );
    assert_eq!(protocols(upgrade, "{ useClientProtocol: true }"), (Protocol::Client, Protocol::Client));
    assert_eq!(protocols("{}", "{ h2UpgradePolicy: UPGRADE }"), (Protocol::Http2, Protocol::Http2));
}

#[test]
fn the_default_traffic_policy_is_the_lowest_layer() {
    let mesh = "defaultTrafficPolicy:\n  connectionPool: { tcp: { maxConnections: 7 } }\n  \
                outlierDetection: { consecutive5xxErrors: 3, maxEjectionPercent: 100 }\n";
    let of = |spec: &str| {
        let loaded =
            try_load(&[MESH, &rule(spec)], &with_mesh(mesh)).unwrap_or_else(|report| panic!("{report}"));
        let cluster = cluster(&loaded.snapshot, &outbound(8080, "", REVIEWS));
        (cluster.limits.max_connections, cluster.outlier.as_ref().map(|outlier| outlier.consecutive_5xx))
    };
    assert_eq!(of("  subsets: []"), (7, Some(3)));
    assert_eq!(of("  trafficPolicy: { connectionPool: { tcp: { maxConnections: 1 } } }"), (1, Some(3)));
    assert_eq!(
        of("  trafficPolicy: { connectionPool: { http: { maxRetries: 1 } } }").0,
        u32::MAX,
        "a whole block"
    );
    assert_eq!(
        of("  trafficPolicy: { outlierDetection: { consecutive5xxErrors: 9, maxEjectionPercent: 100 } }"),
        (7, Some(9))
    );
}

#[test]
fn the_mesh_says_what_inbound_routes_retry() {
    let ingress = "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: { name: default }\n\
                   spec: { ingress: [{ port: { number: 70, name: http }, defaultEndpoint: '127.0.0.1:7' },\
                   { port: { number: 71, name: grpc }, defaultEndpoint: '127.0.0.1:8' }] }\n";
    let of = |settings: &str, port: u16| {
        let loaded = try_load(&[ingress], &with_mesh(settings)).unwrap_or_else(|report| panic!("{report}"));
        let table = table(&loaded.snapshot, &format!("inbound|{port}||"));
        match &table.virtual_hosts[0].routes[0].action {
            Action::Forward(forward) => forward.retry.clone(),
            _ => panic!("it answers by itself"),
        }
    };
    let default = of("{}", 70).unwrap();
    assert!(default.attempts.get() == 2 && default.on.reset_before_request && !default.on.connect_failure);
    let own = of("defaultInboundHttpRetryPolicy: { attempts: 5, retryOn: reset, backoff: 9ms }", 70).unwrap();
    assert!(own.attempts.get() == 5 && own.on.reset && !own.on.reset_before_request);
    assert_eq!((own.backoff, own.avoid_previous_hosts), (Duration::from_millis(9), false));
    assert!(of("defaultInboundHttpRetryPolicy: { attempts: 5 }", 70).unwrap().on.reset_before_request);
    assert_eq!(of("defaultInboundHttpRetryPolicy: {}", 70), None);
    assert_eq!(of("defaultInboundHttpRetryPolicy: { attempts: 5 }", 71), None, "not for gRPC");
}

#[test]
fn the_mesh_says_how_paths_are_normalised() {
    let of = |mode: &str| compiled(&format!("pathNormalization: {{ normalization: {mode} }}")).paths;
    assert_eq!(compiled("{}").paths, PathNormalization::Base);
    assert_eq!(of("DEFAULT"), PathNormalization::Base);
    assert_eq!(of("BASE"), PathNormalization::Base);
    assert_eq!(of("NONE"), PathNormalization::None);
    assert_eq!(of("MERGE_SLASHES"), PathNormalization::MergeSlashes);
    assert_eq!(of("DECODE_AND_MERGE_SLASHES"), PathNormalization::DecodeAndMergeSlashes);
}

#[test]
fn the_mesh_says_who_sees_what_is_not_exported() {
    let vs = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: a, namespace: other }}\n\
         spec:\n  hosts: [{RATINGS}]\n  http: [{{ name: vs, route: [{{ destination: {{ host: {RATINGS} }} }}] }}]\n"
    );
    let rule = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: a, namespace: other }}\n\
         spec:\n  host: {RATINGS}\n  trafficPolicy: {{ loadBalancer: {{ simple: RANDOM }} }}\n"
    );
    let of = |settings: &str, more: &str| {
        let loaded =
            try_load(&[MESH, &vs.replace("spec:\n", &format!("spec:\n{more}")), &rule], &with_mesh(settings));
        loaded.unwrap_or_else(|report| panic!("{report}")).snapshot
    };
    let route =
        |snapshot: &Snapshot| Request::to("ratings.other").route(table(snapshot, "8080")).unwrap().to_owned();
    let balancer = |snapshot: &Snapshot| cluster(snapshot, &outbound(8080, "", RATINGS)).balancer.clone();
    let open = of("{}", "");
    assert_eq!((route(&open), balancer(&open)), ("vs".to_owned(), Balancer::Random));
    let services = of("defaultServiceExportTo: ['.']", "");
    assert_eq!(route(&services), "allow_any");
    assert_eq!(
        Request::to("reviews").route(table(&services, "8080")),
        Some("default"),
        "the own namespace sees it"
    );
    assert_eq!(route(&of("defaultServiceExportTo: [observability]", "")), "vs");
    assert_eq!(route(&of("defaultVirtualServiceExportTo: ['.']", "")), "default");
    assert_eq!(route(&of("defaultVirtualServiceExportTo: ['.']", "  exportTo: ['*']\n")), "vs");
    assert_eq!(balancer(&of("defaultDestinationRuleExportTo: ['~']", "")), Balancer::LeastRequest);
}

#[test]
fn the_mesh_names_the_root_namespace() {
    let root = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: { name: root, namespace: mesh-root }\n\
                spec: { egress: [{ port: { number: 8080, name: http }, hosts: ['*/*'] }] }\n";
    let rule = rule("  trafficPolicy: { loadBalancer: { simple: RANDOM } }")
        .replace("name: reviews", "name: reviews, namespace: mesh-root")
        .replace("host: reviews", &format!("host: {REVIEWS}"));
    let services = MESH.rsplit_once("---").unwrap().0;
    let of = |settings: &str| {
        let loaded = try_load(&[services, root, &rule], &with_mesh(settings)).unwrap();
        let listeners = loaded.snapshot.listeners.len();
        let random = loaded.snapshot.clusters.iter().any(|cluster| cluster.balancer == Balancer::Random);
        (listeners, random)
    };
    assert_eq!(of("rootNamespace: mesh-root"), (1, true));
    assert_eq!(of("{}"), (0, false));
}

#[test]
fn the_clusters_domain_completes_names() {
    let mut options = options();
    options.node.domain = ClusterDomain::of("observability.svc.example.org");
    let mesh = MESH.replace("cluster.local", "example.org");
    let vs = crate::support::rules("  - name: vs\n    route: [{ destination: { host: reviews } }]");
    let loaded = try_load(&[&mesh, &vs], &options).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(codes(&loaded.warnings), []);
    let host = "reviews.observability.svc.example.org";
    for name in [host, "reviews", "reviews.observability.svc"] {
        assert_eq!(Request::to(name).answer(&loaded.snapshot, "8080", 0), outbound(8080, "", host), "{name}");
    }
    assert_eq!(&*cluster(&loaded.snapshot, &outbound(8080, "", host)).service.name, "reviews");
    assert!(loaded.snapshot.node.id().ends_with("~observability.svc.example.org"));
}
