"""A real Envoy with the configuration that Istio would generate for the same intent."""

import json
import os
import shutil
import sys
import urllib.error

from processes import Program, get, wait_for

HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
FILE_LOG = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
# What both proxies log of a request; the keys are Istio's.
LOG = {
    "request_id": "%REQ(X-REQUEST-ID)%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_host": "%UPSTREAM_HOST%",
    "route_name": "%ROUTE_NAME%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
}
# Istio's default policy for every outbound route.
DEFAULT_RETRY = {
    "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
    "num_retries": 2,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            },
        }
    ],
    "host_selection_retry_max_attempts": 5,
}

# The last resort. An explicit listener knows no original destination, so there is nothing behind it.
ALLOW_ANY = {
    "name": "allow_any",
    "domains": ["*"],
    "routes": [
        {
            "name": "allow_any",
            "match": {"prefix": "/"},
            "route": {"cluster": "PassthroughCluster", "timeout": "0s"},
        }
    ],
    "include_request_attempt_count": True,
}


def binary():
    """Envoy of the Python package, or None."""
    beside = os.path.join(os.path.dirname(sys.executable), "envoy")
    return beside if os.path.exists(beside) else shutil.which("envoy")


def cluster(name, endpoints, policy="LEAST_REQUEST", **more):
    """A static cluster; `endpoints` are host:port, or (host:port, weight)."""

    def endpoint(one):
        address, *weight = (one,) if isinstance(one, str) else one
        host, port = address.rsplit(":", 1)
        made = {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}
        return {**made, "load_balancing_weight": weight[0]} if weight else made

    unlimited = 4294967295
    limits = {key: unlimited for key in ("max_connections", "max_pending_requests", "max_requests", "max_retries")}
    made = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": policy,
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [endpoint(one) for one in endpoints]}],
        },
    }
    return {**made, **more}


def http1(outlier=None, **common):
    """HTTP/1 to the upstream, with options that both versions have."""
    options = {"common_http_protocol_options": common, "explicit_http_config": {"http_protocol_options": {}}}
    return protocol({**options, "outlier_detection": outlier} if outlier else options)


def http2(**options):
    """HTTP/2 to the upstream."""
    return protocol({"explicit_http_config": {"http2_protocol_options": options}})


def protocol(options):
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {"typed_extension_protocol_options": {kind: {"@type": f"type.googleapis.com/{kind}", **options}}}


def ejects(consecutive_5xx=5, **more):
    """Outlier detection as Istio writes it. Envoy merges health changes for a second, unless told so (docs/adr/0002)."""
    detection = {
        "consecutive_5xx": consecutive_5xx,
        "enforcing_consecutive_5xx": 100,
        "enforcing_consecutive_gateway_failure": 100 if "consecutive_gateway_failure" in more else 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        **more,
    }
    merge = {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"}
    return {"outlier_detection": detection, "common_lb_config": merge}


def forward(destination, timeout="0s", **more):
    # Istio sets both, so that the client's grpc-timeout counts within the route's.
    return {"cluster": destination, "timeout": timeout, "max_grpc_timeout": timeout, **more}


def virtual_hosts_of(routes, domains):
    web = {"name": "web", "domains": domains, "routes": routes, "include_request_attempt_count": True}
    return [web] + ([ALLOW_ANY] if "*" not in domains else [])


def bootstrap(virtual_hosts, clusters, log, manager, runtime):
    """`manager` adds to the connection manager, or replaces what is there."""
    manager = {
        "@type": HCM,
        "stat_prefix": "outbound",
        "use_remote_address": False,
        "forward_client_cert_details": "SANITIZE",
        "normalize_path": True,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "proxy_100_continue": True,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "stream_idle_timeout": "0s",
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
        "access_log": [
            {
                "name": "envoy.access_loggers.file",
                "typed_config": {"@type": FILE_LOG, "path": log, "log_format": {"json_format": LOG}},
            }
        ],
        "route_config": {
            "name": "http",
            "validate_clusters": False,
            "virtual_hosts": virtual_hosts,
        },
        **manager,
    }
    any_port = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    listener = {
        "name": "outbound",
        "address": any_port,
        "traffic_direction": "OUTBOUND",
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    return {
        "admin": {"address": any_port},
        "layered_runtime": {"layers": [{"name": "test", "static_layer": runtime}]},
        "static_resources": {"listeners": [listener], "clusters": [*clusters, cluster("PassthroughCluster", [])]},
    }


class Envoy(Program):
    """Envoy on ports of the system's choice; `address` is where it listens for HTTP, `listens` knows all by name."""

    def __init__(self, name, folder, routes, clusters, domains=(), manager=None, runtime=None, virtual_hosts=None, more=()):
        """`routes` are those of one virtual host with these `domains`; or there are several `virtual_hosts`. `more` listeners."""
        hosts = [*virtual_hosts, ALLOW_ANY] if virtual_hosts else virtual_hosts_of(routes, domains)
        self.log = os.path.join(folder, f"{name}.log")
        config = os.path.join(folder, f"{name}.json")
        admin = os.path.join(folder, f"{name}.admin")
        with open(config, "w", encoding="utf-8") as out:
            config_of_all = bootstrap(hosts, clusters, self.log, manager or {}, runtime or {})
            config_of_all["static_resources"]["listeners"] += more
            json.dump(config_of_all, out, indent=1)
        args = [binary(), "-c", config, "--concurrency", "1", "--use-dynamic-base-id", "--admin-address-path", admin]
        # Endpoints from a file need a name to go by.
        args += ["--service-node", "e2e", "--service-cluster", "e2e"]
        args += ["--file-flush-interval-msec", "50", "--log-level", "error"]
        super().__init__(name, args, folder)

        def started():
            if self.child.poll() is not None:
                raise RuntimeError(f"Envoy ended: {self.tail()}")
            return os.path.exists(admin) and open(admin, encoding="utf-8").read().strip()

        self.admin = wait_for("Envoy's admin address", started)
        wait_for("Envoy to be live", self._is_live)
        statuses = json.loads(get(self.admin, "/listeners?format=json"))["listener_statuses"]
        self.listens = {}
        for status in statuses:
            bound = status["local_address"]["socket_address"]
            self.listens[status["name"]] = f"{bound['address']}:{bound['port_value']}"
        self.address = self.listens["outbound"]

    def _is_live(self):
        try:
            return get(self.admin, "/ready").startswith("LIVE")
        except urllib.error.HTTPError:
            # 503 until it is.
            return False
