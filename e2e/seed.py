"""Outrigger with the configuration of examples/seed in front of other ports."""

import os
import re

from processes import ROOT, Program, check, outrigger

SEED = os.path.join(ROOT, "examples", "seed")


def seed(folder, ports):
    """A copy of the seed; `ports` are the gRPC and HTTP port of v1, v1 and v2."""
    config = os.path.join(folder, "config")
    os.makedirs(config, exist_ok=True)
    with open(os.path.join(SEED, "registry.yaml"), encoding="utf-8") as file:
        registry = file.read()
    for prefix, (collector_grpc, collector_http) in zip(("14", "15", "24"), ports):
        registry = registry.replace(f": {prefix}317,", f": {collector_grpc},")
        registry = registry.replace(f": {prefix}318 ", f": {collector_http} ")
    check(not re.search(r"\b[12][45]31[78]\b", registry), f"a port is left in\n{registry}")
    with open(os.path.join(config, "registry.yaml"), "w", encoding="utf-8") as out:
        out.write(registry)
    for name in ("destination-rule.yaml", "weighted.yaml"):
        with open(os.path.join(SEED, name), encoding="utf-8") as file, open(
            os.path.join(config, name), "w", encoding="utf-8"
        ) as out:
            out.write(file.read())
    return config


def start_proxy(folder, ports):
    """The sidecar, its listeners on free ports."""
    any_port = "127.0.0.1:0"
    args = [outrigger(), "proxy", "--config", seed(folder, ports), "--namespace", "observability"]
    args += ["--admin", any_port, "--metrics", any_port, "--health", any_port]
    args += ["--ports", "ephemeral", "--concurrency", "2"]
    proxy = Program("outrigger", args, folder)
    return proxy, proxy.listening("127.0.0.1_4317", "127.0.0.1_4318", "admin", "metrics", "health")
