"""Which endpoint a key goes to: ring hash and Maglev in a real Envoy and in Outrigger, key by key.

Memberships, weights and keys are random from a printed seed. Each membership is compared whole, and again without the
endpoints that outlier detection ejects: the tables hold healthy hosts only. Then the seed's own rules, where the hash
policies of two destinations combine.
"""

import json
import os
import random
import re

from client import KeepAlive
from differences import run
from envoy import Envoy, cluster, ejects
from origins import Origin
from processes import check, wait_for
from seed import start_proxy
from sidecar import Outrigger, cluster_name, rule, service, virtual_service
from stats import stat

SEED = int(os.environ.get("OUTRIGGER_E2E_SEED", random.SystemRandom().randrange(1 << 32)))
KEYS = 2000
MEMBERSHIPS = 3
HEADER = {"header": {"header_name": "x-session-id"}}
KINDS = {
    "ring": ({"policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 1024}}, ""),
    "maglev": ({"policy": "MAGLEV", "maglev_lb_config": {"table_size": 65537}}, ", maglev: { tableSize: 65537 }"),
}
BY_SESSION = "loadBalancer: { consistentHash: { httpHeaderName: x-session-id%s } }"
# One error ejects for longer than this test runs.
OUTLIER = "outlierDetection: { consecutive5xxErrors: 1, interval: 60s, baseEjectionTime: 600s, maxEjectionPercent: 100 }"


def random_key(chance):
    """Most keys are short ids; some are long, empty or hold any byte that a header value may."""
    kind = chance.random()
    if kind < 0.8:
        return f"tenant-{chance.randrange(10**6)}"
    if kind < 0.81:
        return ""
    alphabet = [chr(code) for code in range(0x21, 0x7F)] + [chr(code) for code in range(0xA0, 0x100)]
    return "".join(chance.choice(alphabet) for _ in range(chance.randrange(1, 200)))


def random_members(chance, origins):
    """Some of the origins in any order; every third membership without weights."""
    members = chance.sample(origins, chance.randint(3, len(origins)))
    if chance.random() < 0.33:
        return [(origin.address, 1) for origin in members]
    return [(origin.address, chance.choice((1, 2, 3, 10, chance.randint(1, 128)))) for origin in members]


def forward(name):
    return {"match": {"prefix": f"/{name}/"}, "route": {"cluster": cluster_name(name), "timeout": "0s", "hash_policy": [HEADER]}}


def memberships(folder, differences):
    """Lone clusters."""
    print(f"hash_diff: OUTRIGGER_E2E_SEED={SEED}")
    chance = random.Random(SEED)
    origins = [Origin() for _ in range(12)]
    groups = {}
    routes, clusters, documents = [], [], ""
    for kind, (envoy_policy, istio_policy) in KINDS.items():
        for number in range(MEMBERSHIPS):
            name = f"{kind}{number}"
            groups[name] = members = random_members(chance, origins)
            outlier = ejects(consecutive_5xx=1, interval="60s", base_ejection_time="600s", max_ejection_percent=100)
            clusters.append(cluster(cluster_name(name), members, **envoy_policy, **outlier))
            routes.append(forward(name))
            documents += service(name, [(address, "v1", weight) for address, weight in members])
            documents += rule(name, f"{BY_SESSION % istio_policy}, {OUTLIER}")
    with Envoy("envoy", folder, routes, clusters, ["*"]) as envoy, Outrigger("outrigger", folder, documents) as ours:
        proxies = {"envoy": envoy, "ours": ours}
        clients = {name: KeepAlive(proxy.address) for name, proxy in proxies.items()}
        keys = [random_key(chance) for _ in range(KEYS)]
        for name, members in groups.items():
            picks = same_picks(differences, f"{name} of {len(members)}", clients, name, keys)
            check(expected_members(members) <= set(picks), f"{name}: only {sorted(set(picks))} of {members} were picked")
            for ejected in range(1, min(3, len(members))):
                victim = chance.choice(picks)
                eject(proxies, clients, name, keys[picks.index(victim)], len(members) - ejected)
                case = f"{name} of {len(members)} with {ejected} ejected"
                picks = same_picks(differences, case, clients, name, keys)
                check(victim not in picks, f"{case}: {victim} is ejected and picked")
        several_lines(differences, clients)
        changes = [stat(proxy.admin, cluster_name("ring0"), "membership_change") for proxy in proxies.values()]
        differences.compare("ring0", "membership_change", *changes)
    for origin in origins:
        origin.stop()
    return f"{len(groups)} memberships with {KEYS} keys each, whole and with endpoints ejected"


def expected_members(members):
    """Those that a share of the keys goes to; one of very little weight may own none of them."""
    total = sum(weight for _, weight in members)
    return {address for address, weight in members if KEYS * weight / total >= 40}


def same_picks(differences, case, clients, name, keys):
    """Envoy's picks."""
    wrong, picks = [], []
    for key in keys:
        headers = [("x-session-id", key)]
        expected, got = [clients[proxy].origin(f"/{name}/", headers, host=name) for proxy in ("envoy", "ours")]
        picks.append(expected)
        if expected != got:
            wrong.append((key, expected, got))
    differences.compare(case, "picks", [], wrong[:3] and [len(wrong)] + wrong[:3])
    return picks


def eject(proxies, clients, name, key, healthy):
    """The host of this key answers one 500 to each proxy; both tables are rebuilt when the healthy hosts are fewer."""
    for proxy, client in clients.items():
        status, _ = client.get(f"/{name}/status/500", [("x-session-id", key)], host=name)
        check(status == 500, f"{proxy}: {name} {key} answered {status}")
        admin = proxies[proxy].admin
        wait_for(f"{proxy} to eject", lambda: stat(admin, cluster_name(name), "membership_healthy") == healthy)


def several_lines(differences, clients):
    """The values of several header lines are sorted, then hashed one after the other."""
    wrong = []
    for number in range(200):
        headers = [("x-session-id", f"b-{number}"), ("x-session-id", f"a-{number}")]
        picks = [client.origin("/ring0/", headers, host="ring0") for client in clients.values()]
        if len(set(picks)) > 1:
            wrong.append((number, *picks))
    differences.compare("several header lines", "picks", [], wrong)


ATTRIBUTES = {
    "plain": {"path": "/p", "ttl": "60s"},
    "session": {"ttl": "0s", "attributes": [{"name": "SameSite", "value": "Lax"}, {"name": "Secure"}]},
    "long": {"path": "/p", "ttl": "60s", "attributes": [{"name": "HttpOnly"}, {"name": "Domain", "value": "a b, c"}]},
}


def cookies(folder, differences):
    """The Set-Cookie of a made cookie; its value says the ports of the connection, which differ."""
    origin, routes, clusters, documents = Origin(), [], [], ""
    for name, fields in ATTRIBUTES.items():
        policy = [{"cookie": {"name": "sess", **fields}}]
        route = {"cluster": cluster_name(name), "timeout": "0s", "hash_policy": policy}
        routes.append({"match": {"prefix": f"/{name}/"}, "route": route})
        clusters.append(cluster(cluster_name(name), [origin.address], **KINDS["ring"][0]))
        documents += service(name, [(origin.address, "v1")])
        # JSON is YAML.
        documents += rule(name, f"loadBalancer: {{ consistentHash: {{ httpCookie: {json.dumps(policy[0]['cookie'])} }} }}")
    with Envoy("envoy-cookie", folder, routes, clusters, ["*"]) as envoy, Outrigger("ours-cookie", folder, documents) as ours:
        for name in ATTRIBUTES:
            lines = [KeepAlive(proxy.address).get(f"/{name}/", host=name)[1]["set-cookie"] for proxy in (envoy, ours)]
            check('sess="' in lines[0], f"{name}: {lines[0]}")
            differences.compare(f"cookie {name}", "set-cookie", *[re.sub(r'"[0-9a-f]{16}"', '"*"', line) for line in lines])
    origin.stop()
    return f"{len(ATTRIBUTES)} made cookies"


# The split is random in each proxy: a key is asked for until both subsets were seen, at most this often.
TRIES = 12


def weighted(destinations):
    """Istio appends the policy of every destination to the one list of the route."""
    clusters = [{"name": name, "weight": weight} for name, weight in destinations]
    return {"weighted_clusters": {"clusters": clusters}, "timeout": "0s", "hash_policy": [HEADER] * len(clusters)}


def split(folder, differences):
    """Half and half to two subsets of several endpoints each."""
    groups = {"v1": [Origin() for _ in range(3)], "v2": [Origin() for _ in range(2)]}
    ring = KINDS["ring"][0]
    clusters = [cluster(subset, [one.address for one in group], **ring) for subset, group in groups.items()]
    route = {"match": {"prefix": "/"}, "route": weighted([("v1", 50), ("v2", 50)])}
    documents = service("split", [(one.address, subset) for subset, group in groups.items() for one in group])
    documents += rule("split", BY_SESSION % "")
    destinations = "".join(f"    - {{ destination: {{ host: split, subset: {subset} }}, weight: 50 }}\n" for subset in groups)
    documents += virtual_service("split", "  - route:\n" + destinations)
    envoy = Envoy("envoy-split", folder, [route], clusters, ["*"])
    with envoy, Outrigger("outrigger-split", folder, documents) as ours:
        compared = by_subset(differences, "split", envoy, ours.address, "split", groups)
    return f"{compared} picks of split keys"


def seed_rules(folder, differences):
    """The files of examples/seed as they are, but for the ports: 90 % to v1, 10 % to v2, `version: canary` to v2."""
    origins = [Origin() for _ in range(3)]
    groups = {"v1": origins[:2], "v2": origins[2:]}
    ring = KINDS["ring"][0]
    clusters = [cluster(subset, [one.address for one in group], **ring) for subset, group in groups.items()]
    canary = {"prefix": "/", "headers": [{"name": "version", "string_match": {"exact": "canary"}}]}
    routes = [
        {"match": canary, "route": {"cluster": "v2", "timeout": "0s", "hash_policy": [HEADER]}},
        {"match": {"prefix": "/"}, "route": weighted([("v1", 90), ("v2", 10)])},
    ]
    ports = [one.address.rsplit(":", 1)[1] for one in origins]
    proxy, (_, address, *_) = start_proxy(folder, [(port, port) for port in ports])
    with Envoy("envoy-seed", folder, routes, clusters, ["*"]) as envoy, proxy:
        compared = by_subset(differences, "seed", envoy, address, "otlp-collector", groups)
    return f"{compared} through the seed's rules"


def by_subset(differences, case, envoy, ours, host, groups):
    """Compares the picks of each key within each subset that both proxies came to choose."""
    subset_of = {one.address: subset for subset, group in groups.items() for one in group}
    clients = {"envoy": KeepAlive(envoy.address), "ours": KeepAlive(ours)}
    compared, wrong = 0, []
    for number in range(KEYS):
        headers = [("x-session-id", f"tenant-{number:04}")]
        found = {name: {} for name in clients}
        for name, client in clients.items():
            for _ in range(TRIES):
                picked = client.origin("/", headers, host=host)
                before = found[name].setdefault(subset_of[picked], picked)
                check(before == picked, f"{name}: {headers} went to {before} and {picked} of one subset")
                if len(found[name]) == 2:
                    break
        for subset in found["envoy"].keys() & found["ours"].keys():
            compared += 1
            if found["envoy"][subset] != found["ours"][subset]:
                wrong.append((number, subset, found["envoy"][subset], found["ours"][subset]))
    check(compared > KEYS, f"only {compared} picks could be compared")
    differences.compare(case, "picks", [], wrong[:3] and [len(wrong)] + wrong[:3])
    return compared


if __name__ == "__main__":
    run("hash_diff", (memberships, cookies, split, seed_rules))
