"""Our collector with a file exporter, and what stands in its file."""

import collections
import os

from logs import new_lines
from processes import Program, otlp_collector

COLLECTOR = """
receivers:
  otlp: {{ protocols: {{ grpc: {{ endpoint: 127.0.0.1:0 }}, http: {{ endpoint: 127.0.0.1:0 }} }} }}
exporters:
  file: {{ path: {path} }}
extensions:
  health_check: {{ endpoint: 127.0.0.1:0 }}
service:
  extensions: [health_check]
  telemetry: {{ metrics: {{ address: 127.0.0.1:0 }} }}
  pipelines:
    traces: {{ receivers: [otlp], exporters: [file] }}
    metrics: {{ receivers: [otlp], exporters: [file] }}
    logs: {{ receivers: [otlp], exporters: [file] }}
"""


class Collector(Program):
    def __init__(self, name, folder):
        self.path = os.path.join(folder, f"{name}.jsonl")
        config = os.path.join(folder, f"{name}.yaml")
        with open(config, "w", encoding="utf-8") as out:
            out.write(COLLECTOR.format(path=self.path))
        super().__init__(name, [otlp_collector(), "--config", config], folder)

    def ports(self):
        addresses = self.listening("otlp_grpc", "otlp_http", "metrics", "health")
        return [address.rsplit(":", 1)[1] for address in addresses[:2]]

    def requests(self):
        """The OTLP/JSON requests in the file, those that are whole."""
        return new_lines(self.path, 0)

    def received(self):
        """Every id in the file, with how often it stands there."""
        found = collections.Counter()
        for attributes in attribute_lists(self.requests()):
            if "e2e.id" in attributes:
                found[attributes["e2e.id"]] += 1
        return found


def attribute_lists(value):
    """All attribute lists of an OTLP/JSON request, as dictionaries."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "attributes":
                yield {one["key"]: one.get("value", {}).get("stringValue") for one in inner}
            else:
                yield from attribute_lists(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from attribute_lists(inner)
