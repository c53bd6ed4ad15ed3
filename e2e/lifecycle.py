"""The life of a sidecar as a process: ready and small, replaced under load, killed, first process of a namespace, short
of descriptors and of memory."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time

from client import KeepAlive, exchange, request
from clients import Load
from memory_group import MemoryGroup
from origins import Origin
from processes import ROOT, Failed, Program, check, get, outrigger, wait_for
from sidecar import PORT, sidecar

ROUNDS = 20
# The announcement of a drain is short here, so that twenty of them are; but longer than clients need to hear of it.
MOMENT = "1s"
PAGES = ("--admin", "--metrics", "--health")
MIB = 1 << 20
SKIPS = []


class Sidecar(Program):
    """A sidecar with these documents, its pages on ports of the system's choice unless `pages` says otherwise."""

    def __init__(self, name, folder, documents, pages=None, command=lambda args: args):
        self.config = os.path.join(folder, f"{name}.yaml")
        write(self.config, documents)
        args = [outrigger(), "proxy", "--config", self.config, "--concurrency", "2", "--ports", "ephemeral"]
        for flag in PAGES:
            args += [flag, (pages or {}).get(flag, "127.0.0.1:0")]
        env = {"PROXY_CONFIG": f'{{"terminationDrainDuration":"{MOMENT}"}}', "TERMINATION_GRACE_PERIOD_SECONDS": "30"}
        super().__init__(name, command(args), folder, env)

    def started(self):
        names = (f"127.0.0.1_{PORT}", "admin", "metrics", "health")
        self.address, self.admin, self.metrics, self.health = self.listening(*names)
        return self

    def is_ready(self):
        try:
            return exchange(self.health, request("/healthz/ready")).status == 200
        except OSError:
            return False

    def metric(self, name):
        lines = get(self.metrics, "/metrics").splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split(" ")[0].split("{")[0] == name)


def write(path, text):
    """As an editor or a volume of Kubernetes does."""
    with open(f"{path}.next", "w", encoding="utf-8") as out:
        out.write(text)
    os.rename(f"{path}.next", path)


def mesh(*addresses):
    """The service `web` with an EndpointSlice for each address, and a listener."""
    text = sidecar([(PORT, "HTTP")]) + f"""
apiVersion: v1
kind: Service
metadata: {{ name: web }}
spec:
  clusterIP: 10.96.0.1
  ports: [{{ name: http, port: {PORT} }}]
---"""
    for number, address in enumerate(addresses):
        host, port = address.rsplit(":", 1)
        text += f"""
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: web-{number}, labels: {{ kubernetes.io/service-name: web }} }}
addressType: IPv4
ports: [{{ name: http, port: {port} }}]
endpoints: [{{ addresses: [{host}], conditions: {{ ready: true }} }}]
---"""
    return text


def figures(folder):
    """Time from exec to ready, and resident memory, with the seed's configuration."""
    seed = [os.path.join(ROOT, "examples", "seed", f"{name}.yaml") for name in ("registry", "destination-rule", "weighted")]
    args = [outrigger(), "proxy", "--config", *seed, "--namespace", "observability", "--concurrency", "2", "--ports", "ephemeral"]
    best, resident = None, None
    for _ in range(5):
        health = free_address()
        began = time.monotonic()
        with Program("figures", [*args, "--admin", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--health", health], folder) as program:
            while not answers(health):
                check(program.child.poll() is None, f"ended: {program.tail()}")
                check(time.monotonic() - began < 20, "not ready after 20 s")
                time.sleep(0.001)
            taken = time.monotonic() - began
            best = taken if best is None else min(best, taken)
            resident = resident_bytes(program.child.pid)
            check(program.stop() == 0, "SIGTERM ends it with 0")
    check(best < 2, f"ready after {best * 1000:.0f} ms")
    check(resident < 25 * MIB, f"{resident / MIB:.1f} MiB resident")
    return f"ready {best * 1000:.0f} ms after exec, {resident / MIB:.1f} MiB resident"


def answers(health):
    try:
        return exchange(health, request("/healthz/ready")).status == 200
    except OSError:
        return False


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "127.0.0.1:%d" % probe.getsockname()[1]


def resident_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))


