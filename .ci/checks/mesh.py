"""The rules of the mesh and the collector's configurations, read by the programs that will read them."""

import pathlib
import subprocess
import tempfile

import yaml
from cloudcoil.models.istio import networking, security

from consistency import collector_configurations
from manifests import BIN, OVERLAYS, ROOT, command, documents, helm, kustomize, of_kind, pods, selects

RULES = ROOT / "k8s/base/mesh/rules"
# As an injected pod runs.
CAPTURED = ("--namespace", "shop", "--interception-mode", "REDIRECT")


def run(suite):
    with suite.check("the rules are those of examples/seed"):
        as_the_seed()
    with suite.check("a sidecar takes the ConfigMap outrigger-mesh"):
        with mesh() as folder:
            outrigger("validate", folder, *CAPTURED)
    for version, header in (("v1", ()), ("v2", ("-H", "version: canary"))):
        with suite.check(f"a sidecar of another namespace finds {version} by its headless Service"):
            finds(version, header)
    with suite.check("each version's name in DNS is a headless Service of pods of that version"):
        versions_are_services()
    with suite.check("Istio's own types take the documents, those of the examples too"):
        istio_takes([*RULES.glob("*-*.yaml"), *(ROOT / "examples").rglob("*.yaml")])
    for path in OVERLAYS:
        with suite.check(f"{path}: the collector takes its configuration"):
            collectors_take(kustomize(path))
    with suite.check("k8s/chart: the collector takes its configuration"):
        collectors_take(helm())


def istio_takes(paths):
    types = {
        "networking.istio.io/v1": networking.v1, "networking.istio.io/v1beta1": networking.v1beta1,
        "security.istio.io/v1": security.v1,
    }
    found = [document for path in paths for document in documents(path.read_text())]
    found = [document for document in found if document.get("apiVersion") in types]
    assert len(found) > 20, f"only {len(found)} documents"
    for document in found:
        getattr(types[document["apiVersion"]], document["kind"]).model_validate(document)


def as_the_seed():
    for name in ("virtual-service", "destination-rule"):
        folders = (RULES, ROOT / "examples/seed")
        ours, seed = (yaml.safe_load((folder / f"{name}.yaml").read_text()) for folder in folders)
        # In a ConfigMap that any namespace may have, the document has to say where it belongs.
        assert ours["metadata"].pop("namespace") == "observability", name
        assert ours == seed, name


class mesh:
    """A folder with what is in the ConfigMap outrigger-mesh."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        [config] = of_kind(kustomize("k8s/base/mesh"), "ConfigMap")
        for name, text in config["data"].items():
            pathlib.Path(self.folder.name, name).write_text(text)
        return self.folder.name

    def __exit__(self, *_):
        self.folder.cleanup()


def outrigger(*arguments):
    return command(BIN / "outrigger", *arguments)


def finds(version, header):
    request = "POST http://otlp-collector.observability:4317/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    with mesh() as folder:
        answer = outrigger("explain", "--config", folder, *CAPTURED, "--request", request, *header)
    assert f"-> outbound|4317|{version}|otlp-collector.observability.svc.cluster.local\n" in answer, answer
    assert f"addresses of `otlp-collector-{version}.observability.svc.cluster.local`, looked up" in answer, answer


def versions_are_services():
    objects = kustomize("k8s/base")
    services = {
        f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local": service["spec"]
        for service in of_kind(objects, "Service")
    }
    entry, rule = (
        yaml.safe_load((RULES / f"{name}.yaml").read_text())["spec"] for name in ("service-entry", "destination-rule")
    )
    for endpoint in entry["endpoints"]:
        service = services[endpoint["address"]]
        assert service["clusterIP"] == "None", f"{endpoint['address']} is not headless"
        assert selects(endpoint["labels"], service["selector"]), f"{endpoint['address']} selects other pods"
        assert any(selects(service["selector"], metadata["labels"]) for _, _, metadata, _ in pods(objects))
    for subset in rule["subsets"]:
        assert any(selects(subset["labels"], endpoint["labels"]) for endpoint in entry["endpoints"]), subset


def collectors_take(objects):
    found = list(collector_configurations(objects))
    assert found, "no collector has a configuration"
    for name, spec, text in found:
        [container] = spec["containers"]
        environment = {variable["name"]: variable["value"] for variable in container.get("env", [])}
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(text)
            file.flush()
            validate = [BIN / "otlp-collector", "validate", "--config", file.name]
            run = subprocess.run(validate, capture_output=True, text=True, env=environment)
        assert run.returncode == 0 and "warning" not in run.stderr, f"{name}: {run.stdout}{run.stderr}"
