from __future__ import annotations

from typing import Any

import pytest

from tuner.backend_settings import OWN_CONTAINER_ARGUMENTS, DockerBackendSettings
from tuner.composition import compose
from tuner.errors import ConfigError
from tuner.hydra_app import plain
from tuner.settings import Settings, load


def composed(*overrides: str) -> Settings:
    return load(plain(compose(["engine=sglang", "space=sglang", "engine.model=org/m", *overrides])))


def docker(*overrides: str) -> DockerBackendSettings:
    backend = composed("backend=docker", *overrides).backend
    assert isinstance(backend, DockerBackendSettings)
    return backend


def test_shipped_values_are_the_defaults() -> None:
    assert docker() == DockerBackendSettings(name="docker")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("backend.gpus=[0,0]", r"backend\.gpus: \[0, 0\] names a GPU twice"),
        ("backend.gpus=0", r"backend\.gpus: .*"),
        ("backend.pull=allways", r"backend\.pull: 'allways' is not allowed; use one of missing, always, never \(did you mean always\?\)"),
        ("backend.pull_timeout_s=0", r"backend\.pull_timeout_s: 0 must be above 0"),
        ("backend.shm_size=lots", r"backend\.shm_size: 'lots' is no size; write bytes, or k, m or g as in 32g"),
        ("backend.bind=localhost", r"backend\.bind: 'localhost' is no IP address"),
        ("backend.memory=-1g", r"backend\.memory: '-1g' .*"),
        ("backend.cpus=0", r"backend\.cpus: 0 must be above 0"),
        ("+backend.ulimits.memlock=unlimited", r"backend\.ulimits\.memlock: 'unlimited' is no whole number"),
        ("backend.mounts=[{source: data}]", r"backend\.mounts\.0\.source: 'data' is no absolute path"),
        ("+backend.shm_sice=1g", r"backend\.shm_sice: unknown key \(did you mean shm_size\?\); known here: .*"),
        ("+backend.environment.HF_TOKEN=hf_abc", r"backend\.environment\.HF_TOKEN: the values of a configuration are stored.*write null"),
        (
            "+backend.container.cap_ad=[SYS_NICE]",
            r"backend\.container\.cap_ad: containers\.create has no such argument \(did you mean cap_add\?\)",
        ),
        ("+backend.container.ports={}", r"backend\.container\.ports: set by tuner itself; see the other keys of backend"),
    ],
)
def test_wrong_values_are_one_line(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{says}") as caught:
        docker(override)
    assert "\n" not in str(caught.value)
    assert "hf_abc" not in str(caught.value)


def test_a_variable_of_the_users_environment_is_stored_by_name_only() -> None:
    settings = composed("backend=docker", "+backend.environment={HF_TOKEN: null, NCCL_DEBUG: INFO}")
    assert settings.identity["backend"]["environment"] == {"HF_TOKEN": None, "NCCL_DEBUG": "INFO"}


def test_where_a_study_runs_does_not_make_another_study() -> None:
    here = composed("backend=docker")
    there = composed("backend=docker", "backend.gpus=[1]", "backend.bind=10.0.0.1", "backend.pull=never", "backend.stop_grace_s=3")
    assert here.fingerprint == there.fingerprint
    assert here.fingerprint != composed("backend=docker", "backend.cpus=4").fingerprint


def test_arguments_that_tuner_sets_are_those_of_the_sdk() -> None:
    from docker.models.containers import RUN_CREATE_KWARGS, RUN_HOST_CONFIG_KWARGS

    others: set[Any] = {"ports", "volumes", "remove", "environment"}  # handled by the SDK before it looks into those lists
    assert {*RUN_CREATE_KWARGS, *RUN_HOST_CONFIG_KWARGS, *others} >= OWN_CONTAINER_ARGUMENTS
