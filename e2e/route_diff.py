"""Random VirtualServices and requests: which route, cluster, status and path a real Envoy and Outrigger choose.

The rules are generated as data from a printed seed. Istio's documents are those very data; Envoy's routes come from
`RouteOf`, which is written from Istio's documentation and shares nothing with Outrigger.
"""

import json
import os
import random

from client import KeepAlive
from differences import run
from envoy import Envoy, cluster, forward
from origins import Origin
from processes import check
from sidecar import PORT, Outrigger, cluster_name, service

SEED = int(os.environ.get("OUTRIGGER_E2E_SEED", random.SystemRandom().randrange(1 << 32)))
ROUNDS = int(os.environ.get("OUTRIGGER_E2E_ROUNDS", "12"))
HOSTS = 16
REQUESTS = 1300
SERVICES = ["reviews", "ratings", "details"]

PATHS = ["/", "/a", "/api", "/api/", "/api/v1", "/apix", "/API", "/a%20b", "/v1/items", "/x.y", "/api/v1/users/7"]
# A pattern, and paths that it takes or nearly takes.
PATTERNS = [
    ("/v[0-9]+/.*", ["/v1/items", "/v22/", "/v/items", "/xv1/items"]),
    ("/api(/.*)?", ["/api", "/api/v1", "/apix"]),
    (".*\\.y", ["/x.y", "/x.yz", "/.y"]),
    ("/(a|api)", ["/a", "/api", "/api/"]),
    (".*", ["/a", "/"]),
    ("(?i)/api", ["/API", "/Api", "/api/"]),
]
HEADERS = ["version", "x-user", "end-user"]
VALUES = ["canary", "v1", "v10", "alice", "", "a b"]
VALUE_PATTERNS = ["v[0-9]", "al.*", "canary|v1", ".+", "v1"]
QUERIES = ["q", "debug"]
METHODS = ["GET", "POST", "PUT", "DELETE"]


class Echo(Origin):
    """Says in its answer what it was asked."""

    def _answer(self, connection, stream, path, headers):
        line, lines = self.seen[-1]
        said = {"x-target": line.split(" ")[1], "x-authority": dict(lines).get("host", "")}
        for name in ("x-envoy-original-path", "x-envoy-original-host", "x-set", "x-user"):
            said[f"x-saw-{name}"] = ";".join(value for key, value in lines if key == name)
        more = "".join(f"{name}: {value}\r\n" for name, value in said.items()).encode("latin-1")
        self._send(connection, "200", b"ok", more)
        return True


def one_of(chance, *makers):
    return chance.choice(makers)()


def value_match(chance, values, patterns):
    return one_of(
        chance,
        lambda: {"exact": chance.choice(values)},
        lambda: {"prefix": chance.choice([value for value in values if value])},
        lambda: {"regex": chance.choice(patterns)},
        dict,
    )


def match_block(chance):
    """One entry of `match`. The fields are Istio's."""
    block = {}
    if chance.random() < 0.8:
        block["uri"] = one_of(
            chance,
            lambda: {"exact": chance.choice(PATHS)},
            lambda: {"prefix": chance.choice(PATHS)},
            lambda: {"regex": chance.choice(PATTERNS)[0]},
        )
        if chance.random() < 0.2:
            block["ignoreUriCase"] = True
    if chance.random() < 0.3:
        names = chance.sample(HEADERS, chance.randint(1, 2))
        block["headers"] = {name: value_match(chance, VALUES, VALUE_PATTERNS) for name in names}
    if chance.random() < 0.2:
        block["withoutHeaders"] = {chance.choice(HEADERS): value_match(chance, VALUES, VALUE_PATTERNS)}
    if chance.random() < 0.2:
        block["queryParams"] = {chance.choice(QUERIES): value_match(chance, VALUES, VALUE_PATTERNS)}
    if chance.random() < 0.15:
        block["method"] = {"exact": chance.choice(METHODS)}
    if chance.random() < 0.1:
        block["scheme"] = {"exact": chance.choice(["http", "https"])}
    if chance.random() < 0.1:
        block["authority"] = one_of(chance, lambda: {"prefix": "h"}, lambda: {"regex": "h[0-9]+(:.*)?"})
    if chance.random() < 0.1:
        block["port"] = chance.choice([PORT, 9999])
    if chance.random() < 0.1:
        block["gateways"] = chance.choice([["mesh"], ["other"], ["mesh", "other"]])
    if chance.random() < 0.1:
        block["sourceLabels"] = {"app": "web"}
    if chance.random() < 0.1:
        block["sourceNamespace"] = chance.choice(["default", "other"])
    return block


