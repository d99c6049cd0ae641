"""The patches that a Kubernetes API server knows but for server-side apply: merge, JSON and strategic merge, for the double of it."""

from __future__ import annotations

import copy
from typing import Any

from tests.cluster.statuses import ApiError, error

# The keys by which a strategic merge joins lists; https://kubernetes.io/docs/reference/generated/kubernetes-api/ "patch merge key"
_MERGE_KEYS = {
    "conditions": "type",
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "secrets": "name",
    "taints": "key",
    "topologySpreadConstraints": "topologyKey",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
_NODE_ADDRESSES = "addresses"
_PORT_KEYS = ("containerPort", "port")


def merge(current: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(current) if isinstance(current, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def json_patch(current: Any, operations: Any) -> Any:
    """RFC 6902. Kubernetes tells nothing of what failed but 422."""
    document = copy.deepcopy(current)
    try:
        for operation in operations:
            document = _apply(document, operation)
    except (KeyError, IndexError, ValueError, TypeError) as failure:
        raise _rejected() from failure
    return document


def _rejected() -> ApiError:
    return error(422, "the server rejected our request due to an error in our request", details={})


def _apply(document: Any, operation: dict[str, Any]) -> Any:
    kind = operation["op"]
    path = _pointer(operation["path"])
    if kind == "test":
        if _get(document, path) != operation["value"]:
            raise ValueError("test failed")
    elif kind == "add":
        document = _add(document, path, copy.deepcopy(operation["value"]))
    elif kind == "remove":
        _remove(document, path)
    elif kind == "replace":
        _get(document, path)
        document = _set(document, path, copy.deepcopy(operation["value"]))
    elif kind in ("move", "copy"):
        source = _pointer(operation["from"])
        value = copy.deepcopy(_get(document, source))
        if kind == "move":
            _remove(document, source)
        document = _add(document, path, value)
    else:
        raise ValueError(kind)
    return document


def _pointer(path: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _get(document: Any, path: list[str]) -> Any:
    for part in path:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _get(document, path[:-1])
    if isinstance(parent, list):
        parent.insert(len(parent) if path[-1] == "-" else int(path[-1]), value)
    else:
        parent[path[-1]] = value
    return document


def _set(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _get(document, path[:-1])
    parent[int(path[-1]) if isinstance(parent, list) else path[-1]] = value
    return document


def _remove(document: Any, path: list[str]) -> None:
    parent = _get(document, path[:-1])
    del parent[int(path[-1]) if isinstance(parent, list) else path[-1]]


def strategic_merge(current: Any, patch: Any, field: str = "") -> Any:
    """What a patch of a built-in kind means: maps are merged, and lists too where their elements have a key."""
    if isinstance(patch, dict):
        return _strategic_map(current if isinstance(current, dict) else {}, patch)
    if isinstance(patch, list) and field == "finalizers":
        return list(dict.fromkeys([*(current or []), *patch]))
    key = _merge_key(field, patch, current)
    if key is None:
        return copy.deepcopy(patch)
    return _strategic_list(current or [], patch, key)


def _merge_key(field: str, patch: Any, current: Any) -> str | None:
    if not isinstance(patch, list):
        return None
    elements = [element for element in [*patch, *(current or [])] if isinstance(element, dict)]
    if field == "ports":
        return next((key for key in _PORT_KEYS if any(key in element for element in elements)), None)
    if field == _NODE_ADDRESSES and any("type" in element for element in elements):
        return "type"
    return _MERGE_KEYS.get(field)


def _strategic_map(current: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    if patch.get("$patch") == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
    merged = dict(current)
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            field = key.split("/", 1)[1]
            merged[field] = [element for element in merged.get(field) or [] if element not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = strategic_merge(merged.get(key), value, key)
    return merged


def _strategic_list(current: list[Any], patch: list[Any], key: str) -> list[Any]:
    if any(element.get("$patch") == "replace" for element in patch):
        return [copy.deepcopy(element) for element in patch if element.get("$patch") != "replace"]
    merged = list(current)
    for element in patch:
        position = next((place for place, other in enumerate(merged) if other.get(key) == element.get(key)), None)
        if element.get("$patch") == "delete":
            merged = [other for other in merged if other.get(key) != element.get(key)]
        elif position is None:
            merged.append(copy.deepcopy(element))
        else:
            merged[position] = _strategic_map(merged[position], element)
    return merged
