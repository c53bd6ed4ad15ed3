"""Injected documents, and the webhook's manifests, against the schemas of Kubernetes.

Every kind of workload in every form that an annotation chooses is injected by the program, validated strictly, read by
another YAML library (which has YAML 1.1, as kubectl has), injected again and taken out again. The webhook's answer is
asked for by curl over TLS, as the API server would.
"""

import base64
import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile

import yaml

from processes import ROOT, Failed, Program, check, skip
from processes import outrigger as program_path

VERSION = "1.32"
CASES = os.path.join(ROOT, "k8s", "inject", "tests", "inject", "cases")
PROGRAM = program_path()
PLAIN = {key: value for key, value in os.environ.items() if not key.startswith(("OUTRIGGER_", "POD_"))}


def outrigger(*args, text=""):
    done = subprocess.run([PROGRAM, *args], input=text, capture_output=True, text=True, env=PLAIN, timeout=60)
    check(done.returncode == 0, f"outrigger {' '.join(args)}: {done.returncode}\n{done.stderr}")
    return done.stdout


def validate(text, name, folder):
    """Fails on a field that Kubernetes does not have, or one of the wrong type; a schema has to be there."""
    path = os.path.join(folder, f"{name}.yaml")
    if any(document["kind"] == "List" for document in documents(text)):
        # There is a schema for each item, and none for the list.
        flat = [item for document in documents(text) for item in document.get("items", [document])]
        text = yaml.safe_dump_all(flat)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", "-k", VERSION, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    check(done.returncode == 0 and "WARN" not in said, f"{name} is not valid:\n{said}")
    return said.count(" passed for resource ")


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document is not None]


def variants(text):
    """The same workloads with what users choose by annotations."""
    yield "as written", text, ()
    yield "classic", text, ("--sidecar", "classic")
    yield "certificates", text, ("--certificates-secret", "identity", "--image-pull-policy", "Always")


def injected_documents(folder):
    passed = 0
    for case in sorted(os.listdir(CASES)):
        with open(os.path.join(CASES, case), encoding="utf-8") as file:
            text = file.read()
        for variant, text, options in variants(text):
            name = f"{case} {variant}"
            injected = outrigger("inject", "-f", "-", *options, text=text)
            passed += validate(injected, name.replace(" ", "-"), folder)
            again = outrigger("inject", "-f", "-", *options, text=injected)
            check(again == injected, f"{name}: twice is not once")
            out = outrigger("uninject", "-f", "-", text=injected)
            check(documents(out) == documents(text), f"{name}: not the same documents after uninject")
    check(passed > 40, f"only {passed} resources were validated")
    print(f"{passed} injected resources are valid, twice is once, and out is as before")


def manifests(folder):
    printed = outrigger("webhook", "--print-manifests", "--revision", "canary", "--sidecar", "classic")
    kinds = [document["kind"] for document in documents(printed)]
    check(validate(printed, "manifests", folder) == len(kinds) == 8, f"the manifests: {kinds}")
    print(f"{len(kinds)} manifests of the webhook are valid")


def certificate(folder):
    files = [os.path.join(folder, name) for name in ("tls.crt", "tls.key")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True, timeout=60,
    )
    return files


def apply(patch, document):
    """RFC 6902, as far as additions, removals and replacements go; by hand, so that no code of ours judges itself."""
    document = copy.deepcopy(document)
    for step in patch:
        keys = [key.replace("~1", "/").replace("~0", "~") for key in step["path"].split("/")[1:]]
        at = document
        for key in keys[:-1]:
            at = at[int(key)] if isinstance(at, list) else at[key]
        last, op = keys[-1], step["op"]
        check(op in ("add", "remove", "replace"), f"unexpected step {step}")
        if isinstance(at, list):
            index = len(at) if last == "-" else int(last)
            if op == "add":
                at.insert(index, step["value"])
            elif op == "replace":
                at[index] = step["value"]
            else:
                del at[index]
        elif op == "remove":
            del at[last]
        else:
            at[last] = step["value"]
    return document


def webhook(folder):
    if not all(shutil.which(tool) for tool in ("openssl", "curl")):
        skip("the webhook over TLS: openssl and curl are needed")
    crt, key = certificate(folder)
    args = [PROGRAM, "webhook", "--listen", "127.0.0.1:0", "--tls-cert", crt, "--tls-key", key]
    with Program("webhook", args, folder) as program:
        (address,) = program.listening("webhook")
        port = address.rsplit(":", 1)[1]
        for case in sorted(os.listdir(CASES)):
            with open(os.path.join(CASES, case), encoding="utf-8") as file:
                pods = [document for document in documents(file.read()) if document["kind"] == "Pod"]
            for pod in pods:
                name = pod["metadata"]["name"]
                namespace = pod["metadata"].get("namespace", "default")
                review = {
                    "apiVersion": "admission.k8s.io/v1",
                    "kind": "AdmissionReview",
                    "request": {"uid": name, "kind": {"group": "", "version": "v1", "kind": "Pod"},
                                "resource": {"group": "", "version": "v1", "resource": "pods"},
                                "namespace": namespace, "operation": "CREATE", "object": pod, "dryRun": False},
                }
                asked = subprocess.run(
                    ["curl", "--silent", "--show-error", "--fail", "--max-time", "10", "--cacert", crt,
                     "--resolve", f"localhost:{port}:127.0.0.1", "--header", "content-type: application/json",
                     "--data-binary", "@-", f"https://localhost:{port}/inject?timeout=10s"],
                    input=json.dumps(review), capture_output=True, text=True, timeout=30,
                )
                check(asked.returncode == 0, f"{name}: {asked.stderr}")
                response = json.loads(asked.stdout)["response"]
                check(response["uid"] == name and response["allowed"], f"{name}: {response}")
                patch = json.loads(base64.b64decode(response["patch"])) if "patch" in response else []
                patched = apply(patch, pod)
                printed = outrigger("inject", "-f", "-", "-o", "json", text=json.dumps(pod))
                check(patched == json.loads(printed), f"{name}: the patch makes another pod than inject prints")
                if patch:
                    validate(json.dumps(patched), f"patched-{name}", folder)
    print("the webhook's patches make the pods that inject prints")


def main():
    try:
        import kubernetes_validate  # noqa: F401
    except ImportError:
        skip("injected documents: the Python package kubernetes-validate is missing")
    with tempfile.TemporaryDirectory() as folder:
        try:
            injected_documents(folder)
            manifests(folder)
            webhook(folder)
        except Failed as failure:
            print(f"FAILED: {failure}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
