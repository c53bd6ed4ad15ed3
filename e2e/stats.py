"""Statistics of a cluster and the health of its hosts, by the admin pages that both proxies have."""

import json
import re
import urllib.parse

from processes import get


def stats(admin, cluster):
    """All statistics of the cluster, by name."""
    pattern = urllib.parse.quote(f"^cluster\\.{re.escape(cluster)}\\.", safe="")
    found = json.loads(get(admin, f"/stats?format=json&filter={pattern}"))["stats"]
    prefix = f"cluster.{cluster}."
    return {one["name"].removeprefix(prefix): one["value"] for one in found if "value" in one}


def stat(admin, cluster, name):
    return stats(admin, cluster).get(name)


def ejected(admin, cluster):
    """The hosts with Envoy's flag `failed_outlier_check`."""
    statuses = json.loads(get(admin, "/clusters?format=json"))["cluster_statuses"]
    hosts = [status for status in statuses if status["name"] == cluster][0]["host_statuses"]
    addresses = set()
    for host in hosts:
        if host["health_status"].get("failed_outlier_check"):
            where = host["address"]["socket_address"]
            addresses.add(f"{where['address']}:{where['port_value']}")
    return addresses
