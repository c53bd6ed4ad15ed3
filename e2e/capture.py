"""Captured traffic, end to end: a pod in a network namespace of its own, whose rules lead its traffic to Outrigger, and a
peer in another. Programs of the pod run as root, the proxy as 1337.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

from logs import new_lines, position
from namespaces import Pod, require
from processes import DEADLINE, Failed, Program, check, get, outrigger, skip, wait_for

UID = 1337
POD, PEER = "10.77.0.2", "10.77.0.3"
POD6, PEER6 = "fd77::2", "fd77::3"


def install(pod, mode):
    pod.run(outrigger(), "init", "-p", "15001", "-z", "15006", "-u", str(UID), "-g", str(UID), "-m", mode,
            "-b", "*", "-d", "15090,15021,15020", "-i", "*")


def uninstall(pod):
    pod.run(outrigger(), "init", "--cleanup")


# The documents: three services at the peer, one of the pod's own.


def service(name, port, protocol, addresses, endpoint, target):
    addresses = f"  addresses: [{', '.join(addresses)}]\n" if addresses else ""
    return f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: {name} }}
spec:
  hosts: [{name}.default.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
{addresses}  ports: [{{ number: {port}, name: main, protocol: {protocol} }}]
  endpoints: [{{ address: {endpoint}, ports: {{ main: {target} }} }}]
---"""


DOCUMENTS = (
    service("web", 80, "HTTP", ["10.96.0.1", "'fd96::1'"], PEER, 8080)
    + service("db", 3306, "TCP", ["10.96.0.2"], PEER, 13306)
    + service("mail", 2525, "''", ["10.96.0.3"], PEER, 12525)
    + service("own", 80, "HTTP", ["10.96.0.9"], POD, 9000)
)


class Sidecar(Program):
    def __init__(self, pod, folder, mode="REDIRECT", settings=""):
        name = f"proxy-{mode.lower()}-{len(settings)}"
        self.pod, self.log = pod, os.path.join(folder, f"{name}.log")
        config, mesh = (os.path.join(folder, f"{name}-{part}.yaml") for part in ("config", "mesh"))
        for path, text in (
            (config, DOCUMENTS),
            (mesh, f"accessLogFile: {self.log}\naccessLogEncoding: JSON\nenableTracing: false\nprotocolDetectionTimeout: 0.3s\n{settings}"),
        ):
            with open(path, "w", encoding="utf-8") as out:
                out.write(text)
        args = [outrigger(), "proxy", "--config", config, "--mesh-config", mesh, "--interception-mode", mode]
        capabilities = ("net_admin",) if mode == "TPROXY" else ()
        # The user is another one, and the folder is root's.
        os.chmod(folder, 0o777)
        super().__init__(name, pod.command(*args, uid=UID, capabilities=capabilities), folder, {"INSTANCE_IP": POD})
        self.listening("virtualOutbound", "virtualInbound", "admin")

    def stat(self, name):
        text = self.pod.inside(get, "127.0.0.1:15020", "/metrics")
        lines = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(lines[0].split()[1]) if lines else None

    def line(self, since, destination):
        """The log line of a connection to there. Lines come when they come: others may come before."""

        def found():
            return [line for line in new_lines(self.log, since) if line["downstream_local_address"] == destination]

        return wait_for(f"a line of the access log for {destination}", found)[0]


# Servers; each answers with whom it saw.


class Server:
    def __init__(self, space, address, port, serve):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.listener = space.inside(lambda: socket.create_server((address, port), family=family, backlog=64))
        self.serve = serve
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, peer = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection, peer), daemon=True).start()

    def _one(self, connection, peer):
        with connection:
            connection.settimeout(DEADLINE)
            try:
                self.serve(connection, peer)
            except OSError:
                pass

    def stop(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def answers(name):
    def serve(connection, peer):
        read = b""
        while part := connection.recv(65536):
            read += part
            if read.endswith(b"\r\n\r\n"):
                body = f"{name} {peer[0]}".encode()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                read = b""

    return serve


def echoes(connection, peer):
    """All that comes, and then who it was, once the other side has ended."""
    while part := connection.recv(65536):
        connection.sendall(part)
    connection.sendall(f"|{peer[0]}|{peer[1]}".encode())


def greets(connection, peer):
    connection.sendall(b"220 ready\r\n")
    echoes(connection, peer)


# Clients.


def connect(space, address, port):
    return space.inside(lambda: socket.create_connection((address, port), timeout=DEADLINE))


def rest(connection):
    got = b""
    try:
        while part := connection.recv(65536):
            got += part
    except ConnectionResetError:
        pass
    return got.decode()


def ask(space, address, host, port=80):
    """Status and body."""
    with connect(space, address, port) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = rest(connection)
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split(" ")[1]) if head else None, body


