"""Trace context through Outrigger with its default configuration (docs/adr/0001).

The Python SDK's propagators inject B3 (single, multi) and W3C on one side and extract them on the other: the trace is
the same, the sampling decision is kept, the parent is a new span. Then headers that are malformed, huge or there twice,
which are never an error, compared with a real Envoy that has Istio's Zipkin provider.
"""

import os
import random

from client import exchange, request
from differences import run
from envoy import Envoy, cluster, forward
from origins import Origin
from processes import check, skip
from sidecar import Outrigger, cluster_name, service

try:
    from opentelemetry import trace
    from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
    from opentelemetry.propagators.composite import CompositePropagator
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    skip(f"the OpenTelemetry SDK is not installed: {error}")

SEED = int(os.environ.get("OUTRIGGER_E2E_SEED", random.SystemRandom().randrange(1 << 32)))
TRIPS = 100
MUTATIONS = 300
PROPAGATORS = {
    "b3 single": B3SingleFormat(),
    "b3 multi": B3MultiFormat(),
    "w3c": TraceContextTextMapPropagator(),
    "b3 multi and w3c": CompositePropagator([B3MultiFormat(), TraceContextTextMapPropagator()]),
}
TRACE = ("b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags", "traceparent", "tracestate")
# Its first eight digits are the draw of the sampling: 7295 of 10000 is not within 1 %.
UNSAMPLED_ID = ("x-request-id", "ffffffff-0000-4000-8000-000000000000")
INTENDED = {}


def round_trips(folder, _):
    origin = Origin()
    trips = 0
    with Outrigger("outrigger-trips", folder, service("web", [(origin.address, "v1")]), mesh="") as ours:
        for name, propagator in PROPAGATORS.items():
            for sampler in (ALWAYS_ON, ALWAYS_OFF):
                tracer = TracerProvider(sampler=sampler).get_tracer("e2e")
                for _ in range(TRIPS):
                    round_trip(f"{name}, {sampler.get_description()}", ours.address, origin, propagator, tracer)
                    trips += 1
    origin.stop()
    return f"{trips} round trips"


def round_trip(case, address, origin, propagator, tracer):
    carrier = {}
    span = tracer.start_span("client")
    propagator.inject(carrier, context=trace.set_span_in_context(span))
    sent = span.get_span_context()
    answer = exchange(address, request("/", list(carrier.items())))
    check(answer.status == 200, f"{case}: {answer.status} for {carrier}")
    headers = dict(origin.seen[-1][1])
    # Whatever was injected, each format that Outrigger writes tells the same.
    readers = [propagator] + [PROPAGATORS["w3c"]] * ("traceparent" in headers)
    spans = set()
    for reader in readers:
        got = trace.get_current_span(reader.extract(headers)).get_span_context()
        check(got.is_valid and got.is_remote, f"{case}: nothing to extract from {headers}")
        check(got.trace_id == sent.trace_id, f"{case}: trace {got.trace_id:032x}, sent {carrier}, got {headers}")
        check(got.trace_flags.sampled == sent.trace_flags.sampled, f"{case}: decision lost: sent {carrier}, got {headers}")
        spans.add(got.span_id)
    check(len(spans) == 1 and sent.span_id not in spans, f"{case}: no new span: sent {carrier}, got {headers}")
    parent = headers["b3"].split("-")[3] if "b3" in headers else headers["x-b3-parentspanid"]
    check(int(parent, 16) == sent.span_id, f"{case}: parent {parent}, sent {carrier}, got {headers}")


T128, T64, S = "463ac35c9f6413ad48485a3953bb6124", "48485a3953bb6124", "0020000000000001"
PARENT = f"00-{T128}-{S}-01"


