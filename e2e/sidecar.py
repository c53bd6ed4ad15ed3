"""Outrigger with Istio documents: the other half of each comparison with envoy.py."""

import os

from processes import Program, outrigger

# Port of every service; where the listener binds is the system's choice.
PORT = 8080
SUFFIX = "default.svc.cluster.local"
UNTRACED = "enableTracing: false\n"


class Outrigger(Program):
    """Outrigger with these documents, and a listener on `PORT`; where it really binds is the system's choice.

    `more` are ports with listeners of their own, and what they carry; `ingress` are inbound ones in front of an address,
    with TLS of their own if there is a fourth part.
    `identity` is a folder with a certificate, its key and the roots.
    """

    def __init__(self, name, folder, documents, mesh=UNTRACED, env=None, more=(), ingress=(), identity=None):
        config = os.path.join(folder, f"{name}.yaml")
        self.log = os.path.join(folder, f"{name}.log")
        settings = os.path.join(folder, f"{name}-mesh.yaml")
        with open(config, "w", encoding="utf-8") as out:
            out.write(sidecar([(PORT, "HTTP"), *more], ingress) + documents)
        with open(settings, "w", encoding="utf-8") as out:
            out.write(f"accessLogFile: {self.log}\naccessLogEncoding: JSON\n{mesh}")
        args = [outrigger(), "proxy", "--config", config, "--mesh-config", settings, "--concurrency", "1"]
        args += ["--ports", "ephemeral"]
        for flag in ("--admin", "--metrics", "--health"):
            args += [flag, "127.0.0.1:0"]
        if identity:
            args += ["--identity", identity]
        super().__init__(name, args, folder, env)
        self.address, self.admin, self.metrics = self.listening(f"127.0.0.1_{PORT}", "admin", "metrics")
        ports = [port for port, *_ in [*more, *ingress]]
        self.listens = {port: self.listening(f"127.0.0.1_{port}")[0] for port in ports}


def cluster_name(host, subset="", port=PORT):
    return f"outbound|{port}|{subset}|{host}.{SUFFIX}"


def service(name, endpoints, protocol="HTTP", number=PORT):
    """`endpoints` are (host:port, version) or (host:port, version, weight)."""
    text = f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: {name} }}
spec:
  hosts: [{name}.{SUFFIX}]
  resolution: STATIC
  ports: [{{ number: {number}, name: port, protocol: {protocol} }}]
"""
    if endpoints:
        text += "  endpoints:\n"
    for address, version, *weight in endpoints:
        host, port = address.rsplit(":", 1)
        more = f", weight: {weight[0]}" if weight else ""
        text += f"  - {{ address: {host}, ports: {{ port: {port} }}, labels: {{ version: {version} }}{more} }}\n"
    return text + "---"


def sidecar(ports, ingress=()):
    text = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: { name: default }
spec:
"""
    text += "  ingress:\n" if ingress else ""
    for number, protocol, address, *tls in ingress:
        text += f"""  - port: {{ number: {number}, name: in-{number}, protocol: {protocol} }}
    bind: 127.0.0.1
    defaultEndpoint: "{address}"
"""
        text += f"    tls: {tls[0]}\n" if tls else ""
    text += "  egress:\n"
    for number, protocol in ports:
        text += f"""  - port: {{ number: {number}, name: port-{number}, protocol: {protocol} }}
    bind: 127.0.0.1
    captureMode: NONE
    hosts: ["./*"]
"""
    return text + "---"


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
