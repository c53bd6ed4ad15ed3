"""Answer and access log of what goes wrong in the middle: cut bodies, clients that leave, timeouts, odd upstreams.

The same exchange with a real Envoy and with Outrigger; what goes wrong before an upstream is asked is in envoy_diff,
what retries make of it in retry_diff.
"""

import socket

from client import Answer, exchange, request
from differences import run
from envoy import Envoy, cluster, forward, http1, http2
from h2_origin import H2Origin
from logs import new_line, normal_log, position
from origins import Origin
from processes import wait_for
from sidecar import Outrigger, cluster_name, rule, service, virtual_service
from stats import stats

UNREAD = "a body that could not be sent is not read, so no byte of it counts"
INTENDED = {("gRPC /wrong/ok", "log"): UNREAD, ("gRPC /deaf/ok", "log"): UNREAD}
RETRY = {"retry_on": "5xx", "num_retries": 3, "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.01s"}}
ISTIO_RETRY = "retries: { attempts: 3, retryOn: 5xx, backoff: 1ms%s }"
OFF = "retries: { attempts: 0 }"
GRPC = [("content-type", "application/grpc"), ("te", "trailers")]
FRAME = b"\0\0\0\0\0"


def routes():
    """Prefix, host, Istio's settings, Envoy's action."""
    tries = {"retry_policy": {**RETRY, "per_try_timeout": "0.2s"}}
    return [
        ("web", "web", OFF, forward(cluster_name("web"))),
        ("h2", "h2", OFF, forward(cluster_name("h2"))),
        ("wrong", "wrong", OFF, forward(cluster_name("wrong"))),
        ("deaf", "deaf", OFF, forward(cluster_name("deaf"))),
        ("idle", "idle", OFF, forward(cluster_name("idle"))),
        ("one", "one", OFF, forward(cluster_name("one"))),
        ("timeout", "web", f"{OFF}, timeout: 0.3s", forward(cluster_name("web"), timeout="0.3s")),
        ("timeout-h2", "h2", f"{OFF}, timeout: 0.3s", forward(cluster_name("h2"), timeout="0.3s")),
        ("tries", "web", ISTIO_RETRY % ", perTryTimeout: 0.2s", forward(cluster_name("web"), **tries)),
        ("both", "web", f"{ISTIO_RETRY % ', perTryTimeout: 0.2s'}, timeout: 0.5s", forward(cluster_name("web"), "0.5s", **tries)),
        ("retry", "web", ISTIO_RETRY % "", forward(cluster_name("web"), retry_policy=RETRY)),
    ]


def exchanges():
    """Name, raw request, and what the client does with it."""
    plain = [
        "/web/chunk-cut", "/web/no-content", "/web/two-framings", "/web/headers/97", "/web/headers/101",
        "/web/big-header/80000", "/web/big-header/83000", "/h2/close", "/h2/reset", "/h2/refused-stream", "/h2/goaway",
        "/wrong/ok", "/deaf/ok", "/timeout/never", "/timeout/half/stays", "/timeout-h2/never", "/tries/never", "/both/never",
        "/tries/half/stays",
    ]
    # A body that never ends is given up by the client where no timeout of the route does.
    cases = [(path, request(path), leaves_in_body if path == "/tries/half/stays" else whole) for path in plain]
    for path in ("/timeout/never", "/tries/never", "/wrong/ok", "/deaf/ok", "/h2/reset", "/h2/refused-stream", "/web/cut"):
        cases.append((f"gRPC {path}", request(path, GRPC, "POST", body=FRAME), whole))
    for limit, path in (("50m", "/web/never"), ("50m", "/timeout/never"), ("10S", "/timeout/never"), ("junk", "/timeout/never"), ("0m", "/timeout/never")):
        cases.append((f"grpc-timeout {limit} {path}", request(path, [*GRPC, ("grpc-timeout", limit)], "POST", body=FRAME), whole))
    for path in ("/web/half/close", "/web/half/reset", "/h2/half/reset", "/h2/half/close"):
        cases.append((path, request(f"{path}/name"), lets_go))
    upload = request("/web/ok", method="POST", body=b"x" * 10)[:-5]
    cases += [
        ("leaves", request("/web/never"), leaves),
        ("leaves h2", request("/h2/never"), leaves),
        ("half-closes", request("/web/never"), half_closes),
        ("half-closes later", request("/web/never"), half_closes_later),
        ("leaves in the answer", request("/web/half/stays"), leaves_in_body),
        ("leaves in a retry", request("/tries/never"), leaves),
        ("leaves in the upload", upload, leaves_in_upload),
        ("half-closes in the upload", upload, half_closes),
        ("1 MiB to be sent again", request("/retry/status/503", method="POST", body=b"x" * (1 << 20)), whole),
        ("more than can be sent again", request("/retry/status/503", method="POST", body=b"x" * ((1 << 20) + 70000)), whole),
    ]
    return cases


# What a client does: it is called with the address, the request, and the origins; it returns what it got.


def whole(address, raw, _):
    return exchange(address, raw).comparable()


def connect(address, raw=b""):
    host, port = address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(raw)
    return connection


def until(connection, end):
    got = b""
    while not got.endswith(end) and (part := connection.recv(65536)):
        got += part
    return got


