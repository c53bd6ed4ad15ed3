"""Pods as `outrigger inject` prints them, run from the built image with podman: capture, start and end in order, probes,
a live change of the mesh's ConfigMap, Jobs that end, in the native and in the classic form.

Root, podman and runc are needed. All traffic stays in network namespaces that the test makes.
"""

import contextlib
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

import namespaces
from kubelet import Pod, podman
from namespaces import Namespace
from pages import commands
from processes import ROOT, Failed, check, outrigger, skip, wait_for

IMAGE = os.environ.get("OUTRIGGER_IMAGE", "localhost/outrigger:ci")
APP = "localhost/outrigger-pod-app:ci"
# Of examples/inject, which nothing here pulls: Debian's program stands in for it.
BUSYBOX = "docker.io/library/busybox:1.36"
IMAGES = {IMAGE: IMAGE, APP: APP, BUSYBOX: APP}
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


def job(command, annotations=""):
    return f"""
apiVersion: batch/v1
kind: Job
metadata: {{ name: ask, namespace: default }}
spec:
  template:
    metadata: {{ labels: {{ app: ask }}, annotations: {{ {annotations} }} }}
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 20
      containers:
      - name: ask
        image: {APP}
        command: {json.dumps(command)}
"""


def mesh(v1, v2, weight):
    """`v2` gets the rest; the service has a virtual address, as in a cluster."""
    return f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: web, namespace: default }}
spec:
  hosts: [web.default.svc.cluster.local]
  addresses: [{VIP}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{ number: 80, name: http, protocol: HTTP, targetPort: 8080 }}]
  endpoints:
  - {{ address: {v1}, labels: {{ version: v1 }} }}
  - {{ address: {v2}, labels: {{ version: v2 }} }}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: web, namespace: default }}
spec:
  host: web.default.svc.cluster.local
  subsets:
  - {{ name: v1, labels: {{ version: v1 }} }}
  - {{ name: v2, labels: {{ version: v2 }} }}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: web, namespace: default }}
spec:
  hosts: [web.default.svc.cluster.local]
  http:
  - route:
    - {{ destination: {{ host: web.default.svc.cluster.local, subset: v1 }}, weight: {weight} }}
    - {{ destination: {{ host: web.default.svc.cluster.local, subset: v2 }}, weight: {100 - weight} }}
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
        self.config_maps = {}

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
        pod = Pod(name, manifest, f"/run/netns/{network.name}", address, IMAGES, self.config_maps)
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


def serves_captured(cluster):
    """Two versions behind sidecars: what reaches them came through their proxies, probes too."""
    pods = [cluster.pod(f"web-{version}", inject(deployment(version))) for version in ("v1", "v2")]
    cluster.config_maps["outrigger-mesh"] = {"mesh.yaml": mesh(pods[0].address, pods[1].address, 100)}
    for pod in pods:
        pod.start()
        check(len(pod.sidecars) == 1 and pod.sidecars[0].name == "istio-proxy", "the sidecar is no native one")
        wait_for(f"{pod.name} to be ready", pod.is_ready)
        rewritten = pod.container("app").spec["readinessProbe"]["httpGet"]
        check(rewritten["port"] == 15020, f"the probe goes to {rewritten}")
        _, headers, body = ask(f"{pod.address}:8080")
        check(headers["server"] == "istio-envoy", f"no proxy answered for {pod.name}: {headers}")
        check("127.0.0.6" in body, f"the application saw its client at {body}")
    return pods


def follows_its_config_map(cluster, pods):
    """A client's sidecar routes by the mesh's rules, and by changed ones soon after the change."""
    client = cluster.pod("client", inject(deployment("client"))).start()
    wait_for("the client to be ready", client.is_ready)

    def version():
        return run(client, "wget", "-q", "-O", "-", "--header", "Host: web", f"http://{VIP}/cgi-bin/who").split()[0]

    check([version() for _ in range(10)] == ["v1"] * 10, "not all requests went to v1")
    files = {"mesh.yaml": mesh(pods[0].address, pods[1].address, 0)}
    changed = time.monotonic()
    client.update_config_map("outrigger-mesh", files)
    wait_for("the changed weights", lambda: version() == "v2")
    live = time.monotonic() - changed
    check(live < 2, f"a changed ConfigMap was live after {live:.1f} s")
    return client, live


