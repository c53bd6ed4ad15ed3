"""Captured DNS, end to end: a pod whose questions for addresses come to Outrigger, and a name server in another network
namespace that knows nothing of the mesh. Questions are asked by hand and by the system's own resolver.
"""

import contextlib
import ipaddress
import json
import os
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time

from capture import PEER, POD, UID, Cases, Server, Sidecar, ask, answers, connect, install, rest, uninstall
from namespaces import Pod, require
from processes import DEADLINE, Failed, outrigger, skip, wait_for

A, AAAA, CNAME = 1, 28, 5
OUTSIDE = "www.example.org"


def service(name, host, resolution, port, protocol, more=""):
    return f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: {name} }}
spec:
  hosts: [{host}]
  resolution: {resolution}
  ports: [{{ number: {port}, name: main, protocol: {protocol}{more} }}]
"""


def at(port):
    return f"  endpoints: [{{ address: {PEER}, ports: {{ main: {port} }} }}]\n---"


# None of them has an address; the first two have the same port.
DOCUMENTS = (
    service("one", "one.example.com", "STATIC", 3306, "TCP") + at(13306)
    + service("two", "two.example.com", "STATIC", 3306, "TCP") + at(13307)
    + service("outside", OUTSIDE, "DNS", 2525, "TCP", ", targetPort: 12525") + "---"
    + service("web", "web.example.com", "STATIC", 80, "HTTP") + at(8080)
)


# DNS by hand.


def question(name, kind, number):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)


def skip_name(message, position):
    while message[position]:
        if message[position] >= 0xC0:
            return position + 2
        position += 1 + message[position]
    return position + 1


def read(message):
    """The code of an answer, and its records: type, seconds to live, data."""
    _, flags, questions, count, _, _ = struct.unpack_from("!6H", message)
    position = 12
    for _ in range(questions):
        position = skip_name(message, position) + 4
    records = []
    for _ in range(count):
        position = skip_name(message, position)
        kind, _, ttl, length = struct.unpack_from("!HHIH", message, position)
        position += 10
        data = message[position : position + length]
        records.append((kind, ttl, str(ipaddress.ip_address(data)) if kind in (A, AAAA) else None))
        position += length
    return flags & 0x0F, records


class NameServer:
    """At the peer: one name outside of the mesh, and a list of what it was asked."""

    def __init__(self, peer):
        self.asked = []
        self.socket = peer.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.socket.bind((PEER, 53))
        self.tcp = Server(peer, PEER, 53, self._connection)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                message, client = self.socket.recvfrom(4096)
            except OSError:
                return
            self.socket.sendto(self._answer(message, client[0], "udp"), client)

    def _connection(self, connection, peer):
        (length,) = struct.unpack("!H", connection.recv(2, socket.MSG_WAITALL))
        answer = self._answer(connection.recv(length, socket.MSG_WAITALL), peer[0], "tcp")
        connection.sendall(struct.pack("!H", len(answer)) + answer)

    def _answer(self, message, client, over):
        end = skip_name(message, 12) + 4
        labels, position = [], 12
        while message[position]:
            labels.append(message[position + 1 : position + 1 + message[position]].decode().lower())
            position += 1 + message[position]
        name = ".".join(labels)
        (kind,) = struct.unpack_from("!H", message, end - 4)
        self.asked.append((name, kind, over, client))
        head = message[:2]
        if name != OUTSIDE:
            return head + struct.pack("!5H", 0x8183, 1, 0, 0, 0) + message[12:end]
        record = b"\xc0\x0c" + struct.pack("!2HIH", A, 1, 60, 4) + socket.inet_aton(PEER)
        found = kind == A
        return head + struct.pack("!5H", 0x8180, 1, int(found), 0, 0) + message[12:end] + (record if found else b"")

    def names(self):
        """But for the sidecar's own questions, with search domains or without."""
        return {name for name, *_ in self.asked if not name.startswith(OUTSIDE)}

    def stop(self):
        self.socket.close()
        self.tcp.stop()


def asks(pod, name, kind=A, server=PEER):
    """By UDP, as an application would."""
    with pod.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        client.settimeout(DEADLINE)
        client.connect((server, 53))
        client.send(question(name, kind, 4711))
        return read(client.recv(4096))


def asks_by_tcp(pod, name, kind=A):
    with connect(pod, PEER, 53) as client:
        sent = question(name, kind, 4711)
        client.sendall(struct.pack("!H", len(sent)) + sent)
        (length,) = struct.unpack("!H", client.recv(2, socket.MSG_WAITALL))
        return read(client.recv(length, socket.MSG_WAITALL))


def greeting(name):
    def serve(connection, _):
        connection.sendall(name.encode())

    return serve


def said(pod, address, port):
    with connect(pod, address, port) as connection:
        connection.shutdown(socket.SHUT_WR)
        return rest(connection)


