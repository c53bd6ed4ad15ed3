"""The how-to pages and the examples say what exists: what they link to, name and apply is there, and their documents do
what they say. howto.py follows the pages.
"""

import pathlib
import re
import shutil
import tempfile

from manifests import BIN, KUSTOMIZATIONS, ROOT, command, documents, of_kind
from mesh import CAPTURED, RULES
from pages import blocks

EXAMPLES = sorted((ROOT / "examples").rglob("README.md"))
PAGES = sorted((ROOT / "docs/howto").glob("*.md")) + [ROOT / "k8s/README.md"] + EXAMPLES
# Folders that a page may apply beside the ones that everybody applies.
PARTS = ["k8s/base/webhook"]
CANARY = ROOT / "examples/canary"
SHARES = {"tenth": (90, 10), "half": (50, 50), "all": (0, 100)}


def run(suite):
    for path in PAGES:
        with suite.check(f"{path.relative_to(ROOT)}: what it links to and applies exists"):
            links(path)
    verbs = command(BIN / "outrigger", "--help").split()
    for path in PAGES:
        missing = {verb for verb, _ in invocations(path) if verb not in verbs}
        if missing:
            suite.skip(f"{path.relative_to(ROOT)}: the commands exist", f"this build has no {sorted(missing)}")
            continue
        with suite.check(f"{path.relative_to(ROOT)}: the commands exist, and take the flags"):
            for verb, flags in invocations(path):
                known = command(BIN / "outrigger", verb, "--help")
                assert not (wrong := [flag for flag in flags if flag not in known]), f"outrigger {verb} has no {wrong}"
    for name, shares in SHARES.items():
        with suite.check(f"examples/canary: {name}.yaml splits as it says"):
            splits((CANARY / f"{name}.yaml").read_text(), shares)
    with suite.check("examples/canary/tenth.yaml is examples/seed/weighted.yaml, with its namespace"):
        [tenth], [weighted] = (documents((ROOT / "examples" / name).read_text()) for name in ("canary/tenth.yaml", "seed/weighted.yaml"))
        assert tenth["metadata"].pop("namespace") == "observability" and tenth == weighted

    with suite.check("the canary of prod runs the image of canary.yaml, whatever the release is"):
        canary_image()


def invocations(path):
    """The commands of ours that a page tells to run: (verb, flags)."""
    text = path.read_text()
    code = [content for language, _, content in blocks(text) if not language]
    code += re.findall(r"`(outrigger [^`]*)`", text)
    for verb, rest in re.findall(r"(?:^|\| |-- /)outrigger ([a-z]+)([^|\n]*)", "\n".join(code), re.M):
        yield verb, re.findall(r"(?<!\S)--[a-z-]+", rest.partition(" -- ")[0])


def links(path):
    text = path.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (path.parent / link).exists(), f"no {link}"
    for folder in re.findall(r"-k ([-\w/]+)", text):
        assert folder in KUSTOMIZATIONS + PARTS, f"{folder} cannot be applied"
        command("kubectl", "kustomize", folder)
    # A command may make a file.
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    for name in re.findall(r"(?:k8s|examples)/[-a-z0-9/]+\.yaml", prose):
        assert (ROOT / name).is_file(), f"no {name}"


def splits(step, shares):
    with tempfile.TemporaryDirectory() as folder:
        for name in ("destination-rule.yaml", "service-entry.yaml"):
            pathlib.Path(folder, name).write_text((RULES / name).read_text())
        pathlib.Path(folder, "virtual-service.yaml").write_text(step)
        request = "POST http://otlp-collector.observability:4317/anything"
        answer = command(BIN / "outrigger", "explain", "--config", folder, *CAPTURED, "--request", request)
    for version, share in zip(("v1", "v2"), shares):
        cluster = f"outbound|4317|{version}|otlp-collector.observability.svc.cluster.local"
        said = {0: cluster not in answer, 100: f"-> {cluster}\n" in answer}
        assert said.get(share, f"{cluster} (weight {share} of 100" in answer), answer


def canary_image():
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "k8s", folder, dirs_exist_ok=True)
        file = pathlib.Path(folder, "overlays/prod/canary.yaml")
        file.write_text(re.sub(r"(otlp-collector):\S+", r"\1:9.9.9", file.read_text()))
        objects = documents(command("kubectl", "kustomize", f"{folder}/overlays/prod"))
    images = {
        thing["metadata"]["name"]: thing["spec"]["template"]["spec"]["containers"][0]["image"]
        for thing in of_kind(objects, "Deployment")
    }
    assert images["otlp-collector-v2"].endswith(":9.9.9"), images
    assert not images["otlp-collector-v1"].endswith(":9.9.9"), images
