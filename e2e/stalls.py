"""Whether the machine stood still while a test ran. A test that compares what happens in real time may then be right to
fail, and is repeated; on a machine that did not stand still nothing is forgiven.
"""

import threading
import time

LOOK = 0.02
# Threads that wait for each other in Python alone stay below.
STALL = 0.2


class Stalls:
    """Used as a context; `longest` is by how much the longest short sleep in it was too long, in seconds."""

    def __init__(self):
        self.longest = 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self):
        before = time.monotonic()
        while not self.over.wait(LOOK):
            now = time.monotonic()
            self.longest = max(self.longest, now - before - LOOK)
            before = now

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        return False
