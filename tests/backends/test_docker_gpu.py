"""A container on a host with NVIDIA GPUs: sees exactly those that it was given. Run by `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path

import docker
import pytest

from tests.backends.docker_deploying import backend_in
from tests.conformance.backend import eventually
from tuner.backends.base import Place
from tuner.gpus import GpuSlots, discover
from tuner.launch import LaunchSpec

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.usefixtures("nothing_left")]


def test_sees_the_gpus_that_it_was_given(daemon: docker.DockerClient, docker_image: str, tmp_path: Path, place: Place) -> None:
    found = [gpu.uuid for gpu in discover()]
    backend = backend_in(tmp_path, docker_image, GpuSlots(found))
    backend.check()
    # the NVIDIA Container Toolkit puts nvidia-smi into the container when it starts
    ask = "import subprocess; subprocess.run(['nvidia-smi', '--query-gpu=uuid', '--format=csv,noheader'])"
    spec = LaunchSpec(("python3", "-c", ask), "stub", image=docker_image, gpus=1)
    with backend.deploy(spec, place) as deployment:
        eventually(lambda: deployment.exit_status() is not None, "exit status")
        (seen,) = deployment.log_tail().split()
        assert seen in found
