"""Fixtures for the tests of the doctor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nvml import Device, Driver
from tuner.composition import compose
from tuner.host import Nvidia
from tuner.hydra_app import plain
from tuner.settings import Settings, load

GPU_ENGINE = ("engine=sglang", "space=sglang", "engine.model=org/model")


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory, no token, no model cache and no other tuner, whatever this machine has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "CUDA_VISIBLE_DEVICES", "MINIKUBE_ACTIVE_DOCKERD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))


def composed(*overrides: str) -> Settings:
    """The settings of a command line."""
    return load(plain(compose(list(overrides))))


@pytest.fixture
def gpu_host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Driver]:
    """Makes this host look like one with these GPUs and their driver."""

    def become(*devices: Device, loaded: bool = True) -> Driver:
        nvidia = Nvidia(tuple(f"/dev/nvidia{number}" for number in range(len(devices))), loaded)
        monkeypatch.setattr(Nvidia, "probe", lambda: nvidia)
        monkeypatch.setattr("tuner.host.nvidia_device", lambda: "/dev/nvidia0" if devices else None)
        driver = Driver(devices)
        driver.install(monkeypatch)
        return driver

    return become
