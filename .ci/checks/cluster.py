"""A small stand-in for a cluster: an API server on loopback that the real kubectl talks to, and the least of what stands
behind it. It keeps objects, holds them against the schemas of Kubernetes, merges patches, makes a pod for a workload
whose template is new, and asks the webhooks that it has been given about that pod.

Nothing runs in its pods; e2e/kubelet.py does that. No authentication, no history, no garbage collector but for
namespaces.
"""

import copy
import hashlib
import http.server
import json
import threading

import kubernetes_validate

from api import Refused, handler

VERSION = "1.32"
CUSTOM = ("istio.io", "cert-manager.io")
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")


class Cluster:
    """`admit` is called with the cluster, a webhook that a pod matches, and the pod; it returns the pod as it is to be."""

    def __init__(self, admit):
        self.objects, self.admit = {}, admit
        self.lock = threading.RLock()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.server.daemon_threads = True
        self.address = "http://127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def kubeconfig(self):
        cluster = {"name": "stand-in", "cluster": {"server": self.address}}
        context = {"name": "stand-in", "context": {"cluster": "stand-in", "user": "nobody"}}
        return json.dumps({
            "apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context],
            "users": [{"name": "nobody", "user": {}}], "current-context": "stand-in",
        })

    def all(self, kind, namespace=None):
        """The objects of a kind, copied."""
        with self.lock:
            found = [thing for thing in self.objects.values() if thing["kind"] == kind]
        return [copy.deepcopy(thing) for thing in found if namespace in (None, thing["metadata"].get("namespace"))]

    def get(self, kind, namespace, name):
        try:
            return next(thing for thing in self.all(kind, namespace) if thing["metadata"]["name"] == name)
        except StopIteration:
            raise Refused(404, "NotFound", f'{kind} "{name}" not found') from None

    def names(self):
        """What there is, as `Kind namespace/name`."""
        return {"%s %s/%s" % (kind, namespace or "", name) for kind, namespace, name in self.objects}

    def put(self, thing):
        """Stores an object that is new or changed, and does what follows from it."""
        meta, kind = thing["metadata"], thing["kind"]
        identity = (kind, meta.get("namespace"), meta["name"])
        if "namespace" in meta and ("Namespace", None, meta["namespace"]) not in self.objects:
            raise Refused(404, "NotFound", f'namespaces "{meta["namespace"]}" not found')
        if not thing["apiVersion"].partition("/")[0].endswith(CUSTOM):
            try:
                kubernetes_validate.validate(thing, VERSION, strict=True)
            except kubernetes_validate.ValidationError as error:
                raise Refused(422, "Invalid", f"{identity}: {error.message} at {list(error.path)}") from error
        old = self.objects.get(identity)
        if kind == "Namespace":
            meta.setdefault("labels", {})["kubernetes.io/metadata.name"] = meta["name"]
        if old is None:
            meta["uid"] = hashlib.sha256(repr(identity).encode()).hexdigest()[:36]
            meta["creationTimestamp"] = "2026-01-01T00:00:00Z"
        meta["resourceVersion"] = str(int((old or thing)["metadata"].get("resourceVersion", "0")) + 1)
        if kind in WORKLOADS:
            meta["generation"] = int((old or thing)["metadata"].get("generation", 0)) + 1
        self.objects[identity] = thing
        if kind in WORKLOADS:
            same = old is not None and old["spec"]["template"] == thing["spec"]["template"]
            if same or self.roll_out(thing):
                thing["status"] = rolled_out(thing)
        return thing

    def delete(self, identity):
        kind, _, name = identity
        thing = self.objects[identity]
        if kind == "Namespace":
            # It ends when somebody looks whether it has.
            thing["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        else:
            del self.objects[identity]
        if kind in WORKLOADS:
            self.end_pods(thing)
        return thing

    def end_namespaces(self):
        for kind, _, name in list(self.objects):
            if kind == "Namespace" and "deletionTimestamp" in self.objects[kind, None, name]["metadata"]:
                for identity in list(self.objects):
                    if identity[1] == name:
                        del self.objects[identity]
                del self.objects[kind, None, name]

    def end_pods(self, workload):
        owner = workload["metadata"]["uid"]
        for identity, thing in list(self.objects.items()):
            if identity[0] == "Pod" and thing["metadata"].get("ownerReferences", [{}])[0].get("uid") == owner:
                del self.objects[identity]

    def roll_out(self, workload):
        """One new pod of the template takes the place of the old one; whether the webhooks let it."""
        meta, template = workload["metadata"], copy.deepcopy(workload["spec"]["template"])
        number = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:8]
        owner = {"apiVersion": workload["apiVersion"], "kind": workload["kind"], "name": meta["name"],
                 "uid": meta["uid"], "controller": True}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": template.get("metadata", {}), "spec": template["spec"]}
        pod["metadata"] |= {"name": f"{meta['name']}-{number}", "namespace": meta["namespace"], "ownerReferences": [owner]}
        try:
            pod = self.admitted(pod)
        except Refused:
            # As in a cluster: the old pod stays, the new one never comes, and a wait for it does not end.
            return False
        self.end_pods(workload)
        self.put(pod)
        return True

    def admitted(self, pod):
        namespace = self.get("Namespace", None, pod["metadata"]["namespace"])
        for configuration in self.all("MutatingWebhookConfiguration"):
            for webhook in configuration["webhooks"]:
                selectors = (("namespaceSelector", namespace), ("objectSelector", pod))
                if all(selected(webhook[name], thing["metadata"].get("labels", {})) for name, thing in selectors):
                    pod = self.admit(self, webhook, pod)
        return pod


def rolled_out(workload):
    number = workload["spec"].get("replicas", 1)
    counts = {"observedGeneration": workload["metadata"]["generation"]}
    if workload["kind"] == "Deployment":
        return counts | {name: number for name in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")}
    if workload["kind"] == "StatefulSet":
        return counts | {name: number for name in ("replicas", "updatedReplicas", "readyReplicas")}
    names = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable")
    return counts | {name: 1 for name in names} | {"numberMisscheduled": 0}


def selected(selector, labels):
    """Whether a label selector takes these labels."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", []):
        value, values = labels.get(expression["key"]), expression.get("values", [])
        holds = {"In": value in values, "NotIn": value not in values, "Exists": value is not None, "DoesNotExist": value is None}
        if not holds[expression["operator"]]:
            return False
    return True
