"""Programs under test: started on ports of the system's choice, ended by their own process id."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.environ.get("OUTRIGGER_BIN_DIR", os.path.join(ROOT, "target", "quick"))
DEADLINE = 20.0


class Failed(Exception):
    """A check that did not hold."""


def check(condition, message):
    if not condition:
        raise Failed(message)


def wait_for(what, condition, deadline=DEADLINE):
    """Polls until the condition yields something true."""
    end = time.monotonic() + deadline
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"waited {deadline:.0f} s for {what}")
        time.sleep(0.01)


def skip(reason):
    """What cannot run says so, and is a failure where everything is required."""
    print(f"SKIPPED: {reason}", flush=True)
    sys.exit(1 if os.environ.get("OUTRIGGER_REQUIRE_ALL") == "1" else 0)


def get(address, path):
    with urllib.request.urlopen(f"http://{address}{path}", timeout=DEADLINE) as answer:
        return answer.read().decode()


class Program:
    """A child process; used as a context, it ends with it."""

    def __init__(self, name, args, log_dir, env=None):
        self.name = name
        self.listeners = {}
        self.lines = []
        self.errors = open(os.path.join(log_dir, f"{name}.stderr"), "w+", encoding="utf-8")
        clean = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("OTEL_", "OUTRIGGER_", "ISTIO_", "POD_", "INSTANCE_IP"))
        }
        self.child = subprocess.Popen(
            args, stdout=subprocess.PIPE, stderr=self.errors, text=True, env={**clean, **(env or {})}
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.child.stdout:
            self.lines.append(line.rstrip("\n"))
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict) and "name" in value and "address" in value:
                self.listeners[value["name"]] = value["address"]

    def listening(self, *names):
        """Waits for these listeners; their addresses in order."""

        def bound():
            if self.child.poll() is not None:
                raise Failed(f"{self.name} ended with {self.child.returncode}: {self.tail()}")
            return all(name in self.listeners for name in names)

        wait_for(f"{self.name} to listen on {names}, not only {self.listeners}", bound)
        return [self.listeners[name] for name in names]

    def tail(self):
        self.errors.flush()
        with open(self.errors.name, encoding="utf-8") as errors:
            return (errors.read() + "\n".join(self.lines))[-4000:]

    def stop(self):
        """SIGTERM; the exit code."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
        return self.child.wait(timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        self.reader.join(timeout=5)
        self.errors.close()


def outrigger():
    return os.path.join(BIN, "outrigger")


def otlp_collector():
    return os.path.join(BIN, "otlp-collector")
