"""Outrigger with Istio documents: the other half of each comparison with envoy.py."""

import os

from processes import Program, outrigger

# Port of every service; where the listener binds is the system's choice.
PORT = 8080
SUFFIX = "default.svc.cluster.local"
UNTRACED = "enableTracing: false\n"


class Outrigger(Program):
    """Outrigger with these documents, which have one listener, on `PORT`; where it really binds is the system's choice."""

    def __init__(self, name, folder, documents, mesh=UNTRACED, env=None):
        config = os.path.join(folder, f"{name}.yaml")
        self.log = os.path.join(folder, f"{name}.log")
        settings = os.path.join(folder, f"{name}-mesh.yaml")
        with open(config, "w", encoding="utf-8") as out:
            out.write(sidecar() + documents)
        with open(settings, "w", encoding="utf-8") as out:
            out.write(f"accessLogFile: {self.log}\naccessLogEncoding: JSON\n{mesh}")
        args = [outrigger(), "proxy", "--config", config, "--mesh-config", settings, "--concurrency", "1"]
        args += ["--ports", "ephemeral"]
        for flag in ("--admin", "--metrics", "--health"):
            args += [flag, "127.0.0.1:0"]
        super().__init__(name, args, folder, env)
        self.address, self.admin, self.metrics = self.listening(f"127.0.0.1_{PORT}", "admin", "metrics")


def cluster_name(host, subset=""):
    return f"outbound|{PORT}|{subset}|{host}.{SUFFIX}"


def service(name, endpoints, protocol="HTTP"):
    """`endpoints` are (host:port, version) or (host:port, version, weight)."""
    text = f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: {name} }}
spec:
  hosts: [{name}.{SUFFIX}]
  resolution: STATIC
  ports: [{{ number: {PORT}, name: port, protocol: {protocol} }}]
"""
    if endpoints:
        text += "  endpoints:\n"
    for address, version, *weight in endpoints:
        host, number = address.rsplit(":", 1)
        more = f", weight: {weight[0]}" if weight else ""
        text += f"  - {{ address: {host}, ports: {{ port: {number} }}, labels: {{ version: {version} }}{more} }}\n"
    return text + "---"


def sidecar():
    return f"""
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{ name: default }}
spec:
  egress:
  - port: {{ number: {PORT}, name: http, protocol: HTTP }}
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
