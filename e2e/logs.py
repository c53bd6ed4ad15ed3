"""Files that a program under test appends to, one JSON object a line: access logs of both proxies, a collector's data."""

import json
import os

from processes import wait_for

# What both can be held to: no addresses of their own, no ids, no times.
KEYS = (
    "response_code",
    "response_flags",
    "response_code_details",
    "upstream_transport_failure_reason",
    "upstream_cluster",
    "upstream_host",
    "route_name",
    "bytes_received",
    "bytes_sent",
)


def position(path):
    return os.path.getsize(path) if os.path.exists(path) else 0


def new_lines(path, since):
    """Whole lines that were written since then."""
    if not os.path.exists(path):
        return []
    with open(path, "rb") as file:
        file.seek(since)
        # One look: of a line that is being written, a second one might take the rest for a line.
        *whole, _ = file.read().split(b"\n")
    return [json.loads(line) for line in whole]


def new_line(path, since, what):
    """The first one, as soon as it is there."""
    return wait_for(what, lambda: new_lines(path, since))[0]


def normal_log(line):
    return {key: line.get(key) for key in KEYS}
