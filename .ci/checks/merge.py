"""Patches of objects, as an API server merges them."""

# By what the items of a list are told apart when a patch is merged into it (Kubernetes' `patchMergeKey`).
MERGE_KEYS = {
    "containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "webhooks": "name",
    "volumeMounts": "mountPath", "ports": "containerPort", "imagePullSecrets": "name",
}


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


def merge_list(old, patch, name, order):
    items = {item[name]: item for item in old}
    for item in patch:
        if item.get("$patch") == "delete":
            items.pop(item[name], None)
        else:
            items[item[name]] = merge(items.get(item[name]), item, True)
    if order:
        place = [item[name] for item in order]
        return sorted(items.values(), key=lambda item: place.index(item[name]) if item[name] in place else len(place))
    return list(items.values())
