"""How OME puts a service's engine over its runtime's: a strategic merge patch by the Pod schema's merge keys, then its templates."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tests.cluster.connection import Object

_MERGE_KEYS = {
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "containers": "name",
    "initContainers": "name",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""Lists that Kubernetes merges by a key (`patchMergeKey` of core/v1); any other list is replaced as a whole, `args` and `command` too."""

COMPONENT_FIELDS = frozenset(
    {"minReplicas", "maxReplicas", "scaleTarget", "scaleMetric", "containerConcurrency", "timeoutSeconds", "canaryTrafficPercent"}
    | {"labels", "annotations", "minAvailable", "maxUnavailable", "deploymentStrategy", "kedaConfig", "runner", "leader", "worker"}
    | {"acceleratorOverride"}
)
"""What an engine has beside a pod's fields."""


def strategic_merge(base: Any, patch: Any, field: str = "") -> Any:
    """`patch` over `base`: maps by key, some lists by merge key, anything else replaced."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {key: strategic_merge(base.get(key), value, key) for key, value in patch.items()}
    if isinstance(base, list) and isinstance(patch, list) and field in _MERGE_KEYS:
        return _merge_lists(base, patch, _MERGE_KEYS[field])
    return patch


def _merge_lists(base: list[Object], patch: list[Object], key: str) -> list[Object]:
    merged = [dict(entry) for entry in base]
    for entry in patch:
        same = next((place for place, old in enumerate(merged) if old.get(key) == entry.get(key)), None)
        if same is None:
            merged.append(entry)
        else:
            merged[same] = strategic_merge(merged[same], entry)
    return merged


def merge_engine(runtime: Mapping[str, Any], engine: Mapping[str, Any]) -> Object:
    """The engine that is deployed. A runner's name that the service leaves out is written as "" over the runtime's, as OME's types do."""
    stated = dict(engine)
    if "runner" in stated:
        stated["runner"] = {"name": "", **stated["runner"]}
    merged = strategic_merge(dict(runtime), stated)
    assert isinstance(merged, dict)
    return merged


def render(container: Object, metadata: Mapping[str, Any]) -> Object:
    """The container with `{{.Name}}`, `{{.Namespace}}`, `{{.Labels.x}}` and `{{.Annotations.x}}` filled in.

    Raises:
        ValueError: it has any other `{{`.
    """
    values = {"Name": metadata["name"], "Namespace": metadata["namespace"]}
    for kind in ("labels", "annotations"):
        values |= {f"{kind.title()}.{key}": value for key, value in metadata.get(kind, {}).items()}

    def fill(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ValueError(f'template: container:1: unexpected "{match[0]}" in operand')
        return values[match[1]]

    text = re.sub(r"\{\{\s*\.([\w.]+)\s*\}\}", fill, json.dumps(container))
    if "{{" in text:
        raise ValueError('template: container:1: unexpected "{{" in operand')
    rendered = json.loads(text)
    assert isinstance(rendered, dict)
    return rendered