def odd_headers():
    """Name and header lines."""
    values = {
        "b3": [
            "", "0", "1", "d", "2", "-", "--", "---", f"{T128}-{S}", f"{T128}-{S}-1", f"{T128}-{S}-d", f"{T128}-{S}-0-{S}",
            f"{T64}-{S}-1", f"{T128}-{S}-2", f"{T128}-{S}-1-", f"{T128}-{S}-1-{S}-1", f"{T128}{S}", f"{T128}-{S[1:]}-1",
            f"{T128.upper()}-{S.upper()}-1", f"{T128[:-1]}g-{S}-1", f"{'0' * 32}-{S}-1", f"{T128}-{'0' * 16}-1",
            f" {T128}-{S}-1 ", f"{T128}-{S}-1, {T128}-{S}-1", "a" * 30000,
        ],
        "traceparent": [
            "", PARENT, PARENT[:-3], PARENT + "-more", "ff" + PARENT[2:], "01" + PARENT[2:], "01" + PARENT[2:] + "-more",
            PARENT.upper(), f"00-{'0' * 32}-{S}-01", f"00-{T128}-{'0' * 16}-01", f"00-{T128}-{S}-00", f"00-{T128}-{S}-ff",
            f"00-{T128}-{S}-0g", f"00_{T128}_{S}_01", f"0-{T128}-{S}-01", f"00-{T64}-{S}-01", f" {PARENT} ", "0" * 30000,
            f"{PARENT}, {PARENT}",
        ],
    }
    cases = [(name, [(name, value)]) for name, several in values.items() for value in several]
    multi = {"x-b3-traceid": T128, "x-b3-spanid": S, "x-b3-parentspanid": S, "x-b3-sampled": "1"}
    for name, right in multi.items():
        for wrong in (None, "", "0", "g" * len(right), right[:-1], right + "0", right.upper(), "0" * len(right), "a" * 20000, "true", "false", "d"):
            lines = {key: value for key, value in {**multi, name: wrong}.items() if value is not None}
            cases.append((f"multi with {name}", list(lines.items())))
    cases.append(("flags", [*multi.items(), ("x-b3-flags", "1")]))
    cases.append(("flags alone", [("x-b3-flags", "1")]))
    for name, lines in (("b3", [("b3", f"{T128}-{S}-1")]), ("multi", list(multi.items())), ("w3c", [("traceparent", PARENT)])):
        cases.append((f"{name} twice", lines * 2))
        cases.append((f"{name}, then junk", lines + [(key, "junk") for key, _ in lines]))
        cases.append((f"junk, then {name}", [(key, "junk") for key, _ in lines] + lines))
    right = [("traceparent", PARENT)]
    for state in ("", "a=1", "a=1,b=2", "junk", ",", "a=1,a=2", "x" * 20000, ",".join(f"k{number}=v" for number in range(40))):
        cases.append(("tracestate", [*right, ("tracestate", state)]))
        cases.append(("tracestate alone", [("tracestate", state)]))
    cases.append(("two tracestates", [*right, ("tracestate", "a=1"), ("tracestate", "b=2")]))
    cases.append(("b3 and w3c disagree", [("b3", f"{T64}-{S}-0"), *right]))
    cases.append(("multi and w3c disagree", [*multi.items(), ("traceparent", f"00-{T128[::-1]}-{S[::-1]}-00")]))
    cases.append(("single and multi", [("b3", f"{T64}-{S}-0"), *multi.items()]))
    cases.append(("junk b3 and w3c", [("b3", "junk"), *right]))
    cases.append(("b3 without decision and w3c", [("b3", f"{T128}-{S}"), *right]))
    for flags in ("00", "01"):
        ids = [("x-b3-traceid", T128), ("x-b3-spanid", S)]
        cases.append(("multi without decision and w3c", [*ids, ("traceparent", f"00-{T128}-{S}-{flags}")]))
        cases.append(("multi with decision and w3c", [*ids, ("x-b3-sampled", "0"), ("traceparent", f"00-{T128}-{S}-{flags}")]))
        cases.append(("multi with a bad decision and w3c", [*ids, ("x-b3-sampled", "x"), ("traceparent", f"00-{T128}-{S}-{flags}")]))
        cases.append(("decision alone and w3c", [("x-b3-sampled", "0"), ("traceparent", f"00-{T128}-{S}-{flags}")]))
        cases.append(("single decision alone and w3c", [("b3", "0"), ("traceparent", f"00-{T128}-{S}-{flags}")]))
    for short in (f"{'0' * 16}{T64}", f"{'0' * 31}1"):
        cases.append(("upper half zero", [("b3", f"{short}-{S}-1")]))
        cases.append(("upper half zero", [("x-b3-traceid", short), ("x-b3-spanid", S), ("x-b3-sampled", "1")]))
        cases.append(("upper half zero", [("traceparent", f"00-{short}-{S}-01")]))
    cases.append(("nothing", []))
    return cases


