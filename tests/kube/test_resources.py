"""The paths of kinds, and the helpers that read objects."""

from __future__ import annotations

from typing import Any

import pytest

from tuner.kube.resources import (
    CLUSTER_BASE_MODEL,
    DEPLOYMENT,
    INFERENCE_SERVICE,
    NODE,
    POD,
    Resource,
    condition,
    inside,
    name_of,
    uid_of,
)


@pytest.mark.parametrize(
    ("resource", "parts", "path"),
    [
        (POD, ("", ""), "/api/v1/namespaces/ns/pods"),
        (POD, ("p", ""), "/api/v1/namespaces/ns/pods/p"),
        (POD, ("p", "log"), "/api/v1/namespaces/ns/pods/p/log"),
        (NODE, ("n", ""), "/api/v1/nodes/n"),
        (DEPLOYMENT, ("", ""), "/apis/apps/v1/namespaces/ns/deployments"),
        (INFERENCE_SERVICE, ("i", "status"), "/apis/ome.io/v1beta1/namespaces/ns/inferenceservices/i/status"),
        (CLUSTER_BASE_MODEL, ("m", ""), "/apis/ome.io/v1beta1/clusterbasemodels/m"),
        (POD, ("../nodes/n?x=1#y", ""), "/api/v1/namespaces/ns/pods/..%2Fnodes%2Fn%3Fx%3D1%23y"),
    ],
)
def test_paths(resource: Resource, parts: tuple[str, str], path: str) -> None:
    assert resource.path("ns", *parts) == path


def test_api_versions() -> None:
    assert (POD.api_version, INFERENCE_SERVICE.api_version) == ("v1", "ome.io/v1beta1")


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ((), {"a": {"b": [1, {"c": 0}]}, "n": None}),
        (("a", "b", 0), 1),
        (("a", "b", -1, "c"), 0),
        (("a", "b", 2), None),
        (("a", "b", -3), None),
        (("a", 0), None),
        (("a", "b", "c"), None),
        (("n", "x"), None),
        (("x", "y", "z"), None),
    ],
)
def test_inside(keys: tuple[str | int, ...], found: Any) -> None:
    assert inside({"a": {"b": [1, {"c": 0}]}, "n": None}, *keys) == found


def test_inside_of_nothing() -> None:
    assert inside(None, "a") is None
    assert inside("text", 0) is None


def test_conditions() -> None:
    obj = {"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Ready", "status": "True"}, {"type": "X"}]}}
    assert condition(obj, "Ready") == {"type": "Ready", "status": "True"}
    for empty in ({}, {"status": None}, {"status": {"conditions": None}}):
        assert condition(empty, "Ready") is None


def test_names() -> None:
    obj = {"metadata": {"name": "n", "uid": "u"}}
    assert (name_of(obj), uid_of(obj), name_of({}), uid_of({"metadata": None})) == ("n", "u", "", "")
