"""Path normalisation of a real Envoy and of Outrigger: what reaches the origin, for each mode of `pathNormalization`."""

from client import exchange, request
from differences import run
from envoy import Envoy, cluster, forward
from origins import Origin
from sidecar import UNTRACED, Outrigger, cluster_name, service

# Istio's mode, and what Istio writes into the connection manager for it.
MODES = {
    "NONE": {"normalize_path": False},
    "BASE": {},
    "MERGE_SLASHES": {"merge_slashes": True},
    "DECODE_AND_MERGE_SLASHES": {"merge_slashes": True, "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD"},
}
PATHS = [
    "/", "//", "///", "/a", "/a/", "//a", "/a//b", "/a///b//", "//a//b/", "/a/../b", "/a/./b/", "/../a", "/a/..", "/..",
    "/a//../b", "/a/..//b", "//../a", "/a/.//b", "/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", "/a\\b", "/a\\..\\b", "/a%2f..%2fb",
    "/a%2f%2fb", "/%2f", "/%2F/", "/%2f%2f", "/%5c%5c", "/a%5c..%5cb", "/a/%2e%2e/b", "/a%2f%2e%2e%2fb", "/%252f",
    "/a%252fb", "/%65xact", "/%7Euser", "/a%20b", "/a%zzb", "/100%", "/a%2", "/a;x=1//b", "/a?b=//c", "/a//?b=%2f%2f",
    "/a/..?x=/../y", "/.", "/./", "/.a//b", "/a/...//b", "/a//.", "/a//..", "/%2e//", "/a//%2e%2e", "//host/path",
    "/a%2f", "/a%2f?b%2fc", "/%5c", "/%5c..", "/a\\\\b",
]


def paths(folder, differences):
    for mode, manager in MODES.items():
        origin = Origin()
        name = cluster_name("web")
        routes = [{"match": {"prefix": "/"}, "route": forward(name)}]
        envoy = Envoy(f"envoy-{mode}", folder, routes, [cluster(name, [origin.address])], ["*"], manager)
        mesh = f"{UNTRACED}pathNormalization: {{ normalization: {mode} }}\n"
        ours = Outrigger(f"outrigger-{mode}", folder, service("web", [(origin.address, "v1")]), mesh)
        with envoy, ours:
            for path in PATHS:
                asked = {proxy: ask(proxy, origin, path) for proxy in (envoy, ours)}
                differences.compare(mode, path, asked[envoy], asked[ours])
        origin.stop()
    return f"{len(PATHS)} paths in {len(MODES)} modes"


def ask(proxy, origin, path):
    """The status, and the path that the origin saw."""
    before = len(origin.seen)
    status = exchange(proxy.address, request(path)).status
    return status, [line.split(" ")[1] for line, _ in origin.seen[before:]]


if __name__ == "__main__":
    run("path_diff", [paths])