def rewritten(chance, blocks):
    # No result holds what no request line may (`<`): Outrigger answers 400, Envoy sends it. Nor does it lack the slash at
    # its beginning, which is an intended difference of action_diff.
    if chance.random() < 0.4:
        pattern, substitution = chance.choice(
            [("/api", "/new"), ("^/([^/]*)/(.*)$", "/\\2/\\1"), ("[aeiou]", "_"), ("/", "/-/"), ("items|users", "(\\0)")]
        )
        return {"uriRegexRewrite": {"match": pattern, "rewrite": substitution}}
    rewrite = {}
    if chance.random() < 0.8:
        rewrite["uri"] = chance.choice(["/", "/new", "/new/", "/$1"])
    if not rewrite or chance.random() < 0.3:
        rewrite["authority"] = "other.test"
    return rewrite


def redirect(chance, blocks):
    """`prefixRewrite` is allowed where all matches are prefixes."""
    made = {}
    prefixes = blocks and all("prefix" in block.get("uri", {}) for block in blocks)
    kind = chance.random()
    if kind < 0.3:
        made["uri"] = chance.choice(["/moved", "/moved?new=1", "/"])
    elif kind < 0.5 and prefixes:
        made["prefixRewrite"] = chance.choice(["/moved", "/", "/moved/"])
    if chance.random() < 0.5:
        made["authority"] = "elsewhere.test"
    if chance.random() < 0.3:
        made["scheme"] = chance.choice(["http", "https"])
    if chance.random() < 0.3:
        made["port"] = chance.choice([80, 443, 8443])
    elif chance.random() < 0.2:
        made["derivePort"] = chance.choice(["FROM_REQUEST_PORT", "FROM_PROTOCOL_DEFAULT"])
    if not made.keys() & {"uri", "authority", "scheme", "port", "derivePort", "prefixRewrite"}:
        made["uri"] = "/moved"
    if chance.random() < 0.5:
        made["redirectCode"] = chance.choice([301, 302, 303, 307, 308])
    return made


def destinations(chance):
    """Of several only one has a weight, so that nothing is drawn for: the split itself is compared by count elsewhere."""
    first = {"destination": {"host": chance.choice(SERVICES)}}
    if chance.random() < 0.15:
        first["destination"]["subset"] = "none"
    if chance.random() < 0.2:
        return [{**first, "weight": chance.choice([0, 1, 100])}]
    if chance.random() < 0.2:
        return [{"destination": {"host": chance.choice(SERVICES)}, "weight": 0}, {**first, "weight": 7}]
    return [first]


def http_rule(chance, number):
    rule = {"name": f"r{number}"}
    blocks = [match_block(chance) for _ in range(chance.choice([0, 1, 1, 1, 1, 2, 2, 3]))]
    if blocks:
        rule["match"] = [block if block else {"uri": {"prefix": "/"}} for block in blocks]
    kind = chance.random()
    if kind < 0.1:
        return {**rule, "redirect": redirect(chance, rule.get("match"))}
    if kind < 0.2:
        response = {"status": chance.choice([200, 204, 404, 503])}
        if response["status"] != 204 and chance.random() < 0.5:
            response["body"] = {"string": "said here"}
        return {**rule, "directResponse": response}
    rule["route"] = destinations(chance)
    if chance.random() < 0.35:
        rule["rewrite"] = rewritten(chance, blocks)
    if chance.random() < 0.2:
        rule["headers"] = {"request": chance.choice([{"set": {"x-set": "1"}}, {"add": {"x-user": "added"}}, {"remove": ["x-user"]}])}
    rule["retries"] = {"attempts": 0}
    return rule