def rest(connection, got=b""):
    try:
        while part := connection.recv(65536):
            got += part
    except OSError:
        pass
    return Answer(got, False).comparable()


def lets_go(address, raw, origins):
    """Reads half the body, lets the origin go on, and reads to the end."""
    with connect(address, raw) as connection:
        got = until(connection, b"half")
        for origin in origins:
            origin.held.let_go("name")
        return rest(connection, got)


def leaves(address, raw, origins):
    """Hangs up when an origin has the request."""
    before = sum(len(origin.seen) for origin in origins)
    with connect(address, raw):
        wait_for("an origin to see the request", lambda: sum(len(origin.seen) for origin in origins) > before)


def leaves_in_body(address, raw, _):
    with connect(address, raw) as connection:
        return Answer(until(connection, b"half"), False).comparable()


def leaves_in_upload(address, raw, origins):
    """An origin has the connection, but not all of the body."""
    before = sum(origin.bytes for origin in origins)
    with connect(address, raw):
        wait_for("an origin to see the beginning", lambda: sum(origin.bytes for origin in origins) > before)


def half_closes(address, raw, _):
    """Sends no more, but would read; the end comes in one segment with the request."""
    with connect(address) as connection:
        connection.send(raw, socket.MSG_MORE)
        connection.shutdown(socket.SHUT_WR)
        return rest(connection)


def half_closes_later(address, raw, origins):
    """As before, once an origin has the request."""
    before = sum(len(origin.seen) for origin in origins)
    with connect(address, raw) as connection:
        wait_for("an origin to see the request", lambda: sum(len(origin.seen) for origin in origins) > before)
        connection.shutdown(socket.SHUT_WR)
        return rest(connection)


class Deaf:
    """Listens, but its queue is full: a connect is neither taken nor refused."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.queue = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(self.listener.getsockname())
            self.queue.append(one)

    def stop(self):
        for one in [*self.queue, self.listener]:
            one.close()


def failures(folder, differences):
    web, h2, deaf = Origin(), H2Origin(), Deaf()
    one_each = {"max_requests_per_connection": 1}
    clusters = [
        cluster(cluster_name("web"), [web.address]),
        cluster(cluster_name("h2"), [h2.address], **http2()),
        cluster(cluster_name("wrong"), [web.address], **http2()),
        cluster(cluster_name("deaf"), [deaf.address], connect_timeout="0.2s"),
        cluster(cluster_name("idle"), [web.address], **http1(idle_timeout="0.2s")),
        cluster(cluster_name("one"), [web.address], **http1(**one_each)),
    ]
    text = service("web", [(web.address, "v1")]) + service("h2", [(h2.address, "v1")], "HTTP2")
    text += service("wrong", [(web.address, "v1")], "HTTP2") + service("deaf", [(deaf.address, "v1")])
    text += service("idle", [(web.address, "v1")]) + service("one", [(web.address, "v1")])
    text += rule("deaf", "connectionPool: { tcp: { connectTimeout: 0.2s } }")
    text += rule("idle", "connectionPool: { http: { idleTimeout: 0.2s } }")
    text += rule("one", "connectionPool: { http: { maxRequestsPerConnection: 1 } }")
    http, envoy_routes = "", []
    for prefix, host, settings, action in routes():
        http += f"  - {{ name: {prefix}, match: [{{ uri: {{ prefix: /{prefix}/ }} }}], route: [{{ destination: {{ host: {host} }} }}], {settings} }}\n"
        envoy_routes.append({"name": prefix, "match": {"prefix": f"/{prefix}/"}, "route": action})
    text += virtual_service("web", http)
    with Envoy("envoy", folder, envoy_routes, clusters, ["web", "web:*"]) as envoy, Outrigger("outrigger", folder, text) as ours:
        for case, raw, client in exchanges():
            answers, lines = [], []
            for proxy in (envoy, ours):
                logged = position(proxy.log)
                answers.append(client(proxy.address, raw, [web, h2]))
                lines.append(normal_log(new_line(proxy.log, logged, f"{proxy.name}'s log line of {case}")))
                web.held.forget()
                h2.held.forget()
            differences.compare(case, "answer", *answers)
            differences.compare(case, "log", *lines)
        pools(differences, envoy, ours)
    for origin in (web, h2, deaf):
        origin.stop()
    return f"{len(exchanges())} failures and their log lines"


def pools(differences, envoy, ours):
    """Connections end by themselves, without an error: when idle, and after the last request that they may carry."""
    for name, counter in (("idle", "upstream_cx_idle_timeout"), ("one", "upstream_cx_max_requests")):
        found = []
        for proxy in (envoy, ours):
            statuses = []
            for number in range(1, 4):
                statuses.append(exchange(proxy.address, request(f"/{name}/ok")).status)
                wait_for(f"{counter} of {proxy.name}", lambda: ended(proxy, name, counter) == [number, 0])
            now = stats(proxy.admin, cluster_name(name))
            found.append([statuses] + [now[one] for one in ("upstream_cx_total", "upstream_cx_destroy_local", "upstream_cx_active")])
        differences.compare(name, "connections", *found)


def ended(proxy, name, counter):
    """A connection is counted as over a moment after the reason is."""
    now = stats(proxy.admin, cluster_name(name))
    return [now[counter], now["upstream_cx_active"]]


if __name__ == "__main__":
    run("log_diff", [failures], INTENDED)