def mutations(chance):
    """Good headers with a few characters changed, dropped or doubled."""
    good = [("b3", f"{T128}-{S}-1-{S}"), ("traceparent", PARENT), ("x-b3-traceid", T128), ("x-b3-spanid", S)]
    for _ in range(MUTATIONS):
        lines = chance.sample(good, chance.randint(1, len(good)))
        broken = []
        for name, value in lines:
            text = list(value)
            for _ in range(chance.randint(0, 2)):
                at = chance.randrange(len(text))
                text[at] = chance.choice(["", text[at] * 2, "-", "0", "g", "F", ";", "\xe9"])
            broken.append((name, "".join(text).strip()))
        yield f"mutation {broken}", broken


def zipkin():
    """What Istio writes for a Zipkin provider with `traceContextOption: USE_B3_WITH_W3C_PROPAGATION`."""
    kind = "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig"
    config = {
        "@type": kind, "collector_cluster": "zipkin", "collector_endpoint": "/api/v2/spans",
        "collector_endpoint_version": "HTTP_JSON", "trace_id_128bit": True, "shared_span_context": False,
        "trace_context_option": "USE_B3_WITH_W3C_PROPAGATION",
    }
    return {
        "tracing": {
            "provider": {"name": "envoy.tracers.zipkin", "typed_config": config},
            "client_sampling": {"value": 100}, "random_sampling": {"value": 1}, "overall_sampling": {"value": 100},
        }
    }


def oddities(folder, differences):
    print(f"propagation: OUTRIGGER_E2E_SEED={SEED}")
    web, collector = Origin(), Origin()
    route = {"match": {"prefix": "/"}, "route": forward(cluster_name("web"))}
    clusters = [cluster(cluster_name("web"), [web.address]), cluster("zipkin", [collector.address])]
    envoy = Envoy("envoy", folder, [route], clusters, ["*"], zipkin())
    cases = odd_headers() + list(mutations(random.Random(SEED)))
    with envoy, Outrigger("outrigger", folder, service("web", [(web.address, "v1")]), mesh="") as ours:
        for case, lines in cases:
            found = []
            for proxy in (envoy, ours):
                answer = exchange(proxy.address, request("/", [UNSAMPLED_ID, *lines]))
                check(answer.status == 200, f"{proxy.name}: {answer.status} for {case} {lines}")
                found.append(anonymous(lines, web.seen[-1][1]))
            shown = [(name, value if len(value) < 100 else f"{len(value)} bytes") for name, value in lines]
            differences.compare(case if case.startswith("mutation") else f"{case} {shown}", "upstream", *found)
    web.stop()
    collector.stop()
    return f"{len(cases)} odd headers"


def anonymous(sent, seen):
    """The trace headers upstream, sorted; new ids are only called so, wherever they stand."""
    known = {part for _, value in sent for part in value.split("-")}

    def part(text):
        return f"new {len(text)}" if len(text) >= 16 and text not in known else text

    lines = [(name, "-".join(part(one) for one in value.split("-"))) for name, value in seen if name in TRACE]
    return sorted((name, value if len(value) < 200 else f"{len(value)} bytes") for name, value in lines)


if __name__ == "__main__":
    run("propagation", [round_trips, oddities], INTENDED)
