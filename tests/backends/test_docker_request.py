from __future__ import annotations

import re
import shlex
from pathlib import Path

import docker
import pytest

from tests.backends.docker_deploying import settings
from tuner.backend_settings import DockerBackendSettings
from tuner.backends.base import Place
from tuner.backends.docker import Docker
from tuner.backends.docker_request import container_name, create_arguments, environment
from tuner.errors import Systemic
from tuner.gpus import GpuSlots
from tuner.launch import LaunchSpec, Mount

SPEC = LaunchSpec(
    ("python3", "-m", "sglang.launch_server", "--host", "{host}", "--port={port}"),
    "served",
    env={"HF_TOKEN": "hf_secret", "HF_HUB_OFFLINE": "1"},
    gpus=2,
    image="lmsysorg/sglang:v0.5.23",
    mounts=(Mount(Path("/cache/model"), "/cache/model"),),
)


@pytest.mark.parametrize("study", ["some-study", "my study: llama/8b", "Größe", "x" * 500, "-.-"])
def test_names_are_legal(study: str, tmp_path: Path) -> None:
    name = container_name(Place(study, 12, tmp_path))
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", name)  # moby, names.RestrictedNamePattern
    assert len(name) < 150
    assert name != container_name(Place(study, 12, tmp_path))


class TestEnvironment:
    def test_of_the_user_comes_last(self, tmp_path: Path) -> None:
        made = environment({"A": "engine", "B": "engine"}, settings(tmp_path, environment={"A": "user", "N": 1, "F": False}))
        assert made == {"PYTHONUNBUFFERED": "1", "A": "user", "B": "engine", "N": "1", "F": "false"}

    def test_from_outside(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted = settings(tmp_path, environment={"MY_TOKEN": None})
        monkeypatch.delenv("MY_TOKEN", raising=False)
        with pytest.raises(Systemic, match=r"^backend\.environment\.MY_TOKEN: to be taken from your environment, where it is not set"):
            environment({}, wanted)
        monkeypatch.setenv("MY_TOKEN", "secret")
        assert environment({}, wanted)["MY_TOKEN"] == "secret"


def test_arguments_are_those_of_the_sdk(tmp_path: Path) -> None:
    known = {*docker.models.containers.RUN_CREATE_KWARGS, *docker.models.containers.RUN_HOST_CONFIG_KWARGS, "image", "ports"}
    full = settings(tmp_path, memory="4g", cpus=2.0, container={"cap_add": ["SYS_NICE"]})
    arguments = create_arguments(SPEC, full, Place("s", 1, tmp_path), ("GPU-a", "GPU-b"))
    assert set(arguments) <= known
    assert arguments["device_requests"][0].device_ids == ["GPU-a", "GPU-b"]
    assert "hf_secret" not in str({key: value for key, value in arguments.items() if key != "environment"})


def test_launch_command() -> None:
    chosen = DockerBackendSettings.model_validate(
        {
            "name": "docker",
            "ulimits": {"memlock": -1},
            "memory": "64g",
            "cpus": 16.0,
            "environment": {"NCCL_DEBUG": "INFO", "OTHER": None},
            "mounts": [{"source": "/data", "target": "/d"}],
            "container": {"cap_add": ["SYS_NICE"], "privileged": False, "sysctls": {"net.core.somaxconn": 1024}, "network_mode": "mine"},
        }
    )
    command = shlex.split(Docker(chosen, GpuSlots(())).launch_text(SPEC))
    assert shlex.join(command) == (
        "docker run --rm --init -p 127.0.0.1:8000:8000 --gpus=2 --shm-size=32g --ipc=private --ulimit=memlock=-1 --memory=64g "
        "--memory-swap=64g --cpus=16 -e HF_TOKEN -e HF_HUB_OFFLINE=1 -e NCCL_DEBUG=INFO -e OTHER "
        "--mount=type=bind,readonly,source=/cache/model,target=/cache/model --mount=type=bind,readonly,source=/data,target=/d "
        "--cap-add=SYS_NICE --sysctl=net.core.somaxconn=1024 --network=mine --entrypoint=python3 lmsysorg/sglang:v0.5.23 "
        "-m sglang.launch_server --host 0.0.0.0 --port=8000"
    )
