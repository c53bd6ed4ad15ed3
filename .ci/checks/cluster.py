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
import re
import threading
import urllib.parse

import kubernetes_validate

VERSION = "1.32"
# Group and version, plural, kind, whether it has a namespace.
RESOURCES = [
    ("v1", "namespaces", "Namespace", False),
    ("v1", "pods", "Pod", True),
    ("v1", "services", "Service", True),
    ("v1", "configmaps", "ConfigMap", True),
    ("v1", "secrets", "Secret", True),
    ("v1", "serviceaccounts", "ServiceAccount", True),
    ("apps/v1", "deployments", "Deployment", True),
    ("apps/v1", "statefulsets", "StatefulSet", True),
    ("apps/v1", "daemonsets", "DaemonSet", True),
    ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", True),
    ("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", True),
    ("networking.k8s.io/v1", "ingresses", "Ingress", True),
    ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy", True),
    ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice", True),
    ("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", False),
    ("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", False),
    ("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", False),
    ("networking.istio.io/v1", "virtualservices", "VirtualService", True),
    ("networking.istio.io/v1", "destinationrules", "DestinationRule", True),
    ("networking.istio.io/v1", "serviceentries", "ServiceEntry", True),
    ("networking.istio.io/v1", "workloadentries", "WorkloadEntry", True),
    ("networking.istio.io/v1", "sidecars", "Sidecar", True),
    ("networking.istio.io/v1beta1", "virtualservices", "VirtualService", True),
    ("networking.istio.io/v1beta1", "destinationrules", "DestinationRule", True),
    ("telemetry.istio.io/v1", "telemetries", "Telemetry", True),
    ("security.istio.io/v1", "peerauthentications", "PeerAuthentication", True),
    ("security.istio.io/v1", "authorizationpolicies", "AuthorizationPolicy", True),
    ("security.istio.io/v1", "requestauthentications", "RequestAuthentication", True),
    ("networking.istio.io/v1alpha3", "envoyfilters", "EnvoyFilter", True),
    ("extensions.istio.io/v1alpha1", "wasmplugins", "WasmPlugin", True),
    ("cert-manager.io/v1", "certificates", "Certificate", True),
]
CUSTOM = ("istio.io", "cert-manager.io")
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
# By what the items of a list are told apart when a patch is merged into it (Kubernetes' `patchMergeKey`).
MERGE_KEYS = {
    "containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "webhooks": "name",
    "volumeMounts": "mountPath", "ports": "containerPort", "imagePullSecrets": "name",
}


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, code, reason, message):
        super().__init__(message)
        self.code, self.reason = code, reason


class Cluster:
    """`admit` is called with a webhook of a configuration, a pod and its namespace, and returns the pod as it may be."""

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
            if old is None or old["spec"]["template"] != thing["spec"]["template"]:
                self.roll_out(thing)
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
        """One new pod of the template takes the place of the old one, if the webhooks let it."""
        meta, template = workload["metadata"], copy.deepcopy(workload["spec"]["template"])
        number = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:8]
        owner = {"apiVersion": workload["apiVersion"], "kind": workload["kind"], "name": meta["name"],
                 "uid": meta["uid"], "controller": True}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": template.get("metadata", {}), "spec": template["spec"]}
        pod["metadata"] |= {"name": f"{meta['name']}-{number}", "namespace": meta["namespace"], "ownerReferences": [owner]}
        try:
            pod = self.admitted(pod)
        except Refused:
            # As in a cluster: the old pod stays, and the new one never comes.
            return
        self.end_pods(workload)
        self.put(pod)

    def admitted(self, pod):
        namespace = self.get("Namespace", None, pod["metadata"]["namespace"])
        for configuration in self.all("MutatingWebhookConfiguration"):
            for webhook in configuration["webhooks"]:
                selectors = (("namespaceSelector", namespace), ("objectSelector", pod))
                if all(selected(webhook[name], thing["metadata"].get("labels", {})) for name, thing in selectors):
                    pod = self.admit(webhook, pod)
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


