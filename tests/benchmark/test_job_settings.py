"""The keys of `benchmark.job`: what may be said, how what is wrong is told, and what makes another study."""

from __future__ import annotations

from typing import Any

import pytest

from tests.test_settings import settings
from tuner.errors import ConfigError

OME = {"name": "ome", "model": {"name": "m"}, "runtime": {"name": "r"}}
JOB = {"mode": "job", "job": {"image": "registry/tuner:1"}}


def job(**changes: Any) -> dict[str, Any]:
    return {"mode": "job", "job": {"image": "registry/tuner:1", **changes}}


def test_there_is_no_job_without_a_cluster() -> None:
    with pytest.raises(ConfigError, match=r"benchmark\.mode=job: runs in the cluster of backend=ome; for backend=local use driver"):
        settings(benchmark=JOB)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"imagge": "x"}, r"benchmark\.job\.imagge: unknown key \(did you mean image\?\)"),
        ({"image": None}, r"benchmark\.job\.image: missing; benchmark\.mode=job needs an image"),
        ({"resources": {"requets": {"cpu": 1}}}, r"benchmark\.job\.resources\.requets: .*requests, limits"),
        ({"resources": {"requests": {"cpu": [1]}}}, r"benchmark\.job\.resources\.requests\.cpu: "),
        ({"node_selector": {"pool": True}}, r"benchmark\.job\.node_selector\.pool: true is no text; quote it"),
        ({"start_timeout_s": 0}, r"benchmark\.job\.start_timeout_s: 0 must be above 0"),
        ({"service_account": "A_b"}, r"benchmark\.job\.service_account: 'A_b' is no name of a Kubernetes object"),
        ({"patch": {"spec": {"backoffLimit": 3}}}, r"benchmark\.job\.patch\.spec\.backoffLimit: set by tuner itself"),
    ],
)
def test_wrong_values_are_one_line(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{says}") as caught:
        settings(backend=OME, benchmark=job(**wrong))
    assert "\n" not in str(caught.value)


def test_empty_keys_are_the_defaults() -> None:
    empty = {"tokenizer": None, "resources": None, "node_selector": None, "service_account": None, "patch": None}
    assert settings(backend=OME, benchmark=job(**empty)) == settings(backend=OME, benchmark=JOB)


def test_a_study_without_a_job_is_the_same_as_before_there_were_jobs() -> None:
    assert settings().identity["benchmark"] == {"mode": "driver"}
    assert settings(benchmark={"mode": "driver", "job": {"image": "i"}}).fingerprint == settings().fingerprint


@pytest.mark.parametrize("same", [{"image": "registry/tuner:2"}, {"start_timeout_s": 5.0}, {"service_account": "s"}])
def test_how_the_job_comes_to_run_makes_no_other_study(same: dict[str, Any]) -> None:
    assert settings(backend=OME, benchmark=job(**same)).fingerprint == settings(backend=OME, benchmark=JOB).fingerprint


@pytest.mark.parametrize(
    "other",
    [
        {"tokenizer": "org/t"},
        {"resources": {"limits": {"cpu": 1}}},
        {"node_selector": {"pool": "far"}},
        {"patch": {"spec": {"template": {"spec": {"hostNetwork": True}}}}},
    ],
)
def test_how_the_load_is_made_does(other: dict[str, Any]) -> None:
    assert settings(backend=OME, benchmark=job(**other)).fingerprint != settings(backend=OME, benchmark=JOB).fingerprint
    assert settings(backend=OME, benchmark=JOB).fingerprint != settings(backend=OME).fingerprint
