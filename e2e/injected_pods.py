"""Pods as `outrigger inject` prints them, run from the built image with podman: capture, start and end in order, probes,
a live change of the mesh's ConfigMap, Jobs that end, in the native and in the classic form.

Root, podman and runc are needed. All traffic stays in network namespaces that the test makes.
"""

import contextlib
import json
import sys
import tempfile
import time

from example_pods import encrypts, runs_the_example
from kubelet import podman
from pods import APP, VIP, Cluster, ask, build_app, deployment, inject, require, run
from processes import Failed, check, wait_for


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
    # Each look is a command in a container, which takes its time where the disk is busy.
    check(live < 5, f"a changed ConfigMap was live after {live:.1f} s")
    return client, live


def ends_without_a_failure(pods, client):
    """A pod leaves the mesh and ends while a client asks all the time: no request fails, and both programs end well."""
    going, kept = pods
    client.update_config_map("outrigger-mesh", {"mesh.yaml": mesh(going.address, kept.address, 50)})
    loop = f"""while [ ! -e /stop ]; do
      wget -q -O - --header 'Host: web' http://{VIP}/cgi-bin/who >> /answers 2>&1 || echo " failed $(date)" >> /answers
      echo >> /answers
    done"""
    run(client, "touch", "/answers")
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


def main():
    require()
    began = time.monotonic()
    with contextlib.ExitStack() as resources:
        folder = resources.enter_context(tempfile.TemporaryDirectory())
        build_app(folder)
        resources.callback(podman, "rmi", "--force", APP, check=False)
        cluster = Cluster(resources)
        # From here on this process is in the node's namespace, podman and all requests with it.
        resources.enter_context(cluster.node.entered())
        runs_the_example(cluster)
        encrypts(cluster, folder)
        pods = serves_captured(cluster)
        client, live = follows_its_config_map(cluster, pods)
        jobs_end(cluster)
        answers = ends_without_a_failure(pods, client)
    print(
        f"injected_pods: 9 pods ran from injected YAML, a changed ConfigMap was live after {live * 1000:.0f} ms, "
        f"one ended under {answers} requests without a failure, {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        print(f"FAILED: {failure}", flush=True)
        sys.exit(1)
