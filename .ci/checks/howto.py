"""The how-to pages, followed: every command runs as it stands on the page, in a copy of the repository, by the real
kubectl against a stand-in for a cluster (cluster.py) with our webhook behind it. What needs a kubelet cannot run here:
`kubectl exec` and `logs`, and a request from inside of a pod; e2e/injected_pods.py and e2e/examples.py do those.
"""

import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import tempfile

import yaml

from cluster import Cluster
from injectors import Injectors, injected_by
from manifests import BIN, ROOT, TOOLS, difference, documents
from pages import Reader, commands

PAGES = ROOT / "docs/howto"
# What a kubelet would have to do, and what the check of its arguments is.
OUTSIDE = {
    r"^kubectl exec ": r"kubectl exec -n \S+ deploy/\S+ -c istio-proxy -- /outrigger (healthcheck|admin GET /\w+)",
    r"^kubectl logs ": r"kubectl logs -n \S+ deploy/\S+ -c istio-proxy > access.log",
    r"^curl ": r"curl -H 'version: canary' -H 'content-type: application/json' -d '\{\"resourceSpans\":\[\]\}' \\\s+"
               r"http://otlp-collector\.observability:4318/v1/traces",
}
LOGGED = {"method": "POST", "path": "/v1/traces", "authority": "otlp-collector.observability:4318",
          "downstream_local_address": "10.96.0.9:4318", "protocol": "HTTP/1.1", "response_code": 200,
          "upstream_cluster": "outbound|4318|v1|otlp-collector.observability.svc.cluster.local"}


def run(suite):
    ran, outside = 0, 0
    for story in (inject, canary, mtls, migrate, uninstall):
        with suite.check(f"docs/howto: {story.__doc__}"):
            with Place() as place:
                story(place)
            ran += place.ran
            outside += place.outside
    print(f"       {ran} commands of the how-to pages ran as they stand, {outside} need a kubelet: their arguments were checked")


class Place:
    """A copy of the repository under git, and a cluster with the namespace shop."""

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.folder = stack.enter_context(tempfile.TemporaryDirectory())
            self.copy = pathlib.Path(self.folder, "repository")
            for part in ("k8s", "examples", "docs"):
                shutil.copytree(ROOT / part, self.copy / part)
            injectors = Injectors(self.folder)
            stack.callback(injectors.close)
            self.cluster = Cluster(injectors.admit)
            stack.callback(self.cluster.close)
            config = pathlib.Path(self.folder, "kubeconfig")
            config.write_text(self.cluster.kubeconfig())
            self.env = {"KUBECONFIG": str(config), "HOME": self.folder, "GIT_CONFIG_NOSYSTEM": "1"}
            self.path = [str(BIN), str(TOOLS / "bin")]
            self.ran, self.outside = 0, 0
            self.sh("git init -q && git add -A && git -c user.name=a -c user.email=a@localhost commit -qm all")
            self.apply('{apiVersion: v1, kind: Namespace, metadata: {name: shop}}')
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def sh(self, command, text=""):
        """What the test does itself, beside the page."""
        path = ":".join([*self.path, "/usr/bin:/bin"])
        run = subprocess.run(["bash", "-c", command], input=text, capture_output=True, text=True, cwd=self.copy,
                             env=self.env | {"PATH": path}, timeout=60)
        assert run.returncode == 0, f"{command}: {run.stdout}{run.stderr}"
        return run.stdout

    def apply(self, text):
        self.sh("kubectl apply -f -", text)

    @contextlib.contextmanager
    def reading(self, page):
        outside = list(OUTSIDE)
        with Reader(str(self.copy / "docs/howto" / page), str(self.copy), self.path, self.env, outside) as reader:
            yield reader
        for command in reader.skipped:
            [known] = [form for start, form in OUTSIDE.items() if re.search(start, command.text)]
            assert re.fullmatch(known, command.text), f"{command} is not of the form {known}"
        self.ran += reader.done
        self.outside += len(reader.skipped)

    def deployment(self, name, labels=None, namespace="shop"):
        """Another workload without a sidecar."""
        template = {"metadata": {"labels": {"app": name} | (labels or {})}, "spec": {"containers": [{"name": name, "image": "a:1"}]}}
        spec = {"selector": {"matchLabels": {"app": name}}, "template": template}
        self.apply(json.dumps({"apiVersion": "apps/v1", "kind": "Deployment",
                               "metadata": {"name": name, "namespace": namespace}, "spec": spec}))

    def pod(self, app, namespace="shop"):
        [pod] = [pod for pod in self.cluster.all("Pod", namespace) if pod["metadata"]["labels"].get("app") == app]
        return pod

    def by(self, app):
        return injected_by(self.pod(app))

    def rules(self, namespace):
        """The documents that sidecars of a namespace get."""
        data = self.cluster.get("ConfigMap", namespace, "outrigger-mesh")["data"]
        return [document for text in data.values() for document in documents(text)]

    def weights(self):
        """Of the route that everybody takes, by subset, where all namespaces have the same."""
        found = []
        for namespace in ("shop", "observability"):
            [rule] = [rule for rule in self.rules(namespace) if rule["kind"] == "VirtualService"]
            route = rule["spec"]["http"][-1]["route"]
            found.append({each["destination"]["subset"]: each.get("weight", 100) if len(route) > 1 else 100 for each in route})
        assert found[0] == found[1], found
        return found[0]