class RouteOf:
    """Envoy's routes of the rules of one host, on our port and for a proxy without labels in `default`."""

    def __init__(self, host):
        self.host = host

    def routes(self, rules):
        made = []
        for rule in rules:
            for block in rule.get("match", [None]):
                if block is not None and not self.applies(block):
                    continue
                match = self.match(block or {})
                made.append({"name": rule["name"], "match": match, **self.action(rule, block or {})})
                if match in ({"prefix": "/"}, {"safe_regex": {"regex": ".*"}}):
                    return made
        # Without a rule that may ever apply the service has its own route.
        return made or [{"name": "default", "match": {"prefix": "/"}, "route": forward(cluster_name(self.host))}]

    @staticmethod
    def applies(block):
        if block.get("port", PORT) != PORT:
            return False
        if "gateways" in block:
            return "mesh" in block["gateways"]
        return "sourceLabels" not in block and block.get("sourceNamespace", "default") == "default"

    @staticmethod
    def match(block):
        uri = block.get("uri", {"prefix": "/"})
        [(form, value)] = uri.items()
        made = {{"exact": "path", "prefix": "prefix"}.get(form): value} if form != "regex" else {"safe_regex": {"regex": value}}
        if block.get("ignoreUriCase"):
            made["case_sensitive"] = False
        headers = []
        for field in ("scheme", "method", "authority"):
            if field in block:
                headers.append({"name": f":{field}", **RouteOf.string(block[field])})
        headers += [{"name": name, **RouteOf.string(value)} for name, value in block.get("headers", {}).items()]
        for name, value in block.get("withoutHeaders", {}).items():
            missing = {"treat_missing_header_as_empty": True} if value else {}
            headers.append({"name": name, **RouteOf.string(value), "invert_match": True, **missing})
        queries = [{"name": name, **RouteOf.string(value)} for name, value in block.get("queryParams", {}).items()]
        if headers:
            made["headers"] = headers
        if queries:
            made["query_parameters"] = queries
        return made

    @staticmethod
    def string(value):
        if not value:
            return {"present_match": True}
        [(form, text)] = value.items()
        return {"string_match": {"safe_regex": {"regex": text}} if form == "regex" else {form: text}}

    def action(self, rule, block):
        made = {}
        if "redirect" in rule:
            return {"redirect": self.redirect(rule["redirect"])}
        if "directResponse" in rule:
            response = {"status": rule["directResponse"]["status"]}
            if "body" in rule["directResponse"]:
                response["body"] = {"inline_string": rule["directResponse"]["body"]["string"]}
            return {"direct_response": response}
        entries = rule["route"]
        chosen = entries[0] if len(entries) == 1 else next(entry for entry in entries if entry["weight"] > 0)
        destination = chosen["destination"]
        name = cluster_name(destination["host"], destination.get("subset", ""))
        route = forward(name, cluster_not_found_response_code="SERVICE_UNAVAILABLE")
        rewrite = rule.get("rewrite", {})
        if "uri" in rewrite:
            route["prefix_rewrite"] = rewrite["uri"]
        if "uriRegexRewrite" in rewrite:
            regex = rewrite["uriRegexRewrite"]
            route["regex_rewrite"] = {"pattern": {"regex": regex["match"]}, "substitution": regex["rewrite"]}
        if "authority" in rewrite:
            route["host_rewrite_literal"] = rewrite["authority"]
        made["route"] = route
        request = rule.get("headers", {}).get("request", {})
        for operation, action in (("set", "OVERWRITE_IF_EXISTS_OR_ADD"), ("add", "APPEND_IF_EXISTS_OR_ADD")):
            for key, value in request.get(operation, {}).items():
                header = {"header": {"key": key, "value": value}, "append_action": action}
                made.setdefault("request_headers_to_add", []).append(header)
        if "remove" in request:
            made["request_headers_to_remove"] = request["remove"]
        return made

    @staticmethod
    def redirect(rule):
        codes = {301: "MOVED_PERMANENTLY", 302: "FOUND", 303: "SEE_OTHER", 307: "TEMPORARY_REDIRECT", 308: "PERMANENT_REDIRECT"}
        made = {"response_code": codes[rule.get("redirectCode", 301)]}
        names = {"uri": "path_redirect", "prefixRewrite": "prefix_rewrite", "authority": "host_redirect", "scheme": "scheme_redirect"}
        made.update({names[key]: rule[key] for key in names if key in rule})
        port = PORT if rule.get("derivePort") == "FROM_REQUEST_PORT" else rule.get("port", 0)
        implied = {"http": 80, "https": 443}[rule.get("scheme", "http")]
        if port not in (0, implied):
            made["port_redirect"] = port
        return made


def virtual_host(host, rules):
    """All names of a service of our own namespace."""
    names = [host, f"{host}.default", f"{host}.default.svc", f"{host}.default.svc.cluster.local"]
    return {
        "name": host,
        "domains": [name + port for name in names for port in ("", ":*")],
        "routes": RouteOf(host).routes(rules),
        "include_request_attempt_count": True,
    }


def document(host, rules):
    spec = json.dumps({"hosts": [host], "http": rules})
    return f"\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: {host} }}\nspec: {spec}\n---"


