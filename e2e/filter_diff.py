"""Faults, cross-origin rules and mirrors: the same intent for a real Envoy and for Outrigger, and the same requests.

Compared are answers, log lines, what the upstream saw, what the mirror saw, and what is counted of it.
"""

import json
import socket
import time

from client import exchange, request
from differences import run
from envoy import DEFAULT_RETRY, ROUTER, Envoy, cluster, forward
from logs import new_line, normal_log, position
from origins import Origin, refused
from processes import get, wait_for
from sidecar import Outrigger, cluster_name, rule, service, virtual_service
from stats import stats

FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
WEB = cluster_name("web")
UNREAD = "a body that could not be sent is not read in time, so no byte of it counts"
INTENDED = {
    ("GET /no-content/", "answer"): "Envoy writes a body behind a 204",
    ("GET /no-content/", "log"): "as its answer",
    ("POST /copy-refused/", "log"): UNREAD,
    ("GET /cors/ | origin: https://a | origin: https://z", "upstream"): "Envoy joins two lines of this name; either way they get no leave",
    **{
        (f"OPTIONS {case}", "upstream"): "Envoy frames the empty body of an OPTIONS; a request without a body needs no framing"
        for case in (
            "/cors/ | origin: https://a",
            "/cors/ | origin: https://z | access-control-request-method: POST",
            "/cors/ | origin: https://a | access-control-request-method: ",
            "/cors-ignore/ | origin: https://a",
            "/cors-any/ | origin: https://a",
        )
    },
}

# Istio's order.
MANAGER = {
    "http_filters": [
        {"name": "envoy.filters.http.fault", "typed_config": {"@type": f"{FILTERS}.fault.v3.HTTPFault"}},
        {"name": "envoy.filters.http.cors", "typed_config": {"@type": f"{FILTERS}.cors.v3.Cors"}},
        {"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}},
    ]
}


def fault(**parts):
    return {"envoy.filters.http.fault": {"@type": f"{FILTERS}.fault.v3.HTTPFault", **parts}}


def cors(**policy):
    enabled = {"default_value": {"numerator": 100}}
    kind = f"{FILTERS}.cors.v3.CorsPolicy"
    defaults = {"forward_not_matching_preflights": True}
    return {"envoy.filters.http.cors": {"@type": kind, "filter_enabled": enabled, **defaults, **policy}}


def mirrored(destination, *mirrors, **more):
    policies = [
        {"cluster": cluster_name(mirror), "trace_sampled": False, "disable_shadow_host_suffix_append": True}
        for mirror in mirrors
    ]
    return forward(cluster_name(destination), request_mirror_policies=policies, **more)


ALWAYS = {"numerator": 1000000, "denominator": "MILLION"}
ISTIO_CORS = (
    "allowOrigins: [{ exact: 'https://a' }, { prefix: 'https://b' }, { regex: 'https://c[0-9]+' }], "
    "allowMethods: [GET, POST], allowHeaders: [x-a, X-B], exposeHeaders: [x-c], maxAge: 60s, allowCredentials: true"
)
ENVOY_CORS = {
    "allow_origin_string_match": [
        {"exact": "https://a"},
        {"prefix": "https://b"},
        {"safe_regex": {"regex": "https://c[0-9]+"}},
    ],
    "allow_methods": "GET,POST",
    "allow_headers": "x-a,X-B",
    "expose_headers": "x-c",
    "max_age": "60",
    "allow_credentials": True,
}
OPS = "headers: { request: { set: { x-op: '1' } }, response: { set: { access-control-allow-origin: op, x-op: '1' } } }"


def header(name, value):
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


ENVOY_OPS = {
    "request_headers_to_add": [header("x-op", "1")],
    "response_headers_to_add": [header("access-control-allow-origin", "op"), header("x-op", "1")],
}
RETRIES = {"retry_on": "5xx", "num_retries": 2, "per_try_timeout": "2s", "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.01s"}}


