"""Redirects, direct responses, rewrites and delegates in a real Envoy and in Outrigger: answers, logs, what upstreams see.

What Envoy is given is written here by hand, as Istio's translation would have it.
"""

from client import exchange, request
from differences import run
from envoy import Envoy, cluster, forward
from logs import new_line, normal_log, position
from origins import Origin
from sidecar import PORT, Outrigger, cluster_name, rule, service, virtual_service

SLASH = "a path without a slash is no request: refused here, by the upstream behind Envoy"
EMPTY_HEAD = "Envoy announces chunks that never come; an empty answer needs no framing"
NO_BODY = "RFC 9110: a 204 and a 304 have no body, whatever the configuration says"
EARLY = "Envoy answers before it has read the body and closes; ours reads the little that is left"

# Case and aspect -> why Outrigger differs on purpose.
INTENDED = {
    ("/no-content", "answer"): NO_BODY,
    ("/no-content", "log"): NO_BODY,
    ("HEAD /no-content", "answer"): NO_BODY,
    ("POST /no-content", "answer"): NO_BODY,
    ("POST /no-content", "log"): NO_BODY,
    ("/unmodified", "answer"): NO_BODY,
    ("/unmodified", "log"): NO_BODY,
    ("POST /plain", "answer"): EARLY,
    ("POST /uri", "answer"): EARLY,
    ("gRPC /plain", "answer"): EARLY,
    ("gRPC /odd", "answer"): EARLY,
    ("gRPC /typed", "answer"): EARLY,
    ("gRPC /uri", "answer"): EARLY,
    ("gRPC /no-content", "answer"): EARLY,
    ("HEAD /uri", "answer"): EMPTY_HEAD,
    ("/cutx", "answer"): SLASH,
    ("/cutx", "log"): SLASH,
    ("/cutx", "upstream"): SLASH,
}

SEEN = ("%REQ(:path)%", "%REQ(:authority)%", "%REQ(x-envoy-original-path)%", "%REQ(x-envoy-original-host)%")
KEYS = ("x-path", "x-host", "x-original-path", "x-original-host")


def setting(pairs):
    """Envoy's header operations for Istio's `set`, in order of the names."""
    return [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"} for key, value in sorted(pairs)
    ]


def written(pairs):
    return "{ " + ", ".join(f"{key}: '{value}'" for key, value in pairs) + " }"


WATCH = list(zip(KEYS, SEEN))


class Rules:
    """Rules for both proxies, from one list; every one of them tells what its header operations see."""

    def __init__(self):
        self.istio, self.envoy = "", []

    def add(self, name, istio, envoy, block=None, match=None, more=()):
        """`istio` are lines of the rule, `envoy` is the route's action, `more` are header operations on the answer."""
        answer = WATCH + list(more)
        block = block or f"uri: {{ prefix: /{name} }}"
        self.istio += f"  - name: {name}\n    match: [{{ {block} }}]\n"
        self.istio += f"    headers: {{ request: {{ set: {written(WATCH)} }}, response: {{ set: {written(answer)} }} }}\n"
        self.istio += "".join(f"    {line}\n" for line in istio)
        self.envoy.append(
            {
                "name": name,
                "match": match or {"prefix": f"/{name}"},
                "request_headers_to_add": setting(WATCH),
                "response_headers_to_add": setting(answer),
                **envoy,
            }
        )

    def redirect(self, name, istio, envoy, **more):
        self.add(name, [f"redirect: {{ {istio} }}"], {"redirect": envoy}, **more)

    def direct(self, name, istio, envoy, **more):
        self.add(name, [f"directResponse: {{ {istio} }}"], {"direct_response": envoy}, **more)

    def rewrite(self, name, istio, envoy, **more):
        route = {"route": forward(cluster_name("web"), **envoy)}
        self.add(name, [f"rewrite: {{ {istio} }}", "route: [{ destination: { host: web } }]", "retries: { attempts: 0 }"], route, **more)


