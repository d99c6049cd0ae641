"""The CustomResourceDefinitions of OME: the real ones where they lie beside the project, and small ones that check nothing."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "ome" / "crds"
_SMALL = {
    "InferenceService": ("inferenceservices", "Namespaced", True),
    "ServingRuntime": ("servingruntimes", "Namespaced", False),
    "ClusterServingRuntime": ("clusterservingruntimes", "Cluster", False),
    "BaseModel": ("basemodels", "Namespaced", True),
    "ClusterBaseModel": ("clusterbasemodels", "Cluster", True),
}


@functools.cache
def _parsed() -> tuple[dict[str, Any], ...]:
    return tuple(yaml.load(path.read_text(), yaml.CSafeLoader) for path in sorted(FOLDER.glob("*.yaml")))


def ome_crds() -> list[dict[str, Any]]:
    """The real definitions, which take seconds to read the first time; the small ones where those are absent. Not to be changed."""
    return list(_parsed()) or small_ome_crds()


def small_ome_crds() -> list[dict[str, Any]]:
    """Definitions of the kinds that a study needs, with any spec and status."""
    return [_definition(kind, *rest) for kind, rest in _SMALL.items()]


def _definition(kind: str, plural: str, scope: str, has_status: bool) -> dict[str, Any]:
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version: dict[str, Any] = {
        "name": "v1beta1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": anything, "status": anything}}},
    }
    if has_status:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.ome.io"},
        "spec": {
            "group": "ome.io",
            "scope": scope,
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "versions": [version],
        },
    }
