"""Network namespaces of a test's own: a pod and its peer, joined by a cable. They end with the test, and with all that runs
there; nothing of the machine's own network is touched.
"""

import ctypes
import os
import subprocess
import sys
import threading

from processes import skip

CLONE_NEWNET = 0x40000000
NEEDED = ("ip", "nft", "setpriv")


def require():
    """Skips where namespaces cannot be made."""
    if sys.platform != "linux" or os.geteuid() != 0:
        skip("network namespaces need root on Linux")
    missing = [tool for tool in NEEDED if subprocess.run(["which", tool], capture_output=True).returncode]
    if missing:
        skip(f"there is no {', '.join(missing)}: apt-get install iproute2 nftables util-linux")
    probe = subprocess.run(["unshare", "--net", "nft", "add", "table", "inet", "probe"], capture_output=True, text=True)
    if probe.returncode:
        skip(f"no namespace can have rules here: {probe.stderr.strip()}")


def run(*args, text=None):
    done = subprocess.run(args, input=text, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


class Namespace:
    def __init__(self, name):
        self.name = f"outrigger-{os.getpid()}-{name}"
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *args):
        run("ip", "-n", self.name, *args)

    def command(self, *args, uid=None, capabilities=()):
        """The words that run a program inside, as a user."""
        words = ["ip", "netns", "exec", self.name]
        if uid is not None:
            words += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            if capabilities:
                names = ",".join(f"+{name}" for name in capabilities)
                words += [f"--inh-caps={names}", f"--ambient-caps={names}"]
        return [*words, *args]

    def run(self, *args, text=None, uid=None):
        return run(*self.command(*args, uid=uid), text=text)

    def inside(self, function, *args):
        """Calls it in a thread that is inside: the sockets it makes stay there, whoever uses them."""
        result = {}

        def call():
            try:
                with open(f"/run/netns/{self.name}", "rb") as handle:
                    if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                result["value"] = function(*args)
            except BaseException as error:  # noqa: BLE001, it is raised again where the caller waits
                result["error"] = error

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        if "error" in result:
            raise result["error"]
        return result["value"]

    def remove(self):
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)


class Pod:
    """`pod` at 10.77.0.2 and fd77::2, `peer` at .3, which is the way to everywhere else."""

    def __enter__(self):
        self.made = []
        try:
            self.pod, self.peer = self._make("pod"), self._make("peer")
            # The name of an interface is short.
            ends = [f"or{os.getpid() % 100000}{end}" for end in "ab"]
            run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
            for space, end, last in ((self.pod, ends[0], 2), (self.peer, ends[1], 3)):
                run("ip", "link", "set", end, "netns", space.name, "name", "eth0")
                space.ip("addr", "add", f"10.77.0.{last}/24", "dev", "eth0")
                space.ip("addr", "add", f"fd77::{last}/64", "dev", "eth0", "nodad")
                space.ip("link", "set", "eth0", "up")
            self.pod.ip("route", "add", "default", "via", "10.77.0.3")
            self.pod.ip("-6", "route", "add", "default", "via", "fd77::3")
            # As Istio's init container does.
            self.pod.ip("-6", "addr", "add", "::6/128", "dev", "lo", "nodad")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self, name):
        self.made.append(Namespace(name))
        return self.made[-1]

    def __exit__(self, *_):
        for space in self.made:
            space.remove()