def redirects(rules):
    rules.redirect("uri", "uri: /new", {"path_redirect": "/new"})
    rules.redirect("query", "uri: '/new?a=b'", {"path_redirect": "/new?a=b"})
    rules.redirect("bare", "uri: new", {"path_redirect": "new"})
    rules.redirect("fragment", "uri: '/n#f'", {"path_redirect": "/n#f"})
    rules.redirect("host", "authority: other.example", {"host_redirect": "other.example"})
    rules.redirect("h-port", "authority: 'other.example:99', port: 77", {"host_redirect": "other.example:99", "port_redirect": 77})
    rules.redirect("port", "port: 8443", {"port_redirect": 8443})
    # Istio leaves these ports out.
    rules.redirect("port80", "port: 80", {})
    rules.redirect("port443", "port: 443, scheme: https", {"scheme_redirect": "https"})
    rules.redirect("80s", "port: 80, scheme: https", {"port_redirect": 80, "scheme_redirect": "https"})
    rules.redirect("same", "derivePort: FROM_REQUEST_PORT", {"port_redirect": PORT})
    rules.redirect("default", "derivePort: FROM_PROTOCOL_DEFAULT, uri: /d", {"path_redirect": "/d"})
    rules.redirect("https", "scheme: https", {"scheme_redirect": "https"})
    rules.redirect("http", "scheme: http", {"scheme_redirect": "http"})
    rules.redirect("both", "scheme: https, port: 8443", {"scheme_redirect": "https", "port_redirect": 8443})
    rules.redirect("prefix", "prefixRewrite: /x", {"prefix_rewrite": "/x"})
    rules.redirect("p-slash", "prefixRewrite: /", {"prefix_rewrite": "/"})
    rules.redirect(
        "p-case",
        "prefixRewrite: /x",
        {"prefix_rewrite": "/x"},
        block="uri: { prefix: /P-Case }, ignoreUriCase: true",
        match={"prefix": "/P-Case", "case_sensitive": False},
    )
    for code, word in ((302, "FOUND"), (303, "SEE_OTHER"), (307, "TEMPORARY_REDIRECT"), (308, "PERMANENT_REDIRECT")):
        rules.redirect(f"code{code}", f"uri: /n, redirectCode: {code}", {"path_redirect": "/n", "response_code": word})
    rules.redirect("located", "uri: /n", {"path_redirect": "/n"}, more=[("location", "/mine")])


def directs(rules):
    def body(text):
        return {"inline_string": text}

    json = [("content-type", "application/json"), ("content-length", "9"), ("x-code", "%RESPONSE_CODE%"), ("x-details", "%RESPONSE_CODE_DETAILS%")]
    rules.direct("plain", "status: 200, body: { string: hello }", {"status": 200, "body": body("hello")})
    rules.direct("bytes", "status: 404, body: { bytes: aGk= }", {"status": 404, "body": {"inline_bytes": "aGk="}})
    rules.direct("typed-empty", "status: 200", {"status": 200}, more=json)
    rules.direct("typed", "status: 200, body: { string: '{}' }", {"status": 200, "body": body("{}")}, more=json)
    rules.direct("created", "status: 201, body: { string: x }", {"status": 201, "body": body("x")})
    rules.direct("no-content", "status: 204, body: { string: x }", {"status": 204, "body": body("x")})
    rules.direct("unmodified", "status: 304, body: { string: x }", {"status": 304, "body": body("x")})
    rules.direct("moved", "status: 301, body: { string: x }", {"status": 301, "body": body("x")})
    rules.direct("moved-mine", "status: 302", {"status": 302}, more=[("location", "/mine")])
    rules.direct("odd", "status: 503, body: { string: 'a%b~c\u00e9' }", {"status": 503, "body": body("a%b~c\u00e9")})


