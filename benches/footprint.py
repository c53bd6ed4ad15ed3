#!/usr/bin/env python3
"""Start-up time and idle memory of the two programs. Standard library only; loopback only.

usage: cargo build --release && benches/footprint.py [RUNS]

Per run the sidecar is started with the configuration of examples/seed on free ports, in front of one HTTP origin.
start: from exec to the first answer of the origin through the sidecar, asked again every millisecond.
idle RSS: VmRSS of /proc/PID/status after that answer and one scrape of /metrics, once it has not changed for 200 ms;
RssAnon is the part that is not the binary itself.
"""

import http.client
import http.server
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATIENCE = 10.0
FREE = "127.0.0.1:0"


class Origin(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def addresses(process, names):
    """Reads the JSON lines of a program until every listener has said where it is."""
    found = {}
    while not names <= found.keys():
        line = process.stdout.readline()
        if not line:
            sys.exit(f"the program ended: {process.stderr.read()}")
        try:
            said = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "address" in said:
            found[said.get("name")] = said["address"]
    return found


def get(address, path):
    connection = http.client.HTTPConnection(address, timeout=1)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except OSError:
        return None
    finally:
        connection.close()


def status_kib(pid, key):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    return 0


def settled_rss(pid):
    """Memory once it has not changed for 200 ms."""
    end = time.monotonic() + PATIENCE
    last, since = status_kib(pid, "VmRSS"), time.monotonic()
    while time.monotonic() < end and time.monotonic() - since < 0.2:
        time.sleep(0.02)
        now = status_kib(pid, "VmRSS")
        if now != last:
            last, since = now, time.monotonic()
    return last, status_kib(pid, "RssAnon")


def measure(command, names, ask):
    """One run: (milliseconds to the first good answer, VmRSS, RssAnon in KiB)."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        found = addresses(process, names)
        while not ask(found):
            if time.monotonic() - began > PATIENCE:
                sys.exit("no good answer in time")
            time.sleep(0.001)
        took = (time.monotonic() - began) * 1000
        get(found["metrics"], "/metrics")
        return took, *settled_rss(process.pid)
    finally:
        process.kill()
        process.wait()


def report(name, rows):
    took, rss, anon = zip(*rows)
    print(
        f"{name}: start median {statistics.median(took):.1f} ms (worst {max(took):.1f}), "
        f"idle RSS median {statistics.median(rss) / 1024:.1f} MiB "
        f"(anonymous {statistics.median(anon) / 1024:.1f}), {len(rows)} runs"
    )


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    release = ROOT / "target" / "release"
    origin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    threading.Thread(target=origin.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        rules = pathlib.Path(folder)
        registry = (ROOT / "examples/seed/registry.yaml").read_text()
        for port in ("14318", "15318", "24318"):
            registry = registry.replace(port, str(origin.server_port))
        (rules / "registry.yaml").write_text(registry)
        for name in ("destination-rule.yaml", "weighted.yaml"):
            (rules / name).write_text((ROOT / "examples/seed" / name).read_text())
        sidecar = [release / "outrigger", "proxy", "--config", rules, "--namespace", "observability"]
        sidecar += ["--ports", "ephemeral", "--admin", FREE, "--metrics", FREE, "--health", FREE]
        http_otlp = "127.0.0.1_4318"
        report(
            "outrigger",
            [
                measure(sidecar, {http_otlp, "metrics"}, lambda found: get(found[http_otlp], "/v1/traces") == 200)
                for _ in range(runs)
            ],
        )
        config = rules / "collector.yaml"
        config.write_text((ROOT / "demo/collector.yaml").read_text().replace("SINK", f"127.0.0.1:{origin.server_port}"))
        collector = [release / "otlp-collector", "--config", config]
        report(
            "otlp-collector",
            [
                measure(collector, {"health", "metrics"}, lambda found: get(found["health"], "/health/ready") == 200)
                for _ in range(runs)
            ],
        )
    for name in ("outrigger", "otlp-collector"):
        print(f"{name}: binary {(release / name).stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
