"""Raw connections: what a client gets, the log line and the statistics of each, through a real Envoy and through Outrigger.

Each case has a service and a listener of its own. A client that is refused sends nothing here: whether its bytes come
before the close, and make it a reset, is a matter of time.
"""

import hashlib
import socket
import ssl
import struct
import threading

from differences import run
from envoy import FILE_LOG, LOG, Envoy, cluster
from log_diff import Deaf
from logs import new_line, new_lines, normal_log, position
from origins import Raw
from processes import DEADLINE, wait_for
from sidecar import SUFFIX, Outrigger, cluster_name, rule, service
from stats import stats

TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
TLS_INSPECTOR = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
BIG = bytes(range(251)) * 20000
TLS_PORT = 7443


class Closed:
    """An address where nobody listens, and nobody else will."""

    def __init__(self):
        self.kept = socket.socket()
        self.kept.bind(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.kept.getsockname()[1]

    def stop(self):
        self.kept.close()


# What an origin does.


def echo(connection):
    while part := connection.recv(65536):
        connection.sendall(part)
    connection.sendall(b"bye")


def resets(connection):
    connection.recv(8)
    linger(connection)


def speaks_first(connection):
    connection.sendall(b"220 ready")
    while connection.recv(65536):
        pass


def closes(connection):
    connection.recv(8)
    connection.sendall(b"x")


def closes_at_once(connection):
    connection.sendall(b"hello")


def linger(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# What a client does with its connection; the result is compared.


def rest(connection):
    got = b""
    try:
        while part := connection.recv(65536):
            got += part
    except ConnectionResetError:
        return got, "reset"
    return got, "end"


def asks(connection):
    connection.sendall(b"abcd")
    return rest(connection)


def reads(connection):
    return rest(connection)


def half_closes(connection):
    connection.sendall(b"abcd")
    connection.shutdown(socket.SHUT_WR)
    return rest(connection)


def leaves(connection):
    connection.sendall(b"abcd")
    return connection.recv(4, socket.MSG_WAITALL)


def leaves_at_once(_):
    return None


def resets_itself(connection):
    got = leaves(connection)
    linger(connection)
    return got


def much(connection):
    """More than all buffers on the way hold, both ways at a time."""
    sender = threading.Thread(target=lambda: (connection.sendall(BIG), connection.shutdown(socket.SHUT_WR)))
    sender.start()
    got, end = rest(connection)
    sender.join()
    return len(got), hashlib.sha256(got).hexdigest(), end


def pool(fields):
    return "connectionPool: { tcp: { %s } }" % fields


ONE = {"circuit_breakers": {"thresholds": [{"max_connections": 1}]}}
# Name, origin, Istio's policy, what it is in Envoy's cluster and in its TCP proxy, and the clients one after the other.
CASES = [
    ("echo", lambda: Raw(echo), "", {}, {}, [half_closes, leaves, leaves_at_once, resets_itself, much]),
    ("resets", lambda: Raw(resets), "", {}, {}, [asks]),
    ("first", lambda: Raw(speaks_first), "", {}, {}, [half_closes]),
    ("closes", lambda: Raw(closes), "", {}, {}, [asks]),
    ("at-once", lambda: Raw(closes_at_once), "", {}, {}, [reads]),
    ("refused", Closed, "", {}, {}, [reads]),
    ("deaf", Deaf, pool("connectTimeout: 0.2s"), {"connect_timeout": "0.2s"}, {}, [reads]),
    ("nobody", lambda: None, "", {}, {}, [reads]),
    ("full", lambda: Raw(echo), pool("maxConnections: 1"), ONE, {}, [reads]),
    ("idle", lambda: Raw(echo), pool("idleTimeout: 0.3s"), {}, {"idle_timeout": "0.3s"}, [asks]),
    ("old", lambda: Raw(echo), pool("maxConnectionDuration: 0.3s"), {}, {"max_downstream_connection_duration": "0.3s"}, [asks]),
    ("missing", lambda: None, "", None, {}, [reads]),
]


def tcp_proxy(log, destination, more):
    logs = {"@type": FILE_LOG, "path": log, "log_format": {"json_format": {**LOG, "requested_server_name": "%REQUESTED_SERVER_NAME%"}}}
    config = {"@type": TCP_PROXY, "stat_prefix": "tcp", "cluster": destination, **more}
    config["access_log"] = [{"name": "envoy.access_loggers.file", "typed_config": logs}]
    return {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": config}]}


def listener(name, **chains):
    return {"name": name, "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}, **chains}


def redirect(host, kind, block):
    """A VirtualService with one rule for connections."""
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: {host.split('.')[0]}-{kind} }}
spec:
  hosts: ["{host}"]
  {kind}:
{block}
---"""


def connections(folder, differences):
    log = f"{folder}/envoy.log"
    origins, clusters, listeners, ports, text = [], [], [], [], ""
    for number, (name, origin, policy, of_cluster, of_proxy, _) in enumerate(CASES):
        port = 7000 + number
        origin = origin()
        endpoints = [origin.address] if origin else []
        if of_cluster is not None:
            clusters.append(cluster(cluster_name(name, port=port), endpoints, **of_cluster))
        listeners.append(listener(name, filter_chains=[tcp_proxy(log, cluster_name(name, port=port), of_proxy)]))
        text += service(name, [(address, "v1") for address in endpoints], "TCP", port)
        text += rule(name, policy) if policy else ""
        ports.append((port, "TCP"))
        origins += [origin] if origin else []
    text += redirect(f"missing.{SUFFIX}", "tcp", f"  - route: [{{ destination: {{ host: nowhere.{SUFFIX} }} }}]")
    hash_origins = named_by_hash(clusters, listeners, ports, log)
    text += hash_documents(hash_origins)
    names, tls_origins = tls(clusters, listeners, ports, log)
    text += tls_documents(tls_origins)
    count = 0
    with Envoy("envoy", folder, [], clusters, ["*"], more=listeners) as envoy, Outrigger("outrigger", folder, text, more=ports) as ours:
        envoy.listens = {port: envoy.listens[name] for (port, _), name in zip(ports, [*[case[0] for case in CASES], "hash", "tls"])}
        for (port, _), (name, _, _, of_cluster, _, clients) in zip(ports, CASES):
            for client in clients:
                found = [exchange(proxy, port, client, name) for proxy in (envoy, ours)]
                case = f"{name} {client.__name__}"
                for aspect, theirs, own in zip(("client", "log"), *found):
                    differences.compare(case, aspect, theirs, own)
                count += 1
            if of_cluster is not None:
                statistics(differences, name, cluster_name(name, port=port), envoy, ours)
        count += hashes(differences, envoy, ours)
        count += hellos(differences, envoy, ours, names)
    for origin in [*origins, *hash_origins, *tls_origins.values()]:
        origin.stop()
    return f"{count} connections with their log lines and statistics"


def connect(address, source="127.0.0.1"):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=DEADLINE, source_address=(source, 0))


def exchange(proxy, port, client, name):
    """What the client got, and the log line."""
    held = []
    if name == "full":
        held.append(connect(proxy.listens[port]))
        leaves(held[0])
    logged = position(proxy.log)
    with connect(proxy.listens[port]) as connection:
        got = client(connection)
    line = log_line(proxy, logged)
    for connection in held:
        logged = position(proxy.log)
        connection.close()
        new_line(proxy.log, logged, "the held connection's line")
    return got, line


def log_line(proxy, since):
    line = new_line(proxy.log, since, f"a line of {proxy.name}")
    return {**normal_log(line), "requested_server_name": line["requested_server_name"]}


def statistics(differences, case, name, envoy, ours):
    for proxy in (envoy, ours):
        wait_for(f"{case}: no connection", lambda: stats(proxy.admin, name)["upstream_cx_active"] == 0)
    theirs, own = stats(envoy.admin, name), stats(ours.admin, name)
    for stat in sorted(stat for stat in theirs.keys() & own.keys() if stat.startswith("upstream_")):
        differences.compare(case, stat, theirs[stat], own[stat])


# The client's address as the key of a ring.

HASH_PORT = 7000 + len(CASES)


def named_by_hash(clusters, listeners, ports, log):
    def says(number):
        return Raw(lambda connection: connection.sendall(b"%d" % number))

    origins = [says(number) for number in range(3)]
    ring = {"ring_hash_lb_config": {"minimum_ring_size": 1024}}
    name = cluster_name("hash", port=HASH_PORT)
    clusters.append(cluster(name, [origin.address for origin in origins], "RING_HASH", **ring))
    key = {"hash_policy": [{"source_ip": {}}]}
    listeners.append(listener("hash", filter_chains=[tcp_proxy(log, name, key)]))
    ports.append((HASH_PORT, "TCP"))
    return origins


def hash_documents(origins):
    text = service("hash", [(origin.address, "v1") for origin in origins], "TCP", HASH_PORT)
    return text + rule("hash", "loadBalancer: { consistentHash: { useSourceIp: true } }")


def hashes(differences, envoy, ours):
    sources = [f"127.0.0.{number}" for number in range(1, 41)]
    picks = []
    for proxy in (envoy, ours):
        logged, found = position(proxy.log), []
        for source in sources:
            with connect(proxy.listens[HASH_PORT], source) as connection:
                found.append(rest(connection)[0].decode())
        picks.append(found)
        # Or the next test would take one of them for its own.
        wait_for("their lines", lambda: len(new_lines(proxy.log, logged)) == len(sources))
    differences.compare("hash", "picks", *picks)
    differences.compare("hash", "all are picked", ["0", "1", "2"], sorted(set(picks[1])))
    return len(sources)


# TLS that passes unopened, by the name of its hello. The origins answer in the clear, whatever they are sent.


def tls(clusters, listeners, ports, log):
    def answers(name):
        def serve(connection):
            connection.recv(65536)
            connection.sendall(name.encode())

        return Raw(serve)

    origins = {name: answers(name) for name in ("a", "b", "c")}
    rules = [(["a.example.com"], "a"), (["*.example.com"], "b"), ([f"c.{SUFFIX}"], "c")]
    chains = []
    for names, host in rules:
        chain = tcp_proxy(log, cluster_name(host, port=TLS_PORT), {})
        chains.append({"filter_chain_match": {"server_names": names}, **chain})
        clusters.append(cluster(cluster_name(host, port=TLS_PORT), [origins[host].address]))
    last = tcp_proxy(log, "PassthroughCluster", {})
    inspector = {"name": "envoy.filters.listener.tls_inspector", "typed_config": {"@type": TLS_INSPECTOR}}
    listeners.append(listener("tls", listener_filters=[inspector], filter_chains=chains, default_filter_chain=last))
    ports.append((TLS_PORT, "TLS"))
    names = ["a.example.com", "A.Example.Com", "z.example.com", "y.z.example.com", "example.com", f"c.{SUFFIX}", "elsewhere.org", None]
    return names, origins


def tls_documents(origins):
    text = "".join(service(host, [(origin.address, "v1")], "TLS", TLS_PORT) for host, origin in origins.items())

    def block(name, host):
        return f'  - match: [{{ sniHosts: ["{name}"] }}]\n    route: [{{ destination: {{ host: {host}.{SUFFIX} }} }}]\n'

    # The rules are those of the services a and b; c is reached by its own host.
    hosts = f'a.{SUFFIX}", "b.{SUFFIX}", "*.example.com'
    return text + redirect(hosts, "tls", block("a.example.com", "a") + block("*.example.com", "b"))


def client_hello(name):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def hellos(differences, envoy, ours, names):
    plain = [("not TLS", b"GET / HTTP/1.1\r\n\r\n")]
    cases = [(str(name), client_hello(name)) for name in names]
    cases.append(("in two parts", client_hello("a.example.com")))
    for case, hello in cases + plain:
        found = []
        for proxy in (envoy, ours):
            logged = position(proxy.log)
            with connect(proxy.listens[TLS_PORT]) as connection:
                if case == "in two parts":
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connection.sendall(hello[:100])
                    hello = hello[100:]
                connection.sendall(hello)
                got = rest(connection)[0]
            found.append((got, log_line(proxy, logged)))
            hello = dict(cases + plain)[case]
        for aspect, theirs, own in zip(("client", "log"), *found):
            differences.compare(f"hello {case}", aspect, theirs, own)
    return len(cases) + len(plain)


if __name__ == "__main__":
    run("tcp_diff", [connections])