def inject(place):
    """inject: by hand and by label, a pod has the sidecar and its rules"""
    place.deployment("cart")
    with place.reading("inject.md") as reader:
        reader.until("outrigger inject -f examples/inject/deployment.yaml | kubectl apply -f -")
        assert (place.by("web"), place.by("cart")) == ("Outrigger", None)
        volumes = [volume["configMap"]["name"] for volume in place.pod("web")["spec"]["volumes"] if "configMap" in volume]
        assert volumes == ["outrigger-mesh"] and place.rules("shop"), volumes
        reader.until("kubectl label namespace shop")
        assert place.by("cart") is None, "a pod got a sidecar without a restart"
        reader.until("kubectl rollout restart")
        assert (place.by("web"), place.by("cart")) == ("Outrigger", "Outrigger")
        reader.rest()
    containers = [each["name"] for each in place.pod("web")["spec"]["initContainers"]]
    assert containers == ["istio-init", "istio-proxy"], f"injected twice: {containers}"


def canary(place):
    """canary: 0, 10, 50 and 100 %, replicas with them, and back after the promotion"""
    place.copy.joinpath("access.log").write_text(f"{json.dumps(LOGGED)}\n" * 40)

    def scale(version):
        return place.cluster.get("Deployment", "observability", f"otlp-collector-{version}")["spec"]

    def image(version):
        return scale(version)["template"]["spec"]["containers"][0]["image"].rpartition(":")[2]

    with place.reading("canary.md") as reader:
        reader.until("kubectl rollout status deployment/otlp-collector-v2")
        assert (image("v1"), image("v2")) == ("0.1.0", "0.2.0"), (image("v1"), image("v2"))
        printed = reader.until("outrigger diff", status=1)
        assert '"weight":90' in printed and '"weight":10' in printed, printed
        printed = reader.until("outrigger diff", status=1)
        assert "4.0 of them go elsewhere (10.00 %)" in printed, printed
        reader.until("kubectl apply -k k8s/overlays/prod")
        assert place.weights() == {"v1": 90, "v2": 10}, place.weights()
        reader.until("kubectl apply -n shop -k k8s/base/mesh")
        assert place.weights() == {"v1": 50, "v2": 50} and scale("v2")["replicas"] == 3
        reader.until("kubectl apply -n shop -k k8s/base/mesh")
        assert place.weights() == {"v2": 100} and scale("v2")["replicas"] == 3, "the canary shrank under load"
        reader.rest()
    assert place.weights() == {"v1": 100}, place.weights()
    assert (image("v1"), image("v2"), scale("v2")["replicas"]) == ("0.2.0", "0.2.0", 1)
    assert place.sh("git status --porcelain k8s/base") == "", "the rules are not what they were"


