"""What Kustomize and Helm render, as lists of objects."""

import difflib
import functools
import os
import pathlib
import re
import subprocess

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".ci/tools"
HELM = TOOLS / "bin/helm"
BIN = pathlib.Path(os.environ["OUTRIGGER_BIN_DIR"])

# Everything that a person may apply.
KUSTOMIZATIONS = ["k8s/base", "k8s/base/mesh"] + sorted(
    str(path.parent.relative_to(ROOT)) for path in ROOT.glob("k8s/overlays/*/kustomization.yaml")
)
OVERLAYS = [path for path in KUSTOMIZATIONS if path != "k8s/base/mesh"]


def command(*arguments, input=None):
    """Runs a program that has to succeed, and returns what it prints."""
    run = subprocess.run(
        [str(argument) for argument in arguments], input=input, capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert run.returncode == 0, f"{' '.join(map(str, arguments))}: {run.returncode}\n{run.stdout}{run.stderr}"
    return run.stdout


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document is not None]


@functools.cache
def kustomize(path):
    return documents(command("kubectl", "kustomize", path))


@functools.cache
def helm(*settings):
    return documents(command(HELM, "template", "release", "k8s/chart", *settings))


def key(thing):
    metadata = thing["metadata"]
    return f"{thing['kind']} {metadata.get('namespace', '')}/{metadata['name']}"


def of_kind(objects, *kinds):
    return [thing for thing in objects if thing["kind"] in kinds]


def workloads(objects):
    return of_kind(objects, "Deployment", "StatefulSet")


def pods(objects):
    """The pods of the workloads, and lone ones: (what they belong to, metadata, spec)."""
    for thing in workloads(objects):
        template = thing["spec"]["template"]
        yield key(thing), thing["metadata"]["namespace"], template["metadata"], template["spec"]
    for thing in of_kind(objects, "Pod"):
        yield key(thing), thing["metadata"]["namespace"], thing["metadata"], thing["spec"]


def selects(selector, labels):
    return all(labels.get(name) == value for name, value in selector.items())


def unhashed(name):
    """Kustomize's name of a generated object without its hash."""
    return re.sub(r"-[0-9a-z]{10}$", "", name)


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


def difference(one, other, name):
    """What is not the same, as a diff of YAML; nothing if they are equal."""
    texts = [yaml.safe_dump(thing).splitlines() for thing in (one, other)]
    return "\n".join(difflib.unified_diff(*texts, name, name, lineterm="", n=2))
