"""examples/canary and examples/mtls, by the commands of their pages. While a page is read others send requests all the
time, and none of them may fail.
"""

import contextlib
import os
import shutil
import socket
import ssl
import threading
import time

from cryptography import x509

from client import KeepAlive, exchange, request
from pages import Reader
from processes import BIN, ROOT, Failed, check, get, wait_for
from stats import stat

ADMIN, METRICS, HEALTH = "127.0.0.1:15000", "127.0.0.1:15020", "127.0.0.1:15021"
REQUESTS = 2000
# More than five standard deviations of a tenth or of half of them: by chance once in two million runs.
SLACK = 120


@contextlib.contextmanager
def reading(example, folder):
    """A reader of the example's page, in a copy of the repository."""
    copy = os.path.join(folder, example)
    for part in ("examples", "k8s"):
        shutil.copytree(os.path.join(ROOT, part), os.path.join(copy, part))
    with Reader(os.path.join(copy, "examples", example, "README.md"), copy, [BIN]) as reader:
        yield reader, copy
    left = set(os.listdir(copy)) - {"examples", "k8s"}
    check(not left, f"the page leaves {left} behind")


def collected(metrics):
    """How many spans this collector took."""
    lines = get(metrics, "/metrics").splitlines()
    return sum(int(line.split()[-1]) for line in lines if line.startswith("otelcol_receiver_accepted_spans{"))


def sent_by_the_sidecar():
    """By version, as the sidecar counted."""
    name = "outbound|4318|{}|otlp-collector.observability.svc.cluster.local"
    return [stat(ADMIN, name.format(version), "upstream_rq_total") for version in ("v1", "v2")]


COLLECTORS = [f"127.0.0.1:{number}888" for number in (14, 15, 24)]


def taken():
    """By version, as the collectors counted."""
    first, second, canary = map(collected, COLLECTORS)
    return [first + second, canary]


def all_serve():
    try:
        return all(get(collector, "/metrics") for collector in COLLECTORS)
    except OSError:
        return False


def canary(folder):
    """0, 10, 50 and 100 % for v2, and back; the header `version: canary` goes there at every step."""
    with reading("canary", folder) as (reader, copy):
        collector = Collectors(copy)
        reader.until("outrigger proxy")
        wait_for("the sidecar", ready)
        wait_for("the collectors", all_serve)
        reader.until("send 100")
        reader.until("count")
        check(taken() == [100, 0], f"{taken()}: the base has v1 alone")
        reader.until("send 1 -H")
        printed = reader.until("count")
        check(taken() == [100, 1], f"{taken()} after a request for the canary")
        check([line.split()[-1] for line in printed.splitlines()][2] == "1", f"count prints {printed}")
        printed = reader.until("outrigger diff", status=1)
        check("10.00 %" in printed and "101 requests" in printed, f"diff prints {printed}")

        shares = []
        steps = [("cp examples/canary/tenth", 0.1), ("cp examples/canary/half", 0.5), ("cp examples/canary/all", 1),
                 ("cp k8s/base/mesh/rules/virtual-service", 0)]
        asked = 0
        for command, part in steps:
            with Client(collector.post) as client:
                applied = changes(copy)
                reader.until(command)
                wait_for(f"the rules after `{command}`", lambda: changes(copy) > applied)
            asked += client.answers
            before = taken()
            collector.send(REQUESTS)
            share = taken()[1] - before[1]
            check(sum(taken()) - sum(before) == REQUESTS, f"{before} became {taken()} by {REQUESTS} requests")
            slack = SLACK if 0 < part < 1 else 0
            check(abs(share - REQUESTS * part) <= slack, f"{command}: {share} of {REQUESTS} requests went to v2")
            shares.append(share)
            if part == 0.1:
                reader.until("count")
            before = taken()
            collector.send(50, [("version", "canary")])
            check(taken() == [before[0], before[1] + 50], f"{command}: {before} became {taken()} by requests for the canary")
        reader.until("curl -fsS http://127.0.0.1:15020/metrics")
        check(sent_by_the_sidecar() == taken(), f"the sidecar sent {sent_by_the_sidecar()}, and {taken()} arrived")

        reader.until("echo")
        wait_for("the wrong document to be refused", lambda: rejected() > 0)
        before = taken()
        reader.until("grep virtual-service.yaml sidecar.log")
        check(taken() == [before[0] + 10, before[1]], f"{before} became {taken()} under a wrong document")
        reader.rest()
    return f"{shares} of {REQUESTS} requests went to v2 at 10, 50, 100 and 0 %, none of {asked} failed meanwhile"


