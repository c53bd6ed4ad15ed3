"""The Python OpenTelemetry SDK through the sidecar with the seed's configuration into three collectors.

Traces, metrics and logs, over gRPC and HTTP/protobuf, compressed and not. Every item has an id of its own and is
looked for in the collectors' files: what was sent is what arrived. A session stays on one endpoint of its subset while
the membership is unchanged, and both subsets are used.
"""

import collections
import os
import sys
import tempfile
import time

from collector import Collector
from processes import Failed, check, get, otlp_collector, outrigger, skip, wait_for
from seed import start_proxy

try:
    from opentelemetry._logs import SeverityNumber
    from opentelemetry.exporter.otlp.proto.grpc import _log_exporter as grpc_logs
    from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as grpc_metrics
    from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc_traces
    from opentelemetry.exporter.otlp.proto.http import Compression as HttpCompression
    from opentelemetry.exporter.otlp.proto.http import _log_exporter as http_logs
    from opentelemetry.exporter.otlp.proto.http import metric_exporter as http_metrics
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http_traces
    from grpc import Compression as GrpcCompression
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
except ImportError as error:
    skip(f"the OpenTelemetry SDK is not installed: {error}")

SESSIONS = 24
ROUNDS = 4
ITEMS = 10


class Sender:
    """One session over one transport: the three signals with their exporters."""

    def __init__(self, session, transport, gzip, grpc, http):
        headers = {"x-session-id": session}
        if transport == "grpc":
            compression = GrpcCompression.Gzip if gzip else GrpcCompression.NoCompression
            common = {"endpoint": f"http://{grpc}", "insecure": True, "headers": headers, "compression": compression}
            exporters = (
                grpc_traces.OTLPSpanExporter(**common),
                grpc_metrics.OTLPMetricExporter(**common),
                grpc_logs.OTLPLogExporter(**common),
            )
        else:
            compression = HttpCompression.Gzip if gzip else HttpCompression.NoCompression
            common = {"headers": headers, "compression": compression}
            exporters = (
                http_traces.OTLPSpanExporter(endpoint=f"http://{http}/v1/traces", **common),
                http_metrics.OTLPMetricExporter(endpoint=f"http://{http}/v1/metrics", **common),
                http_logs.OTLPLogExporter(endpoint=f"http://{http}/v1/logs", **common),
            )
        resource = Resource.create({"service.name": "e2e", "session": session})
        self.session = session
        self.sent = set()
        self.traces = TracerProvider(resource=resource)
        self.traces.add_span_processor(BatchSpanProcessor(exporters[0]))
        reader = PeriodicExportingMetricReader(exporters[1], export_interval_millis=3_600_000)
        self.metrics = MeterProvider(resource=resource, metric_readers=[reader])
        self.logs = LoggerProvider(resource=resource)
        self.logs.add_log_record_processor(BatchLogRecordProcessor(exporters[2]))

    def identify(self, kind, number):
        name = f"{self.session}/{kind}/{number}"
        self.sent.add(name)
        return {"e2e.id": name}

    def round(self, number):
        tracer = self.traces.get_tracer("e2e")
        for item in range(ITEMS):
            with tracer.start_as_current_span("span", attributes=self.identify("span", f"{number}-{item}")):
                pass
        logger = self.logs.get_logger("e2e")
        for item in range(ITEMS):
            logger.emit(
                timestamp=time.time_ns(),
                severity_number=SeverityNumber.INFO,
                body="log",
                attributes=self.identify("log", f"{number}-{item}"),
            )
        # Cumulative: the points of the last export hold all ids so far.
        counter = self.metrics.get_meter("e2e").create_counter("e2e.items")
        for item in range(ITEMS):
            counter.add(1, self.identify("metric", f"{number}-{item}"))
        for provider in (self.traces, self.logs, self.metrics):
            check(provider.force_flush(30_000), f"{self.session}: a flush failed")

    def close(self):
        for provider in (self.traces, self.logs, self.metrics):
            provider.shutdown()


