"""Which endpoints of other places get traffic: priorities and weighted localities in a real Envoy and in Outrigger.

Envoy has the priorities and weights that Istio would give it; Outrigger works them out from the localities. Endpoints
are ejected by an error each until as many are healthy as the case says. Without a hash the counts are compared, within
what chance allows; with one, each key.
"""

import os
import random

from client import KeepAlive
from differences import run
from envoy import Envoy, cluster, ejects
from origins import Origin
from processes import wait_for
from sidecar import Outrigger, cluster_name, rule, service, virtual_service
from stats import host_statuses, stat

SEED = int(os.environ.get("OUTRIGGER_E2E_SEED", random.SystemRandom().randrange(1 << 32)))
REQUESTS = 1000
# Six standard deviations of the difference of two counts of 1000 at most.
TOLERANCE = 6 * (2 * REQUESTS / 4) ** 0.5
HERE = "r/z/s"
DETECTS = "outlierDetection: { consecutive5xxErrors: 1, interval: 60s, baseEjectionTime: 600s, maxEjectionPercent: 100%s }"
BALANCERS = {"ROUND_ROBIN": "ROUND_ROBIN", "LEAST_REQUEST": "LEAST_REQUEST", "RANDOM": "RANDOM"}
NEAR_AND_FAR = [("r/z/s", 4), ("q/z/s", 4)]


class Case:
    """`places` are (locality, endpoints); `envoy` gives each its priority or weight."""

    def __init__(self, name, places, envoy, unhealthy=(), setting="{}", balancer="ROUND_ROBIN", panic=0, exact=False):
        self.name, self.places, self.placed, self.setting = name, places, envoy, setting
        self.unhealthy = list(unhealthy) + [0] * (len(places) - len(unhealthy))
        self.balancer, self.panic, self.exact = balancer, panic, exact
        self.origins = [[Origin() for _ in range(number)] for _, number in places]
        self.index = {origin.address: (place, number) for place, group in enumerate(self.origins) for number, origin in enumerate(group)}

    def envoy(self):
        weighted = any("load_balancing_weight" in one for one in self.placed)
        more = ejects(consecutive_5xx=1, interval="60s", base_ejection_time="600s", max_ejection_percent=100)
        more["common_lb_config"]["healthy_panic_threshold"] = {"value": self.panic}
        if weighted:
            more["common_lb_config"]["locality_weighted_lb_config"] = {}
        policy = {"policy": self.balancer}
        if self.balancer == "RING_HASH":
            policy["ring_hash_lb_config"] = {"minimum_ring_size": 1024}
        if self.balancer == "MAGLEV":
            policy["maglev_lb_config"] = {"table_size": 65537}
        made = cluster(cluster_name(self.name), [], **policy, **more)
        groups = []
        for (place, _), placed, origins in zip(self.places, self.placed, self.origins):
            if placed is None:
                continue
            group = cluster("", [origin.address for origin in origins])["load_assignment"]["endpoints"][0]
            locality = dict(zip(("region", "zone", "sub_zone"), place.split("/")))
            groups.append({**group, "locality": locality, **placed})
        made["load_assignment"]["endpoints"] = groups
        route = {"cluster": cluster_name(self.name), "timeout": "0s", "hash_policy": [{"header": {"header_name": "x-key"}}]}
        return {"match": {"prefix": f"/{self.name}/"}, "route": route}, made

    def istio(self):
        endpoints = [(origin.address, "v1") for group in self.origins for origin in group]
        text = service(self.name, endpoints)
        for (place, _), group in zip(self.places, self.origins):
            for origin in group:
                port = origin.address.rsplit(":", 1)[1]
                text = text.replace(f"port: {port} }}", f"port: {port} }}, locality: {place}")
        if self.balancer in BALANCERS:
            policy = f"simple: {self.balancer}"
        else:
            maglev = ", maglev: { tableSize: 65537 }" if self.balancer == "MAGLEV" else ""
            policy = f"consistentHash: {{ httpHeaderName: x-key{maglev} }}"
        panic = f", minHealthPercent: {self.panic}" if self.panic else ""
        text += rule(self.name, f"loadBalancer: {{ {policy}, localityLbSetting: {self.setting} }}, {DETECTS % panic}")
        no_retry = "    retries: { attempts: 0 }\n"
        return text + virtual_service(self.name, f"  - route: [{{ destination: {{ host: {self.name} }} }}]\n{no_retry}")

    def eject(self, proxy):
        """Whoever of the wrong ones is met answers 500, and is met no more."""
        bad = {address for address, (place, number) in self.index.items() if number < self.unhealthy[place]}
        client, chance = KeepAlive(proxy.address), random.Random(SEED)
        left = set(bad)

        def met():
            path = f"/{self.name}/fail/{','.join(sorted(one.rsplit(':', 1)[1] for one in bad))}"
            status, fields = client.get(path, [("x-key", str(chance.random()))], host=self.name)
            if status == 500:
                left.discard(fields["x-origin"])
            return not left

        if bad:
            wait_for(f"{self.name}: {len(bad)} ejections", met)
            healthy = sum(number for (_, number), placed in zip(self.places, self.placed) if placed is not None) - len(bad)
            wait_for(f"{self.name}: {healthy} healthy", lambda: stat(proxy.admin, cluster_name(self.name), "membership_healthy") == healthy)

    def picks(self, proxy):
        client, chance = KeepAlive(proxy.address), random.Random(SEED)
        keys = [f"key-{chance.randrange(10**9)}" for _ in range(REQUESTS)]
        return [self.index[client.origin(f"/{self.name}/", [("x-key", key)], host=self.name)] for key in keys]

    def compare(self, differences, envoy, ours):
        for proxy in (envoy, ours):
            self.eject(proxy)
        theirs, own = self.picks(envoy), self.picks(ours)
        if self.balancer not in BALANCERS:
            wrong = [(number, *pair) for number, pair in enumerate(zip(theirs, own)) if pair[0] != pair[1]]
            differences.compare(self.name, "picks", [], wrong[:3] and [len(wrong)] + wrong[:3])
            return
        for place, (locality, _) in enumerate(self.places):
            counts = [sum(pick[0] == place for pick in picks) for picks in (theirs, own)]
            near = abs(counts[0] - counts[1]) <= (2 if self.exact else TOLERANCE)
            differences.compare(self.name, f"requests to {locality}", counts[0], counts[0] if near else counts[1])
        panics = [stat(proxy.admin, cluster_name(self.name), "lb_healthy_panic") > REQUESTS / 2 for proxy in (envoy, ours)]
        differences.compare(self.name, "panic", *panics)


