"""A node with pods of injected manifests: a bridge, a network namespace for each, and a small application to inject."""

import json
import os
import shutil
import subprocess
import urllib.request

import namespaces
from kubelet import Pod, podman
from namespaces import Namespace
from processes import Failed, check, outrigger, skip

IMAGE = os.environ.get("OUTRIGGER_IMAGE", "localhost/outrigger:ci")
APP = "localhost/outrigger-pod-app:ci"
# Of examples/inject, which nothing here pulls: Debian's program stands in for it.
BUSYBOX = "docker.io/library/busybox:1.36"
IMAGES = {IMAGE: IMAGE, APP: APP, BUSYBOX: APP}
# The virtual address of a service.
VIP = "240.240.1.1"
# The application says which pod it is, and to whom it answers. As PID 1 it would not hear of SIGTERM without a trap;
# it serves on for a while, as in any cluster, while its clients learn that it goes.
SERVE = """mkdir -p /www/cgi-bin && cd /www && echo "$VERSION" > index.html &&
printf '#!/bin/sh\\nprintf "content-type: text/plain\\\\r\\\\n\\\\r\\\\n%%s %%s" "$VERSION" "$REMOTE_ADDR"' > cgi-bin/who &&
chmod +x cgi-bin/who && { httpd -f -p 8080 -h /www & } && trap 'sleep 3; kill $!; sleep .2; exit 0' TERM && wait"""


def deployment(version, annotations=""):
    return f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: web-{version}, namespace: default }}
spec:
  selector: {{ matchLabels: {{ app: web, version: {version} }} }}
  template:
    metadata:
      labels: {{ app: web, version: {version} }}
      annotations: {{ {annotations} }}
    spec:
      terminationGracePeriodSeconds: 20
      containers:
      - name: app
        image: {APP}
        command: [/bin/sh, -c, {json.dumps(SERVE)}]
        env: [{{ name: VERSION, value: {version} }}]
        ports: [{{ name: http, containerPort: 8080 }}]
        readinessProbe: {{ httpGet: {{ path: /index.html, port: http }} }}
        livenessProbe: {{ tcpSocket: {{ port: 8080 }} }}
"""


class Cluster:
    """A node's namespace with a bridge, and one namespace for each pod."""

    def __init__(self, resources):
        self.resources, self.count = resources, 1
        self.node = self.namespace("node")
        self.node.ip("link", "add", "pods", "type", "bridge")
        for address in ("10.88.77.1/24", "fd88:77::1/64"):
            self.node.ip("addr", "add", address, "dev", "pods", *(["nodad"] if ":" in address else []))
        self.node.ip("link", "set", "pods", "up")
        self.config_maps, self.secrets = {}, {}

    def namespace(self, name):
        made = Namespace(name)
        self.resources.callback(made.remove)
        return made

    def pod(self, name, manifest):
        """A pod of an injected manifest: JSON, as `outrigger inject -o json` prints it."""
        self.count += 1
        network = self.namespace(name)
        device = f"veth{self.count}"
        namespaces.join(network, "eth0", (f"10.88.77.{self.count}/24", f"fd88:77::{self.count}/64"), self.node, device, ())
        self.node.ip("link", "set", device, "master", "pods")
        # A virtual address is to have a way out, or nothing would be captured.
        network.ip("route", "add", "default", "via", "10.88.77.1")
        address = f"10.88.77.{self.count}"
        pod = Pod(name, manifest, f"/run/netns/{network.name}", address, IMAGES, self.config_maps, self.secrets)
        return self.resources.enter_context(pod)


def inject(manifest, *options):
    """The injected document, and that a second time changes nothing."""
    command = [outrigger(), "inject", "-f", "-", "-o", "json", "--image", IMAGE, *options]
    once = subprocess.run(command, input=manifest, capture_output=True, text=True, check=True).stdout
    twice = subprocess.run(command, input=once, capture_output=True, text=True, check=True).stdout
    check(json.loads(once) == json.loads(twice), "a second injection changed something")
    return json.loads(once)


def ask(address, path="/cgi-bin/who", headers=()):
    request = urllib.request.Request(f"http://{address}{path}", headers=dict(headers))
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.status, answer.headers, answer.read().decode()


def run(pod, *command, container="app"):
    """A command in a container of the pod; what it prints."""
    done = podman("exec", pod.container(container).id, *command, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)} in {pod.name} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def build_app(folder):
    """An application in an image of its own: busybox, and our program for `outrigger run`."""
    shutil.copy(shutil.which("busybox"), os.path.join(folder, "busybox"))
    with open(os.path.join(folder, "Dockerfile"), "w", encoding="utf-8") as out:
        out.write(f"FROM {IMAGE}\nCOPY busybox /bin/busybox\nUSER 0\n")
        out.write('RUN ["/bin/busybox", "--install", "-s", "/bin"]\nENTRYPOINT []\nHEALTHCHECK NONE\n')
    namespaces.run("buildah", "bud", "--quiet", "--isolation", "chroot", "--tag", APP, folder)


def require():
    namespaces.require()
    for program, package in (("podman", "podman"), ("runc", "runc"), ("buildah", "buildah"), ("busybox", "busybox-static"),
                             ("openssl", "openssl")):
        if shutil.which(program) is None:
            skip(f"there is no `{program}`: install {package}")
    if podman("image", "exists", IMAGE, check=False).returncode != 0:
        skip(f"there is no image {IMAGE}: build it by .ci/images")
