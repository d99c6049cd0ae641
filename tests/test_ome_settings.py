"""The keys of `backend=ome`: what may be said, and how what is wrong is told."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.test_settings import settings
from tuner.errors import ConfigError
from tuner.ome_settings import OmeBackendSettings

NAMED = {"name": "ome", "model": {"name": "m"}, "runtime": {"name": "r"}}


def runner(**fields: Any) -> dict[str, Any]:
    return {"spec": {"engine": {"runner": fields}}}


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (
            {"environment": {"HF_TOKEN": "hf_x"}},
            r"backend\.environment\.HF_TOKEN: the values of a configuration are stored, .* Secret of the namespace .*",
        ),
        ({"environment": {"A": {"secret": "s"}}}, r"backend\.environment\.A: .* is neither a value nor \{secret: <name>, key: <key>\}"),
        ({"environment": {"A": {"secret": "s", "key": "k", "x": 1}}}, r"backend\.environment\.A: .* is neither a value nor .*"),
        (
            {"patch": runner(env=[{"name": "HF_TOKEN", "value": "x"}])},
            r"backend\.patch\.spec\.engine\.runner\.env\.0: the value of HF_TOKEN would be stored.*",
        ),
        (
            {"patch": runner(env=[]), "environment": {"A": 1}},
            r"backend\.patch\.spec\.engine\.runner\.env: set by tuner itself; see backend\.environment.*",
        ),
        ({"patch": runner(resources={"limits": {"nvidia.com/gpu": "2"}})}, r"backend\.patch\..*nvidia\.com/gpu: set by tuner itself.*"),
        ({"patch": {"spec": {"router": {}}}}, r"backend\.patch\.spec\.router: set by tuner itself.*"),
        (
            {"patch": {"metadata": {"labels": {"tuner.study": "x"}}}},
            r"backend\.patch\.metadata\.labels\.tuner\.study: set by tuner itself.*",
        ),
        (
            {"patch": {"metadata": {"annotations": {"ome.io/autoscalerClass": "hpa"}}}},
            r"backend\.patch\..*autoscalerClass: an autoscaler would add servers.*",
        ),
        (
            {"patch": {"metadata": {"annotations": {"ome.io/deploymentMode": "Serverless"}}}},
            r"backend\.patch\..*deploymentMode: set by tuner itself.*",
        ),
        ({"access": "url"}, r"backend\.url: missing; backend\.access=url needs an address.*"),
        ({"access": "cluster", "url": "http://x"}, r"backend\.url: not used by backend\.access=cluster; leave one of them out"),
        ({"url": "http://{pod}:80"}, r"backend\.url: .* no other braces"),
        ({"url": "http://{name.x}"}, r"backend\.url: .* no other braces"),
        ({"url": "http://{name"}, r"backend\.url: .* no other braces"),
        ({"url": "http://x:99999"}, r"backend\.url: .*"),
        ({"url": "ftp://x"}, r"backend\.url: .* must begin with http:// or https:// and name a host"),
        ({"lease_s": 1e20}, r"backend\.lease_s: .*"),
        ({"lease_s": 1.0}, r"backend\.lease_s: .*"),
        ({"stop_grace_s": 99999999999}, r"backend\.stop_grace_s: .*"),
        ({"namespace": "Not_A_Name"}, r"backend\.namespace: .* is no name of a Kubernetes object.*"),
        ({"gpu_budget": 0}, r"backend\.gpu_budget: .*"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(wrong: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(backend={**NAMED, **wrong})
    assert re.fullmatch(line, str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    "right",
    [
        {"patch": {"metadata": {"annotations": {"ome.io/autoscalerClass": None}}, "spec": {"engine": {"autoscaler": {"class": "None"}}}}},
        {"patch": runner(env=[{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}])},
        {"patch": runner(resources={"limits": {"memory": "60Gi"}})},
        {"url": "http://{pod_ip}:{port}"},
        {"url": "https://{name}.{namespace}.example.com/x"},
        {"environment": {"A": 1, "B": {"secret": "s", "key": "k"}}},
    ],
)
def test_what_is_right(right: dict[str, Any]) -> None:
    assert isinstance(settings(backend={**NAMED, **right}).backend, OmeBackendSettings)


def test_names_may_be_missing_where_nothing_is_deployed() -> None:
    assert settings(backend={"name": "ome", "model": {"name": None}}).backend.model.name == ""  # type: ignore[union-attr]


@pytest.mark.parametrize("same", [{"namespace": "other"}, {"context": "c"}, {"queue_timeout_s": 5.0}, {"gpu_budget": 4}, {"lease_s": 60.0}])
def test_where_and_how_long_makes_no_other_study(same: dict[str, Any]) -> None:
    assert settings(backend={**NAMED, **same}).fingerprint == settings(backend=NAMED).fingerprint


@pytest.mark.parametrize("other", [{"runtime": {"name": "r2"}}, {"image": "i:2"}, {"environment": {"A": 1}}, {"patch": runner(tty=True)}])
def test_what_is_served_does(other: dict[str, Any]) -> None:
    assert settings(backend={**NAMED, **other}).fingerprint != settings(backend=NAMED).fingerprint
