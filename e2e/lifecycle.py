"""The life of a sidecar as a process: ready and small, replaced under load, killed, the first of a namespace."""

import contextlib
import os
import signal
import time

from clients import Load
from life import MIB, PAGES, Sidecar, answers, first_answer, free_address, mesh, run, skipped, write
from origins import Origin
from processes import ROOT, Program, check, outrigger, wait_for

ROUNDS = 20


def figures(folder):
    """Time from exec to ready, and resident memory, with the seed's configuration."""
    seed = [os.path.join(ROOT, "examples", "seed", f"{name}.yaml") for name in ("registry", "destination-rule", "weighted")]
    args = [outrigger(), "proxy", "--config", *seed, "--namespace", "observability", "--concurrency", "2", "--ports", "ephemeral"]
    best, resident = None, None
    for _ in range(5):
        health = free_address()
        began = time.monotonic()
        with Program("figures", [*args, "--admin", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--health", health], folder) as program:
            while not answers(health, "/healthz/ready"):
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


if __name__ == "__main__":
    run("lifecycle", [figures, sigterms, replacements, killed, first_process])