def rewrites(rules):
    rules.rewrite("keep", "authority: web", {"host_rewrite_literal": "web"})
    rules.rewrite("pre", "uri: /new", {"prefix_rewrite": "/new"})
    rules.rewrite("sl", "uri: /", {"prefix_rewrite": "/"})
    rules.rewrite("asks", "uri: '/new?x=1'", {"prefix_rewrite": "/new?x=1"})
    rules.rewrite("exact", "uri: /new", {"prefix_rewrite": "/new"}, block="uri: { exact: /exact }", match={"path": "/exact"})
    rules.rewrite("regex", "uri: /new", {"prefix_rewrite": "/new"}, block="uri: { regex: '/reg[ex].*' }", match={"safe_regex": {"regex": "/reg[ex].*"}})
    rules.rewrite(
        "case",
        "uri: /new",
        {"prefix_rewrite": "/new"},
        block="uri: { prefix: /CaSe }, ignoreUriCase: true",
        match={"prefix": "/CaSe", "case_sensitive": False},
    )
    rules.rewrite("away", "authority: other.example, uri: /n", {"host_rewrite_literal": "other.example", "prefix_rewrite": "/n"})
    for name, pattern, substitution in (
        ("groups", r"/([a-z]+)/([0-9]*)", r"/\2-\1\\$1${1}"),
        ("nothing", "zzz", "a"),
        ("star", "u*", "/"),
        ("whole", ".*", r"\0\0"),
        ("cut", r"^/cut(.*)$", r"\1"),
        ("classes", r"/(?i)CL(\w)(\d?)", r"/\1\2\2"),
    ):
        regex = {"regex_rewrite": {"pattern": {"regex": pattern}, "substitution": substitution}}
        rules.rewrite(name, f"uriRegexRewrite: {{ match: '{pattern}', rewrite: '{substitution}' }}", regex)


def weighted(rules):
    """Destinations that set an authority of their own; both are one cluster here, so that the draw does not matter."""
    own = [("host", "own.example"), ("x-own", "%REQ(:authority)%")]
    for name, istio, envoy in (
        ("own", [], {}),
        ("all", ["rewrite: { authority: all.example, uri: /all2 }"], {"host_rewrite_literal": "all.example", "prefix_rewrite": "/all2"}),
    ):
        route = [f"- {{ destination: {{ host: web }}, weight: 1, headers: {{ request: {{ set: {written(own)} }} }} }}"] * 2
        entry = {
            "name": cluster_name("web"),
            "weight": 1,
            "host_rewrite_literal": "own.example",
            "request_headers_to_add": setting(own[1:]),
        }
        action = {"timeout": "0s", "weighted_clusters": {"clusters": [entry, entry]}, **envoy}
        rules.add(name, istio + ["retries: { attempts: 0 }", "route:", *route], {"route": action})


# A root that leaves its prefix to another virtual service, and what Istio makes of both.
DELEGATE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: rest }
spec:
  http:
  - name: narrow
    match: [{ uri: { prefix: /del/b }, headers: { x-more: { exact: '1' } } }, { uri: { exact: /del/a } }]
    redirect: { uri: /narrow }
  - name: wide
    match: [{ uri: { prefix: / } }]
    redirect: { uri: /never }
  - route: [{ destination: { host: web } }]
    retries: { attempts: 0 }
