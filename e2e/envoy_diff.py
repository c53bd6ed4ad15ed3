"""The same requests to a real Envoy 1.40 and to Outrigger with the same intent: matches, answers, logs, what upstreams see."""

from client import exchange, request
from differences import run
from envoy import DEFAULT_RETRY, Envoy, cluster, forward
from logs import new_line, normal_log, position
from origins import Origin, refused
from sidecar import Outrigger, cluster_name, rule, service, virtual_service

# Case and aspect -> why Outrigger differs on purpose.
INTENDED = {
    ("two hosts", "answer"): "Envoy joins two Host lines; two parsers could read them differently, so 400",
    ("two hosts", "log"): "as its answer",
    ("own headers", "upstream"): "the lines of one name stand together, at the place of the first",
    ("gRPC /nothing/", "answer"): "Envoy answers before it has read the body and closes; ours reads the little that is left",
    ("gRPC /missing/x", "answer"): "as before",
    ("gRPC /empty/x", "answer"): "as before",
    ("gRPC /refused-once/x", "log"): "a body that could not be sent is not read, so no byte of it counts",
    ("HEAD /nothing/", "answer"): "Envoy announces chunks that never come; an empty answer needs no framing",
    ("/o/close", "upstream"): "a GET on a pooled connection that closes without a byte is sent once more (docs/adr/0004)",
    ("/default/close", "upstream"): "as before",
    ("/retry/close", "upstream"): "as before, with its first try",
    ("/o/empty", "answer"): "hyper writes the length of an empty answer last; the order of different names means nothing",
    ("other upgrade", "log"): "refused before it is routed, so there is no cluster and no route to log",
}


# Name, Istio match, Envoy match.
MATCHES = [
    ("exact-path", "uri: { exact: /exact }", {"path": "/exact"}),
    ("any-case", "uri: { exact: /case }, ignoreUriCase: true", {"path": "/case", "case_sensitive": False}),
    ("regex-path", "uri: { regex: '/r[0-9]+' }", {"safe_regex": {"regex": "/r[0-9]+"}}),
    (
        "exact-header",
        "headers: { x-exact: { exact: a } }",
        {"prefix": "/", "headers": [{"name": "x-exact", "string_match": {"exact": "a"}}]},
    ),
    (
        "prefix-header",
        "headers: { x-prefix: { prefix: ab } }",
        {"prefix": "/", "headers": [{"name": "x-prefix", "string_match": {"prefix": "ab"}}]},
    ),
    (
        "regex-header",
        "headers: { x-regex: { regex: 'a|b' } }",
        {"prefix": "/", "headers": [{"name": "x-regex", "string_match": {"safe_regex": {"regex": "a|b"}}}]},
    ),
    (
        "present-header",
        "headers: { x-present: {} }",
        {"prefix": "/", "headers": [{"name": "x-present", "present_match": True}]},
    ),
    (
        "without-header",
        "uri: { prefix: /without }, withoutHeaders: { x-without: { exact: foo } }",
        {
            "prefix": "/without",
            "headers": [
                {
                    "name": "x-without",
                    "string_match": {"exact": "foo"},
                    "invert_match": True,
                    "treat_missing_header_as_empty": True,
                }
            ],
        },
    ),
    (
        "query",
        "queryParams: { q: { exact: 'a%20b' } }",
        {"prefix": "/", "query_parameters": [{"name": "q", "string_match": {"exact": "a%20b"}}]},
    ),
    (
        "method",
        "method: { exact: PUT }",
        {"prefix": "/", "headers": [{"name": ":method", "string_match": {"exact": "PUT"}}]},
    ),
    (
        "authority",
        "authority: { exact: 'web:1' }",
        {"prefix": "/", "headers": [{"name": ":authority", "string_match": {"exact": "web:1"}}]},
    ),
]

MATCH_REQUESTS = [
    request(path)
    for path in (
        "/exact", "/exact?x", "/exact/", "//exact", "/a/../exact", "/./exact", "/%65xact", "/%2Fexact", "/Exact",
        "/case", "/CASE", "/case/x", "/r1", "/r1?q", "/r1x", "/r", "/?q=a%20b", "/?q=a+b", "/?q=a b".replace(" ", "%20"),
        "/?x=1&q=a%20b", "/?q=1&q=a%20b", "/?Q=a%20b", "/?q", "/?q=", "/without", "/withoutx", "/a//b", "/a/b/../..",
        "/..", "/%2e%2e/exact", "/exact%3Fx", "/exact;x",
    )
] + [
    request("/", headers)
    for headers in (
        [("x-exact", "a")], [("x-exact", "A")], [("x-exact", "a, b")], [("x-exact", "b"), ("x-exact", "a")],
        [("x-exact", "  a  ")], [("x-exact", "")], [("X-Exact", "a")], [("x-prefix", "abc")], [("x-prefix", "a")],
        [("x-prefix", "a"), ("x-prefix", "ab")], [("x-regex", "a")], [("x-regex", "ab")], [("x-regex", "c"), ("x-regex", "b")],
        [("x-present", "")], [("x-present", "1")], [],
    )
] + [
    request("/without", headers)
    for headers in ([("x-without", "foo")], [("x-without", "bar")], [("x-without", "")], [("x-without", "foo"), ("x-without", "bar")])
] + [
    request("/", method="PUT"), request("/", host="web:1"), request("/", host="WEB:1"), request("/", host="web:2"),
]

