"""The API of the stand-in of a cluster (cluster.py), as far as kubectl asks: which resource, which verb, and which kinds
there are.
"""

import copy
import http.server
import json
import re
import urllib.parse

from merge import merge

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


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, code, reason, message):
        super().__init__(message)
        self.code, self.reason = code, reason


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


PATH = re.compile(
    r"/apis?/(?P<version>(?:[\w.-]+/)?v\d\w*)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<plural>\w+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>\w+))?"
)


def resource(path):
    """Version, kind, namespace, name and subresource that a path names."""
    found = PATH.fullmatch(path)
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
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups()}
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


def groups():
    found = {}
    for version, *_ in RESOURCES:
        group, _, number = version.rpartition("/")
        if group:
            found.setdefault(group, {})[number] = {"groupVersion": version, "version": number}
    listed = {group: list(versions.values()) for group, versions in found.items()}
    return [{"name": group, "versions": versions, "preferredVersion": versions[0]} for group, versions in listed.items()]


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
