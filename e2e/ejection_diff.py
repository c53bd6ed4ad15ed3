"""The timeline of ejections: the same scripted requests through a real Envoy and through Outrigger.

After each request: who answered, and who is ejected now (`failed_outlier_check` in /clusters). Ejection times are
compared as multiples of the base time; both proxies round them up to their own next sweep. A ring decides which host
a key means, so a script can speak of hosts.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from client import KeepAlive
from differences import run
from ejection_scripts import SCENARIOS
from envoy import Envoy, cluster, ejects, http1
from origins import Origin
from processes import check, wait_for
from ring import keys_of
from sidecar import Outrigger, cluster_name, rule, service, virtual_service
from stats import connections, ejected, stats

RING = {"policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 1024}}
HEADER = {"header": {"header_name": "x-session-id"}}
TIMEOUT = "0.4s"
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

    def returns(self, host, between=None):
        """Waits for it; for how many base times it was away, or whether for some number between these."""
        wait_for(f"{self.name}: host {host} to return", lambda: host not in self.ejected())
        times = int((time.monotonic() - self.since.pop(host)) / self.base)
        if between is not None:
            check(between[0] <= times <= between[1], f"{self.name} in {self.proxy.name}: away for {times}, not {between}")
            times = between
        self.events.append((f"{host} returns", times))

    def healthy_for(self, seconds):
        """A while that sweeps count; nothing else tells of them."""
        time.sleep(seconds)

    def refuse(self, host):
        self.origins[host].refuse()
        address = self.addresses[host]
        wait_for("the end of its connections", lambda: not connections(self.proxy.admin, self.cluster)[address])

    def listen(self, host):
        self.origins[host].listen()

    def counters(self):
        now = stats(self.proxy.admin, self.cluster)
        self.events.append(("counters", {name: now.get(name) for name in COUNTERS}))


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
    if "codes" in common:
        made |= http1_errors(common["codes"])
    return cluster(cluster_name(name), [origin.address for origin in origins], **RING, **made)


def http1_errors(statuses):
    """What Istio makes of `outlierDetectionHttpErrorCodes`."""
    matches = [{"name": ":status", "string_match": {"exact": str(status)}} for status in statuses]
    rules = [{"http_response_headers_match": {"headers": [match]}} for match in matches]
    return http1(outlier={"error_matcher": {"or_match": {"rules": rules}}})


def documents(name, origins, common, settings):
    fields = {ISTIO[key]: str(value).lower() for key, value in settings.items()}
    fields |= {"interval": f"{common['interval']}s", "baseEjectionTime": f"{common['base']}s"}
    fields |= {"maxEjectionPercent": common["percent"], "minHealthPercent": common.get("panic", 0)}
    if "codes" in common:
        fields["outlierDetectionHttpErrorCodes"] = common["codes"]
    outlier = ", ".join(f"{key}: {value}" for key, value in fields.items())
    balancer = "loadBalancer: { consistentHash: { httpHeaderName: x-session-id } }"
    text = service(name, [(origin.address, "v1") for origin in origins])
    text += rule(name, f"{balancer}, outlierDetection: {{ {outlier} }}")
    return text + virtual_service(name, f"  - route: [{{ destination: {{ host: {name} }} }}]\n    timeout: {TIMEOUT}\n{RETRY_OFF}")


class Scenario(threading.Thread):
    """One script in both proxies, beside the others: side by side, or one after the other if it stops origins."""

    def __init__(self, script, hosts, common, settings):
        super().__init__(daemon=True)
        self.script, self.common, self.settings = script, common, settings
        self.label = script.__name__.replace("_", "-")  # a host
        self.origins = [Origin() for _ in range(hosts)]
        # Now, since it would hold up the origins of those that run.
        self.keys = keys_of([origin.address for origin in self.origins])
        self.runs, self.failure = {}, None

    def route(self):
        action = {"cluster": cluster_name(self.label), "timeout": TIMEOUT, "hash_policy": [HEADER]}
        return {"match": {"prefix": f"/{self.label}/"}, "route": action}

    def between(self, proxies):
        for name, proxy in proxies.items():
            self.runs[name] = Script(self.label, proxy, self.origins, self.keys, self.common["base"])
        self.start()

    def run(self):
        workers = 1 if self.common.get("stops") else 2
        with ThreadPoolExecutor(workers) as pool:
            try:
                list(pool.map(self.play, self.runs.values()))
            except Exception as failure:  # pylint: disable=broad-except
                self.failure = failure

    def play(self, run_of_one):
        self.script(run_of_one)
        run_of_one.counters()


def timelines(folder, differences):
    scenarios = [Scenario(*scenario) for scenario in SCENARIOS]
    clusters = [envoy_cluster(one.label, one.origins, one.common, one.settings) for one in scenarios]
    text = "".join(documents(one.label, one.origins, one.common, one.settings) for one in scenarios)
    envoy = Envoy("envoy", folder, [one.route() for one in scenarios], clusters, ["*"])
    events = 0
    with envoy, Outrigger("outrigger", folder, text) as ours:
        for one in scenarios:
            one.between({"envoy": envoy, "ours": ours})
        for one in scenarios:
            one.join(timeout=120)
            check(one.failure is None and not one.is_alive(), f"{one.label}: {one.failure or 'did not end'}")
            expected, got = one.runs["envoy"].events, one.runs["ours"].events
            for number, (theirs, own) in enumerate(zip(expected, got, strict=True)):
                differences.compare(f"{one.label} {number}", theirs[0], theirs, own)
            events += len(expected)
    for one in scenarios:
        for origin in one.origins:
            origin.stop()
    return f"{events} events of {len(scenarios)} scenarios"


if __name__ == "__main__":
    run("ejection_diff", [timelines])
