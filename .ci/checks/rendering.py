"""Everything renders and is what Kubernetes 1.32 takes; the chart and the base are the same objects."""

import copy
import subprocess

import kubernetes_validate
import yaml

from manifests import (
    BIN, HELM, KUSTOMIZATIONS, ROOT, command, difference, documents, helm, key, kustomize, of_kind, pods, unhashed,
)

VERSION = "1.32"
# Kinds without a schema in Kubernetes itself; mesh.py reads them.
CUSTOM = {"networking.istio.io"}

CHARTS = {
    "its default values": (),
    "a collector alone": ("--set", "webhook.enabled=false"),
    "an injector alone": ("--set", "collector.enabled=false"),
    "digests": ("--set", f"image.collectorDigest=sha256:{'a' * 64},image.outriggerDigest=sha256:{'b' * 64}"),
    "nothing that is optional": (
        "--set", "namespaces.create=false,collector.autoscaler.enabled=false,collector.ingress.enabled=false",
        "--set", "collector.networkPolicy.enabled=false,collector.disruptionBudget.enabled=false",
        "--set", "webhook.networkPolicy.enabled=false,webhook.default=false",
    ),
    "everything that may be added": (
        "--set", "image.pullSecrets[0].name=registry,collector.nodeSelector.disk=ssd,collector.podAnnotations.a=b",
        "--set", "collector.tolerations[0].key=a,collector.tolerations[0].operator=Exists",
        "--set", "collector.ingress.annotations.c=d,mesh.namespaces={shop,pay},collector.versions[1].tag=0.2.0",
        "--set-string", "collector.versions[1].name=v2,collector.versions[1].label=v2.0.0",
        "--set", "webhook.env[0].name=OUTRIGGER_CERTIFICATES_SECRET,webhook.env[0].value=identity",
        "--set", "collector.versions[1].replicas=2,collector.versions[0].name=v1,collector.versions[0].label=v1.0.0",
        "--set", "collector.versions[0].replicas=3",
    ),
}

REFUSED = {
    "a negative number of replicas": "webhook.replicas=-1",
    "a value that does not exist": "collector.replica=3",
    "a name that is none": "collector.namespace=Not_A_Name",
    "half a digest": "image.outriggerDigest=sha256:abc",
    "an environment variable without a name": "webhook.env[0].value=a",
    "another failure policy": "webhook.failurePolicy=Maybe",
}


def run(suite):
    for path in KUSTOMIZATIONS:
        with suite.check(f"{path} renders, and Kubernetes {VERSION} takes it"):
            validate(kustomize(path))
    with suite.check("helm lint --strict"):
        lint = subprocess.run([HELM, "lint", "--strict", "k8s/chart"], cwd=ROOT, capture_output=True, text=True)
        assert lint.returncode == 0, lint.stdout
    for name, settings in CHARTS.items():
        with suite.check(f"the chart renders with {name}"):
            validate(helm(*settings))
    for name, setting in REFUSED.items():
        with suite.check(f"the schema of the chart's values refuses {name}"):
            refuse(setting)
    with suite.check("the chart and the base are the same objects"):
        compare()
    injection = "the collectors of the base are valid after injection, too"
    if "inject" in command(BIN / "outrigger", "--help").split():
        with suite.check(injection):
            inject()
    else:
        suite.skip(injection, "this build has no `outrigger inject`")
    with suite.check("a version with a tag of its own is not the release's digest"):
        own_tag()


def validate(objects):
    assert objects, "nothing came out"
    for thing in objects:
        group = thing["apiVersion"].rpartition("/")[0]
        if group in CUSTOM:
            continue
        try:
            kubernetes_validate.validate(thing, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise AssertionError(f"{key(thing)}: {error.message} at {list(error.path)}") from error
    keys = [key(thing) for thing in objects]
    twice = {name for name in keys if keys.count(name) > 1}
    assert not twice, f"more than once: {twice}"


def refuse(setting):
    run = subprocess.run(
        [HELM, "template", "release", "k8s/chart", "--set", setting], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode != 0, f"--set {setting} was taken"
    assert "values don't meet the specifications of the schema" in run.stderr, run.stderr


def compare():
    base = {key(thing): thing for thing in map(plain, kustomize("k8s/base"))}
    chart = {key(thing): thing for thing in map(plain, helm()) if not is_hook(thing)}
    assert sorted(base) == sorted(chart), f"only in one of them: {sorted(set(base) ^ set(chart))}"
    wrong = [difference(base[name], chart[name], f"{name}, base and chart") for name in sorted(base) if base[name] != chart[name]]
    assert not wrong, "\n".join(wrong)


def plain(thing):
    """Without the two ways to make a new configuration a rollout: a hash in the name, and an annotation."""
    thing = copy.deepcopy(thing)
    if thing["kind"] == "ConfigMap":
        thing["metadata"]["name"] = unhashed(thing["metadata"]["name"])
    template = thing.get("spec", {}).get("template")
    if template:
        template["metadata"].get("annotations", {}).pop("checksum/config", None)
        for volume in template["spec"].get("volumes", []):
            if "configMap" in volume:
                volume["configMap"]["name"] = unhashed(volume["configMap"]["name"])
    return thing


def is_hook(thing):
    return "helm.sh/hook" in thing["metadata"].get("annotations", {})


def inject():
    collectors = of_kind(kustomize("k8s/base/collector"), "Deployment")
    injected = documents(command(BIN / "outrigger", "inject", "-f", "-", input=yaml.safe_dump_all(collectors)))
    validate(injected)
    for name, _, _, spec in pods(injected):
        containers = spec.get("initContainers", []) + spec["containers"]
        names = [container["name"] for container in containers]
        assert {"istio-init", "istio-proxy", "otlp-collector"} <= set(names), f"{name}: {names}"
        configs = [volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume]
        assert "outrigger-mesh" in configs, f"{name}: {configs}"


def own_tag():
    digest = f"sha256:{'a' * 64}"
    versions = "collector.versions[0].name=v1,collector.versions[0].label=v1.0.0,collector.versions[0].replicas=3"
    canary = (
        "collector.versions[1].name=v2,collector.versions[1].label=v2.0.0,collector.versions[1].replicas=1,"
        "collector.versions[1].tag=0.2.0"
    )
    objects = helm("--set", f"image.collectorDigest={digest},{versions},{canary}")
    images = {
        thing["metadata"]["name"]: thing["spec"]["template"]["spec"]["containers"][0]["image"]
        for thing in of_kind(objects, "Deployment")
    }
    assert images["otlp-collector-v1"].endswith(f"@{digest}"), images
    assert images["otlp-collector-v2"].endswith(":0.2.0"), images
