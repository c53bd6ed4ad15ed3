"""The timeline of ejections: the same scripted requests through a real Envoy and through Outrigger.

After each request: who answered, and who is ejected now (`failed_outlier_check` in /clusters). Ejection times are
compared as multiples of the base time; both proxies round them up to their own next sweep. A ring decides which host
a key means, so that a script can speak of hosts.
"""

import threading
import time

from client import KeepAlive
from differences import run
from envoy import Envoy, cluster, ejects
from origins import Origin
from processes import check, wait_for
from sidecar import Outrigger, cluster_name, rule, service, virtual_service
from stats import ejected, stats

RING = {"policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 1024}}
HEADER = {"header": {"header_name": "x-session-id"}}
RETRY_OFF = "    retries: { attempts: 0 }\n"
COUNTERS = ["membership_healthy", "lb_healthy_panic"] + [
    f"outlier_detection_ejections_{name}"
    for name in (
        "active", "overflow", "enforced_total", "detected_consecutive_5xx", "enforced_consecutive_5xx",
        "detected_consecutive_gateway_failure", "enforced_consecutive_gateway_failure",
        "detected_consecutive_local_origin_failure", "enforced_consecutive_local_origin_failure",
    )
]


class Script:
    """One scenario in one proxy. Each call appends to `events` what both proxies must agree on."""

    def __init__(self, name, proxy, origins, keys, base):
        self.name, self.proxy, self.origins, self.keys, self.base = name, proxy, origins, keys, base
        self.client = KeepAlive(proxy.address)
        self.cluster = cluster_name(name)
        self.addresses = [origin.address for origin in origins]
        self.since = {}
        self.events = []

    def to(self, host, *behaviours):
        """One request a behaviour with a key of that host: the status, who answered and who is ejected then."""
        for behaviour in behaviours:
            before, began = self.ejected(), time.monotonic()
            status, fields = self.client.get(f"/{self.name}/{behaviour}", [("x-session-id", self.keys[host])], host=self.name)
            now = self.ejected()
            self.since.update({one: began for one in now - before})
            who = self.addresses.index(fields["x-origin"]) if "x-origin" in fields else None
            self.events.append((f"{host} {behaviour}", status, who, sorted(now)))

    def ejected(self):
        """The ejected hosts, once the balancer knows of them too."""
        found = set()

        def settled():
            found.clear()
            found.update(self.addresses.index(address) for address in ejected(self.proxy.admin, self.cluster))
            now = stats(self.proxy.admin, self.cluster)
            return now["membership_healthy"] == now["membership_total"] - len(found)

        wait_for(f"the hosts of {self.name} to settle", settled)
        return set(found)

    def returns(self, host):
        """Waits for it; for how many base times it was away."""
        wait_for(f"{self.name}: host {host} to return", lambda: host not in self.ejected())
        away = time.monotonic() - self.since.pop(host)
        self.events.append((f"{host} returns", int(away / self.base)))

    def healthy_for(self, seconds):
        """A while that sweeps count; nothing else tells of them."""
        time.sleep(seconds)

    def refuse(self, host):
        self.origins[host].refuse()

        def closed():
            return stats(self.proxy.admin, self.cluster)["upstream_cx_active"] <= sum(
                len(origin.connections) for number, origin in enumerate(self.origins) if number != host
            )

        wait_for("the proxy to know that connections ended", closed)

    def listen(self, host):
        self.origins[host].listen()

    def counters(self):
        now = stats(self.proxy.admin, self.cluster)
        self.events.append({name: now.get(name) for name in COUNTERS})


BAD, GOOD = "status/503", "ok"


def growth(script):
    """An ejection lasts longer each time; a success starts the count again, a client error is one."""
    script.to(0, BAD, BAD, GOOD, BAD, BAD, "status/404", BAD, "status/500", BAD, GOOD)
    for times in range(3):
        script.returns(0)
        script.to(0, BAD, BAD, BAD)
    script.returns(0)
    script.to(0, GOOD)


def decay(script):
    """Sweeps that find a host healthy make its next ejection shorter, but not the one right after its return."""
    for sweeps in (None, 0.5, 1.5, 2.5, 5.5):
        if sweeps is not None:
            script.returns(0)
            script.healthy_for(sweeps * DECAY_INTERVAL)
        script.to(0, BAD)
    script.returns(0)


def share(script):
    """50 % of four hosts are two; an attempt in vain starts the count again, and succeeds once another has returned."""
    script.to(0, BAD, BAD)
    script.to(1, BAD, BAD)
    script.to(2, BAD, BAD, BAD, GOOD, BAD)
    script.returns(0)
    script.to(2, BAD, BAD)
    script.to(0, GOOD)


def never(script):
    """Istio's default of 10 % ejects nothing of three hosts."""
    script.to(0, BAD, BAD, BAD)


def everyone(script):
    """100 %: no host is left, and without panic no answer."""
    for host in (0, 1, 2):
        script.to(host, BAD)
    script.to(0, GOOD, GOOD)
    script.returns(0)
    script.to(0, GOOD)


def panic(script):
    """Below the threshold the balancer goes by all hosts again."""
    script.to(0, BAD, GOOD)
    script.to(1, GOOD, BAD, GOOD)
    script.to(0, GOOD, GOOD)


def gateway(script):
    """502, 503 and 504 count, a 500 starts their count again, 5xx are off."""
    script.to(0, "status/500", "status/500", "status/500", "status/502", "status/500", "status/503", "status/504", GOOD)
    script.to(1, "close", "close", "close", "status/599", "status/502", "status/501", "status/502", "never", GOOD)


def both(script):
    """Gateway errors count twice: apart, and with all 5xx."""
    script.to(0, "status/503", "status/500", "status/503", "status/500", GOOD)
    script.to(1, "status/503", "status/503", "status/503", GOOD)


def local(script):
    """Connect errors and timeouts have a count of their own that any answer ends; 5xx are counted apart."""
    script.refuse(0)
    script.to(0, GOOD, GOOD)
    script.listen(0)
    script.to(0, "status/500")
    script.refuse(0)
    script.to(0, GOOD, GOOD, GOOD, GOOD)
    script.to(1, "never", "never", "never", GOOD)
    script.listen(0)
    script.returns(0)
    script.to(0, GOOD, "status/500", "close", GOOD)


def external(script):
    """Not split: a refused connection is a 503, a timeout a 504, a close a 500."""
    script.refuse(0)
    script.to(0, GOOD, GOOD, GOOD)
    script.listen(0)
    script.to(1, "never", "close", "status/500", GOOD)
    script.returns(0)
    script.to(0, GOOD)


DECAY_INTERVAL = 0.4
# Name, script, hosts, panic threshold, base time, and Envoy's settings; Istio's are derived from them.
FAST = {"interval": 0.2, "base": 0.8, "percent": 100}
SCENARIOS = [
    (growth, 3, FAST, {"consecutive_5xx": 3}),
    (decay, 2, {"interval": DECAY_INTERVAL, "base": 1.0, "percent": 100}, {"consecutive_5xx": 1}),
    (share, 4, {"interval": 0.2, "base": 1.6, "percent": 50}, {"consecutive_5xx": 2}),
    (never, 3, {"interval": 0.2, "base": 0.8, "percent": 10}, {"consecutive_5xx": 1}),
    (everyone, 3, {**FAST, "base": 1.6}, {"consecutive_5xx": 1}),
    (panic, 3, {**FAST, "base": 60, "panic": 50}, {"consecutive_5xx": 1}),
    (gateway, 3, {**FAST, "base": 60}, {"consecutive_5xx": 0, "consecutive_gateway_failure": 2}),
    (both, 3, {**FAST, "base": 60}, {"consecutive_5xx": 4, "consecutive_gateway_failure": 3}),
    (local, 3, FAST, {"consecutive_5xx": 2, "split_external_local_origin_errors": True, "consecutive_local_origin_failure": 3}),
    (external, 3, FAST, {"consecutive_5xx": 3}),
]
ISTIO = {
    "consecutive_5xx": "consecutive5xxErrors",
    "consecutive_gateway_failure": "consecutiveGatewayErrors",
    "split_external_local_origin_errors": "splitExternalLocalOriginErrors",
    "consecutive_local_origin_failure": "consecutiveLocalOriginFailures",
}


def envoy_cluster(name, origins, common, settings):
    made = ejects(
        **settings, interval=f"{common['interval']}s", base_ejection_time=f"{common['base']}s",
        max_ejection_percent=common["percent"],
    )
    made["common_lb_config"]["healthy_panic_threshold"]["value"] = common.get("panic", 0)
    return cluster(cluster_name(name), [origin.address for origin in origins], **RING, **made)


def documents(name, origins, common, settings):
    fields = {ISTIO[key]: str(value).lower() for key, value in settings.items()}
    fields |= {"interval": f"{common['interval']}s", "baseEjectionTime": f"{common['base']}s"}
    fields |= {"maxEjectionPercent": common["percent"], "minHealthPercent": common.get("panic", 0)}
    outlier = ", ".join(f"{key}: {value}" for key, value in fields.items())
    balancer = "loadBalancer: { consistentHash: { httpHeaderName: x-session-id } }"
    text = service(name, [(origin.address, "v1") for origin in origins])
    text += rule(name, f"{balancer}, outlierDetection: {{ {outlier} }}")
    return text + virtual_service(name, f"  - route: [{{ destination: {{ host: {name} }} }}]\n    timeout: 0.15s\n{RETRY_OFF}")


def keys_of(proxy, name, origins):
    """A key for each host of the ring."""
    client, keys = KeepAlive(proxy.address), {}
    for number in range(1000):
        key = f"key-{number}"
        keys.setdefault(client.origin(f"/{name}/", [("x-session-id", key)], host=name), key)
        if len(keys) == len(origins):
            return [keys[origin.address] for origin in origins]
    check(False, f"no key for a host of {name}")


def timelines(folder, differences):
    routes, clusters, text, scenarios = [], [], "", []
    for script, hosts, common, settings in SCENARIOS:
        # Each proxy has origins of its own in those scripts that stop them; the picks need the same addresses.
        name, origins = script.__name__, [Origin() for _ in range(hosts)]
        scenarios.append((script, name, origins, common["base"]))
        clusters.append(envoy_cluster(name, origins, common, settings))
        routes.append({
            "match": {"prefix": f"/{name}/"},
            "route": {"cluster": cluster_name(name), "timeout": "0.15s", "hash_policy": [HEADER]},
        })
        text += documents(name, origins, common, settings)
    events = 0
    with Envoy("envoy", folder, routes, clusters, ["*"]) as envoy, Outrigger("outrigger", folder, text) as ours:
        failures = []

        def play(script, name, origins, base):
            try:
                keys = keys_of(envoy, name, origins)
                runs = {key: Script(name, proxy, origins, keys, base) for key, proxy in (("envoy", envoy), ("ours", ours))}
                for one in runs.values():
                    script(one)
                    one.counters()
                found[name] = runs
            except Exception as failure:  # pylint: disable=broad-except
                failures.append(f"{name}: {failure!r}")

        found = {}
        threads = [threading.Thread(target=play, args=scenario) for scenario in scenarios]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check(not failures, f"{failures}")
        for name, runs in found.items():
            expected, got = runs["envoy"].events, runs["ours"].events
            check(len(expected) == len(got), f"{name}: {expected} {got}")
            for number, (one, other) in enumerate(zip(expected, got)):
                differences.compare(f"{name} {number}", "event", one, other)
                events += 1
    for _, _, origins, _ in scenarios:
        for origin in origins:
            origin.stop()
    return f"{events} events of {len(scenarios)} scenarios"


if __name__ == "__main__":
    run("ejection_diff", (timelines,))