def half_closes(space, address, port, text="abc"):
    """What comes back, half of it after our own end."""
    with connect(space, address, port) as connection:
        connection.sendall(text.encode())
        connection.shutdown(socket.SHUT_WR)
        return rest(connection)


def refused(space, address, port):
    try:
        with connect(space, address, port) as connection:
            try:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            except OSError:
                pass
            return rest(connection) == ""
    except ConnectionError:
        return True


class Cases:
    def __init__(self):
        self.count = 0

    def equal(self, what, expected, got):
        self.count += 1
        check(expected == got, f"{what}: expected {expected!r}, not {got!r}")


def outbound(cases, pod, proxy):
    since = position(proxy.log)
    cases.equal("HTTP by address", (200, f"web {POD}"), ask(pod, "10.96.0.1", "web"))
    line = proxy.line(since, "10.96.0.1:80")
    cases.equal("its cluster", "outbound|80||web.default.svc.cluster.local", line["upstream_cluster"])
    cases.equal("HTTP by host, whatever the address", (200, f"web {POD}"), ask(pod, "10.96.0.77", "web.default"))
    cases.equal("HTTP by IPv6", (200, f"web {POD}"), ask(pod, "fd96::1", "web"))
    since = position(proxy.log)
    got = half_closes(pod, "10.96.0.2", 3306)
    cases.equal("bytes by address, half-closed", ["abc", POD], got.split("|")[:2])
    line = proxy.line(since, "10.96.0.2:3306")
    cases.equal("counted", (3, len(got)), (line["bytes_received"], line["bytes_sent"]))


def passthrough(cases, pod, proxy):
    since = position(proxy.log)
    cases.equal("bytes pass through", ["abc", POD], half_closes(pod, PEER, 7777).split("|")[:2])
    line = proxy.line(since, f"{PEER}:7777")
    cases.equal("as themselves", ("PassthroughCluster", f"{PEER}:7777"), (line["upstream_cluster"], line["upstream_host"]))
    cases.equal("by IPv6", ["abc", POD6], half_closes(pod, PEER6, 7777).split("|")[:2])
    since = position(proxy.log)
    cases.equal("requests pass through", (200, f"stranger {POD}"), ask(pod, PEER, "stranger.example.com"))
    cases.equal("as themselves", "PassthroughCluster", proxy.line(since, f"{PEER}:80")["upstream_cluster"])


def speaks_first(cases, pod, proxy):
    before = proxy.stat("outrigger_protocol_detection_timeouts_total")
    with connect(pod, "10.96.0.3", 2525) as connection:
        cases.equal("the greeting of a silent client's server", b"220 ready\r\n", connection.recv(11, socket.MSG_WAITALL))
        connection.sendall(b"QUIT")
        connection.shutdown(socket.SHUT_WR)
        cases.equal("and the rest", ["QUIT", POD], rest(connection).split("|")[:2])
    cases.equal("it was counted", before + 1, proxy.stat("outrigger_protocol_detection_timeouts_total"))
    cases.equal("bytes on a sniffed port", ["220 ready\r\nEHLO\r\n", POD], half_closes(pod, "10.96.0.3", 2525, "EHLO\r\n").split("|")[:2])


def inbound(cases, peer, proxy):
    since = position(proxy.log)
    cases.equal("inbound HTTP", (200, "own 127.0.0.6"), ask(peer, POD, "own", 9000))
    line = proxy.line(since, f"{POD}:9000")
    cases.equal("its cluster", "inbound|9000||", line["upstream_cluster"])
    cases.equal("its client", PEER, line["downstream_remote_address"].rsplit(":", 1)[0])
    cases.equal("inbound HTTP by IPv6", (200, "own ::6"), ask(peer, POD6, "own", 9000))
    since = position(proxy.log)
    cases.equal("an inbound port without a service", ["abc", "127.0.0.6"], half_closes(peer, POD, 9001).split("|")[:2])
    cases.equal("its cluster", "InboundPassthroughCluster", proxy.line(since, f"{POD}:9001")["upstream_cluster"])


def own(cases, pod, proxy):
    """The pod calls its own service: out by one listener, in by the other, once each."""
    since = position(proxy.log)
    cases.equal("the own service", (200, "own 127.0.0.6"), ask(pod, "10.96.0.9", "own"))
    outer, inner = proxy.line(since, "10.96.0.9:80"), proxy.line(since, f"{POD}:9000")
    cases.equal("out", "outbound|80||own.default.svc.cluster.local", outer["upstream_cluster"])
    cases.equal("and in", "inbound|9000||", inner["upstream_cluster"])
    way = [line["downstream_local_address"] for line in new_lines(proxy.log, since)]
    cases.equal("each once", [1, 1], [way.count("10.96.0.9:80"), way.count(f"{POD}:9000")])