def cases():
    first_second = [{"priority": 0}, {"priority": 1}]
    for unhealthy in ([0], [1], [2], [3], [4], [3, 3]):
        for balancer in BALANCERS if unhealthy == [2] else ("ROUND_ROBIN",):
            name = f"spill-{'-'.join(map(str, unhealthy))}-{balancer.lower().replace('_', '-')}"
            yield Case(name, NEAR_AND_FAR, first_second, unhealthy, balancer=balancer)
    for balancer in ("RING_HASH", "MAGLEV"):
        yield Case(f"hash-{balancer.lower().replace('_', '-')}", NEAR_AND_FAR, first_second, [2], balancer=balancer)
    five = [("r/z/s", 2), ("r/z/t", 3), ("r/y/s", 2), ("q/z/s", 2), ("p/z/s", 1)]
    yield Case("levels", five, [{"priority": level} for level in (0, 1, 2, 3, 3)], [1, 2])
    # Localities are weighed once failover is written out.
    chosen = [{"priority": level, "load_balancing_weight": weight} for level, weight in ((0, 2), (1, 3), (2, 2), (4, 2), (3, 1))]
    yield Case("failover", five, chosen, [2, 3, 2], "{ failover: [{ from: r, to: p }] }")
    zones = [("r/z/s", 2), ("r/y/s", 1), ("q/z/s", 1)]
    eighty, nothing = {"load_balancing_weight": 80}, None
    shares = [eighty, {"load_balancing_weight": 20}, nothing]
    setting = "{ distribute: [{ from: 'r/*', to: { 'r/z/*': 80, 'r/y/*': 20 } }] }"
    for balancer in BALANCERS:
        name = f"distribute-{balancer.lower().replace('_', '-')}"
        yield Case(name, zones, shares, [], setting, balancer, exact=True)
        yield Case(f"{name}-1", zones, shares, [1], setting, balancer, exact=True)
    for balancer in ("RING_HASH", "MAGLEV"):
        name = f"distribute-{balancer.lower().replace('_', '-')}"
        yield Case(name, zones, shares, [1], setting, balancer)
    yield Case("panic", NEAR_AND_FAR, first_second, [3, 3], panic=50)
    yield Case("no-panic", NEAR_AND_FAR, first_second, [4, 0], panic=50)
    yield Case("alone-no-panic", [("r/z/s", 4)], [{"priority": 0}], [1], panic=80)
    yield Case("alone-panic", [("r/z/s", 4)], [{"priority": 0}], [2], panic=80)


def localities(folder, differences):
    print(f"locality_diff: OUTRIGGER_E2E_SEED={SEED}")
    made = list(cases())
    pairs = [case.envoy() for case in made]
    envoy = Envoy("envoy", folder, [route for route, _ in pairs], [one for _, one in pairs], ["*"])
    documents = "".join(case.istio() for case in made)
    with envoy, Outrigger("outrigger", folder, documents, env={"OUTRIGGER_LOCALITY": HERE}) as ours:
        for case in made:
            case.compare(differences, envoy, ours)
            pages = [host_statuses(proxy.admin, cluster_name(case.name)) for proxy in (envoy, ours)]
            for aspect in ("locality", "priority"):
                theirs, own = [{address: host.get(aspect, 0) for address, host in page.items()} for page in pages]
                differences.compare(case.name, f"/clusters {aspect}", theirs, own)
    for case in made:
        for group in case.origins:
            for origin in group:
                origin.stop()
    return f"{len(made)} clusters in several places with {REQUESTS} requests each"


if __name__ == "__main__":
    run("locality_diff", [localities])