def ends_without_a_failure(pods, client):
    """A pod leaves the mesh and ends while a client asks all the time: no request fails, and both programs end well."""
    going, kept = pods
    client.update_config_map("outrigger-mesh", {"mesh.yaml": mesh(going.address, kept.address, 50)})
    loop = f"""while [ ! -e /stop ]; do
      wget -q -O - --header 'Host: web' http://{VIP}/cgi-bin/who >> /answers 2>&1 || echo " failed $(date)" >> /answers
      echo >> /answers
    done"""
    podman("exec", "--detach", client.container("app").id, "sh", "-c", loop)

    def answers():
        return run(client, "cat", "/answers").split("\n")

    wait_for("both versions to answer", lambda: {"v1", "v2"} <= {line[:2] for line in answers()})
    client.update_config_map("outrigger-mesh", {"mesh.yaml": mesh(kept.address, kept.address, 50)})
    codes = going.terminate()
    run(client, "touch", "/stop")
    failed = [line for line in answers() if line and not line.startswith("v")]
    check(not failed, f"{len(failed)} of {len(answers())} requests failed: {failed}")
    check(codes["istio-proxy"] == 0, f"the sidecar ended with {codes}")
    return len(answers())


def jobs_end(cluster):
    """A Job behind a sidecar completes: native by its kind, classic because `outrigger run` ends the proxy."""
    fetch = ["/bin/wget", "-q", "-O", "/dev/null", "--header", "Host: web", f"http://{VIP}/cgi-bin/who"]
    native = cluster.pod("job", inject(job(fetch))).start()
    codes = native.complete()
    check(codes == {"ask": 0, "istio-proxy": 0}, f"the native job ended with {codes}")
    failing = cluster.pod("job-failing", inject(job(["/bin/sh", "-c", "exit 3"]))).start()
    codes = failing.complete()
    check(codes == {"ask": 3, "istio-proxy": 0}, f"the failing job ended with {codes}")
    classic = job(["/outrigger", "run", "--", *fetch], 'sidecar.istio.io/nativeSidecar: "false"')
    classic = cluster.pod("job-classic", inject(classic)).start()
    check(not classic.sidecars, "the classic form is no init container")
    codes = classic.complete()
    check(codes == {"ask": 0, "istio-proxy": 0}, f"the classic job ended with {codes}")


def runs_the_example(cluster):
    """examples/inject with the rules of k8s/base: what the how-to page asks the sidecar is answered."""
    with open(os.path.join(ROOT, "examples/inject/deployment.yaml"), encoding="utf-8") as file:
        workload, service = inject(file.read())["items"]
    cluster.config_maps["outrigger-mesh"] = {}
    for path in glob.glob(os.path.join(ROOT, "k8s/base/mesh/rules/*-*.yaml")):
        with open(path, encoding="utf-8") as file:
            cluster.config_maps["outrigger-mesh"][os.path.basename(path)] = file.read()
    pod = cluster.pod("example", workload).start()
    wait_for("the example to be ready", pod.is_ready)
    status, headers, body = ask(f"{pod.address}:{pod.spec['containers'][0]['ports'][0]['containerPort']}", "/")
    check((status, headers["server"], body) == (200, "istio-envoy", "web\n"), f"{status} {headers} {body}")
    check(service["spec"]["ports"][0]["targetPort"] == "http", "the Service was changed")
    page = os.path.join(ROOT, "docs/howto/inject.md")
    asked = [command.text.split(" -- ")[1].split() for command in commands(page, page) if command.text.startswith("kubectl exec")]
    check(len(asked) == 2, f"the page asks the sidecar {asked}")
    for words in asked:
        podman("exec", pod.container("istio-proxy").id, *words)
    codes = pod.terminate()
    check(codes["istio-proxy"] == 0, f"the sidecar ended with {codes}")


def run(pod, *command):
    done = podman("exec", pod.container("app").id, *command, check=False)
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
    for program, package in (("podman", "podman"), ("runc", "runc"), ("buildah", "buildah"), ("busybox", "busybox-static")):
        if shutil.which(program) is None:
            skip(f"there is no `{program}`: install {package}")
    if podman("image", "exists", IMAGE, check=False).returncode != 0:
        skip(f"there is no image {IMAGE}: build it by .ci/images")


def main():
    require()
    began = time.monotonic()
    with contextlib.ExitStack() as resources:
        build_app(resources.enter_context(tempfile.TemporaryDirectory()))
        resources.callback(podman, "rmi", "--force", APP, check=False)
        cluster = Cluster(resources)
        # From here on this process is in the node's namespace, podman and all requests with it.
        resources.enter_context(cluster.node.entered())
        runs_the_example(cluster)
        pods = serves_captured(cluster)
        client, live = follows_its_config_map(cluster, pods)
        jobs_end(cluster)
        answers = ends_without_a_failure(pods, client)
    print(
        f"injected_pods: 7 pods ran from injected YAML, a changed ConfigMap was live after {live * 1000:.0f} ms, "
        f"one ended under {answers} requests without a failure, {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        print(f"FAILED: {failure}", flush=True)
        sys.exit(1)