def mtls(place):
    """mtls: pods get their certificates, and sidecars the rules that encrypt"""
    place.sh("kubectl apply -k k8s/overlays/prod && kubectl label namespace shop istio-injection=enabled")

    def secrets(app):
        return [volume["secret"]["secretName"] for volume in place.pod(app)["spec"]["volumes"] if "secret" in volume]

    page = (PAGES / "mtls.md").read_text()
    # The other blocks are whole resources.
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, re.M | re.S)
    [annotations] = [yaml.safe_load(block) for block in blocks if "apiVersion:" not in block]
    with place.reading("mtls.md") as reader:
        reader.until("outrigger inject")
        [certificate] = place.cluster.all("Certificate", "shop")
        assert secrets("web") == [certificate["spec"]["secretName"]], secrets("web")
        reader.until("kubectl set env")
        place.deployment("cart")
        assert secrets("cart") == ["identity"], secrets("cart")
        reader.until("kubectl apply -n shop -k k8s/base/mesh")
        modes = {rule["kind"]: rule["spec"] for rule in place.rules("shop") if rule["metadata"]["name"] in ("pay", "default")}
        assert modes["DestinationRule"]["trafficPolicy"]["tls"] == {"mode": "ISTIO_MUTUAL"} and len(modes) == 1, modes
        reader.until("kubectl apply -n shop -k k8s/base/mesh")
        modes = {rule["kind"]: rule["spec"] for rule in place.rules("shop")}
        assert modes["PeerAuthentication"] == {"mtls": {"mode": "STRICT"}}, modes
        reader.rest()
    workload = documents((ROOT / "examples/inject/deployment.yaml").read_text())[0]
    workload["spec"]["template"]["metadata"]["annotations"] = annotations
    printed = documents(place.sh("outrigger inject -f -", yaml.safe_dump(workload)))[0]["spec"]["template"]
    [proxy] = [each for each in printed["spec"]["initContainers"] if each["name"] == "istio-proxy"]
    [mount] = [each["name"] for each in proxy["volumeMounts"] if "workload-spiffe-credentials" in each["mountPath"]]
    [volume] = [each for each in printed["spec"]["volumes"] if each["name"] == mount]
    assert volume["secret"]["secretName"] == "web-identity", volume
    assert printed["metadata"]["labels"]["security.istio.io/tlsMode"] == "istio", printed["metadata"]["labels"]


def migrate(place):
    """migrate: a workload moves to Outrigger and back, and its neighbours stay with Istio"""
    for name in ("registry", "rules"):
        place.apply((ROOT / f"examples/migrate/{name}.yaml").read_text())
    place.apply(istios_injector())
    place.sh("kubectl label namespace shop istio-injection=enabled")
    for name in ("web", "cart"):
        place.deployment(name)
    assert (place.by("web"), place.by("cart")) == ("Istio", "Istio")
    with place.reading("migrate-from-istio-proxy.md") as reader:
        printed = reader.until("outrigger validate")
        assert "AuthorizationPolicy are not honoured yet" in printed and "error" not in printed, printed
        printed = reader.until("outrigger explain")
        assert "-> outbound|8080||pay.shop.svc.cluster.local" in printed and "10.244.1.7:8080" in printed, printed
        printed = reader.until("outrigger inject")
        assert "sidecar.istio.io/componentLogLevel is not honoured" in printed, printed
        reader.until("kubectl apply -k k8s/overlays/istio")
        place.sh("kubectl rollout restart deployment/web -n shop")
        assert place.by("web") == "Istio", "the second injector took a pod of the first"
        reader.until("kubectl label namespace shop istio-injection-")
        assert (place.by("web"), place.by("cart")) == ("Istio", "Istio")
        reader.until("kubectl patch deployment web")
        assert (place.by("web"), place.by("cart")) == ("Outrigger", "Istio")
        mesh = pathlib.Path(place.folder, "mesh.yaml")
        mesh.write_text(yaml.safe_dump_all(place.rules("shop")))
        asked = "--namespace shop --interception-mode REDIRECT --request 'GET http://pay:8080/'"
        printed = place.sh(f"outrigger explain --config {mesh} {asked}")
        assert "VirtualService shop/pay" in printed and "`pay-pods.shop.svc.cluster.local`" in printed, printed
        [headless] = [each for each in place.cluster.all("Service", "shop") if each["metadata"]["name"] == "pay-pods"]
        assert headless["spec"]["clusterIP"] == "None", headless
        reader.until("kubectl patch deployment web")
        assert (place.by("web"), place.by("cart")) == ("Istio", "Istio")
        reader.rest()