def subset_of(collector):
    return "v2" if collector == "v2" else "v1"


def main():
    for program in (outrigger(), otlp_collector()):
        if not os.path.exists(program):
            skip(f"{program} is not built")
    with tempfile.TemporaryDirectory() as folder:
        names = ("v1-a", "v1-b", "v2")
        collectors = [Collector(name, folder) for name in names]
        try:
            ports = [collector.ports() for collector in collectors]
            proxy, (grpc, http, admin, metrics, _) = start_proxy(folder, ports)
            with proxy:
                run(collectors, grpc, http, admin, metrics)
                code = proxy.stop()
                check(code == 0, f"the proxy ended with {code}: {proxy.tail()}")
            for collector in collectors:
                code = collector.stop()
                check(code == 0, f"{collector.name} ended with {code}: {collector.tail()}")
        finally:
            for collector in collectors:
                collector.__exit__()


def run(collectors, grpc, http, admin, metrics):
    kinds = [(transport, gzip) for transport in ("grpc", "http") for gzip in (False, True)]
    senders = []
    for number in range(SESSIONS):
        transport, gzip = kinds[number % len(kinds)]
        name = f"{transport}-{'gzip' if gzip else 'plain'}-{number}"
        senders.append(Sender(name, transport, gzip, grpc, http))
    for number in range(ROUNDS):
        for sender in senders:
            sender.round(number)
    for sender in senders:
        sender.close()
    sent = set().union(*(sender.sent for sender in senders))

    def arrived():
        return sent <= set().union(*(collector.received() for collector in collectors))

    try:
        wait_for("every item at a collector", arrived)
    except Failed:
        found = set().union(*(collector.received() for collector in collectors))
        missing = sorted(sent - found)
        raise Failed(f"{len(missing)} of {len(sent)} items are missing, first {missing[:5]}") from None

    received = {collector.name: collector.received() for collector in collectors}
    everything = set().union(*received.values())
    check(everything == sent, f"items nobody sent: {sorted(everything - sent)[:5]}")
    # A cumulative metric is exported again with each round; spans and logs arrive once.
    events = collections.Counter()
    for found in received.values():
        events.update({name: times for name, times in found.items() if "/metric/" not in name})
    twice = sorted(name for name, times in events.items() if times > 1)
    check(not twice, f"{len(twice)} items arrived more than once, first {twice[:5]}")

    used = collections.defaultdict(set)
    for name, found in received.items():
        for item in found:
            used[(item.split("/")[0], subset_of(name))].add(name)
    torn = {key: names for key, names in used.items() if len(names) > 1}
    check(not torn, f"sessions on several endpoints of a subset: {torn}")
    hits = {name: len(found) for name, found in received.items()}
    check(hits["v2"] > 0, f"the v2 subset got nothing: {hits}")
    check(hits["v1-a"] > 0 and hits["v1-b"] > 0, f"an endpoint of v1 got nothing: {hits}")
    check(hits["v1-a"] + hits["v1-b"] > hits["v2"], f"v2 got more than its 10 %: {hits}")

    page = get(metrics, "/stats/prometheus")
    requests = [line for line in page.splitlines() if line.startswith("istio_requests_total{")]
    total = sum(float(line.rsplit(" ", 1)[1]) for line in requests)
    fine = sum(float(line.rsplit(" ", 1)[1]) for line in requests if 'response_code="200"' in line)
    check(total > 0 and total == fine, f"{total - fine} of {total} requests failed:\n" + "\n".join(requests))
    check("outbound|" in get(admin, "/clusters"), "/clusters shows the clusters")
    print(
        f"otlp_sdk: {len(sent)} items sent, {len(everything)} distinct received, {total:.0f} requests, "
        f"shares {hits}, {SESSIONS} sessions each on one endpoint a subset"
    )


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        print(f"otlp_sdk: FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