class Collectors:
    """Sends the span of the example to 4318, as the page does by curl."""

    def __init__(self, copy):
        with open(os.path.join(copy, "examples/canary/span.json"), "rb") as file:
            self.span = file.read()

    def send(self, number, headers=()):
        connection = KeepAlive("127.0.0.1:4318")
        headers = [("content-type", "application/json"), *headers]
        for _ in range(number):
            status, fields = connection.ask("POST", "/v1/traces", headers, "otlp-collector", self.span)
            check(status == 200, f"{status} {fields}")
        connection.connection.close()

    def post(self):
        headers = [("content-type", "application/json")]
        return exchange("127.0.0.1:4318", request("/v1/traces", headers, "POST", "otlp-collector", self.span)).status


def changes(copy):
    with open(os.path.join(copy, "sidecar.log"), encoding="utf-8") as log:
        return log.read().count("configuration applied")


def rejected():
    lines = get(METRICS, "/metrics").splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("outrigger_config_rejected_total"))


def mtls(folder):
    """Plain, encrypted, closed to others, renewed: a client of `web` notices none of it."""
    with reading("mtls", folder) as (reader, copy):
        ask = lambda address="127.0.0.1:8080": exchange(address, request("/", host="pay"))
        reader.until("python3")
        reader.until("outrigger proxy --config web-rules")
        for address in (HEALTH, "127.0.0.1:16021"):
            wait_for(f"the sidecar {address}", lambda: ready(address))
        wait_for("pay", lambda: answered(ask))
        with Client(lambda: ask().status) as client:
            reader.until("curl -fsS -H 'host: pay'")
            reader.until("cp examples/mtls/destination-rule.yaml")
            reader.until("curl -fsS -H 'host: pay'")
            check(reader.until("curl -fsS http://127.0.0.1:9080") == "nobody\n", "plain text is not taken")
            printed = reader.until("curl -fsS http://127.0.0.1:15020/metrics")
            check({'"none"', '"mutual_tls"'} <= set(printed.replace("}", "=").split("=")), f"metrics: {printed}")
            reader.until("cp examples/mtls/strict.yaml")
            wait_for("plain text to be refused", lambda: ask("127.0.0.1:9080").status == 0)
            reader.until("curl -fsS -H 'host: pay'")
            # Curl's exit codes: the connection was reset, or ended without an answer.
            reader.until("curl -fsS http://127.0.0.1:9080", status=(52, 56))
            served = [serial(copy)]
            before = reader.until("outrigger admin GET /certs")
            reader.until("examples/mtls/issue")
            wait_for("the renewed certificate on the wire", lambda: serial(copy) != served[0])
            after = reader.until("outrigger admin GET /certs")
            check(served[0] in before and served[0] not in after and serial(copy) in after, f"{served}: {before}{after}")
            plain = exchange("127.0.0.1:9080", request("/", [("x-forwarded-client-cert", "By=forged")]))
            check(plain.status == 0, f"plain text under STRICT: {plain.status}")
        reader.rest()
    return f"mutual TLS, closed and renewed step by step, none of {client.answers} requests failed"


def answered(ask):
    """Whether it gets 200."""
    try:
        return ask().status == 200
    except OSError:
        return False


def serial(copy):
    """The serial number of the certificate that the sidecar of pay shows, in hexadecimal."""
    root, web = os.path.join(copy, "root"), os.path.join(copy, "web")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(os.path.join(root, "ca.crt"))
    context.load_cert_chain(os.path.join(web, "tls.crt"), os.path.join(web, "tls.key"))
    with socket.create_connection(("127.0.0.1", 9080), timeout=10) as connection:
        with context.wrap_socket(connection) as secured:
            return x509.load_der_x509_certificate(secured.getpeercert(True)).serial_number.to_bytes(20, "big").hex().lstrip("0")


class Client:
    """Asks all the time; what is no 200 is a failure."""

    def __init__(self, ask):
        self.ask, self.answers, self.failures, self.stopping = ask, 0, [], False
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self.stopping:
            try:
                status = self.ask()
            except (OSError, Failed) as error:
                status = repr(error)
            if status == 200:
                self.answers += 1
            else:
                self.failures.append(status)
            time.sleep(0.001)

    def __enter__(self):
        self.thread.start()
        self.progress()
        return self

    def progress(self):
        """Some more answers, or a failure."""
        enough = self.answers + 20
        wait_for("answers", lambda: self.failures or self.answers > enough)

    def __exit__(self, kind, *_):
        if kind is None:
            self.progress()
        self.stopping = True
        self.thread.join(timeout=20)
        if kind is None:
            check(not self.failures, f"{len(self.failures)} of {self.answers} requests failed: {self.failures[:5]}")


def ready(address=HEALTH):
    """Whether the sidecar is."""
    try:
        return get(address, "/healthz/ready") is not None
    except OSError:
        return False