def routes():
    """Name, host, Istio's settings, Envoy's action, Envoy's filter policies, more of Envoy's route."""
    off = "retries: { attempts: 0 }"
    to_web = forward(WEB)
    abort = {"abort": {"percentage": ALWAYS, "http_status": 555}}
    delay = {"delay": {"percentage": ALWAYS, "fixed_delay": "0.6s"}}
    istio_abort = "abort: { percentage: { value: 100 }, httpStatus: 555 }"
    istio_delay = "delay: { percentage: { value: 100 }, fixedDelay: 0.6s }"

    def aborts(name, istio, **envoy):
        text = f"fault: {{ abort: {{ percentage: {{ value: 100 }}, {istio} }} }}"
        return (name, "web", f"{off}, {text}", to_web, fault(abort={"percentage": ALWAYS, **envoy}), {})

    missing = forward(cluster_name("nowhere"), cluster_not_found_response_code="SERVICE_UNAVAILABLE")
    return [
        aborts("abort", "httpStatus: 555", http_status=555),
        aborts("unavailable", "httpStatus: 503", http_status=503),
        aborts("no-content", "httpStatus: 204", http_status=204),
        aborts("grpc", "grpcStatus: NOT_FOUND", grpc_status=5),
        aborts("grpc-ok", "grpcStatus: OK", grpc_status=0),
        ("never", "web", f"{off}, fault: {{ abort: {{ httpStatus: 555 }} }}", to_web, fault(abort={"http_status": 555}), {}),
        ("delay", "web", f"{off}, timeout: 0.1s, fault: {{ {istio_delay} }}", forward(WEB, "0.1s"), fault(**delay), {}),
        ("both", "web", f"{off}, fault: {{ {istio_delay}, {istio_abort} }}", to_web, fault(**delay, **abort), {}),
        (
            "long", "web", f"{off}, fault: {{ delay: {{ percentage: {{ value: 100 }}, fixedDelay: 60s }} }}", to_web,
            fault(delay={"percentage": ALWAYS, "fixed_delay": "60s"}), {},
        ),
        ("abort-missing", "nowhere", f"{off}, fault: {{ {istio_abort} }}", missing, fault(**abort), {}),
        ("abort-cors", "web", f"{off}, fault: {{ {istio_abort} }}, corsPolicy: {{ {ISTIO_CORS} }}", to_web, {**fault(**abort), **cors(**ENVOY_CORS)}, {}),
        ("cors", "web", f"{off}, corsPolicy: {{ {ISTIO_CORS} }}, {OPS}", to_web, cors(**ENVOY_CORS), ENVOY_OPS),
        (
            "cors-ignore", "web", f"{off}, corsPolicy: {{ {ISTIO_CORS}, unmatchedPreflights: IGNORE }}", to_web,
            cors(**ENVOY_CORS, **{"forward_not_matching_preflights": False}), {},
        ),
        (
            "cors-any", "web", f"{off}, corsPolicy: {{ allowOrigins: [{{ exact: '*' }}] }}", to_web,
            cors(allow_origin_string_match=[{"exact": "*"}]), {},
        ),
        ("cors-missing", "nowhere", f"{off}, corsPolicy: {{ {ISTIO_CORS} }}", missing, cors(**ENVOY_CORS), {}),
        ("cors-refused", "refused", f"{off}, corsPolicy: {{ {ISTIO_CORS} }}", forward(cluster_name("refused")), cors(**ENVOY_CORS), {}),
        ("copy", "web", f"{off}, mirror: {{ host: shadow }}, {OPS}", mirrored("web", "shadow"), {}, ENVOY_OPS),
        ("copies", "web", f"{off}, mirrors: [{{ destination: {{ host: shadow }} }}, {{ destination: {{ host: shadow }} }}]", mirrored("web", "shadow", "shadow"), {}, {}),
        ("copy-timeout", "web", f"{off}, timeout: 5s, mirror: {{ host: shadow }}", mirrored("web", "shadow", timeout="5s", max_grpc_timeout="5s"), {}, {}),
        (
            "copy-retry", "web", "retries: { attempts: 2, retryOn: 5xx, backoff: 1ms, perTryTimeout: 2s }, timeout: 5s, mirror: { host: shadow }",
            mirrored("web", "shadow", timeout="5s", max_grpc_timeout="5s", retry_policy=RETRIES), {}, {},
        ),
        ("copy-refused", "refused", "mirror: { host: shadow }", mirrored("refused", "shadow", retry_policy=DEFAULT_RETRY), {}, {}),
        ("copy-empty", "empty", f"{off}, mirror: {{ host: shadow }}", mirrored("empty", "shadow"), {}, {}),
        ("copy-to-refused", "web", f"{off}, mirror: {{ host: refused }}", mirrored("web", "refused"), {}, {}),
        ("copy-to-empty", "web", f"{off}, mirror: {{ host: empty }}", mirrored("web", "empty"), {}, {}),
        ("copy-to-nowhere", "web", f"{off}, mirror: {{ host: nowhere }}", mirrored("web", "nowhere"), {}, {}),
        ("copy-none", "web", f"{off}, mirror: {{ host: shadow }}, mirrorPercentage: {{ value: 0 }}", to_web, {}, {}),
    ]


