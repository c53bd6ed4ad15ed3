"""Network namespaces of the test's own, and sockets in them with any user, group and mark.

A thread enters a namespace and takes a user's identity only while it makes a socket: both stay with the socket.
"""

import contextlib
import ctypes
import os
import select
import shutil
import socket
import struct
import subprocess
import sys

from processes import DEADLINE, Failed, skip

SO_ORIGINAL_DST = 80
IPV6_TRANSPARENT = 75
CLONE_NEWNET = 0x40000000
SETFSUID, SETFSGID = {"x86_64": (122, 123), "aarch64": (151, 152)}.get(os.uname().machine, (None, None))
libc = ctypes.CDLL(None, use_errno=True)


def require():
    """What these tests need, or a loud skip."""
    if os.geteuid() != 0:
        if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
            kept = "--preserve-env=OUTRIGGER_BIN_DIR,OUTRIGGER_REQUIRE_ALL,PYTHONDONTWRITEBYTECODE"
            os.execvp("sudo", ["sudo", "-n", kept, sys.executable, *sys.argv])
        skip("network namespaces need root")
    if sys.platform != "linux" or SETFSUID is None:
        skip("the numbers of system calls are known for Linux on x86-64 and arm64 only")
    for program, package in (("ip", "iproute2"), ("nft", "nftables"), ("setpriv", "util-linux")):
        if shutil.which(program) is None:
            skip(f"there is no `{program}`: install {package}")
    probe = f"outrigger-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode != 0:
        skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
    subprocess.run(["ip", "netns", "del", probe], check=True)


def run(*command, check=True, **more):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **more)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}{done.stdout}")
    return done


class Namespace:
    """One network namespace, with `lo` up."""

    def __init__(self, name):
        self.name = f"outrigger-{os.getpid()}-{name}"
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *args):
        return run("ip", "-n", self.name, *args).stdout

    def command(self, *words, uid=None, capabilities=()):
        """The words that run a program inside, as a user and its group."""
        enter_it = ["ip", "netns", "exec", self.name]
        if uid is not None:
            enter_it += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            if capabilities:
                names = ",".join(f"+{name}" for name in capabilities)
                enter_it += [f"--inh-caps={names}", f"--ambient-caps={names}"]
        return [*enter_it, *words]

    def run(self, *words, uid=None, **more):
        return run(*self.command(*words, uid=uid), **more)

    def inside(self, function, *args):
        """Calls it inside: the sockets it makes stay there, whoever uses them."""
        with self.entered():
            return function(*args)

    @contextlib.contextmanager
    def entered(self, uid=0, gid=0):
        """This thread is in the namespace, with an identity for the sockets that it makes."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.name}") as there:
            enter(there)
            try:
                libc.syscall(SETFSGID, gid)
                libc.syscall(SETFSUID, uid)
                yield
            finally:
                libc.syscall(SETFSUID, 0)
                libc.syscall(SETFSGID, 0)
                enter(home)

    def listen(self, address, port, transparent=False):
        with self.entered():
            listener = socket.socket(family(address), socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if transparent:
            be_transparent(listener)
        listener.bind((address, port))
        listener.listen(16)
        listener.setblocking(False)
        return listener

    def datagrams(self, address, port, uid=0, gid=0):
        with self.entered(uid, gid):
            bound = socket.socket(family(address), socket.SOCK_DGRAM)
        bound.settimeout(DEADLINE)
        bound.bind((address, port))
        return bound

    def dial(self, to, uid=1000, gid=1000, source=None, mark=None, transparent=False, timeout=3):
        """Connects; the socket, or the name of the error."""
        with self.entered(uid, gid):
            client = socket.socket(family(to[0]), socket.SOCK_STREAM)
        client.settimeout(timeout)
        try:
            if transparent:
                be_transparent(client)
            if mark is not None:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            if source is not None:
                client.bind(source)
            client.connect(to)
        except OSError as error:
            client.close()
            return type(error).__name__ if not str(error) else str(error)
        return client

    def remove(self):
        run("ip", "netns", "del", self.name)


def join(one, one_device, one_addresses, other, other_device, other_addresses):
    """A cable between two namespaces."""
    run("ip", "link", "add", one_device, "netns", one.name, "type", "veth", "peer", "name", other_device,
        "netns", other.name)
    for namespace, device, addresses in ((one, one_device, one_addresses), (other, other_device, other_addresses)):
        for address in addresses:
            namespace.ip("addr", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
        namespace.ip("link", "set", device, "up")


class Pod:
    """`pod` at 10.77.0.2 and fd77::2, `peer` at .3, which is the way to everywhere else."""

    def __enter__(self):
        with contextlib.ExitStack() as made:
            for name in ("pod", "peer"):
                setattr(self, name, Namespace(name))
                made.callback(getattr(self, name).remove)
            join(self.pod, "eth0", ("10.77.0.2/24", "fd77::2/64"), self.peer, "eth0", ("10.77.0.3/24", "fd77::3/64"))
            self.pod.ip("route", "add", "default", "via", "10.77.0.3")
            self.pod.ip("-6", "route", "add", "default", "via", "fd77::3")
            self.made = made.pop_all()
        return self

    def __exit__(self, *_):
        self.made.close()


def accepted(listeners):
    """Which listener gets the connection that was just made, and the connection; None if none does in time."""
    by_socket = {listener: name for name, listener in listeners.items()}
    ready, _, _ = select.select(list(by_socket), [], [], 3)
    if not ready:
        return None, None
    if len(ready) > 1:
        raise Failed(f"one connection came to {[by_socket[listener] for listener in ready]}")
    connection, _ = ready[0].accept()
    connection.settimeout(DEADLINE)
    return by_socket[ready[0]], connection


def original(connection):
    """SO_ORIGINAL_DST: what was dialled, or None if nothing was rewritten."""
    try:
        if connection.family == socket.AF_INET6:
            raw = connection.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
            return socket.inet_ntop(socket.AF_INET6, raw[8:24]), struct.unpack_from("!H", raw, 2)[0]
        raw = connection.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
        return socket.inet_ntop(socket.AF_INET, raw[4:8]), struct.unpack_from("!H", raw, 2)[0]
    except OSError:
        return None


def echo(client, connection):
    """Whether bytes go both ways."""
    client.sendall(b"there")
    there = connection.recv(16)
    connection.sendall(b"back")
    return there == b"there" and client.recv(16) == b"back"


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def be_transparent(sock):
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT if hasattr(socket, "IP_TRANSPARENT") else 19, 1)


def enter(namespace):
    if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
        raise Failed(f"cannot enter a namespace: {os.strerror(ctypes.get_errno())}")
