"""The merge of a service's engine over its runtime's, by the table of what OME's own tests say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.merging import merge_engine, render

METADATA = {"name": "s1", "namespace": "tuner", "labels": {"trial": "7"}}


@pytest.mark.parametrize(
    ("base", "patch", "merged"),
    [
        ({"args": ["--arg1", "runtime"]}, {"args": ["--arg1", "isvc", "--arg2"]}, {"args": ["--arg1", "isvc", "--arg2"]}),
        ({"command": ["a", "b"]}, {"command": ["c"]}, {"command": ["c"]}),
        ({"command": ["a", "b"]}, {"args": ["c"]}, {"command": ["a", "b"], "args": ["c"]}),
        (
            {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
            {"env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]},
            {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C", "value": "4"}]},
        ),
        ({"ports": [{"containerPort": 1, "name": "a"}]}, {"ports": [{"containerPort": 1}]}, {"ports": [{"containerPort": 1, "name": "a"}]}),
        (
            {"resources": {"limits": {"cpu": "1", "nvidia.com/gpu": "1"}}},
            {"resources": {"limits": {"nvidia.com/gpu": "2"}}},
            {"resources": {"limits": {"cpu": "1", "nvidia.com/gpu": "2"}}},
        ),
        (
            {"readinessProbe": {"httpGet": {"path": "/h"}, "periodSeconds": 60}},
            {"readinessProbe": {"periodSeconds": 5}},
            {"readinessProbe": {"httpGet": {"path": "/h"}, "periodSeconds": 5}},
        ),
        (
            {"readinessProbe": {"httpGet": {"path": "/h"}}},
            {"readinessProbe": {"tcpSocket": {"port": 1}}},
            {"readinessProbe": {"httpGet": {"path": "/h"}, "tcpSocket": {"port": 1}}},
        ),
    ],
)
def test_runner(base: dict[str, Any], patch: dict[str, Any], merged: dict[str, Any]) -> None:
    runtime, engine = {"runner": {"name": "ome-container", **base}}, {"runner": {"name": "ome-container", **patch}}
    assert merge_engine(runtime, engine) == {"runner": {"name": "ome-container", **merged}}


def test_pod_fields() -> None:
    runtime = {"nodeSelector": {"a": "1"}, "tolerations": [{"key": "x"}], "volumes": [{"name": "shm", "emptyDir": {}}]}
    engine = {"nodeSelector": {"b": "2"}, "tolerations": [{"key": "y"}], "volumes": [{"name": "data", "emptyDir": {}}], "minReplicas": 1}
    merged = merge_engine(runtime, engine)
    assert merged["nodeSelector"] == {"a": "1", "b": "2"}
    assert merged["tolerations"] == [{"key": "y"}]
    assert [volume["name"] for volume in merged["volumes"]] == ["shm", "data"]
    assert merged["minReplicas"] == 1


def test_a_name_left_out_is_lost() -> None:
    assert merge_engine({"runner": {"name": "ome-container"}}, {"runner": {"args": []}})["runner"]["name"] == ""


def test_an_empty_engine_is_the_runtime() -> None:
    assert merge_engine({"runner": {"name": "ome-container"}}, {}) == {"runner": {"name": "ome-container"}}


def test_templates_are_filled_in() -> None:
    container = {"args": ["--name={{.Name}}", "{{ .Namespace }}", "{{.Labels.trial}}", '{"a":{"b":1}}']}
    assert render(container, METADATA) == {"args": ["--name=s1", "tuner", "7", '{"a":{"b":1}}']}


@pytest.mark.parametrize("word", ["{{.Nope}}", "{{", "{{ range .Items }}"])
def test_other_templates_fail(word: str) -> None:
    with pytest.raises(ValueError, match="template"):
        render({"args": [word]}, METADATA)
