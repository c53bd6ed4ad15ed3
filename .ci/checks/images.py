"""Runs the built images as a cluster would: a read-only root, no capability, nobody's user, one process as PID 1."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

from suite import Suite

LARGEST = 20_000_000
IMAGES = ("otlp-collector", "outrigger")
USERS = (1337, 1000)
# A drain of this configuration takes a moment; the kubelet's default patience is 30 s.
PATIENCE = 30
TRACES = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{
    "traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "name": "of an image",
}]}]}]}).encode()
# The same as a gRPC message, and the answer to it: a message that says nothing.
SPAN = b"\x0a\x10" + bytes(range(1, 17)) + b"\x12\x08" + bytes(range(1, 9))
EXPORT = b"\x0a\x20\x12\x1e\x12\x1c" + SPAN
MESSAGE = b"\x00" + len(EXPORT).to_bytes(4, "big") + EXPORT
SUCCESS = bytes(5)

MESH = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: collector }}
spec:
  hosts: [collector.test]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{ number: 14318, name: http-otlp, protocol: HTTP }}]
  endpoints: [{{ address: {address}, ports: {{ http-otlp: 4318 }} }}]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{ name: default }}
spec:
  egress:
  - port: {{ number: 14318, name: http-otlp, protocol: HTTP }}
    bind: 0.0.0.0
    captureMode: NONE
    hosts: ["./*"]
"""


def main():
    suite = Suite()
    for image in IMAGES:
        with suite.check(f"{image} is small, and says what it is"):
            describe(image)
    for user in USERS:
        with suite.check(f"as {user} the collector takes OTLP, and stops clean"):
            with running("otlp-collector", user, ports=(4317, 4318, 8888)) as collector:
                healthy(collector)
                assert post(collector.ports[4318], "/v1/traces") == 200
                assert grpc(collector.ports[4317]) == SUCCESS
                metrics = get(collector.ports[8888], "/metrics")
                for transport in ("grpc", "http"):
                    counted = f'otelcol_receiver_accepted_spans{{receiver="otlp",transport="{transport}"}} 1\n'
                    assert counted in metrics, metrics
                collector.stops_clean()
        with suite.check(f"as {user} the sidecar serves a request of a collector, and stops clean"):
            serve(user)
    if "healthcheck" in once("outrigger", "--help"):
        with suite.check("the sidecar's health check finds it ready"):
            with mesh("192.0.2.1") as folder, running("outrigger", 1337, config=folder) as sidecar:
                healthy(sidecar)
    else:
        suite.skip("the sidecar's health check", "this build has no `outrigger healthcheck`")
    return suite.finish()


def describe(image):
    [details] = json.loads(podman("image", "inspect", f"localhost/{image}:ci"))
    print(f"{image}: {details['Size']:,} bytes, {len(details['RootFS']['Layers'])} layers")
    assert details["Size"] < LARGEST, f"{details['Size']} bytes"
    config = details["Config"]
    assert config["User"] == "65532:65532", config["User"]
    assert config["Entrypoint"] == [f"/{image}"], config["Entrypoint"]
    assert details["Healthcheck"]["Test"] == ["CMD", f"/{image}", "healthcheck"], details["Healthcheck"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["title"] == image and labels["version"] == "ci" and labels["licenses"] == "Apache-2.0", labels
    assert once(image, "--version").startswith(image)


def serve(user):
    with running("otlp-collector", user) as collector:
        healthy(collector)
        with mesh(collector.address) as folder:
            with running("outrigger", user, ports=(14318, 15021), config=folder) as sidecar:
                eventually("it is ready", lambda: get(sidecar.ports[15021], "/healthz/ready") is not None)
                assert post(sidecar.ports[14318], "/v1/traces", host="collector.test") == 200
                sidecar.stops_clean()


def podman(*arguments, fails=False):
    run = subprocess.run(["podman", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert fails or run.returncode == 0, f"podman {arguments}: {run.returncode}\n{run.stdout}{run.stderr}"
    return run.stdout if not fails else run.returncode


def once(image, argument):
    return podman("run", "--rm", "--no-healthcheck", f"localhost/{image}:ci", argument)


class Container:
    def __init__(self, name):
        self.name = name
        [details] = json.loads(podman("inspect", name))
        network = details["NetworkSettings"]
        self.address = network["IPAddress"]
        self.ports = {
            int(port.partition("/")[0]): int(bindings[0]["HostPort"])
            for port, bindings in (network["Ports"] or {}).items() if bindings
        }

    def stops_clean(self):
        started = time.monotonic()
        podman("stop", "--time", PATIENCE, self.name)
        took = time.monotonic() - started
        [details] = json.loads(podman("inspect", self.name))
        assert details["State"]["ExitCode"] == 0, f"exit code {details['State']['ExitCode']}\n{self.log()}"
        assert took < PATIENCE, f"it had to be killed after {took:.0f} s"

    def log(self):
        run = subprocess.run(["podman", "logs", "--tail", "20", self.name], capture_output=True, text=True)
        return run.stdout + run.stderr


@contextlib.contextmanager
def running(image, user, ports=(), config=None):
    name = f"outrigger-ci-{os.getpid()}-{image}"
    arguments = ["run", "--detach", "--name", name, "--user", f"{user}:{user}"]
    arguments += ["--read-only", "--read-only-tmpfs=false"]
    arguments += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "64m"]
    # Without systemd nobody runs health checks at an interval; the tests do.
    arguments += ["--health-interval", "disable"]
    for port in ports:
        arguments += ["--publish", f"127.0.0.1::{port}"]
    command = []
    if config:
        arguments += ["--volume", f"{config}:/etc/outrigger/config:ro"]
        command = ["proxy", "--config", "/etc/outrigger/config"]
    try:
        podman(*arguments, f"localhost/{image}:ci", *command)
        container = Container(name)
        try:
            yield container
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{container.log()}") from failure
    finally:
        subprocess.run(["podman", "rm", "--force", "--ignore", "--time", "0", name], capture_output=True)


@contextlib.contextmanager
def mesh(address):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        pathlib.Path(folder, "mesh.yaml").write_text(MESH.format(address=address))
        yield folder


def healthy(container):
    """By the image's own health check."""
    eventually("the health check passes", lambda: podman("healthcheck", "run", container.name, fails=True) == 0)


def eventually(what, condition):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"timed out: {what}")


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return None


def post(port, path, host="localhost"):
    headers = {"content-type": "application/json", "host": host}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=TRACES, headers=headers)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.status


def grpc(port):
    """The message of the answer to an export over HTTP/2; an error has none."""
    url = f"http://127.0.0.1:{port}/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    command = ["curl", "--silent", "--show-error", "--fail", "--max-time", "5", "--http2-prior-knowledge"]
    command += ["--header", "content-type: application/grpc", "--header", "te: trailers", "--data-binary", "@-", url]
    run = subprocess.run(command, input=MESSAGE, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    return run.stdout


sys.exit(main())