def sigterms(folder):
    """Fault 11: a sidecar is told to end under load, and its clients move to the next one when they are told to."""
    origin = Origin()
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(Sidecar("term-0", folder, mesh(origin.address))).started()
        load = stack.enter_context(Load([old.address]))
        load.progress()
        for number in range(1, ROUNDS + 1):
            new = stack.enter_context(Sidecar(f"term-{number}", folder, mesh(origin.address))).started()
            wait_for("the next one to be ready", new.is_ready)
            load.targets = [old.address, new.address]
            old.child.send_signal(signal.SIGTERM)
            wait_for("readiness to go off", lambda: not old.is_ready())
            # So the endpoint leaves the list, later than the sidecar has begun to drain.
            load.targets = [new.address]
            check(old.child.wait(timeout=60) == 0, f"exit code {old.child.returncode}: {old.tail()}")
            load.progress()
            old = new
        answered = load.verdict("SIGTERM")
    origin.stop()
    return f"{ROUNDS} SIGTERMs under load: {answered} requests, 0 failed, {load.moves} moves"


def replacements(folder):
    """Fault 13: a server is replaced behind the client's sidecar: an edit of the EndpointSlices, then SIGTERM."""
    origin = Origin()
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(Sidecar("server-0", folder, mesh(origin.address))).started()
        client = stack.enter_context(Sidecar("client", folder, mesh(old.address))).started()
        load = stack.enter_context(Load([client.address]))
        load.progress()
        for number in range(1, ROUNDS + 1):
            new = stack.enter_context(Sidecar(f"server-{number}", folder, mesh(origin.address))).started()
            wait_for("the next one to be ready", new.is_ready)
            write(client.config, mesh(new.address))
            old.child.send_signal(signal.SIGTERM)
            check(old.child.wait(timeout=60) == 0, f"exit code {old.child.returncode}: {old.tail()}")
            load.progress()
            old = new
        answered = load.verdict("replacement")
    origin.stop()
    return f"{ROUNDS} replacements: {answered} requests, 0 failed"


def killed(folder):
    """Fault 12: after SIGKILL the next start serves again, at the same addresses and from the files as they are."""
    origin = Origin()
    pages = {flag: free_address() for flag in PAGES}
    longest = 0.0
    for _ in range(5):
        began = time.monotonic()
        with Sidecar("killed", folder, mesh(origin.address), pages).started() as program:
            client = wait_for("an answer", lambda: first_answer(program.address))
            longest = max(longest, time.monotonic() - began)
            program.child.kill()
            check(program.child.wait(timeout=60) == -signal.SIGKILL, "it was killed")
            client.connection.close()
    origin.stop()
    check(longest < 5, f"served after {longest:.1f} s")
    return f"5 SIGKILLs: serves {longest * 1000:.0f} ms after the start at most"


def first_answer(address):
    client = KeepAlive(address)
    status, _ = client.get("/web/plain")
    check(status == 200, f"status {status}")
    return client


def first_process(folder):
    """A process 1 has no default action for signals: the sidecar, and a job beside it."""
    if os.geteuid() != 0:
        return skipped("the first process of a namespace", "needs root for a pid namespace")
    origin = Origin()
    namespace = ["unshare", "--pid", "--fork"]
    with Sidecar("one", folder, mesh(origin.address), command=lambda args: [*namespace, *args]).started() as program:
        wait_for("readiness", program.is_ready)
        os.kill(child_of(program.child.pid), signal.SIGTERM)
        check(program.child.wait(timeout=60) == 0, f"SIGTERM for process 1: {program.child.returncode} {program.tail()}")
    args = ["run", "--without-sidecar", "run", "--wait", "0", "--health", free_address(), "--agent", free_address()]
    script = "trap 'exit 7' TERM; echo '{\"name\":\"job\",\"address\":\"\"}'; while :; do sleep 0.02; done"
    with Program("job", [*namespace, outrigger(), *args, "--", "sh", "-c", script], folder) as job:
        job.listening("job")
        os.kill(child_of(job.child.pid), signal.SIGTERM)
        check(job.child.wait(timeout=60) == 7, f"the job's own code: {job.child.returncode} {job.tail()}")
    origin.stop()
    return "SIGTERM reaches process 1 and the command of a job"


def child_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
        return int(children.read().split()[0])


