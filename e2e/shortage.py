"""A sidecar that is short of descriptors or of memory: it refuses work, harms nobody who is served, and recovers."""

import contextlib
import os
import resource
import socket
import subprocess
import time

from client import request
from life import MIB, Sidecar, first_answer, mesh, run, skipped
from memory_group import MemoryGroup
from origins import Origin
from processes import Failed, check, wait_for


CLOSED = "envoy_overload_envoy_overload_actions_stop_accepting_connections_active"


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
        wait_for("new clients to be served", program.works)
        # The limit falls below what is open: the system itself cannot accept any more.
        few = len(os.listdir(f"/proc/{program.child.pid}/fd"))
        subprocess.run(["prlimit", "--pid", str(program.child.pid), f"--nofile={few}:256"], check=True)
        with contextlib.ExitStack() as flood:
            for _ in range(50):
                flood.enter_context(connected(program.address))
            check(kept.get("/web/plain")[0] == 200, "who is connected is served")
            wait_for("complaints", lambda: program.tail().count("accept failed") >= 3)
        subprocess.run(["prlimit", "--pid", str(program.child.pid), "--nofile=256:256"], check=True)
        wait_for("new clients to be served", program.works)
        failed = program.metric("outrigger_accept_failures_total")
        complaints = program.tail().count("accept failed")
        check(failed > 5 * complaints, f"{complaints} complaints of {failed} failures: one a second is enough")
        check(program.stop() == 0, "SIGTERM ends it with 0")
    origin.stop()
    return f"descriptors run out: {failed:.0f} failed accepts, {complaints} log lines, serves on"


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
        wait_for("an answer", program.works)
        check(program.metric("envoy_overload_envoy_resource_monitors_cgroup_memory_pressure") > 0, "the group is not seen")
        upload = request("/web/hold/uploads", method="POST", body=b"x" * 65536)
        began, peak = time.monotonic(), 0
        with contextlib.ExitStack() as flood:
            sent = 0
            while refused(program, group) < 20 and not program.metric(CLOSED):
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
        # The allocator may keep what was freed until some thousand requests have come.
        wait_for("requests to be answered again", program.works, 60)
        recovered = time.monotonic() - relieved
        check(group.oom_kills() == 0 and program.child.poll() is None, "nothing was killed")
        told = refused(program, group)
        check(program.stop() == 0, "SIGTERM ends it with 0")
    origin.stop()
    return f"{sent} uploads into {limit // MIB} MiB: {told:.0f} refused, 0 killed, recovered in {recovered:.1f} s"


def refused(program, group):
    """How many requests were, if the program lives."""
    try:
        return program.metric("envoy_http_downstream_rq_overload_close")
    except OSError as error:
        raise Failed(f"no metrics, {group.oom_kills()} were killed: {error!r}") from error


def connected(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


def raise_descriptors():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    run("shortage", [descriptors, memory])