def istio_routes():
    text = ""
    for name, host, settings, *_ in routes():
        match = f"match: [{{ uri: {{ prefix: /{name}/ }} }}]"
        text += f"  - {{ name: {name}, {match}, route: [{{ destination: {{ host: {host} }} }}], {settings} }}\n"
    return text


def envoy_routes():
    made = []
    for name, _, _, action, policies, more in routes():
        route = {"name": name, "match": {"prefix": f"/{name}/"}, "route": action, **more}
        made.append({**route, "typed_per_filter_config": policies} if policies else route)
    return made


ALLOWED, FOREIGN = ("origin", "https://a"), ("origin", "https://z")
METHOD = ("access-control-request-method", "POST")
GRPC = [("content-type", "application/grpc"), ("te", "trailers")]


def cases():
    """Raw request, and how many copies of it the mirror gets."""
    made = [(request(f"/{name}/"), 0) for name in (
        "abort", "unavailable", "no-content", "grpc", "grpc-ok", "never", "delay", "both", "abort-missing",
    )]
    made += [(request(f"/{name}/", GRPC, "POST"), 0) for name in ("abort", "unavailable", "grpc", "grpc-ok", "both")]
    made += [(request("/abort/", method="HEAD"), 0), (request("/abort-cors/", [ALLOWED]), 0), (request("/abort-cors/", [ALLOWED, METHOD], "OPTIONS"), 0)]
    for name in ("cors", "cors-ignore", "cors-any", "cors-missing", "cors-refused"):
        made += [(request(f"/{name}/", [origin]), 0) for origin in (ALLOWED, FOREIGN)]
        made += [(request(f"/{name}/", [origin, METHOD], "OPTIONS"), 0) for origin in (ALLOWED, FOREIGN)]
        made.append((request(f"/{name}/", [ALLOWED], "OPTIONS"), 0))
    for origin in ("", "https://bx", "https://c12", "https://c", "x https://c1", "HTTPS://A"):
        made.append((request("/cors/", [("origin", origin)]), 0))
    made += [
        (request("/cors/", [ALLOWED, FOREIGN]), 0),
        (request("/cors/x/status/404", [ALLOWED]), 0),
        (request("/cors/", [ALLOWED, ("access-control-request-method", "")], "OPTIONS"), 0),
        (request("/copy/x?q=1", [("x-forwarded-for", "1.2.3.4"), ("x-own", "a"), ("x-own", "b")]), 1),
        (request("/copy/", method="POST", body=b"the body"), 1),
        (request("/copy/", method="POST", body=b"x" * 300000), 1),
        (request("/copy/", [("transfer-encoding", "chunked")], "POST")[:-2] + b"\r\n4\r\nbody\r\n0\r\n\r\n", 1),
        (request("/copy/", method="HEAD"), 1),
        (request("/copies/"), 2),
        (request("/copy-timeout/"), 1),
        (request("/copy-retry/x/status/503"), 1),
        (request("/copy-refused/"), 1),
        (request("/copy-refused/", method="POST", body=b"the body"), 1),
        (request("/copy-empty/"), 0),
        (request("/copy-to-refused/", method="POST", body=b"the body"), 0),
        (request("/copy-to-empty/"), 0),
        (request("/copy-to-nowhere/"), 0),
        (request("/copy-none/"), 0),
        (request("/copy/last"), 1),
    ]
    return made


def normal(seen):
    """A request as it came, without what differs by nature: ids, and the address that a copy comes from."""
    line, headers = seen
    hop = lambda value: ",".join([*value.split(",")[:-1], "<own>"])
    shown = {"x-request-id": lambda _: "*"}
    if ("x-envoy-internal", "true") in headers:
        shown["x-forwarded-for"] = hop
    return line, [(name, shown.get(name, str)(value)) for name, value in headers]


