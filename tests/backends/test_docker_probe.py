"""`backend=auto` against a real Docker daemon."""

from __future__ import annotations

import os

import docker
import pytest

from tuner.backends.auto import DockerGpus, resolve
from tuner.errors import NotReadyError
from tuner.host import Nvidia

pytestmark = pytest.mark.slow


@pytest.fixture
def daemon() -> docker.DockerClient:
    try:
        client = docker.from_env(timeout=10)
        client.ping()
    except docker.errors.DockerException as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no Docker daemon in CI: {error}")
        pytest.skip(f"NO DOCKER DAEMON, its tests did not run: {error}")
    return client


def test_a_daemon_without_the_nvidia_runtime_is_named_as_the_cause(daemon: docker.DockerClient) -> None:
    if "nvidia" in (daemon.info().get("Runtimes") or {}):
        pytest.skip("this daemon has the NVIDIA runtime")
    assert not DockerGpus.probe().runtime
    host_with_gpu = Nvidia(devices=("/dev/nvidia0",), driver_loaded=True)
    with pytest.raises(NotReadyError, match=r"Docker cannot use it.*nvidia-ctk runtime configure"):
        resolve("sglang", lambda: host_with_gpu)
