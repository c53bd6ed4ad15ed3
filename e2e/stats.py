"""Statistics of a cluster and the health of its hosts, by the admin pages that both proxies have."""

import json
import re
import urllib.parse

from processes import get


def stats(admin, cluster):
    """All statistics of the cluster, by the name that they have in Prometheus: underscores, no dots."""
    return {name.replace(".", "_"): value for name, value in named(admin, cluster).items()}


def named(admin, cluster):
    """The same by their own names."""
    pattern = urllib.parse.quote(f"^cluster\\.{re.escape(cluster)}\\.", safe="")
    found = json.loads(get(admin, f"/stats?format=json&filter={pattern}"))["stats"]
    prefix = f"cluster.{cluster}."
    return {one["name"].removeprefix(prefix): int(one["value"]) for one in found if "value" in one}


def stat(admin, cluster, name):
    return stats(admin, cluster).get(name)


def ejected(admin, cluster):
    """The hosts with Envoy's flag `failed_outlier_check`."""
    hosts = host_statuses(admin, cluster)
    return {address for address, host in hosts.items() if host["health_status"].get("failed_outlier_check")}


def connections(admin, cluster):
    """The open connections of each host."""

    def active(host):
        return sum(int(one.get("value", 0)) for one in host["stats"] if one["name"] == "cx_active")

    return {address: active(host) for address, host in host_statuses(admin, cluster).items()}


def host_statuses(admin, cluster):
    statuses = json.loads(get(admin, "/clusters?format=json"))["cluster_statuses"]
    hosts = [status for status in statuses if status["name"] == cluster][0]["host_statuses"]
    where = [host["address"]["socket_address"] for host in hosts]
    return {f"{one['address']}:{one['port_value']}": host for one, host in zip(where, hosts)}
