"""The folders of `examples`, by the commands of their own pages: real sidecars and collectors, in a network namespace
where all ports are free.
"""

import json
import os
import re
import shutil
import sys
import tempfile

import yaml

import namespaces
from example_traffic import canary, mtls, reading
from inject import validate
from processes import Failed, check, outrigger, skip


def inject(folder):
    """In, once, out again; and the rules of the kernel come and go."""
    with reading("inject", folder) as (reader, copy):
        reader.until("outrigger inject")
        valid(copy, "injected.yaml")
        deployment = document(os.path.join(copy, "injected.yaml"))
        pod = deployment["spec"]["template"]["spec"]
        images = {container["image"] for container in pod["initContainers"]}
        check(len(images) == 1 and len(pod["initContainers"]) == 2, f"{pod['initContainers']}")
        printed = reader.until("outrigger init -b")
        given = pod["initContainers"][0]["args"]
        check(namespaces.run(outrigger(), *given, "--dry-run").stdout == printed, f"the page's rules are not those of {given}")
        before = capture_state()
        reader.rest()
        check(capture_state() == before, "the page left rules behind")
    return "the example is injected, once, and taken out again; rules come and go"


def capture_state():
    """What `outrigger init` could have changed where this test runs."""
    return [namespaces.run(*command.split()).stdout for command in ("nft list ruleset", "ip rule", "ip -6 rule", "ip addr")]


def migrate(folder):
    """Every annotation of the example does what the page's table says."""
    with reading("migrate", folder) as (reader, copy):
        reader.until("outrigger inject")
        valid(copy, "injected.yaml", "examples/migrate/kube-injected.yaml")
        workload = document(os.path.join(copy, "examples/migrate/web.yaml"))["spec"]["template"]["metadata"]
        template = document(os.path.join(copy, "injected.yaml"))["spec"]["template"]
        with open(os.path.join(copy, "examples/migrate/README.md"), encoding="utf-8") as page:
            table = re.findall(r"^\| `([^`]+)` \|", page.read(), re.M)
        reader.rest()
    init, proxy = template["spec"]["initContainers"]
    env = {variable["name"]: variable.get("value") for variable in proxy["env"]}
    flag = lambda name: init["args"][init["args"].index(name) + 1]
    both = lambda kind, name: {container["resources"][kind].get(name) for container in (init, proxy)}
    config = json.loads(env["PROXY_CONFIG"])
    found = {
        "sidecar.istio.io/inject": proxy["name"] == "istio-proxy",
        "proxy.istio.io/config": (config["concurrency"], config["terminationDrainDuration"]) == (1, "9s")
        and (env["EXIT_ON_ZERO_ACTIVE_CONNECTIONS"], env["ISTIO_META_CLUSTER_ID"]) == ("true", "east"),
        "sidecar.istio.io/proxyCPU": both("requests", "cpu") == {"50m"},
        "sidecar.istio.io/proxyMemoryLimit": both("limits", "memory") == {"96Mi"},
        "sidecar.istio.io/logLevel": env["OUTRIGGER_LOG"] == "warn",
        "sidecar.istio.io/componentLogLevel": "upstream:debug" not in json.dumps(template["spec"]),
        "traffic.sidecar.istio.io/excludeOutboundPorts": flag("-o") == "5432",
        "traffic.sidecar.istio.io/excludeInboundPorts": flag("-d") == "15090,15021,15020,9000",
        "readiness.status.sidecar.istio.io/periodSeconds": proxy["readinessProbe"]["periodSeconds"] == 5,
    }
    check(all(found.values()), f"not as the page says: {[name for name, holds in found.items() if not holds]}")
    asked = set(workload["annotations"]) | {name for name in workload["labels"] if "istio.io" in name}
    check(set(table) == set(found) == asked, f"the table has {table}, the example {asked}")
    return f"{len(found)} settings of Istio do what the page says"


def valid(copy, *files):
    """Kubernetes takes them."""
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            with open(os.path.join(copy, file), encoding="utf-8") as text:
                check(validate(text.read(), os.path.basename(file), folder) > 0, f"no resource of {file} was validated")


def document(path):
    with open(path, encoding="utf-8") as file:
        return next(yaml.safe_load_all(file))


def main():
    namespaces.require()
    for program, package in (("bash", "bash"), ("curl", "curl"), ("openssl", "openssl")):
        if shutil.which(program) is None:
            skip(f"the examples: there is no `{program}`: install {package}")
    parts = [inject, canary, mtls, migrate]
    wanted = [part for part in parts if part.__name__ in sys.argv[1:]] or parts
    for part in wanted:
        machine = namespaces.Namespace(part.__name__)
        try:
            with tempfile.TemporaryDirectory() as folder, machine.entered():
                print(f"examples: {part(folder)}", flush=True)
        except Failed as failure:
            print(f"FAILED: examples/{part.__name__}: {failure}", flush=True)
            sys.exit(1)
        finally:
            machine.remove()


if __name__ == "__main__":
    main()