@contextlib.contextmanager
def resolv_conf(pod):
    """The pod's /etc/resolv.conf: `ip netns exec` lays it over the machine's."""
    folder = f"/etc/netns/{pod.name}"
    os.makedirs(folder)
    try:
        with open(f"{folder}/resolv.conf", "w", encoding="utf-8") as out:
            out.write(f"nameserver {PEER}\nsearch default.svc.cluster.local svc.cluster.local\noptions ndots:5 timeout:1\n")
        yield
    finally:
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):
            os.rmdir("/etc/netns")


def services(cases, pod, server):
    vips = {}
    for name in ("one", "two", "web"):
        code, records = asks(pod, f"{name}.example.com")
        cases.equal(f"{name} has one address for 30 s", (0, [(A, 30)]), (code, [record[:2] for record in records]))
        vips[name] = records[0][2]
        cases.equal("of 240.240.0.0/16", True, vips[name].startswith("240.240."))
    cases.equal("each its own", 3, len(set(vips.values())))
    cases.equal("by TCP, too", vips["one"], asks_by_tcp(pod, "one.example.com")[1][0][2])
    cases.equal("and none of IPv6", (0, []), asks(pod, "one.example.com", AAAA))
    cases.equal("the name server was asked none of it", set(), server.names())
    # What it is for: two servers behind one port.
    cases.equal("one is reached by its address", "one", said(pod, vips["one"], 3306))
    cases.equal("and two by its own", "two", said(pod, vips["two"], 3306))
    cases.equal("requests, too", (200, f"web {POD}"), ask(pod, vips["web"], "web.example.com"))


def outside(cases, pod, server):
    code, records = asks(pod, "nobody.example.org")
    cases.equal("what nobody knows is not there", (3, []), (code, records))
    cases.equal("as the name server says", True, "nobody.example.org" in server.names())
    cases.equal("by TCP, too", 3, asks_by_tcp(pod, "nobody.example.org")[0])
    cases.equal("which is passed on by TCP", True, ("nobody.example.org", A, "tcp", POD) in server.asked)
    # A host of the registry that the sidecar itself looks up: its own questions are not captured.
    vip = asks(pod, OUTSIDE)[1][0][2]
    cases.equal("a host by DNS has an address of ours", True, vip.startswith("240.240."))
    cases.equal("and the sidecar goes where the name server says", "outside", said(pod, vip, 2525))


def resolver(cases, pod, server):
    """The system's resolver, with search domains."""
    server.asked.clear()
    vip = asks(pod, "one.example.com")[1][0][2]
    found = pod.run("getent", "ahostsv4", "one.example.com", uid=1000).stdout.split()
    cases.equal("the resolver finds it", vip, found[0])
    cases.equal("by its first search domain", set(), server.names())
    found = pod.run("getent", "ahostsv4", "one.example.com.", uid=1000).stdout.split()
    cases.equal("and by the full name", vip, found[0])


def main():
    require()
    if not os.path.exists(outrigger()):
        skip(f"{outrigger()} is not built")
    cases, began = Cases(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Pod() as net, resolv_conf(net.pod):
        pod, peer = net.pod, net.peer
        server = NameServer(peer)
        servers = [
            server,
            Server(peer, PEER, 13306, greeting("one")),
            Server(peer, PEER, 13307, greeting("two")),
            Server(peer, PEER, 12525, greeting("outside")),
            Server(peer, PEER, 8080, answers("web")),
        ]
        cases.equal("without the sidecar nobody knows the service", 3, asks(pod, "one.example.com")[0])
        server.asked.clear()
        install(pod, "REDIRECT", "--redirect-dns")
        with Sidecar(pod, folder, documents=DOCUMENTS, more=["--dns-capture"]) as proxy:
            proxy.listening("dns", "dns_tcp", "health")
            told = [json.loads(line) for line in proxy.lines if line.startswith("{")]
            where = {one["address"] for one in told if one["name"] in ("dns", "dns_tcp")}
            cases.equal("it listens on loopback alone", {"127.0.0.1:15053", "[::1]:15053"}, where)
            # The sidecar looks up names of its own at the start.
            own = (OUTSIDE, A, "udp", POD)
            wait_for("the sidecar's own question", lambda: own in server.asked)
            services(cases, pod, server)
            outside(cases, pod, server)
            resolver(cases, pod, server)
            table = json.loads(pod.run(outrigger(), "admin", "GET", "/debug/ndsz").stdout)["table"]
            cases.equal("the table is shown", {"one.example.com", "two.example.com", "web.example.com", OUTSIDE}, set(table))
            asked = proxy.stat("istio_agent_dns_requests_total")
            passed = proxy.stat("istio_agent_dns_upstream_requests_total")
            cases.equal("questions are counted", (True, 2), (asked > passed, passed))
        uninstall(pod)
        for one in servers:
            one.stop()
    print(f"dns_capture: {cases.count} observations hold, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        print(f"dns_capture: FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