def merge(old, patch, strategic):
    """A merge patch (RFC 7386), or Kubernetes' strategic one, which merges lists by a key of their items."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    kept = patch.get("$retainKeys")
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None:
            merged.pop(key, None)
        elif strategic and isinstance(value, list) and key in MERGE_KEYS:
            order = patch.get(f"$setElementOrder/{key}")
            merged[key] = merge_list(merged.get(key, []), value, MERGE_KEYS[key], order)
        else:
            merged[key] = merge(merged.get(key), value, strategic)
    return {key: value for key, value in merged.items() if kept is None or key in kept}


def merge_list(old, patch, name, order):
    items = {item[name]: item for item in old}
    for item in patch:
        if item.get("$patch") == "delete":
            items.pop(item[name], None)
        else:
            items[item[name]] = merge(items.get(item[name]), item, True)
    if order:
        place = [item[name] for item in order]
        return sorted(items.values(), key=lambda item: place.index(item[name]) if item[name] in place else len(place))
    return list(items.values())


def handler(cluster):
    """HTTP: which resource, which verb."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            self.answer(self.read)

        def do_POST(self):
            self.answer(self.create)

        def do_PATCH(self):
            self.answer(self.patch)

        def do_DELETE(self):
            self.answer(self.remove)

        def answer(self, verb):
            length = int(self.headers.get("content-length", 0))
            self.body = json.loads(self.rfile.read(length)) if length else None
            url = urllib.parse.urlsplit(self.path)
            self.query = dict(urllib.parse.parse_qsl(url.query))
            try:
                with cluster.lock:
                    code, said = verb(url.path)
            except Refused as refused:
                code = refused.code
                said = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
                        "reason": refused.reason, "message": str(refused)}
            text = json.dumps(said).encode()
            self.send_response(code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def read(self, path):
            if (found := discovery(path)) is not None:
                return 200, found
            version, kind, namespace, name, _ = resource(path)
            cluster.end_namespaces()
            if name:
                return 200, shown(cluster.get(kind, namespace, name), version)
            if self.query.get("watch") == "true":
                # Nothing happens behind a client's back; it asks again.
                return 200, {}
            items = [shown(thing, version) for thing in cluster.all(kind, namespace) if self.asked_for(thing)]
            return 200, {"kind": f"{kind}List", "apiVersion": version, "metadata": {"resourceVersion": "1"}, "items": items}

        def asked_for(self, thing):
            labels, meta = thing["metadata"].get("labels", {}), thing["metadata"]
            for term in filter(None, self.query.get("labelSelector", "").split(",")):
                key, _, value = term.partition("=")
                if labels.get(key) != value.lstrip("="):
                    return False
            field = self.query.get("fieldSelector", "")
            return not field or field == f"metadata.name={meta['name']}"

        def create(self, path):
            _, kind, namespace, _, _ = resource(path)
            thing = self.body
            if namespace:
                thing["metadata"]["namespace"] = namespace
            if (kind, namespace, thing["metadata"]["name"]) in cluster.objects:
                raise Refused(409, "AlreadyExists", f'{kind} "{thing["metadata"]["name"]}" already exists')
            if kind == "Pod":
                thing = cluster.admitted(thing)
            return 201, cluster.put(thing)

        def patch(self, path):
            _, kind, namespace, name, sub = resource(path)
            old = cluster.get(kind, namespace, name)
            strategic = self.headers["content-type"] == "application/strategic-merge-patch+json"
            new = merge(old, self.body, strategic)
            if sub == "scale":
                new = cluster.put(old | {"spec": old["spec"] | {"replicas": self.body["spec"]["replicas"]}})
                return 200, {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": new["metadata"],
                             "spec": {"replicas": new["spec"]["replicas"]}, "status": {}}
            return 200, shown(cluster.put(new) if new != old else old, new["apiVersion"])

        def remove(self, path):
            version, kind, namespace, name, _ = resource(path)
            cluster.get(kind, namespace, name)
            return 200, shown(cluster.delete((kind, namespace, name)), version)

    return Handler


def resource(path):
    """Version, kind, namespace, name and subresource that a path names."""
    found = re.fullmatch(r"/(?:api|apis)/((?:[\w.-]+\.[\w.-]+/|apps/|policy/|autoscaling/|batch/)?v\w+)(?:/namespaces/([^/]+)(?=/))?/(\w+)(?:/([^/]+))?(?:/(\w+))?", path)
    if found:
        version, namespace, plural, name, sub = found.groups()
        for known, plural_name, kind, namespaced in RESOURCES:
            if (known, plural_name) == (version, plural):
                return version, kind, namespace if namespaced else None, name, sub
    raise Refused(404, "NotFound", f"the server could not find the requested resource {path}")


def shown(thing, version):
    return copy.deepcopy(thing) | {"apiVersion": version}


def discovery(path):
    """What kubectl asks to learn which kinds there are."""
    groups = {}
    for version, *_ in RESOURCES:
        group, _, _ = version.rpartition("/")
        if group:
            entry = {"groupVersion": version, "version": version.rpartition("/")[2]}
            groups.setdefault(group, []).append(entry) if entry not in groups.get(group, []) else None
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        listed = [{"name": name, "versions": versions, "preferredVersion": versions[0]} for name, versions in groups.items()]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
    if path.startswith("/openapi/v3"):
        return schemas(path.removeprefix("/openapi/v3").strip("/"))
    version = re.sub(r"^/apis?/", "", path)
    verbs = ["create", "delete", "get", "list", "patch", "watch"]
    found = [
        {"name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": verbs}
        for known, plural, kind, namespaced in RESOURCES if known == version
    ]
    if found:
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": found}
    return None


def schemas(path):
    """The least of OpenAPI that has kubectl leave the validation to the server."""
    places = {("apis/" if "/" in version else "api/") + version: version for version, *_ in RESOURCES}
    if not path:
        return {"paths": {place: {"serverRelativeURL": f"/openapi/v3/{place}"} for place in places}}
    version = places[path]
    group, _, number = version.rpartition("/")
    parameter = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    operations = {
        f"/{path}/{plural}": {"patch": {"parameters": [parameter], "responses": {}, "x-kubernetes-group-version-kind": {
            "group": group, "version": number, "kind": kind}}}
        for known, plural, kind, _ in RESOURCES if known == version
    }
    return {"openapi": "3.0.0", "info": {"title": "stand-in", "version": "1"}, "paths": operations}
