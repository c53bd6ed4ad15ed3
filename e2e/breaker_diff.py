"""Where circuit breakers overflow: held requests one after the other through a real Envoy and through Outrigger.

Each step waits until the proxy has taken the request in (or refused it), so which request overflows is no matter of
time. Compared are every answer, its log line, and the statistics that both proxies have.
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor

from client import exchange, request
from differences import run
from envoy import Envoy, cluster, forward, http2
from h2_origin import H2Origin
from logs import new_lines, normal_log, position
from origins import Origin
from processes import wait_for
from sidecar import Outrigger, cluster_name, rule, service, virtual_service
from stats import named, stats

GAUGES = [f"circuit_breakers_default_{name}_open" for name in ("cx", "rq", "rq_pending", "rq_retry")]
LOOKS = 3
HOLD, FAIL = "hold/{0}", "script/status.503,hold.{0}/{0}"


class Script:
    """One scenario in one proxy: requests by name, which the origins hold until they are let go."""

    def __init__(self, name, proxy, origins, pool):
        self.name, self.proxy, self.origins, self.pool = name, proxy, origins, pool
        self.cluster = cluster_name(name)
        self.flights = {}
        self.open = []
        self.logged = position(proxy.log)

    def start(self, *names, behaviour=HOLD):
        for name in names:
            path = f"/{self.name}/{behaviour.format(name)}"
            self.flights[name] = self.pool.submit(exchange, self.proxy.address, request(path, host=self.name))
            self.settle()

    def settle(self):
        """Whoever is not answered is held by an origin, or waits in line while every connection is busy."""

        def settled():
            now = stats(self.proxy.admin, self.cluster)
            active, waiting = now["upstream_rq_active"], now["upstream_rq_pending_active"]
            held = sum(len(origin.held.waiting()) for origin in self.origins)
            answered = sum(flight.done() for flight in self.flights.values())
            busy = active == now["upstream_cx_active"] * (STREAMS if isinstance(self.origins[0], H2Origin) else 1)
            return held == active and (busy or not waiting) and active + waiting + answered == len(self.flights)

        looks = []

        def steady():
            """Which breakers are open, as often as it takes to see the same a few times."""
            now = stats(self.proxy.admin, self.cluster)
            looks.append([name for name in GAUGES if now[name]])
            return len(looks) >= LOOKS and all(look == looks[-1] for look in looks[-LOOKS:])

        wait_for(f"{self.name} to settle", settled)
        wait_for(f"the breakers of {self.name} to settle", steady)
        self.open.append(looks[-1])

    def let_go(self, *names):
        for name in names:
            for origin in self.origins:
                origin.held.let_go(name)
            wait_for(f"the answer of {name}", self.flights[name].done)
            self.settle()

    def result(self):
        """Answers and log lines by name, the breakers that were open after each step, and the statistics."""
        for name in list(self.flights):
            self.let_go(name)
        answers = {name: flight.result().comparable() for name, flight in self.flights.items()}

        def logged():
            lines = [line for line in new_lines(self.proxy.log, self.logged) if line["path"].startswith(f"/{self.name}/")]
            return lines if len(lines) == len(answers) else None

        lines = wait_for("their log lines", logged)
        logs = {line["path"].rsplit("/", 1)[1]: normal_log(line) for line in lines}
        for origin in self.origins:
            origin.held.forget()
            origin.scripts.tries.clear()
        return self.anonymous(answers), self.anonymous(logs), self.open, stats(self.proxy.admin, self.cluster)

    def anonymous(self, by_name):
        """Where a rotation begins is random: hosts are numbered in the order in which they are met."""
        text, numbers = json.dumps(by_name), {}
        for address in re.findall(r"127\.0\.0\.1:\d+", text):
            numbers.setdefault(address, f"host {len(numbers)}")
        return json.loads(re.sub(r"127\.0\.0\.1:\d+", lambda found: numbers[found[0]], text))


def pending(script):
    """One connection, two in line."""
    script.start("a", "b", "c", "d", "e")
    script.let_go("a")
    script.start("f", "g")
    script.let_go("b", "c")
    script.start("h", "i", "j")


def connections(script):
    """Three connections, one in line; a free connection is used again."""
    script.start("a", "b", "c", "d", "e")
    script.let_go("b")
    script.start("f", "g")
    script.let_go("a", "c", "d", "f")
    script.start("h", "i", "j", "k", "l")


def requests(script):
    """Two active requests; the third gets a connection and is refused all the same."""
    script.start("a", "b", "c", "d")
    script.let_go("a")
    script.start("e", "f")


def several_hosts(script):
    """One connection in all, but each host may have a first one."""
    script.start("a", "b", "c", "d", "e")


def retries(script):
    """One retry at a time: a request that fails meanwhile keeps its answer."""
    script.start("a", "b", "c", behaviour=FAIL)
    script.start("d")
    script.let_go("a")
    script.start("e", "f", behaviour=FAIL)


def budget(script):
    """A share of what is active: two retries from the start, and a third when there is enough beside them."""
    script.start("a", "b", "c", behaviour=FAIL)
    script.start(*"defghi")
    script.start("j", "k", behaviour=FAIL)
    script.let_go("a")
    script.start("l", "m", behaviour=FAIL)


def streams(script):
    """Two streams a connection and one connection: more wait in line."""
    script.start("a", "b", "c", "d", "e")
    script.let_go("a")
    script.start("f", "g")


SCENARIOS = [
    (pending, Origin, 1, {"max_connections": 1, "max_pending_requests": 2}),
    (connections, Origin, 1, {"max_connections": 3, "max_pending_requests": 1}),
    (requests, Origin, 1, {"max_requests": 2}),
    (requests, H2Origin, 1, {"max_requests": 2}),
    (several_hosts, Origin, 2, {"max_connections": 1, "max_pending_requests": 1}),
    (retries, Origin, 1, {"max_retries": 1}),
    (retries, H2Origin, 1, {"max_retries": 1}),
    (budget, Origin, 1, {"retry_budget": {"budget_percent": {"value": 33.3}, "min_retry_concurrency": 2}}),
    (streams, H2Origin, 1, {"max_connections": 1, "max_pending_requests": 2}),
]
ISTIO = {
    "max_connections": ("tcp", "maxConnections"),
    "max_pending_requests": ("http", "http1MaxPendingRequests"),
    "max_requests": ("http", "http2MaxRequests"),
    "max_retries": ("http", "maxRetries"),
}
STREAMS = 2
RETRY = {"retry_on": "5xx", "num_retries": 2, "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.01s"}}


def label(script, origin):
    return script.__name__.replace("_", "-") + ("-h2" if origin is H2Origin else "")


def envoy_cluster(name, script, origins, limits):
    unlimited = {key: 4294967295 for key in ISTIO}
    h2 = http2(**({"max_concurrent_streams": STREAMS} if script is streams else {}))
    more = h2 if isinstance(origins[0], H2Origin) else {}
    breakers = {"thresholds": [{**unlimited, **limits}]}
    addresses = [origin.address for origin in origins]
    return cluster(cluster_name(name), addresses, "ROUND_ROBIN", circuit_breakers=breakers, **more)


def documents(name, script, origins, limits):
    fields = {"tcp": [], "http": []}
    policy = "loadBalancer: { simple: ROUND_ROBIN }"
    for key, value in limits.items():
        if key == "retry_budget":
            percent, least = value["budget_percent"]["value"], value["min_retry_concurrency"]
            policy += f", retryBudget: {{ percent: {percent}, minRetryConcurrency: {least} }}"
            continue
        kind, field = ISTIO[key]
        fields[kind].append(f"{field}: {value}")
    if script is streams:
        fields["http"].append(f"maxConcurrentStreams: {STREAMS}")
    blocks = ", ".join(f"{kind}: {{ {', '.join(found)} }}" for kind, found in fields.items() if found)
    text = service(name, [(origin.address, "v1") for origin in origins], "HTTP2" if isinstance(origins[0], H2Origin) else "HTTP")
    text += rule(name, policy + (f", connectionPool: {{ {blocks} }}" if blocks else ""))
    route = f"  - name: {name}\n    route: [{{ destination: {{ host: {name} }} }}]\n"
    return text + virtual_service(name, route + "    retries: { attempts: 2, retryOn: 5xx, backoff: 1ms }\n")


def overflows(folder, differences):
    scenarios = []
    for script, kind, hosts, limits in SCENARIOS:
        scenarios.append((label(script, kind), script, [kind() for _ in range(hosts)], limits))
    routes, clusters, text = [], [], ""
    for name, script, origins, limits in scenarios:
        routes.append({"name": name, "match": {"prefix": f"/{name}/"}, "route": forward(cluster_name(name), retry_policy=RETRY)})
        clusters.append(envoy_cluster(name, script, origins, limits))
        text += documents(name, script, origins, limits)
    envoy, answers = Envoy("envoy", folder, routes, clusters, ["*"]), 0
    with envoy, Outrigger("outrigger", folder, text) as ours, ThreadPoolExecutor(16) as pool:
        for name, script, origins, _ in scenarios:
            found = []
            for proxy in (envoy, ours):
                one = Script(name, proxy, origins, pool)
                script(one)
                found.append(one.result())
            (theirs, their_logs, their_open, their_stats), (own, own_logs, own_open, own_stats) = found
            differences.compare(name, "open breakers", their_open, own_open)
            for request_name, answer in theirs.items():
                case = f"{name} {request_name}"
                differences.compare(case, "answer", answer, own[request_name])
                differences.compare(case, "log", their_logs[request_name], own_logs[request_name])
                answers += 1
            for stat in sorted(name for name in their_stats.keys() & own_stats.keys() if name.startswith("upstream_")):
                differences.compare(name, stat, their_stats[stat], own_stats[stat])
        names(differences, envoy, ours, cluster_name(scenarios[0][0]))
    for _, _, origins, _ in scenarios:
        for origin in origins:
            origin.stop()
    return f"{answers} answers, their logs and the statistics of {len(scenarios)} scenarios"


def names(differences, envoy, ours, cluster_of_both):
    """What both have is called the same in /stats."""
    theirs, own = [named(proxy.admin, cluster_of_both) for proxy in (envoy, ours)]
    plain = {name.replace(".", "_"): name for name in theirs}
    both = sorted(name for name in own if name.replace(".", "_") in plain)
    differences.compare("statistics", "names", [plain[name.replace(".", "_")] for name in both], both)


if __name__ == "__main__":
    run("breaker_diff", [overflows])