def a_request(chance, host, rules):
    """Mostly one that a block of the rules takes, or nearly so."""
    blocks = [block for rule in rules for block in rule.get("match", [{}])]
    block = chance.choice(blocks) if blocks and chance.random() < 0.8 else {}
    path, headers, method = chance.choice(PATHS), [], chance.choice(METHODS[:2])
    uri = block.get("uri", {})
    if "exact" in uri:
        path = uri["exact"]
    elif "prefix" in uri:
        path = uri["prefix"] + chance.choice(["", "", "x", "/x", "/v1/items"])
    elif "regex" in uri:
        path = chance.choice(dict(PATTERNS)[uri["regex"]])
    if block.get("ignoreUriCase") and chance.random() < 0.5:
        path = path.swapcase()
    if chance.random() < 0.15:
        path = chance.choice([path.upper(), path + "/", path.replace("a", "%61"), path + "/../a", "/." + path, "/" + path])
    for name, value in block.get("headers", {}).items():
        if chance.random() < 0.85:
            headers.append((name, sample(chance, value)))
    while chance.random() < 0.25:
        headers.append((chance.choice(HEADERS), chance.choice(VALUES)))
    queries = [f"{name}={sample(chance, value)}" for name, value in block.get("queryParams", {}).items()]
    while chance.random() < 0.2:
        queries.append(chance.choice(["q", "q=", "q=v1", "debug=v10", "other=1", "q=canary&q=v1", "Q=v1"]))
    if queries:
        path += "?" + "&".join(queries).replace(" ", "%20")
    if "method" in block and chance.random() < 0.9:
        method = block["method"]["exact"]
    if chance.random() < 0.1:
        headers.append(("x-forwarded-proto", "https"))
    names = [host, f"{host}.default", f"{host}.default.svc.cluster.local:{PORT}", host.upper(), f"{host}:80", f"{host}."]
    return method, path, headers, chance.choice(names[:3] if chance.random() < 0.9 else names)


def sample(chance, match):
    """A value that the match takes, mostly."""
    if "exact" in match:
        return match["exact"]
    if "prefix" in match:
        return match["prefix"] + chance.choice(["", "0"])
    return chance.choice(VALUES)


def one_round(chance, folder, number, differences, origins):
    hosts = [f"h{index}" for index in range(HOSTS)]
    rules = {host: [http_rule(chance, index) for index in range(chance.randint(1, 8))] for host in hosts}
    documents = "".join(service(name, [(origin.address, "v1")]) for name, origin in origins.items())
    documents += "".join(service(host, [(origins["reviews"].address, "v1")]) + document(host, rules[host]) for host in hosts)
    named = {**origins, **{host: origins["reviews"] for host in hosts}}
    clusters = [cluster(cluster_name(name), [origin.address]) for name, origin in named.items()]
    virtual_hosts = [virtual_host(host, rules[host]) for host in hosts]
    envoy = Envoy(f"envoy{number}", folder, None, clusters, virtual_hosts=virtual_hosts)
    chosen = {}
    with envoy, Outrigger(f"outrigger{number}", folder, documents) as ours:
        clients = {"envoy": KeepAlive(envoy.address), "ours": KeepAlive(ours.address)}
        for _ in range(REQUESTS):
            host = chance.choice(hosts)
            method, path, headers, authority = a_request(chance, host, rules[host])
            got = [outcome(client, method, path, headers, authority) for client in clients.values()]
            chosen[str(got[0])] = chosen.get(str(got[0]), 0) + 1
            case = f"seed {SEED} round {number}: {method} {authority}{path} {headers}"
            if got[0] != got[1]:
                print(json.dumps(rules[host]))
            differences.compare(case, "answer", *got)
    return len(chosen)


def outcome(client, method, path, headers, authority):
    status, fields = client.ask(method, path, headers, authority)
    kept = ("x-origin", "location", "content-type")
    return status, {name: value for name, value in fields.items() if name in kept or name.startswith(("x-target", "x-auth", "x-saw"))}


def random_rules(folder, differences):
    print(f"route_diff: OUTRIGGER_E2E_SEED={SEED}")
    chance = random.Random(SEED)
    origins = {name: Echo() for name in SERVICES}
    answers = [one_round(chance, folder, number, differences, origins) for number in range(ROUNDS)]
    check(min(answers) > 50, f"the requests had only {answers} different answers: they compare little")
    for origin in origins.values():
        origin.stop()
    return f"{ROUNDS * REQUESTS} requests to {ROUNDS * HOSTS} random virtual services"


if __name__ == "__main__":
    run("route_diff", (random_rules,))
