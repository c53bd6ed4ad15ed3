"""A sidecar as a process that comes and goes, and the frame of the tests of its life."""

import contextlib
import os
import random
import socket
import sys
import tempfile

from client import KeepAlive, exchange, request
from processes import Failed, Program, check, get, outrigger
from sidecar import PORT, sidecar

# The announcement of a drain is short here, so that twenty of them are; but longer than clients need to hear of it.
MOMENT = "2s"
PAGES = ("--admin", "--metrics", "--health")
MIB = 1 << 20
SKIPS = []
# Below the range of ports for connections. It begins anywhere, so that two runs beside each other do not meet.
PORTS = iter(range(random.SystemRandom().randrange(20000, 30000), 32000))


class Sidecar(Program):
    """A sidecar with these documents, its pages on ports of the system's choice unless `pages` says otherwise."""

    def __init__(self, name, folder, documents, pages=None, command=lambda args: args):
        self.config = os.path.join(folder, f"{name}.yaml")
        write(self.config, documents)
        args = [outrigger(), "proxy", "--config", self.config, "--concurrency", "2", "--ports", "ephemeral"]
        for flag in PAGES:
            args += [flag, (pages or {}).get(flag, "127.0.0.1:0")]
        env = {"PROXY_CONFIG": f'{{"terminationDrainDuration":"{MOMENT}"}}', "TERMINATION_GRACE_PERIOD_SECONDS": "30"}
        super().__init__(name, command(args), folder, env)

    def started(self):
        names = (f"127.0.0.1_{PORT}", "admin", "metrics", "health")
        self.address, self.admin, self.metrics, self.health = self.listening(*names)
        return self

    def is_ready(self):
        return answers(self.health, "/healthz/ready")

    def works(self):
        return answers(self.address, "/web/plain")

    def metric(self, name):
        lines = get(self.metrics, "/metrics").splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split(" ")[0].split("{")[0] == name)


def write(path, text):
    """As an editor or a volume of Kubernetes does."""
    with open(f"{path}.next", "w", encoding="utf-8") as out:
        out.write(text)
    os.rename(f"{path}.next", path)


def mesh(*addresses):
    """The service `web` with an EndpointSlice for each address, and a listener."""
    text = sidecar([(PORT, "HTTP")]) + f"""
apiVersion: v1
kind: Service
metadata: {{ name: web }}
spec:
  clusterIP: 10.96.0.1
  ports: [{{ name: http, port: {PORT} }}]
---"""
    for number, address in enumerate(addresses):
        host, port = address.rsplit(":", 1)
        text += f"""
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: web-{number}, labels: {{ kubernetes.io/service-name: web }} }}
addressType: IPv4
ports: [{{ name: http, port: {port} }}]
endpoints: [{{ addresses: [{host}], conditions: {{ ready: true }} }}]
---"""
    return text


def answers(address, path):
    """Whether somebody answers with 200."""
    try:
        return exchange(address, request(path)).status == 200
    except OSError:
        return False


def first_answer(address):
    client = KeepAlive(address)
    status, _ = client.get("/web/plain")
    check(status == 200, f"status {status}")
    return client


def free_address():
    """A port that the system gives to nobody by itself, since it is bound later; each time another."""
    while True:
        port = next(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return f"127.0.0.1:{port}"


def skipped(what, why):
    SKIPS.append(what)
    return f"SKIPPED: {what}: {why}"


def run(name, parts):
    """A whole test: each part, or those that are named as arguments, is called with a folder and says what it saw."""
    if not os.path.exists(outrigger()):
        print(skipped(name, f"{outrigger()} is not built"))
        parts = []
    wanted = [part for part in parts if part.__name__ in sys.argv[1:]] or parts
    with tempfile.TemporaryDirectory() as folder:
        for part in wanted:
            try:
                print(f"{name}: {part(folder)}", flush=True)
            except Failed as failure:
                print(f"{name}: FAILED: {part.__name__}: {failure}", file=sys.stderr)
                sys.exit(1)
    if SKIPS and os.environ.get("OUTRIGGER_REQUIRE_ALL") == "1":
        sys.exit(1)