NO_RETRY = "    retries: { attempts: 0 }\n"


class Answers:
    """The routes of the answer table for both proxies, from one list."""

    def __init__(self, origin, refused_address):
        name = cluster_name
        retries = {
            "5xx": {"retry_on": "5xx", "num_retries": 2, "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.01s"}},
        }
        per_try = {**retries["5xx"], "per_try_timeout": "0.05s"}
        istio_5xx = "    retries: { attempts: 2, retryOn: 5xx, backoff: 1ms%s }\n"
        # Prefix, Istio destination and settings, Envoy action.
        self.table = [
            ("/o/", ("web", ""), NO_RETRY, forward(name("web"))),
            ("/default/", ("web", ""), "", forward(name("web"), retry_policy=DEFAULT_RETRY)),
            ("/missing/", ("web", "v9"), NO_RETRY, forward(name("web", "v9"), cluster_not_found_response_code="SERVICE_UNAVAILABLE")),
            ("/empty/", ("empty", ""), "", forward(name("empty"), retry_policy=DEFAULT_RETRY)),
            ("/refused/", ("refused", ""), "", forward(name("refused"), retry_policy=DEFAULT_RETRY)),
            ("/refused-once/", ("refused", ""), NO_RETRY, forward(name("refused"))),
            ("/retry/", ("web", ""), istio_5xx % "", forward(name("web"), retry_policy=retries["5xx"])),
            ("/timeout/", ("web", ""), NO_RETRY + "    timeout: 0.15s\n", forward(name("web"), timeout="0.15s")),
            ("/per-try/", ("web", ""), istio_5xx % ", perTryTimeout: 0.05s", forward(name("web"), retry_policy=per_try)),
        ]
        self.clusters = [
            cluster(name("web"), [origin]),
            cluster(name("empty"), []),
            cluster(name("refused"), [refused_address]),
        ]

    def envoy_routes(self):
        routes = []
        for prefix, _, _, action in self.table:
            routes.append({"name": prefix.strip("/"), "match": {"prefix": prefix}, "route": action})
        return routes

    def istio_routes(self):
        text = ""
        for prefix, (host, subset), more, _ in self.table:
            subset = f", subset: {subset}" if subset else ""
            text += f"  - name: {prefix.strip('/')}\n    match: [{{ uri: {{ prefix: {prefix} }} }}]\n"
            text += f"    route: [{{ destination: {{ host: {host}{subset} }} }}]\n{more}"
        return text


