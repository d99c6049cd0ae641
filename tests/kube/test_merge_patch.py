"""Merge patches as RFC 7386 has them, and the fields that they must leave alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import ConfigError
from tuner.kube.merge_patch import merged, spare

OWN = (("metadata", "name"), ("spec", "engine", "minReplicas"))


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # appendix A of RFC 7386
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_examples_of_the_standard(target: Any, patch: Any, result: Any) -> None:
    before = copy.deepcopy((target, patch))
    assert merged(target, patch) == result
    assert (target, patch) == before


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(target=VALUES, patch=VALUES)
def test_patches_twice_as_once(target: Any, patch: Any) -> None:
    once = merged(target, patch)
    assert merged(once, patch) == once


@pytest.mark.parametrize(
    "patch",
    [{}, {"metadata": {"labels": {"a": "b"}}}, {"spec": {"engine": {"maxReplicas": 1}}}, {"spec": {"decoder": None}}, {"other": None}],
)
def test_patches_that_leave_the_own_fields_alone(patch: dict[str, Any]) -> None:
    spare(OWN, patch, "backend.patch", "the other keys of backend")


@pytest.mark.parametrize(
    ("patch", "told"),
    [
        ({"metadata": {"name": "x"}}, "backend.patch.metadata.name: set by tuner itself; see the other keys of backend"),
        ({"metadata": {"name": None}}, "backend.patch.metadata.name: set by tuner itself; see the other keys of backend"),
        ({"metadata": None}, "backend.patch.metadata: null would remove fields that tuner sets itself"),
        ({"spec": {"engine": None}}, "backend.patch.spec.engine: null would remove fields that tuner sets itself"),
        ({"spec": {"engine": []}}, "backend.patch.spec.engine: must be a mapping; it holds fields that tuner sets itself"),
        ({"spec": "x"}, "backend.patch.spec: must be a mapping; it holds fields that tuner sets itself"),
    ],
)
def test_patches_that_touch_them(patch: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spare(OWN, patch, "backend.patch", "the other keys of backend")
    assert str(caught.value) == told


@settings(max_examples=50, deadline=None)
@given(patch=st.dictionaries(st.sampled_from(["metadata", "spec", "x"]), VALUES, max_size=3))
def test_whatever_is_let_through_keeps_the_own_fields(patch: dict[str, Any]) -> None:
    manifest = {"metadata": {"name": "n"}, "spec": {"engine": {"minReplicas": 1}}}
    try:
        spare(OWN, patch, "backend.patch", "the other keys")
    except ConfigError:
        return
    result = merged(manifest, patch)
    assert result["metadata"]["name"] == "n"
    assert result["spec"]["engine"]["minReplicas"] == 1
