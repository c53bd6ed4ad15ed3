"""The capture rules of `outrigger init`, observed in the kernel: in network namespaces that this test makes, with
listeners in place of the sidecar and of the application, and connections of many users, groups and addresses.

`app` is the pod, `peer` another one. Each case installs rules with the real binary and says where connections arrive.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

from namespaces import Namespace, accepted, echo, require
from pod import PEER4, PEER6, SIDECAR, V4, V6, Pod, asks, clean, listed, name_servers, state
from processes import ROOT, check, outrigger

# Addresses that nobody has, behind the default route: those of services.
VIRTUAL4, VIRTUAL6 = "240.240.0.9", "fd99::9"
ALL = ["-b", "*", "-i", "*", "-d", "15090,15021,15020"]
TPROXY = ["-m", "TPROXY", *ALL]
CASES = []


def case(function):
    CASES.append(function)
    return function


@case
def what_peers_send_arrives_at_the_inbound_side(pod):
    pod.init(*ALL)
    for address in (V4, V6):
        for port in (8080, 8081, 1):
            pod.captured_inbound((address, port), namespace=pod.peer)


@case
def excluded_inbound_ports_and_the_tunnel_are_let_through(pod):
    pod.init(*ALL)
    for address in (V4, V6):
        for port in (15008, 15020, 15021, 15090):
            pod.arrives(f"app {port}", (address, port), namespace=pod.peer)


@case
def only_listed_inbound_ports_are_captured(pod):
    pod.init("-b", "8080", "-i", "*")
    pod.captured_inbound((V4, 8080), namespace=pod.peer)
    pod.arrives("app 8081", (V4, 8081), namespace=pod.peer)
    pod.init("-b", "", "-i", "*")
    pod.arrives("app 8080", (V4, 8080), namespace=pod.peer)


@case
def what_the_application_sends_arrives_at_the_outbound_side(pod):
    pod.init(*ALL)
    for to in ((PEER4, 9999), (PEER6, 9999), (VIRTUAL4, 80), (VIRTUAL6, 80), (PEER4, 15008)):
        pod.captured_outbound(to)
        pod.captured_outbound(to, uid=0, gid=0)


@case
def the_sidecar_by_user_or_by_group_goes_out(pod):
    pod.init(*ALL)
    for address in (PEER4, PEER6):
        pod.arrives("peer 9999", (address, 9999), uid=1337, gid=1000)
        pod.arrives("peer 9999", (address, 9999), uid=1000, gid=1337)
    pod.init(*ALL, "-u", "1000", "-g", "77")
    pod.arrives("peer 9999", (PEER4, 9999))
    pod.arrives("peer 9999", (PEER4, 9999), uid=5, gid=77)
    pod.captured_outbound((PEER4, 9999), **SIDECAR)


@case
def the_sidecar_to_its_own_pod_goes_to_its_inbound_side(pod):
    pod.init(*ALL)
    for address in (V4, V6):
        pod.captured_inbound((address, 8080), **SIDECAR)
        pod.arrives("app 15008", (address, 15008), **SIDECAR)


@case
def of_loopback_one_address_is_let_through(pod):
    pod.init(*ALL)
    pod.arrives("app 8080", ("127.0.0.1", 8080), **SIDECAR)
    pod.arrives("app 8080", ("::1", 8080), **SIDECAR)
    pod.captured_inbound(("127.0.0.2", 8080), **SIDECAR)
    pod.init(*ALL, env={"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.0/8"})
    pod.arrives("app 8080", ("127.0.0.2", 8080), **SIDECAR)
    # The application's own loopback is captured only where the ranges name it, and then not 127.0.0.1.
    pod.init(*ALL)
    pod.arrives("app 8080", ("127.0.0.2", 8080))
    pod.init("-b", "*", "-i", "127.0.0.0/8")
    pod.captured_outbound(("127.0.0.2", 8080))
    pod.arrives("app 8080", ("127.0.0.1", 8080))


@case
def the_application_to_its_own_pod_stays_inside(pod):
    pod.init(*ALL)
    for address in (V4, V6):
        pod.arrives("app 8080", (address, 8080))


@case
def the_sidecar_reaches_the_application_from_its_own_source(pod):
    pod.init(*ALL)
    pod.arrives("app 8080", (V4, 8080), source=("127.0.0.6", 0), **SIDECAR)
    pod.arrives("app 8080", (V6, 8080), source=("::6", 0), **SIDECAR)


@case
def ranges_of_destinations_are_captured_or_let_through(pod):
    pod.init("-b", "*", "-i", "240.240.0.0/16,fd99::/16")
    pod.captured_outbound((VIRTUAL4, 80))
    pod.captured_outbound((VIRTUAL6, 80))
    pod.arrives("peer 9999", (PEER4, 9999))
    pod.arrives("peer 9999", (PEER6, 9999))
    pod.init("-b", "*", "-i", "*", "-x", "10.77.0.0/24,fd77::/64")
    pod.captured_outbound((VIRTUAL4, 80))
    pod.captured_outbound((VIRTUAL6, 80))
    pod.arrives("peer 9999", (PEER4, 9999))
    pod.arrives("peer 9999", (PEER6, 9999))
    # The edges of a range whose prefix ends within a byte.
    pod.init("-b", "*", "-i", "10.77.0.2/31")
    pod.captured_outbound((PEER4, 9999))
    pod.init("-b", "*", "-i", "10.77.0.4/30")
    pod.arrives("peer 9999", (PEER4, 9999))
    pod.init("-b", "*", "-i", "0.0.0.0/0")
    pod.captured_outbound((PEER4, 9999))
    pod.arrives("peer 9999", (PEER6, 9999))


@case
def outbound_ports_are_captured_or_let_through(pod):
    pod.init("-b", "*", "-i", "*", "-o", "9999")
    pod.arrives("peer 9999", (PEER4, 9999))
    pod.captured_outbound((PEER4, 9998))
    pod.init("-b", "*", "-i", "", "-q", "9999")
    pod.captured_outbound((PEER6, 9999))
    pod.arrives("peer 9998", (PEER6, 9998))


@case
def interfaces_are_let_through_both_ways(pod):
    pod.init(*ALL, "-c", "e+")
    pod.arrives("app 8080", (V4, 8080), namespace=pod.peer)
    pod.arrives("peer 9999", (PEER4, 9999))
    pod.init(*ALL, "-c", "e")
    pod.captured_inbound((V4, 8080), namespace=pod.peer)


@case
def what_comes_from_a_virtual_machine_is_outbound(pod):
    pod.init(*ALL, "-k", "eth0")
    pod.captured_outbound((V4, 8080), namespace=pod.peer)
    pod.init("-b", "*", "-i", "10.1.0.0/16", "-k", "eth0")
    pod.arrives("app 8080", (V4, 8080), namespace=pod.peer)


@case
def groups_are_captured_or_let_through(pod):
    pod.init(*ALL, env={"ISTIO_OUTBOUND_OWNER_GROUPS": "202,203"})
    pod.captured_outbound((PEER4, 9999), gid=203)
    pod.arrives("peer 9999", (PEER4, 9999), gid=1000)
    pod.init(*ALL, env={"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "202,root"})
    pod.arrives("peer 9999", (PEER4, 9999), gid=202)
    pod.arrives("peer 9999", (PEER4, 9999), gid=0)
    pod.captured_outbound((PEER4, 9999), gid=1000)


@case
def questions_to_name_servers_go_to_the_dns_proxy(pod):
    with name_servers(pod):
        pod.init(*ALL, "--redirect-dns", "--capture-all-dns")
        for number, server in (("4", PEER4), ("6", PEER6)):
            check(asks(pod, server) == f"proxy {number}", "an application's question")
            # From the same port to the same server: only the zones keep the two apart.
            check(asks(pod, server, **SIDECAR) == f"peer {number}", "the sidecar's question")
            check(asks(pod, server) == f"proxy {number}", "an application's question, again")
        pod.arrives("dns", (PEER4, 53), seen_as=(PEER4, 53))
        pod.arrives("dns", (PEER6, 53), seen_as=(PEER6, 53))
        pod.arrives("peer", (PEER4, 53), **SIDECAR)
        pod.init(*ALL)
        check(asks(pod, PEER4) == "peer 4", "nothing is captured without the flag")
        pod.captured_outbound((PEER4, 53))


@case
def only_questions_to_the_pods_own_name_servers_are_captured(pod):
    with name_servers(pod), tempfile.NamedTemporaryFile("w") as resolv:
        resolv.write(f"search a.test\nnameserver {PEER4}\noptions ndots:5\n")
        resolv.flush()
        # A mount of the command's own hides the machine's file.
        shadowed = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
        pod.app.run("unshare", "--mount", "sh", "-ec", shadowed, "sh", resolv.name, outrigger(), "init", *ALL,
                    env={**clean(), "ISTIO_META_DNS_CAPTURE": "true"})
        check(asks(pod, PEER4) == "proxy 4", "a name server of the file")
        check(asks(pod, PEER6) == "peer 6", "another one")
        pod.arrives("dns", (PEER4, 53), seen_as=(PEER4, 53))


@case
def rules_are_replaced_and_never_doubled(pod):
    pod.init(*TPROXY)
    once = state(pod)
    check("the capture rules are in place already" in pod.init(*TPROXY), "the second run should find the first's")
    check(state(pod) == once, "the second run should change nothing")
    pod.init(*TPROXY, "--force-apply")
    check(state(pod) == once, "a forced run should leave the same")
    pod.init(*ALL)
    check(state(pod)["rules"] == [], "REDIRECT needs no policy routing")
    pod.init(*TPROXY)
    check(state(pod) == once, "and back")


@case
def a_cleanup_leaves_nothing_of_ours_and_all_of_others(pod):
    pod.app.run("nft", "add table inet other; add chain inet other c; add rule inet other c counter")
    before = state(pod), pod.app.run("nft", "list", "ruleset").stdout
    pod.init("--cleanup")
    for flags in (ALL, TPROXY, [*ALL, "--redirect-dns", "--capture-all-dns"]):
        pod.init(*flags)
        check("outrigger" in pod.app.run("nft", "list", "tables").stdout, "the table should be there")
        pod.init("--cleanup-only")
        check((state(pod), pod.app.run("nft", "list", "ruleset").stdout) == before, "something was left, or lost")
    pod.init(*TPROXY)
    pod.init("-m", "NONE", *ALL)
    check((state(pod), pod.app.run("nft", "list", "ruleset").stdout) == before, "NONE captures nothing")
    pod.arrives("app 8080", (V4, 8080), namespace=pod.peer)
    pod.arrives("peer 9999", (PEER4, 9999))


@case
def what_the_kernel_refuses_changes_nothing(pod):
    pod.init(*ALL)
    before = state(pod)
    many = ",".join(str(group) for group in range(1, 200))
    message = pod.init(*ALL, "--drop-invalid", "--outbound-owner-groups", many, code=71)
    check("the kernel refused the rule `meta skgid != 1 " in message, f"it should name the rule: {message}")
    check("of chain outbound" in message and "..." in message, f"and the chain, shortly: {message}")
    check(state(pod) == before, "the old rules should be there as they were")
    pod.captured_inbound((V4, 8080), namespace=pod.peer)
    pod.captured_outbound((PEER4, 9999))


@case
def one_capability_is_enough_and_needed(pod):
    only = ["setpriv", "--bounding-set", "-all,+net_admin", "--inh-caps", "-all", outrigger(), "init"]
    for flags in (ALL, TPROXY):
        pod.app.run(*only, *flags, "--run-validation", env=clean())
        pod.init(*flags)
    pod.app.run(*only, "--cleanup", env=clean())
    none = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", outrigger(), "init"]
    for flags in (ALL, ["--cleanup"]):
        done = pod.app.run(*none, *flags, check=False, env=clean())
        check(done.returncode == 77, f"it ended with {done.returncode}: {done.stderr}")
        check("NET_ADMIN" in done.stderr and "securityContext" in done.stderr, f"what to do? {done.stderr}")


@case
def rules_that_were_touched_are_found_and_mended(pod):
    pod.init(*ALL, "--run-validation")
    validates = ["--skip-rule-apply", "--run-validation"]
    for touch in (
        "insert rule inet outrigger outbound meta skuid 1000 return",
        "add rule inet outrigger inbound-redirect drop",
        "flush chain inet outrigger nat-prerouting",
        "add chain inet outrigger other",
        "delete table inet outrigger",
    ):
        pod.app.run("nft", touch)
        message = pod.init(*ALL, *validates, code=126)
        check("are not those that were asked for" in message, message)
        pod.init(*ALL)
        pod.init(*ALL, *validates)
    # Other rules of ours are a difference as well.
    pod.init(*TPROXY, *validates, code=126)


@case
def a_connection_of_the_sidecars_user_proves_the_capture(pod):
    for name in ("inbound 0.0.0.0", "inbound ::"):
        pod.listeners.pop(name).close()
    command = ["setpriv", "--reuid", "1337", "--regid", "1337", "--clear-groups", "--bounding-set", "-all",
               outrigger(), "init", *ALL, "--skip-rule-apply", "--run-validation"]

    def validated():
        return pod.app.run(*command, check=False, env=clean())

    done = validated()
    check(done.returncode == 126, f"without rules it ended with {done.returncode}: {done.stderr}")
    check("no connection was captured" in done.stderr, done.stderr)
    for flags in (ALL, TPROXY):
        pod.init(*flags)
        done = validated()
        check(done.returncode == 0, f"with rules it ended with {done.returncode}: {done.stderr}")
    pod.init(*ALL, "-z", "15106")
    check(validated().returncode == 126, "to another port is not to ours")


@case
def init_takes_a_few_milliseconds(_pod):
    for flags in (ALL, [*TPROXY, "--redirect-dns", "--capture-all-dns"]):
        times = [in_a_new_pod(flags) for _ in range(10)]
        print(f"    outrigger init {' '.join(flags)}: median {statistics.median(times):.1f} ms, "
              f"longest {max(times):.1f} ms, exec to exit", flush=True)


def in_a_new_pod(flags):
    """Milliseconds from exec to exit, where no rules were before. They are shown, and no limit is tested."""
    namespace = Namespace("new")
    try:
        with namespace.entered():
            began = time.monotonic()
            done = subprocess.run([outrigger(), "init", *flags], capture_output=True, env=clean(), timeout=60)
            took = time.monotonic() - began
        check(done.returncode == 0, f"init: {done.stderr}")
        return took * 1000
    finally:
        namespace.remove()


@case
def the_text_and_the_kernel_say_the_same(pod):
    with open(os.path.join(ROOT, "proxy/src/commands/init/golden.txt"), encoding="utf-8") as lines:
        command_lines = [line.strip().split(":", 1) for line in lines if not line.startswith("#")]
    check(len(command_lines) > 25, "where are the golden command lines?")
    for name, flags in command_lines:
        flags = [flag for flag in flags.split() if flag != "--run-validation"]
        text = pod.app.run(outrigger(), "init", *flags, "--dry-run", env=clean()).stdout
        checked = pod.app.run("nft", "-c", "-f", "-", input=text, check=False)
        check(checked.returncode == 0, f"{name}: nft does not take the text: {checked.stderr}")
        pod.init(*flags)
        pod.init(*flags, "--skip-rule-apply", "--run-validation")
        installed = listed(pod)
        pod.app.run("nft", "-f", "-", input=text)
        check(listed(pod) == installed, f"{name}: nft installs something else than init")


# With the addresses kept.


def tproxy(function):
    function.transparent = True
    return case(function)


@tproxy
def a_connection_is_handed_over_with_both_addresses(pod):
    pod.init(*TPROXY)
    for wildcard, peer, address in (("0.0.0.0", PEER4, V4), ("::", PEER6, V6)):
        client = pod.peer.dial((address, 8080))
        check(not isinstance(client, str), f"to {address}: {client}")
        with client:
            name, connection = accepted(pod.listeners)
            with connection:
                check(name == f"inbound {wildcard}", f"it arrived at {name}")
                check(connection.getsockname()[:2] == (address, 8080), f"at {connection.getsockname()}")
                check(connection.getpeername()[:2] == client.getsockname()[:2], "the client's address is lost")
                check(connection.getpeername()[0] == peer, f"from {connection.getpeername()}")
                check(echo(client, connection), "bytes do not go both ways")


@tproxy
def the_sidecar_calls_the_application_as_the_client(pod):
    pod.init(*TPROXY)
    for peer, address in ((PEER4, V4), (PEER6, V6)):
        client = pod.app.dial((address, 8080), source=(peer, 0), transparent=True, mark=1337, **SIDECAR)
        check(not isinstance(client, str), f"as {peer}: {client}")
        with client:
            name, connection = accepted(pod.listeners)
            with connection:
                check(name.startswith("app 8080"), f"it arrived at {name}")
                check(connection.getpeername()[0] == peer, f"from {connection.getpeername()}")
                check(echo(client, connection), "the application's answer does not come back")


@tproxy
def all_else_is_as_with_redirection(pod):
    pod.init(*TPROXY)
    for address, peer in ((V4, PEER4), (V6, PEER6)):
        for port in (15008, 15021, 15090):
            pod.arrives(f"app {port}", (address, port), namespace=pod.peer)
        pod.arrives("app 8080", (address, 8080))
        pod.captured_inbound((address, 8080), **SIDECAR)
        pod.captured_outbound((peer, 9999))
        pod.arrives("peer 9999", (peer, 9999), **SIDECAR)
    pod.arrives("app 8080", (V4, 8080), source=("127.0.0.6", 0), **SIDECAR)
    pod.arrives("app 8080", (V6, 8080), source=("::6", 0), **SIDECAR)


@tproxy
def ports_and_interfaces_are_let_through_with_addresses_kept(pod):
    pod.init("-m", "TPROXY", "-b", "8081", "-i", "*")
    pod.arrives("inbound", (V4, 8081), namespace=pod.peer)
    pod.arrives("app 8080", (V4, 8080), namespace=pod.peer)
    pod.init(*TPROXY, "-c", "eth0")
    pod.arrives("app 8080", (V4, 8080), namespace=pod.peer)
    pod.arrives("peer 9999", (PEER4, 9999))
    pod.init(*TPROXY, "-k", "eth0")
    pod.captured_outbound((V4, 8080), namespace=pod.peer)


@tproxy
def other_marks_and_tables_do_the_same(pod):
    pod.init(*TPROXY, "-t", "0x77", "-r", "1077")
    pod.arrives("inbound", (V4, 8080), namespace=pod.peer)
    pod.arrives("inbound", (V6, 8080), namespace=pod.peer)
    pod.init("--cleanup", "-t", "0x77", "-r", "1077")
    check(state(pod)["rules"] == [], "the rule for the mark was left")


def main():
    require()
    wanted = sys.argv[1:]
    failed = 0
    for function in CASES:
        name = function.__name__
        if wanted and name not in wanted:
            continue
        try:
            with Pod(getattr(function, "transparent", False)) as pod:
                function(pod)
            print(f"ok   {name.replace('_', ' ')}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAIL {name.replace('_', ' ')}: {type(error).__name__}: {error}", flush=True)
    print(f"init_rules: {len(CASES) - failed} of {len(CASES)} cases", flush=True)
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