def answer_cases():
    """Name, raw request, whether the answer has no body, whether the upstream's view is compared."""
    grpc = [("content-type", "application/grpc"), ("te", "trailers")]
    cases = [(path, request(path)) for path in (
        "/o/ok", "/o/empty", "/o/hop", "/nothing/", "/missing/x", "/empty/x", "/refused/x", "/refused-once/x", "/o/close", "/o/reset",
        "/o/garbage", "/o/half-head", "/o/two-lengths", "/o/cut", "/o/status/503", "/o/status/404", "/default/status/503",
        "/default/close", "/retry/status/503", "/retry/close", "/timeout/never", "/per-try/never",
    )]
    cases += [(f"gRPC {path}", request(path, grpc, "POST", body=b"\0\0\0\0\0")) for path in (
        "/nothing/", "/missing/x", "/empty/x", "/refused-once/x", "/o/close", "/timeout/never",
    )]
    cases += [(f"HEAD {path}", request(path, method="HEAD")) for path in ("/o/ok", "/nothing/", "/empty/x")]
    cases += [
        ("own headers", request("/o/ok", [("b", "2"), ("A", "1"), ("b", "3"), ("x-empty", "")])),
        ("hop by hop", request("/o/ok", [("connection", "x-named, keep-alive"), ("x-named", "1"), ("keep-alive", "5"), ("te", "deflate"), ("proxy-connection", "x")])),
        ("te trailers", request("/o/ok", [("te", "trailers")])),
        ("h2c upgrade", request("/o/ok", [("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABk")])),
        ("internal headers", request("/o/ok", [(name, "1") for name in ("x-envoy-internal", "x-envoy-retry-on", "x-envoy-max-retries", "x-envoy-upstream-rq-timeout-ms", "x-envoy-expected-rq-timeout-ms", "x-envoy-attempt-count", "x-forwarded-client-cert", "x-envoy-original-path", "x-envoy-downstream-service-cluster")])),
        ("forwarded headers", request("/o/ok", [("x-forwarded-for", "5.6.7.8"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "h")])),
        ("post", request("/o/ok", method="POST", body=b"body")),
        ("absolute form", b"GET http://web:9/o/ok?x HTTP/1.1\r\nhost: elsewhere\r\n\r\n"),
        ("no host", b"GET /o/ok HTTP/1.1\r\n\r\n"),
        ("empty host", b"GET /o/ok HTTP/1.1\r\nhost:\r\n\r\n"),
        ("two hosts", b"GET /o/ok HTTP/1.1\r\nhost: web\r\nhost: web\r\n\r\n"),
        ("bad host", b"GET /o/ok HTTP/1.1\r\nhost: a b/c@d\r\n\r\n"),
        ("http/1.0", b"GET /o/ok HTTP/1.0\r\nhost: web\r\n\r\n"),
        ("connect", b"CONNECT web:80 HTTP/1.1\r\nhost: web\r\n\r\n"),
        ("two content-lengths", b"POST /o/ok HTTP/1.1\r\nhost: web\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx"),
        ("length with chunked", b"POST /o/ok HTTP/1.1\r\nhost: web\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("gzip coding", b"POST /o/ok HTTP/1.1\r\nhost: web\r\ntransfer-encoding: gzip\r\n\r\n0\r\n\r\n"),
        ("blank before colon", b"GET /o/ok HTTP/1.1\r\nhost: web\r\nx : 1\r\n\r\n"),
        ("nul in a value", b"GET /o/ok HTTP/1.1\r\nhost: web\r\nx: a\0b\r\n\r\n"),
        ("options star", b"OPTIONS * HTTP/1.1\r\nhost: web\r\n\r\n"),
        ("fragment", b"GET /o/ok#x HTTP/1.1\r\nhost: web\r\n\r\n"),
        ("other upgrade", request("/o/ok", [("connection", "upgrade"), ("upgrade", "other")])),
        ("101 headers", request("/o/ok", [(f"x-{number}", "1") for number in range(100)])),
        ("61 KiB of headers", request("/o/ok", [("x-big", "a" * 62000)])),
    ]
    return cases


def answers(folder, differences):
    origin = Origin()
    refused_address, kept = refused()
    table = Answers(origin.address, refused_address)
    documents = service("web", [(origin.address, "v1")]) + service("empty", [])
    documents += service("refused", [(refused_address, "v1")])
    documents += rule("web", "loadBalancer: { simple: LEAST_REQUEST }") + virtual_service("web", table.istio_routes())
    ours = Outrigger("outrigger-answers", folder, documents)
    envoy = Envoy("envoy-answers", folder, table.envoy_routes(), table.clusters, ["web", "web:*"])
    cases = answer_cases()
    with envoy, ours:
        seen = {"envoy": [], "ours": []}
        for case, raw in cases:
            head_only = raw.startswith(b"HEAD")
            got = {}
            for name, proxy in (("envoy", envoy), ("ours", ours)):
                before, logged = len(origin.seen), position(proxy.log)
                got[name] = exchange(proxy.address, raw, head_only).comparable()
                line = new_line(proxy.log, logged, f"{name}'s log line of {case}")
                requests = origin.seen[before:]
                seen[name].append((line, [normal_request(one) for one in requests]))
            differences.compare(case, "answer", got["envoy"], got["ours"])
            differences.compare(case, "log", normal_log(seen["envoy"][-1][0]), normal_log(seen["ours"][-1][0]))
            differences.compare(case, "upstream", seen["envoy"][-1][1], seen["ours"][-1][1])
    kept.close()
    origin.stop()
    return f"{len(cases)} answers"


def normal_request(one):
    """The request line and the headers in order; ids differ by nature."""
    line, headers = one
    return line, [(name, "*" if name == "x-request-id" else value) for name, value in headers]


def matching(folder, differences):
    origin = Origin()

    istio = ""
    for name, match, _ in MATCHES:
        istio += f"  - match: [{{ {match} }}]\n    headers: {{ response: {{ set: {{ x-route: {name} }} }} }}\n"
        istio += "    route: [{ destination: { host: web } }]\n"

    def route(name, match):
        header = {"header": {"key": "x-route", "value": name}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        return {"match": match, "route": forward("web"), "response_headers_to_add": [header]}

    routes = [route(name, match) for name, _, match in MATCHES]
    ours = Outrigger("outrigger-matching", folder, service("web", [(origin.address, "v1")]) + virtual_service("web", istio))
    envoy = Envoy("envoy-matching", folder, routes, [cluster("web", [origin.address])], ["web", "web:*"])
    with envoy, ours:
        for raw in MATCH_REQUESTS:
            got = []
            for address in (envoy.address, ours.address):
                before = len(origin.seen)
                answer = exchange(address, raw)
                targets = [line for line, _ in origin.seen[before:]]
                got.append((answer.status, dict(answer.headers).get("x-route"), targets))
            case = raw.decode("latin-1").replace("\r\n", " | ").strip(" |")
            differences.compare(f"match: {case}", "route", *got)
    origin.stop()
    return f"{len(MATCH_REQUESTS)} matches"


if __name__ == "__main__":
    run("envoy_diff", (matching, answers), INTENDED)
