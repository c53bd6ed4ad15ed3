"""What the stand-in of a cluster asks about a new pod: our webhook, as a process with the environment that its Deployment
says, over TLS; and what Istio's injector would leave, as far as one can tell who has injected a pod.
"""

import base64
import json
import ssl
import urllib.request

from api import Refused
from inject import apply, certificate
from processes import Program, outrigger


class Injectors:
    """`admit` is what a Cluster asks."""

    def __init__(self, folder):
        self.folder = folder
        self.process, self.environment = None, None
        self.files = certificate(folder)

    def admit(self, cluster, webhook, pod):
        if not webhook["name"].endswith("outrigger.dev"):
            return istios(pod)
        service = webhook["clientConfig"]["service"]
        # Without its Deployment nobody answers, and the pod cannot be made.
        deployment = cluster.get("Deployment", service["namespace"], service["name"])
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        environment = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        if environment != self.environment:
            self.restart(environment, container["args"])
        (address,) = self.process.listening("webhook")
        port = address.rsplit(":", 1)[1]
        namespace = pod["metadata"]["namespace"]
        review = {
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": pod["metadata"]["name"], "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"}, "namespace": namespace,
                "operation": "CREATE", "object": pod, "dryRun": False,
            },
        }
        url = f"https://localhost:{port}{service['path']}?timeout=10s"
        request = urllib.request.Request(url, json.dumps(review).encode(), {"content-type": "application/json"})
        context = ssl.create_default_context(cafile=self.files[0])
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            response = json.load(answer)["response"]
        if not response["allowed"]:
            raise Refused(403, "Forbidden", str(response))
        patch = json.loads(base64.b64decode(response["patch"])) if "patch" in response else []
        return apply(patch, pod)

    def restart(self, environment, args):
        self.close()
        certificates = ["--tls-cert", self.files[0], "--tls-key", self.files[1]]
        args = [outrigger(), *args, "--listen", "127.0.0.1:0", *certificates]
        self.process, self.environment = Program("webhook", args, self.folder, environment), environment

    def close(self):
        if self.process:
            self.process.stop()
            self.process.__exit__()


def istios(pod):
    """A pod as Istio's injector marks it."""
    status = {"initContainers": ["istio-init"], "containers": ["istio-proxy"], "volumes": [], "revision": "default"}
    pod["metadata"].setdefault("annotations", {})["sidecar.istio.io/status"] = json.dumps(status)
    pod["spec"]["containers"].append({"name": "istio-proxy", "image": "docker.io/istio/proxyv2:1.28.0"})
    return pod


def injected_by(pod):
    """`Outrigger`, `Istio` or nobody."""
    status = pod["metadata"].get("annotations", {}).get("sidecar.istio.io/status")
    if status is None:
        return None
    return "Outrigger" if "outrigger" in json.loads(status) else "Istio"
