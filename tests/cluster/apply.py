"""Who owns which field, and server-side apply, as a Kubernetes API server has them; for the double of it. Lists are owned as a whole."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeAlias

from tests.cluster.metadata import now
from tests.cluster.statuses import ApiError, error

Path: TypeAlias = tuple[str, ...]
_NOBODYS: set[Path] = {("apiVersion",), ("kind",)} | {
    ("metadata", name)
    for name in (
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generateName",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "uid",
    )
}


def _leaves(value: Any, path: Path = ()) -> dict[Path, Any]:
    if isinstance(value, Mapping) and (value or not path):
        found: dict[Path, Any] = {}
        for name, element in value.items():
            if (*path, name) not in _NOBODYS:
                found |= _leaves(element, (*path, name))
        return found
    return {path: value}


def _encoded(paths: set[Path]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in sorted(paths):
        node = tree
        for name in path:
            node = node.setdefault(f"f:{name}", {})
    return tree


def _decoded(tree: Mapping[str, Any], path: Path = ()) -> set[Path]:
    if not tree:
        return {path} if path else set()
    return {leaf for name, node in tree.items() for leaf in _decoded(node, (*path, name.removeprefix("f:")))}


def _entries(thing: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    return copy.deepcopy(thing["metadata"].get("managedFields") or []) if thing else []


def updated(old: Mapping[str, Any] | None, new: dict[str, Any], manager: str, subresource: str) -> None:
    """Writes into `new` who owns what after a create, a replacement or a patch by `manager`."""
    before, after = _leaves(old or {}), _leaves(new)
    changed = {path for path, value in after.items() if path not in before or before[path] != value}
    gone = before.keys() - after.keys()
    entries = []
    for entry in _entries(old):
        rest = _decoded(entry["fieldsV1"]) - changed - gone
        if rest:
            entries.append(entry | {"fieldsV1": _encoded(rest)})
    _own(new, entries, manager, "Update", subresource, changed)


def _own(thing: dict[str, Any], entries: list[dict[str, Any]], manager: str, operation: str, subresource: str, paths: set[Path]) -> None:
    def is_mine(entry: Mapping[str, Any]) -> bool:
        return (entry["manager"], entry["operation"], entry.get("subresource", "")) == (manager, operation, subresource)

    mine = {path for entry in entries if is_mine(entry) for path in _decoded(entry["fieldsV1"])}
    owned = paths if operation == "Apply" else mine | paths
    entries = [entry for entry in entries if not is_mine(entry)]
    if owned:
        entry = {"manager": manager, "operation": operation, "apiVersion": thing["apiVersion"], "time": now(), "fieldsType": "FieldsV1"}
        entry["fieldsV1"] = _encoded(owned)
        entries.append(entry | ({"subresource": subresource} if subresource else {}))
    if entries:
        thing["metadata"]["managedFields"] = entries


def applied(live: Mapping[str, Any] | None, configuration: Mapping[str, Any], manager: str, force: bool) -> dict[str, Any]:
    """What `live` becomes by a server-side apply of `configuration`; 409 where another manager owns what would change."""
    wanted = _leaves(configuration)
    entries = _entries(live)
    others = [entry for entry in entries if (entry["manager"], entry["operation"]) != (manager, "Apply")]
    before = _leaves(live or {})
    disputed = {
        path: entry for entry in others for path in _decoded(entry["fieldsV1"]) if path in wanted and before.get(path) != wanted[path]
    }
    if disputed and not force:
        raise _conflict(disputed)
    mine = {path for entry in entries if entry not in others for path in _decoded(entry["fieldsV1"])}
    kept_by_others = {path for entry in others for path in _decoded(entry["fieldsV1"])}
    result: dict[str, Any] = copy.deepcopy(dict(live)) if live else {}
    for path in mine - wanted.keys() - kept_by_others:
        _drop(result, path)
    for name in ("apiVersion", "kind"):
        result[name] = configuration[name]
    result["metadata"] = {"name": configuration["metadata"].get("name")} | result.get("metadata", {})
    for path, value in wanted.items():
        _write(result, path, copy.deepcopy(value))
    remaining = []
    for entry in others:
        if rest := _decoded(entry["fieldsV1"]) - disputed.keys():
            remaining.append(entry | {"fieldsV1": _encoded(rest)})
    _own(result, remaining, manager, "Apply", "", set(wanted))
    return result


def _conflict(disputed: Mapping[Path, Mapping[str, Any]]) -> ApiError:
    fields: dict[str, list[str]] = {}
    for path, entry in sorted(disputed.items()):
        using = "" if entry["operation"] == "Apply" else f" using {entry['apiVersion']}"
        fields.setdefault(f'with "{entry["manager"]}"{using}', []).append("." + ".".join(path))
    told = [
        f"conflict {who}: {paths[0]}" if len(paths) == 1 else "\n- ".join([f"conflicts {who}:", *paths]) for who, paths in fields.items()
    ]
    count = f"{len(disputed)} conflict{'s' if len(disputed) > 1 else ''}"
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict {who}", "field": field} for who, paths in fields.items() for field in paths
    ]
    return error(409, f"Apply failed with {count}: " + "\n".join(told), details={"causes": causes})


def _drop(thing: dict[str, Any], path: Path) -> None:
    node: Any = thing
    for name in path[:-1]:
        node = node.get(name)
        if not isinstance(node, dict):
            return
    node.pop(path[-1], None)


def _write(thing: dict[str, Any], path: Path, value: Any) -> None:
    node = thing
    for name in path[:-1]:
        child = node.get(name)
        if not isinstance(child, dict):
            child = node[name] = {}
        node = child
    node[path[-1]] = value
