"""Retries of a real Envoy and of Outrigger: each word of `retryOn` against each way to fail, with 0 to 3 attempts.

The origin does what the path says at each try and counts the tries. Compared are the tries with the attempt count
that they carried, the answer, its log line, and the statistics of the clusters.
"""

from concurrent.futures import ThreadPoolExecutor

from client import exchange, request
from differences import run
from envoy import DEFAULT_RETRY, Envoy, cluster, forward, http2
from h2_origin import H2Origin
from logs import new_lines, normal_log
from origins import Origin, refused
from processes import wait_for
from sidecar import Outrigger, cluster_name, rule, service, virtual_service
from stats import stats

# Word of Istio's retryOn, Envoy's words and status codes. The default is what Istio writes without `retries`.
WORDS = {
    word: (word, [])
    for word in (
        "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "refused-stream", "retriable-4xx",
        "envoy-ratelimited", "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
    )
} | {"503": ("retriable-status-codes", [503]), "429": ("retriable-status-codes", [429]), "default": (None, [])}
FAILURES = {
    Origin: [
        "status.500", "status.502", "status.503", "status.504", "status.501", "status.409", "status.404", "status.429",
        "limited.429", "limited.503", "close", "reset", "garbage", "half-head", "never",
        "grpc.1", "grpc.2", "grpc.4", "grpc.8", "grpc.13", "grpc.14",
    ],
    H2Origin: ["refused-stream", "reset", "goaway", "close", "never", "status.503", "grpc.14"],
}
PER_TRY = 0.25
# More would make a try that answers at once look like one that does not.
AT_ONCE = 4


def cases(kind, word):
    """Attempts and script: as many failures as there are retries, and one more."""
    for failure in FAILURES[kind]:
        for attempts in (2,) if word == "default" else (0, 2) if failure == "never" else (0, 1, 2, 3):
            for failures in {max(attempts, 1), attempts + 1}:
                yield attempts, ",".join([failure] * failures + ["ok"])


class Word:
    """One word with one kind of origin: a cluster, a route for each number of attempts, and its requests."""

    def __init__(self, word, kind):
        self.word, self.kind, self.origin = word, kind, kind()
        self.label = f"{word}-{'h2' if kind is H2Origin else 'h1'}"

    def envoy(self):
        """Routes and cluster."""
        routes = []
        for attempts in range(4):
            words, codes = WORDS[self.word]
            policy = {**DEFAULT_RETRY, "retry_on": words, "num_retries": attempts, "retriable_status_codes": codes}
            policy |= {"retry_back_off": {"base_interval": "0.001s", "max_interval": "0.01s"}, "per_try_timeout": f"{PER_TRY}s"}
            policy = DEFAULT_RETRY if self.word == "default" else policy
            more = {"retry_policy": policy} if attempts else {}
            match = {"prefix": f"/{self.label}.{attempts}/"}
            routes.append({"match": match, "route": forward(cluster_name(self.label), self.timeout(attempts), **more)})
        more = http2() if self.kind is H2Origin else {}
        return routes, cluster(cluster_name(self.label), [self.origin.address], **more)

    def istio(self):
        http = ""
        for attempts in range(4):
            fields = f"attempts: {attempts}"
            if attempts:
                fields += f", retryOn: '{self.word}', backoff: 1ms, perTryTimeout: {PER_TRY}s"
            http += f"  - match: [{{ uri: {{ prefix: /{self.label}.{attempts}/ }} }}]\n"
            http += f"    route: [{{ destination: {{ host: '{self.label}' }} }}]\n"
            http += "" if self.word == "default" else f"    retries: {{ {fields} }}\n"
            http += f"    timeout: {self.timeout(attempts)}\n" if self.timeout(attempts) != "0s" else ""
        protocol = "HTTP2" if self.kind is H2Origin else "HTTP"
        return service(self.label, [(self.origin.address, "v1")], protocol) + virtual_service(self.label, http)

    def timeout(self, attempts):
        """The route's, where no try has a timeout of its own."""
        return f"{PER_TRY}s" if self.word == "default" or not attempts else "0s"

    def ask(self, name, proxy):
        """The answer and the tries of each case."""
        seen = {}
        for attempts, script in cases(self.kind, self.word):
            path = f"/{self.label}.{attempts}/script/{script}/{name}~{attempts}-{script}"
            answer = exchange(proxy.address, request(path, [], "POST", self.label, b"body")).comparable()
            tries = self.origin.scripts.tries[path.rsplit("/", 1)[1]]
            seen[path.replace(f"/{name}~", "/")] = (any_order(answer), list(tries))
        return seen


class Refused(Word):
    """Nobody listens: the tries are counted by the proxy alone."""

    def __init__(self, word, address):
        super().__init__(word, Origin)
        self.label = f"{word}-refused"
        self.origin.stop()
        self.origin.address = address

    def ask(self, name, proxy):
        seen = {}
        for attempts in (2,) if self.word == "default" else (0, 1, 2, 3):
            path = f"/{self.label}.{attempts}/{name}"
            answer = any_order(exchange(proxy.address, request(path, host=self.label)).comparable())
            seen[path.removesuffix(name)] = (answer, stats(proxy.admin, cluster_name(self.label))["upstream_rq_retry"])
        return seen


def any_order(answer):
    """Of headers; envoy_diff compares their order."""
    status, headers, body, complete = answer
    return status, sorted(headers), body, complete


def logs(name, proxy, count):
    """Log lines by path without the name."""
    lines = wait_for(f"the log of {name}", lambda: len(found := new_lines(proxy.log, 0)) >= count and found)
    return {line["path"].replace(f"/{name}~", "/").removesuffix(name): normal_log(line) for line in lines}


def retries(folder, differences):
    refused_address, kept = refused()
    words = [Word(word, kind) for word in WORDS for kind in FAILURES] + [Refused(word, refused_address) for word in WORDS]
    envoy_routes, clusters = [], []
    for word in words:
        routes, made = word.envoy()
        envoy_routes += routes
        clusters.append(made)
    envoy = Envoy("envoy", folder, envoy_routes, clusters, ["*"])
    with envoy, Outrigger("outrigger", folder, "".join(word.istio() for word in words)) as ours:
        proxies = {"envoy": envoy, "ours": ours}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = {(name, word): pool.submit(word.ask, name, proxy) for word in words for name, proxy in proxies.items()}
        seen = {job: future.result() for job, future in jobs.items()}
        count = sum(len(seen["ours", word]) for word in words)
        logged = {name: logs(name, proxy, count) for name, proxy in proxies.items()}
        for word in words:
            expected, got = seen["envoy", word], seen["ours", word]
            for case, (answer, tries) in expected.items():
                differences.compare(case, "answer", answer, got[case][0])
                differences.compare(case, "tries", tries, got[case][1])
                differences.compare(case, "log", logged["envoy"][case], logged["ours"][case])
            theirs, own = [stats(proxy.admin, cluster_name(word.label)) for proxy in proxies.values()]
            for stat in sorted(name for name in theirs.keys() & own.keys() if name.startswith("upstream_")):
                differences.compare(word.label, stat, theirs[stat], own[stat])
    kept.close()
    for word in words:
        if not isinstance(word, Refused):
            word.origin.stop()
    return f"{count} requests with their tries and logs and the statistics of {len(words)} clusters"


if __name__ == "__main__":
    run("retry_diff", [retries])