def loops(cases, pod, peer, proxy):
    before = proxy.stat("outrigger_capture_refused_total")
    calls = [(pod, "127.0.0.1", 15001), (pod, "::1", 15001), (pod, "127.0.0.1", 15006), (peer, POD, 15001), (peer, POD, 15006), (peer, POD6, 15006)]
    for space, address, port in calls:
        cases.equal(f"a call to {address}:{port} is refused", True, refused(space, address, port))
    cases.equal("each was counted once", before + len(calls), proxy.stat("outrigger_capture_refused_total"))
    wait_for("no connection to be left", lambda: proxy.stat("envoy_server_total_connections") <= 1)


EXEMPT = f"""
import socket
with socket.create_connection(("{PEER}", 7777), timeout={DEADLINE}) as connection:
    connection.shutdown(socket.SHUT_WR)
    print(connection.getsockname()[1], connection.recv(100).decode())
"""


def exempt(cases, pod, proxy):
    since = position(proxy.log)
    port, seen = pod.run(sys.executable, "-c", EXEMPT, uid=UID).stdout.split()
    cases.equal("the proxy's user is not captured", f"|{POD}|{port}", seen)
    port, seen = pod.run(sys.executable, "-c", EXEMPT, uid=1000).stdout.split()
    cases.equal("another user is", True, seen.startswith(f"|{POD}|") and seen != f"|{POD}|{port}")
    cases.equal("by the log too", "PassthroughCluster", proxy.line(since, f"{PEER}:7777")["upstream_cluster"])


def registry_only(cases, pod, proxy):
    cases.equal("a service is known", (200, f"web {POD}"), ask(pod, "10.96.0.1", "web"))
    since = position(proxy.log)
    cases.equal("a strange host", (502, ""), ask(pod, PEER, "stranger.example.com"))
    cases.equal("its route", "block_all", proxy.line(since, f"{PEER}:80")["route_name"])
    since = position(proxy.log)
    cases.equal("a strange address is closed", True, refused(pod, PEER, 7777))
    cases.equal("its cluster", "BlackHoleCluster", proxy.line(since, f"{PEER}:7777")["upstream_cluster"])


def transparent(cases, pod, peer, proxy):
    cases.equal("the workload sees its client", (200, f"own {PEER}"), ask(peer, POD, "own", 9000))
    cases.equal("again, on a connection of its own", (200, f"own {PEER}"), ask(peer, POD, "own", 9000))
    cases.equal("by IPv6", (200, f"own {PEER6}"), ask(peer, POD6, "own", 9000))
    cases.equal("on a port without a service", ["abc", PEER], half_closes(peer, POD, 9001).split("|")[:2])
    cases.equal("outbound is redirected", (200, f"web {POD}"), ask(pod, "10.96.0.1", "web"))
    cases.equal("a call to 15006 is refused", True, refused(peer, POD, 15006))


def main():
    require()
    if not os.path.exists(outrigger()):
        skip(f"{outrigger()} is not built")
    cases, began = Cases(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Pod() as net:
        pod, peer = net.pod, net.peer
        servers = [
            Server(peer, PEER, 8080, answers("web")),
            Server(peer, PEER, 80, answers("stranger")),
            Server(peer, PEER, 13306, echoes),
            Server(peer, PEER, 12525, greets),
            Server(peer, PEER, 7777, echoes),
            Server(peer, PEER6, 7777, echoes),
            Server(pod, POD, 9000, answers("own")),
            Server(pod, POD6, 9000, answers("own")),
            Server(pod, POD, 9001, echoes),
        ]
        install(pod, "REDIRECT")
        with Sidecar(pod, folder) as proxy:
            outbound(cases, pod, proxy)
            passthrough(cases, pod, proxy)
            speaks_first(cases, pod, proxy)
            inbound(cases, peer, proxy)
            own(cases, pod, proxy)
            loops(cases, pod, peer, proxy)
            exempt(cases, pod, proxy)
        with Sidecar(pod, folder, settings="outboundTrafficPolicy: { mode: REGISTRY_ONLY }\n") as proxy:
            registry_only(cases, pod, proxy)
        uninstall(pod)
        install(pod, "TPROXY")
        with Sidecar(pod, folder, "TPROXY") as proxy:
            transparent(cases, pod, peer, proxy)
        for server in servers:
            server.stop()
    print(f"capture: {cases.count} observations hold, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        print(f"capture: FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
