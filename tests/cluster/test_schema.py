"""Schemas of CustomResourceDefinitions: what strict validation finds, what is filled in and what is dropped."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.crds import FOLDER, ome_crds, small_ome_crds
from tests.cluster.schema import prune, strict_errors, with_defaults

EXAMPLES = FOLDER.parent / "examples"
NAMED = {"type": "object", "properties": {"name": {"type": "string"}, "value": {"type": "string"}}, "required": ["name"]}
SPEC: dict[str, Any] = {
    "type": "object",
    "required": ["model"],
    "properties": {
        "model": {"type": "string", "minLength": 1, "maxLength": 8, "pattern": "^[a-z]+$"},
        "replicas": {"type": "integer", "minimum": 0, "maximum": 9, "default": 1},
        "kind": {"type": "string", "enum": ["A", "B"]},
        "port": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True},
        "env": {"type": "array", "items": NAMED, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "maybe": {"type": "string", "nullable": True},
        "one": {"oneOf": [{"type": "integer"}, {"minimum": 5}]},
        "ratio": {"type": "number"},
    },
}
CRD: dict[str, Any] = {
    "spec": {"versions": [{"name": "v1", "storage": True, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": SPEC}}}}]}
}


def errors(**spec: Any) -> list[str]:
    return strict_errors(CRD, {"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a"}, "spec": {"model": "m"} | spec})


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"replicas": 0, "kind": "A", "ratio": 1},
        {"port": 80},
        {"port": "http"},
        {"env": [{"name": "A"}, {"name": "B", "value": "x"}]},
        {"labels": {"a": "b"}},
        {"free": {"x": [{"y": None}]}},
        {"maybe": None},
        {"replicas": None},
    ],
)
def test_valid(spec: dict[str, Any]) -> None:
    assert errors(**spec) == []


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"nosuch": 1}, 'unknown field "spec.nosuch"'),
        ({"env": [{"name": "A", "valve": "x"}]}, 'unknown field "spec.env[0].valve"'),
        ({"replicas": "1"}, 'spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string"'),
        ({"replicas": True}, 'spec.replicas: Invalid value: "boolean": spec.replicas in body must be of type integer: "boolean"'),
        ({"replicas": 10}, "spec.replicas: Invalid value: 10: spec.replicas in body should be less than or equal to 9"),
        ({"replicas": -1}, "spec.replicas: Invalid value: -1: spec.replicas in body should be greater than or equal to 0"),
        ({"kind": "C"}, 'spec.kind: Unsupported value: "C": supported values: "A", "B"'),
        ({"port": 1.5}, 'spec.port: Invalid value: "number": spec.port in body must be of type integer,string: "number"'),
        ({"env": [{"value": "x"}]}, "spec.env[0].name: Required value"),
        ({"env": [{"name": "A"}, {"name": "A"}]}, 'spec.env[1]: Duplicate value: {"name":"A"}'),
        ({"labels": {"a": 1}}, 'spec.labels.a: Invalid value: "integer": spec.labels.a in body must be of type string: "integer"'),
        ({"model": ""}, "spec.model: Invalid value: \"\": spec.model in body should match '^[a-z]+$'"),
        ({"model": "abcdefghi"}, "spec.model: Too long: may not be more than 8 bytes"),
        ({"one": 7}, "spec.one: Invalid value: 7: spec.one in body must validate one and only one schema (oneOf)"),
    ],
)
def test_invalid(spec: dict[str, Any], told: str) -> None:
    assert told in errors(**spec)


def test_missing() -> None:
    assert strict_errors(CRD, {"apiVersion": "g/v1", "kind": "K", "spec": {}}) == ["spec.model: Required value"]


def test_metadata_is_not_the_schemas_business() -> None:
    assert strict_errors(CRD, {"apiVersion": "g/v1", "kind": "K", "metadata": {"any": "thing"}, "spec": {"model": "m"}}) == []


def test_defaults_fill_gaps_and_nulls_only() -> None:
    schema = {"properties": {"spec": SPEC}}
    assert with_defaults({"spec": {"model": "m"}}, schema) == {"spec": {"model": "m", "replicas": 1}}
    assert with_defaults({"spec": {"replicas": None, "kind": None, "maybe": None}}, schema) == {"spec": {"replicas": 1, "maybe": None}}
    assert with_defaults({"spec": {"replicas": 0}}, schema) == {"spec": {"replicas": 0}}


def test_pruning_tells_what_it_drops() -> None:
    thing = {"kind": "K", "spec": {"nosuch": 1, "free": {"x": 1}, "env": [{"a": 1}]}, "other": 1}
    assert prune(thing, {"properties": {"spec": SPEC}}) == ["spec.nosuch", "spec.env[0].a", "other"]
    assert thing == {"kind": "K", "spec": {"free": {"x": 1}, "env": [{}]}}


def test_strict_validation_changes_nothing() -> None:
    thing = {"apiVersion": "g/v1", "kind": "K", "spec": {"model": "m", "nosuch": 1}}
    before = copy.deepcopy(thing)
    strict_errors(CRD, thing)
    assert thing == before


def test_small_definitions_take_anything() -> None:
    for definition in small_ome_crds():
        kind = definition["spec"]["names"]["kind"]
        assert strict_errors(definition, {"apiVersion": "ome.io/v1beta1", "kind": kind, "spec": {"a": [{"b": None}]}}) == []


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return next(entry for entry in ome_crds() if entry["metadata"]["name"] == "inferenceservices.ome.io")


@pytest.mark.slow
@pytest.mark.skipif(not EXAMPLES.exists(), reason="needs OME's definitions and examples beside the project")
class TestRealDefinitions:
    @pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
    def test_examples_are_valid(self, services: dict[str, Any], path: Path) -> None:
        things = list(yaml.safe_load_all(path.read_text()))
        assert things
        assert [strict_errors(services, thing) for thing in things] == [[]] * len(things)

    def test_mistakes_are_found(self, services: dict[str, Any]) -> None:
        thing = yaml.safe_load((EXAMPLES / "trial-isvc.yaml").read_text())
        runner = thing["spec"]["engine"]["runner"]
        runner["arguments"] = runner.pop("args")
        runner["env"].append(dict(runner["env"][0]))
        runner["resources"]["limits"]["cpu"] = "ten"
        thing["spec"]["engine"]["minReplicas"] = "1"
        found = strict_errors(services, thing)
        assert 'unknown field "spec.engine.runner.arguments"' in found
        assert any(told.startswith("spec.engine.runner.env[1]: Duplicate value") for told in found)
        assert any(told.startswith('spec.engine.runner.resources.limits.cpu: Invalid value: "ten"') for told in found)
        assert any(told.startswith("spec.engine.minReplicas: Invalid value") for told in found)

    def test_only_what_is_wrong_is_told(self, services: dict[str, Any]) -> None:
        thing = yaml.safe_load((EXAMPLES / "trial-isvc.yaml").read_text())
        thing["spec"]["engine"]["minReplicas"] = "1"
        assert len(strict_errors(services, thing)) == 1