---"""


def delegated(rules):
    rules.istio += "  - name: del\n    match: [{ uri: { prefix: /del } }]\n    delegate: { name: rest }\n    rewrite: { uri: /r }\n"
    narrow = {"redirect": {"path_redirect": "/narrow"}}
    header = [{"name": "x-more", "string_match": {"exact": "1"}}]
    rules.envoy += [
        {"name": "del-narrow", "match": {"prefix": "/del/b", "headers": header}, **narrow},
        {"name": "del-narrow", "match": {"path": "/del/a"}, **narrow},
        {"name": "del", "match": {"prefix": "/del"}, "route": forward(cluster_name("web"), prefix_rewrite="/r")},
    ]


def cases():
    """Name and raw request."""
    paths = [
        "/uri", "/uri/x?y=1", "/query/x?y=1", "/bare", "/fragment?x", "/host/a?b", "/h-port/a", "/port/a?b", "/port80/a", "/port443",
        "/80s", "/same", "/default", "/https/a?b", "/http", "/both", "/prefix/a?b=/prefix", "/prefixed", "/p-slash/a", "/p-slash",
        "/p-case/a", "/P-CASE/a?/p-case", "/code302", "/code303", "/code307", "/code308?q", "/located",
        "/plain", "/plain/any?q", "/bytes", "/typed", "/typed-empty", "/created/x?y", "/no-content", "/unmodified", "/moved/x?y", "/moved-mine", "/odd",
        "/keep", "/pre", "/pre/x?y=/pre", "/pre?/pre/x", "/prex", "/pre/../pre/%41?y", "/sl/x", "/slx", "/sl", "/asks?z", "/asks/x",
        "/exact", "/exact?q", "/exact/x", "/regex/a?b", "/case/x?y", "/CASE", "/Case/CASE", "/away/x", "/groups/12/ab/3?q=/ab/1",
        "/groups", "/nothing?zzz", "/staruub?uu", "/whole/x?y", "/cut", "/cut?q", "/cut/x?q", "/cutx", "/classes/clA7/x",
        "/own/x", "/all/x?y", "/del/a", "/del/a?q", "/del/ab/x?q", "/del/b/c", "/delegated",
    ]
    found = [(path, request(path)) for path in paths]
    for host in ("web:80", "web:443", "web:8080", "WEB", "web.default.svc.cluster.local:80"):
        found += [(f"{path} of {host}", request(path, host=host)) for path in ("/uri", "/host", "/port", "/https", "/both", "/created", "/away")]
    https = [("x-forwarded-proto", "https")]
    found += [(f"{path} by https", request(path, https, host="web:443")) for path in ("/uri", "/http", "/https", "/port", "/created")]
    own = [("x-envoy-original-path", "/mine"), ("x-envoy-original-host", "mine")]
    found += [(f"{path} with originals", request(path, own)) for path in ("/pre/x", "/away/x", "/keep", "/uri", "/prefix", "/own")]
    for path in ("/plain", "/typed", "/odd", "/no-content", "/uri", "/created", "/pre/x"):
        found.append((f"HEAD {path}", request(path, method="HEAD")))
    for path in ("/plain", "/no-content", "/uri"):
        found.append((f"POST {path}", request(path, method="POST", body=b"body")))
    grpc = [("content-type", "application/grpc"), ("te", "trailers")]
    for path in ("/plain", "/odd", "/typed", "/uri", "/no-content"):
        found.append((f"gRPC {path}", request(path, grpc, "POST", body=b"\0\0\0\0\0")))
    found.append(("/del/b/c with x-more", request("/del/b/c", [("x-more", "1")])))
    found.append(("absolute form", b"GET http://web:9/uri/x HTTP/1.1\r\nhost: elsewhere\r\n\r\n"))
    return found


def normal_request(one):
    """The request line and the headers in order; ids differ by nature."""
    line, headers = one
    return line, [(name, "*" if name == "x-request-id" else value) for name, value in headers]


def actions(folder, differences):
    origin = Origin()
    rules = Rules()
    for part in (redirects, directs, rewrites, weighted, delegated):
        part(rules)
    documents = service("web", [(origin.address, "v1")]) + rule("web", "loadBalancer: { simple: LEAST_REQUEST }")
    documents += virtual_service("web", rules.istio) + DELEGATE
    ours = Outrigger("outrigger", folder, documents)
    envoy = Envoy("envoy", folder, rules.envoy, [cluster(cluster_name("web"), [origin.address])], ["web", "web:*", "web.default.svc.cluster.local:*"])
    asked = cases()
    with envoy, ours:
        for case, raw in asked:
            got = []
            for proxy in (envoy, ours):
                before, logged = len(origin.seen), position(proxy.log)
                answer = exchange(proxy.address, raw, raw.startswith(b"HEAD")).comparable()
                line = new_line(proxy.log, logged, f"{proxy.name}'s log line of {case}")
                got.append((answer, {**normal_log(line), "path": line.get("path")}, [normal_request(one) for one in origin.seen[before:]]))
            for aspect, theirs, mine in zip(("answer", "log", "upstream"), *got):
                differences.compare(case, aspect, theirs, mine)
    origin.stop()
    return f"{len(asked)} requests"


if __name__ == "__main__":
    run("action_diff", (actions,), INTENDED)
