"""Envoy's hash ring of equal hosts, so that a script can choose a key that means one host whoever else is ejected."""

import bisect
import itertools
import math

import xxhash

MINIMUM = 1024


def hash_of(text):
    return xxhash.xxh64_intdigest(text.encode())


def ring(hosts):
    each = math.ceil(MINIMUM / len(hosts))
    return sorted((hash_of(f"{host}_{number}"), host) for host in hosts for number in range(each))


def pick(points, key):
    found = bisect.bisect_left(points, (hash_of(key), ""))
    return points[found % len(points)][1]


def keys_of(hosts):
    """For each host a key that it has in every ring that it is part of."""
    sizes = range(1, len(hosts) + 1)
    rings = {subset: ring(subset) for size in sizes for subset in itertools.combinations(hosts, size)}
    keys = []
    for host in hosts:
        mine = [points for subset, points in rings.items() if host in subset]
        candidates = (f"key-{number}" for number in itertools.count())
        keys.append(next(key for key in candidates if all(pick(points, key) == host for points in mine)))
    return keys
