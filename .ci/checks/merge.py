"""Patches of objects, as an API server merges them."""

# By what the items of a list are told apart when a patch is merged into it (Kubernetes' `patchMergeKey`). Ports are those
# of containers or those of Services.
NAMED = ("containers", "initContainers", "volumes", "env", "webhooks", "imagePullSecrets")
MERGE_KEYS = {field: ("name",) for field in NAMED} | {"volumeMounts": ("mountPath",), "ports": ("containerPort", "port")}


def merge(old, patch, strategic):
    """A merge patch (RFC 7386), or Kubernetes' strategic one, which merges lists by a key of their items."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    kept = patch.get("$retainKeys")
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None:
            merged.pop(key, None)
        elif strategic and isinstance(value, list) and key in MERGE_KEYS:
            order = patch.get(f"$setElementOrder/{key}")
            merged[key] = merge_list(merged.get(key, []), value, MERGE_KEYS[key], order)
        else:
            merged[key] = merge(merged.get(key), value, strategic)
    return {key: value for key, value in merged.items() if kept is None or key in kept}


def merge_list(old, patch, keys, order):
    def key(item):
        return tuple(item.get(field) for field in keys)

    items = {key(item): item for item in old}
    for item in patch:
        if item.get("$patch") == "delete":
            items.pop(key(item), None)
        else:
            items[key(item)] = merge(items.get(key(item)), item, True)
    place = [key(item) for item in order or []]
    return sorted(items.values(), key=lambda item: place.index(key(item)) if key(item) in place else len(place))
