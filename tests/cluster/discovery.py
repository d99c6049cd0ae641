"""What the double of an API server tells of itself: its version, groups and resources."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tests.cluster.core_kinds import Kind
from tests.cluster.statuses import page_not_found

VERSION = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.0",
    "gitCommit": "0" * 40,
    "gitTreeState": "clean",
    "buildDate": "2026-04-22T00:00:00Z",
    "goVersion": "go1.26.0",
    "compiler": "gc",
    "platform": "linux/amd64",
}
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_SUBRESOURCE_VERBS = {
    "binding": ["create"],
    "eviction": ["create"],
    "finalize": ["update"],
    "log": ["get"],
    "portforward": ["create", "get"],
    "status": ["get", "patch", "update"],
}
_HEALTH = ("healthz", "livez", "readyz")
_REVIEWS = "authorization.k8s.io"


def describe(parts: list[str], kinds: Collection[Kind]) -> dict[str, Any] | str:
    """The answer to a path that names no resource, as its parts. 404 for what there is not."""
    match parts:
        case ["version"]:
            return VERSION
        case [name, *_] if name in _HEALTH:
            return "ok"
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name, kinds) for name in _groups(kinds)]}
        case ["apis", group] if group in _groups(kinds):
            return {"kind": "APIGroup", "apiVersion": "v1"} | _group(group, kinds)
        case ["api", "v1"]:
            return _resources("", "v1", kinds)
        case ["apis", group, version] if version in _versions(group, kinds):
            return _resources(group, version, kinds)
    raise page_not_found()


def _groups(kinds: Collection[Kind]) -> list[str]:
    return list(dict.fromkeys([*(kind.group for kind in kinds if kind.group), _REVIEWS]))


def _versions(group: str, kinds: Collection[Kind]) -> list[str]:
    return ["v1"] if group == _REVIEWS else list(dict.fromkeys(kind.version for kind in kinds if kind.group == group))


def _group(group: str, kinds: Collection[Kind]) -> dict[str, Any]:
    versions = [{"groupVersion": f"{group}/{version}", "version": version} for version in _versions(group, kinds)]
    return {"name": group, "versions": versions, "preferredVersion": versions[0]}


def _resources(group: str, version: str, kinds: Collection[Kind]) -> dict[str, Any]:
    resources = [entry for kind in kinds if (kind.group, kind.version) == (group, version) for entry in _entries(kind)]
    if group == _REVIEWS:
        review = {"name": "selfsubjectaccessreviews", "singularName": "selfsubjectaccessreview", "namespaced": False}
        resources = [review | {"kind": "SelfSubjectAccessReview", "verbs": ["create"]}]
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": resources}


def _entries(kind: Kind) -> list[dict[str, Any]]:
    entry: dict[str, Any] = {"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind}
    entries = [entry | {"verbs": _VERBS} | ({"shortNames": list(kind.short_names)} if kind.short_names else {})]
    for part in sorted(kind.subresources):
        name = {"name": f"{kind.plural}/{part}", "singularName": "", "verbs": _SUBRESOURCE_VERBS.get(part, [])}
        entries.append(entry | name)
    return entries