def request_id(seen):
    return dict(seen[1]).get("x-request-id")


def filter_stats(admin):
    """`fault.aborts_injected` and its like; Envoy has the listener's prefix in their names."""
    found = {}
    for one in json.loads(get(admin, "/stats?format=json"))["stats"]:
        name = one.get("name", "")
        for stat in ("fault.aborts_injected", "fault.delays_injected", "fault.active_faults", "cors.origin_valid", "cors.origin_invalid"):
            if name.startswith("http.") and name.endswith(f".{stat}"):
                found[stat] = int(one["value"])
    return found


def leaves_in_the_delay(proxy):
    host, port = proxy.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request("/long/"))
        wait_for("the delay", lambda: filter_stats(proxy.admin)["fault.active_faults"] == 1)


def label(raw):
    head = raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = [line for line in head[2:] if not line.startswith("content-length")]
    return " | ".join([f"{method} {path}", *headers])


def filters(folder, differences):
    web, shadow = Origin(), Origin()
    refused_address, kept = refused()
    documents = service("web", [(web.address, "v1")]) + service("shadow", [(shadow.address, "v1")])
    documents += service("refused", [(refused_address, "v1")]) + service("empty", [])
    documents += rule("web", "loadBalancer: { simple: LEAST_REQUEST }") + virtual_service("web", istio_routes())
    clusters = [
        cluster(WEB, [web.address]),
        cluster(cluster_name("shadow"), [shadow.address]),
        cluster(cluster_name("refused"), [refused_address]),
        cluster(cluster_name("empty"), []),
    ]
    ours = Outrigger("outrigger-filters", folder, documents)
    envoy = Envoy("envoy-filters", folder, envoy_routes(), clusters, ["web", "web:*"], MANAGER)
    with envoy, ours:
        for raw, copies in cases():
            case, got = label(raw), []
            for name, proxy in (("envoy", envoy), ("ours", ours)):
                before, copied, logged, began = len(web.seen), len(shadow.seen), position(proxy.log), time.monotonic()
                answer = exchange(proxy.address, raw, raw.startswith(b"HEAD")).comparable()
                held_back = time.monotonic() - began >= 0.5
                line = new_line(proxy.log, logged, f"{name}'s log line of {case}")
                wait_for(f"{name}'s copies of {case}", lambda: len(shadow.seen) >= copied + copies)
                upstream, mirror = web.seen[before:], shadow.seen[copied:]
                same_id = {request_id(seen) for seen in upstream + mirror}
                got.append((answer, held_back, normal_log(line), [normal(one) for one in upstream], [normal(one) for one in mirror], len(same_id)))
            for aspect, theirs, mine in zip(("answer", "held back", "log", "upstream", "mirror", "ids"), *got):
                differences.compare(case, aspect, theirs, mine)
        logs = []
        for proxy in (envoy, ours):
            logged = position(proxy.log)
            leaves_in_the_delay(proxy)
            logs.append(normal_log(new_line(proxy.log, logged, "the log line of a client that left")))
            wait_for("the end of the fault", lambda: filter_stats(proxy.admin)["fault.active_faults"] == 0)
        differences.compare("leaves in the delay", "log", *logs)
        differences.compare("all", "filter statistics", filter_stats(envoy.admin), filter_stats(ours.admin))
        for host in ("web", "shadow", "refused", "empty"):
            counted = [counts(proxy.admin, cluster_name(host)) for proxy in (envoy, ours)]
            differences.compare("all", f"statistics of {host}", *counted)
    kept.close()
    web.stop()
    shadow.stop()
    return f"{len(cases())} requests through filters"


def counts(admin, name):
    """Classes that were never counted are left out by one of them."""
    found = stats(admin, name)
    keys = ("upstream_rq_total", "upstream_rq_completed", "upstream_rq_2xx", "upstream_rq_4xx", "upstream_rq_5xx", "upstream_cx_none_healthy", "retry_or_shadow_abandoned")
    return {key: found.get(key, 0) for key in keys}


if __name__ == "__main__":
    run("filter_diff", (filters,), INTENDED)
