"""Counts checks, and says what is wrong with those that fail."""

import contextlib
import os
import time
import traceback


class Suite:
    def __init__(self):
        self.passed = 0
        self.failed = []
        self.started = time.monotonic()

    @contextlib.contextmanager
    def check(self, name):
        try:
            yield
        except AssertionError as failure:
            self.fail(name, str(failure))
        except Exception:  # A tool that breaks is a failed check too, and the others still run.
            self.fail(name, traceback.format_exc())
        else:
            self.passed += 1
            print(f"ok     {name}")

    def fail(self, name, why):
        self.failed.append(name)
        print(f"FAILED {name}")
        print("\n".join(f"       {line}" for line in why.splitlines()))

    def skip(self, name, why):
        print(f"SKIPPED {name}: {why}")
        if os.environ.get("OUTRIGGER_REQUIRE_ALL") == "1":
            self.fail(name, "nothing may be skipped here")

    def finish(self):
        took = time.monotonic() - self.started
        print(f"{self.passed} passed, {len(self.failed)} failed, in {took:.0f} s")
        return 1 if self.failed or not self.passed else 0
