"""How a new endpoint warms up in a real Envoy and in Outrigger, and that one which returns from an ejection does not.

Envoy gets its endpoints from a file (EDS), Outrigger from its documents; both files are replaced while they run. The
share of the new endpoint is compared at ages that are read from the clock, so it has a tolerance, and a larger one
where the machine was too busy to ask both at the same age.
"""

import json
import os
import time

from client import KeepAlive
from differences import run
from envoy import Envoy, cluster, ejects
from origins import Origin
from processes import check, wait_for
from sidecar import PORT, Outrigger, cluster_name, rule, service, sidecar
from stats import stat

WINDOW = 4
REQUESTS = 200
# Of 200: what 0.2 s of the window change, and a request each way.
TOLERANCE = 10
# Of 200, by second of age: the steepest that any of the cases becomes.
STEEPEST = 45
# Policy, aggression, least percent.
CASES = [("ROUND_ROBIN", 1.0, 10), ("ROUND_ROBIN", 2.0, 30), ("LEAST_REQUEST", 1.0, 10)]
OUTLIER = "outlierDetection: { consecutive5xxErrors: 1, interval: 0.5s, baseEjectionTime: 1s, maxEjectionPercent: 100 }"


def name_of(number):
    return f"warm{number}"


def envoy_cluster(number, folder):
    policy, aggression, least = CASES[number]
    slow = {
        "slow_start_window": f"{WINDOW}s",
        "aggression": {"default_value": aggression, "runtime_key": "warmup"},
        "min_weight_percent": {"value": least},
    }
    detects = ejects(consecutive_5xx=1, interval="0.5s", base_ejection_time="1s", max_ejection_percent=100)
    made = cluster(cluster_name(name_of(number)), [], policy, **detects)
    del made["load_assignment"]
    source = {"path": os.path.join(folder, f"{number}.eds"), "watched_directory": {"path": folder}}
    files = {"path_config_source": source, "resource_api_version": "V3"}
    more = {"type": "EDS", "eds_cluster_config": {"eds_config": files}, f"{policy.lower()}_lb_config": {"slow_start_config": slow}}
    return {**made, **more}


def write(path, text):
    """At once, as a ConfigMap is replaced."""
    with open(path + ".new", "w", encoding="utf-8") as out:
        out.write(text)
    os.rename(path + ".new", path)


def endpoints(folder, number, addresses):
    """The file of Envoy."""
    kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    assignment = cluster(cluster_name(name_of(number)), addresses)["load_assignment"]
    write(os.path.join(folder, f"{number}.eds"), json.dumps({"version_info": str(len(addresses)), "resources": [{"@type": kind, **assignment}]}))


def documents(addresses):
    text = ""
    for number, (policy, aggression, least) in enumerate(CASES):
        warmup = f"warmup: {{ duration: {WINDOW}s, aggression: {aggression}, minimumPercent: {least} }}"
        text += service(name_of(number), [(address, "v1") for address in addresses])
        text += rule(name_of(number), f"loadBalancer: {{ simple: {policy}, {warmup} }}, {OUTLIER}")
    return text


class Timeline:
    """One proxy; what it did at each age."""

    def __init__(self, proxy, addresses):
        self.proxy, self.addresses = proxy, addresses
        self.clients = [KeepAlive(proxy.address) for _ in CASES]
        self.began = time.monotonic()
        # How much older the members may be than is known.
        self.doubt = 0.0
        self.found, self.ages = {}, {}

    def share(self, event, last, policies=("ROUND_ROBIN", "LEAST_REQUEST")):
        """How many of the requests each cluster gives to the endpoint of this index, and its age meanwhile."""
        for number, client in enumerate(self.clients):
            if CASES[number][0] not in policies:
                continue
            asked = time.monotonic()
            picks = [client.origin(f"/{name_of(number)}/", host=name_of(number)) for _ in range(REQUESTS)]
            self.found[number, event] = picks.count(self.addresses[last])
            self.ages[number, event] = (asked + time.monotonic()) / 2 - self.began

    def at(self, age):
        time.sleep(max(0.0, self.began + age - time.monotonic()))

    def members(self, count):
        """Their age counts from now, and may count from when they were last seen to be missing."""
        missing = time.monotonic()

        def all_there():
            nonlocal missing
            asked = time.monotonic()
            found = [stat(self.proxy.admin, cluster_name(name_of(number)), "membership_total") for number in range(len(CASES))]
            if all(one != count for one in found):
                missing = asked
            return all(one == count for one in found)

        wait_for(f"{count} members", all_there)
        self.began = time.monotonic()
        self.doubt = self.began - missing

    def healthy(self, count):
        for number in range(len(CASES)):
            wait_for(f"{count} healthy", lambda: stat(self.proxy.admin, cluster_name(name_of(number)), "membership_healthy") == count)

    def run(self, add):
        self.share("first", 0)
        self.at(WINDOW + 0.5)
        add()
        self.members(3)
        for age in (0, 0.25 * WINDOW, 0.5 * WINDOW, 0.75 * WINDOW, 1.1 * WINDOW):
            self.at(age)
            self.share(f"age {age}", 2)
        for number, client in enumerate(self.clients):
            # Until the first endpoint is met.
            port = self.addresses[0].rsplit(":", 1)[1]
            wait_for("an ejection", lambda: client.get(f"/{name_of(number)}/fail/{port}", host=name_of(number))[0] == 500)
        self.healthy(3)
        # LEAST_REQUEST draws lots again, for which the tolerance is too narrow.
        self.share("returned", 0, ("ROUND_ROBIN",))
        return self

    def tolerance(self, other, case):
        """For what both found of this case."""
        if not case[1].startswith("age"):
            return TOLERANCE
        apart = abs(self.ages[case] - other.ages[case]) + self.doubt + other.doubt
        # More would not tell a warm-up from none.
        check(apart < 1, f"the machine is too slow: both were asked at ages that are {apart:.1f} s apart")
        return TOLERANCE + STEEPEST * max(0.0, apart - 0.1)


def warmups(folder, differences):
    origins = [Origin() for _ in range(3)]
    addresses = [origin.address for origin in origins]
    for number in range(len(CASES)):
        endpoints(folder, number, addresses[:2])
    routes = []
    for number in range(len(CASES)):
        route = {"cluster": cluster_name(name_of(number)), "timeout": "0s"}
        routes.append({"match": {"prefix": f"/{name_of(number)}/"}, "route": route})
    made = [envoy_cluster(number, folder) for number in range(len(CASES))]
    with Envoy("envoy", folder, routes, made, ["*"]) as envoy:
        theirs = Timeline(envoy, addresses).run(lambda: [endpoints(folder, number, addresses) for number in range(len(CASES))])
    with Outrigger("outrigger", folder, documents(addresses[:2])) as ours:
        path = os.path.join(folder, "outrigger.yaml")
        own = Timeline(ours, addresses).run(lambda: write(path, sidecar([(PORT, "HTTP")]) + documents(addresses)))
    for case, count in theirs.found.items():
        found = own.found[case]
        near = abs(count - found) <= theirs.tolerance(own, case)
        differences.compare(f"{CASES[case[0]]}", case[1], count, count if near else found)
    for origin in origins:
        origin.stop()
    return f"{len(theirs.found)} shares of new and old endpoints"


if __name__ == "__main__":
    run("warmup_diff", [warmups])