def descriptors(folder):
    """Fault 14: neither many clients nor a want of descriptors harms who is connected, and accepting goes on after."""
    origin = Origin()
    limited = ["prlimit", "--nofile=256", "--"]
    with Sidecar("files", folder, mesh(origin.address), command=lambda args: [*limited, *args]).started() as program:
        kept = first_answer(program.address)
        with contextlib.ExitStack() as flood:
            for _ in range(600):
                flood.enter_context(connected(program.address))
            wait_for("connections to be refused", lambda: program.metric("outrigger_connections_refused_total") > 100)
            check(kept.get("/web/plain")[0] == 200, "who is connected is served")
            check(program.is_ready(), "the pages answer")
        wait_for("new clients to be served", lambda: works(program.address))
        # The limit falls below what is open: the system itself cannot accept any more.
        few = len(os.listdir(f"/proc/{program.child.pid}/fd"))
        subprocess.run(["prlimit", "--pid", str(program.child.pid), f"--nofile={few}:256"], check=True)
        with contextlib.ExitStack() as flood:
            for _ in range(50):
                flood.enter_context(connected(program.address))
            check(kept.get("/web/plain")[0] == 200, "who is connected is served")
            wait_for("complaints", lambda: program.tail().count("accept failed") >= 3)
        subprocess.run(["prlimit", "--pid", str(program.child.pid), "--nofile=256:256"], check=True)
        wait_for("new clients to be served", lambda: works(program.address))
        failed = program.metric("outrigger_accept_failures_total")
        complaints = program.tail().count("accept failed")
        check(failed > 5 * complaints, f"{complaints} complaints of {failed} failures: one a second is enough")
        check(program.stop() == 0, "SIGTERM ends it with 0")
    origin.stop()
    return f"descriptors run out: {failed:.0f} failed accepts, {complaints} log lines, serves on"


def connected(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


def works(address):
    try:
        return exchange(address, request("/web/plain")).status == 200
    except OSError:
        return False


def memory(folder):
    """Fault 19: more uploads than there is memory for. Requests are refused, nothing is killed, and it recovers."""
    limit = 64 * MIB
    try:
        group = MemoryGroup(f"outrigger-lifecycle-{os.getpid()}", limit)
    except (OSError, StopIteration) as error:
        return skipped("a limit of memory", f"no control group can be made here: {error}")
    raise_descriptors()
    origin = Origin()
    with group, Sidecar("memory", folder, mesh(origin.address), command=group.command).started() as program:
        wait_for("an answer", lambda: works(program.address))
        check(program.metric("envoy_overload_envoy_resource_monitors_cgroup_memory_pressure") > 0, "the group is not seen")
        upload = request("/web/hold/uploads", method="POST", body=b"x" * 65536)
        began, peak = time.monotonic(), 0
        with contextlib.ExitStack() as flood:
            sent = 0
            while program.metric("envoy_http_downstream_rq_overload_close") < 20:
                check(time.monotonic() - began < 90, f"nothing refused after {sent} uploads with {peak / MIB:.0f} MiB")
                for _ in range(25):
                    client = flood.enter_context(connected(program.address))
                    client.settimeout(0.2)
                    with contextlib.suppress(OSError):
                        client.sendall(upload)
                    sent += 1
                peak = max(peak, group.usage())
                check(program.child.poll() is None, f"ended with {program.child.returncode}: {program.tail()}")
            check(program.is_ready(), "the pages answer")
        origin.held.let_go("uploads")
        relieved = time.monotonic()
        wait_for("requests to be answered again", lambda: works(program.address), 10)
        recovered = time.monotonic() - relieved
        check(group.oom_kills() == 0 and program.child.poll() is None, "nothing was killed")
        refused = program.metric("envoy_http_downstream_rq_overload_close")
        check(program.stop() == 0, "SIGTERM ends it with 0")
    origin.stop()
    return f"{sent} uploads into {limit // MIB} MiB: {refused:.0f} refused, 0 killed, recovered in {recovered:.1f} s"


def raise_descriptors():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def skipped(what, why):
    SKIPS.append(what)
    return f"SKIPPED: {what}: {why}"


def main():
    if not os.path.exists(outrigger()):
        SKIPS.append("everything")
        print(f"SKIPPED: {outrigger()} is not built")
    else:
        parts = [figures, sigterms, replacements, killed, first_process, descriptors, memory]
        wanted = [part for part in parts if part.__name__ in sys.argv[1:]] or parts
        with tempfile.TemporaryDirectory() as folder:
            for part in wanted:
                try:
                    print(f"lifecycle: {part(folder)}", flush=True)
                except Failed as failure:
                    print(f"lifecycle: FAILED: {part.__name__}: {failure}", file=sys.stderr)
                    sys.exit(1)
    if SKIPS and os.environ.get("OUTRIGGER_REQUIRE_ALL") == "1":
        sys.exit(1)


if __name__ == "__main__":
    main()