def istios_injector():
    """Istio's webhooks are those of the base, with its own revision and name."""
    [ours] = [each for each in documents((ROOT / "k8s/base/webhook/injector.yaml").read_text())]
    return yaml.safe_dump(ours).replace("- outrigger\n", "- default\n").replace("outrigger-injector", "istio-sidecar-injector").replace(
        "injector.outrigger.dev", "sidecar-injector.istio.io")


def uninstall(place):
    """uninstall: what is left is what was there before, and Istio's pods are not touched"""
    place.apply('{apiVersion: v1, kind: Namespace, metadata: {name: old}}')
    place.deployment("cart")
    place.sh("kubectl apply -f examples/inject/deployment.yaml")
    place.apply(json.dumps(istios_pod()))
    before = place.cluster.names()
    web = place.cluster.get("Deployment", "shop", "web")["spec"]
    place.sh("kubectl apply -n shop -k k8s/base/mesh")
    place.sh("kubectl apply -k k8s/overlays/prod && kubectl label namespace shop istio-injection=enabled")
    place.sh("kubectl rollout restart deployment/cart -n shop && kubectl rollout restart deployment -n observability")
    place.sh("outrigger inject -f examples/inject/deployment.yaml | kubectl apply -f -")
    assert (place.by("web"), place.by("cart")) == ("Outrigger", "Outrigger")
    page = str(PAGES / "uninstall.md")
    [names] = [each.text for each in commands(page, page) if "jsonpath" in each.text]
    listed = {line.rpartition("-")[0] for line in place.sh(names).split()}
    assert {"shop/web", "shop/cart"} <= listed and not any(name.startswith("old/") for name in listed), listed
    with place.reading("uninstall.md") as reader:
        reader.until("kubectl rollout restart")
        assert place.by("cart") is None
        reader.until("kubectl get deployment web")
        assert place.by("web") is None
        printed = reader.until("kubectl get pods")
        namespaces = {line.partition("/")[0] for line in printed.split()}
        assert namespaces == {"observability"}, f"the collectors alone have sidecars still, says the page: {printed}"
        reader.rest()
    without_hash = lambda names: {re.sub(r"^(Pod .*)-[0-9a-f]{8}$", r"\1", name) for name in names}
    left, were = without_hash(place.cluster.names()), without_hash(before)
    assert left == were, f"left over: {sorted(left - were)}, gone: {sorted(were - left)}"
    after = place.cluster.get("Deployment", "shop", "web")["spec"]
    assert after["template"]["metadata"].pop("annotations").keys() == {"kubectl.kubernetes.io/restartedAt"}, after
    assert not (wrong := difference(web, after, "web")), wrong


def istios_pod():
    status = '{"initContainers":["istio-init"],"containers":["istio-proxy"],"volumes":[],"revision":"default"}'
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "other", "namespace": "old", "annotations": {"sidecar.istio.io/status": status}},
        "spec": {"containers": [{"name": "other", "image": "a:1"}]},
    }
