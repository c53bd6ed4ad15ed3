"""A pod and its peer in two network namespaces, with a listener wherever a connection can arrive, and what
`outrigger init` has changed there.
"""

import contextlib
import json
import os
import re
import select

import namespaces
from namespaces import accepted, echo, original
from processes import Failed, check, outrigger

V4, V6 = "10.77.0.2", "fd77::2"
PEER4, PEER6 = "10.77.0.3", "fd77::3"
SIDECAR = {"uid": 1337, "gid": 1337}


class Pod:
    """The pod (`app`) and its peer, with a listener for every place that a connection can come to."""

    def __init__(self, transparent=False):
        self.transparent, self.listeners = transparent, {}

    def __enter__(self):
        with contextlib.ExitStack() as made:
            pair = made.enter_context(namespaces.Pod())
            self.app, self.peer, self.made = pair.pod, pair.peer, made
            self.listen_everywhere()
            self.made = made.pop_all()
        return self

    def __exit__(self, *_):
        self.made.close()

    def listen_everywhere(self):
        for wildcard in ("0.0.0.0", "::"):
            self.listen(f"inbound {wildcard}", self.app, wildcard, 15006, self.transparent)
            self.listen(f"outbound {wildcard}", self.app, wildcard, 15001)
            for port in (8080, 8081, 15008, 15020, 15021, 15090):
                self.listen(f"app {port} {wildcard}", self.app, wildcard, port)
            for port in (9998, 9999):
                self.listen(f"peer {port} {wildcard}", self.peer, wildcard, port)

    def listen(self, name, namespace, address, port, transparent=False):
        self.listeners[name] = listener = namespace.listen(address, port, transparent)
        self.made.callback(listener.close)

    def init(self, *flags, code=0, env=None):
        done = self.app.run(outrigger(), "init", *flags, check=False, env={**clean(), **(env or {})})
        if done.returncode != code:
            raise Failed(f"init {' '.join(flags)} ended with {done.returncode}, not {code}: {done.stderr}")
        return done.stderr

    def arrives(self, at, to, namespace=None, seen_as=None, **how):
        """A connection to `to` arrives at the listener `at`, which is told `seen_as` as the original destination."""
        client = (namespace or self.app).dial(to, **how)
        if isinstance(client, str):
            raise Failed(f"{to} with {how}: {client}, expected at {at}")
        with client:
            name, connection = accepted(self.listeners)
            if name is None:
                raise Failed(f"{to} with {how} arrived nowhere, expected at {at}")
            with connection:
                if name.rsplit(" ", 1)[0] != at:
                    raise Failed(f"{to} with {how} arrived at {name}, expected at {at}")
                if seen_as is not None:
                    check(original(connection) == seen_as, f"{to} is seen as {original(connection)}")
                check(echo(client, connection), f"{to}: bytes do not go both ways")

    def captured_inbound(self, to, **how):
        self.arrives("inbound", to, seen_as=to, **how)

    def captured_outbound(self, to, **how):
        self.arrives("outbound", to, seen_as=to, **how)


def clean():
    """The environment without what init would take for flags."""
    ours = re.compile("ISTIO_|ENVOY_|INBOUND_|PROXY_|OUTRIGGER_|DRY_RUN|.*_DNS$")
    return {key: value for key, value in os.environ.items() if not ours.match(key)}


def asks(pod, server, **who):
    """A question by UDP, and its answer: the name of the socket that it came to."""
    sockets = pod.name_servers
    client = pod.app.datagrams("0.0.0.0" if "." in server else "::", 5353, **who)
    with client:
        client.connect((server, 53))
        client.send(b"?")
        ready, _, _ = select.select(list(sockets.values()), [], [], 3)
        check(len(ready) == 1, f"a question to {server} came to {len(ready)} places")
        _, source = ready[0].recvfrom(16)
        ready[0].sendto(b"!", source)
        check(client.recv(16) == b"!", "the answer is not taken for one")
        return next(name for name, other in sockets.items() if other is ready[0])


@contextlib.contextmanager
def name_servers(pod):
    pod.name_servers = {
        "proxy 4": pod.app.datagrams("127.0.0.1", 15053, **SIDECAR),
        "proxy 6": pod.app.datagrams("::1", 15053, **SIDECAR),
        "peer 4": pod.peer.datagrams(PEER4, 53),
        "peer 6": pod.peer.datagrams(PEER6, 53),
    }
    pod.listen("dns 4", pod.app, "127.0.0.1", 15053)
    pod.listen("dns 6", pod.app, "::1", 15053)
    pod.listen("peer 53", pod.peer, PEER4, 53)
    try:
        yield
    finally:
        for bound in pod.name_servers.values():
            bound.close()


def listed(pod):
    """What nft makes of the table, without numbers that the kernel gives."""
    done = pod.app.run("nft", "-j", "list", "table", "inet", "outrigger", check=False)
    if done.returncode != 0:
        return None

    def cut(value):
        if isinstance(value, dict):
            return {key: cut(inner) for key, inner in value.items() if key not in ("handle", "packets", "bytes")}
        return [cut(inner) for inner in value] if isinstance(value, list) else value

    return cut(json.loads(done.stdout)["nftables"])


def state(pod):
    """All that init may change."""
    return {
        "table": listed(pod),
        "rules": [line for option in ("-4", "-6") for line in pod.app.ip(option, "rule").splitlines() if "0x" in line],
        "routes": [pod.app.run("ip", option, "route", "show", "table", "133", check=False).stdout
                   for option in ("-4", "-6")],
        "loopback": re.findall(r"inet6? \S+", pod.app.ip("addr", "show", "dev", "lo")),
    }
