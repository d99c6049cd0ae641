from __future__ import annotations

from pathlib import Path

import docker
import pytest

from tuner.backends.auto import resolve
from tuner.backends.docker_gpus import DockerGpus
from tuner.errors import NotReadyError
from tuner.host import Nvidia

NO_GPU = Nvidia((), False)
GPU = Nvidia(("/dev/nvidia0",), True)
GPU_WITHOUT_DRIVER = Nvidia(("/sys/bus/pci/devices/0000:01:00.0",), False)


def not_asked() -> DockerGpus:
    pytest.fail("Docker was asked although the answer does not depend on it")


def one_line(caught: pytest.ExceptionInfo[NotReadyError]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("nvidia", [NO_GPU, GPU, GPU_WITHOUT_DRIVER])
def test_cpu_engine_runs_locally(nvidia: Nvidia) -> None:
    assert resolve("llamacpp", lambda: nvidia, not_asked) == "local"


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
@pytest.mark.parametrize("gpus", [DockerGpus(True, False, False), DockerGpus(False, True, False), DockerGpus(False, False, True)])
def test_gpu_that_docker_can_use(engine: str, gpus: DockerGpus) -> None:
    assert resolve(engine, lambda: GPU, lambda: gpus) == "docker"


def test_no_gpu_names_the_ways_out() -> None:
    with pytest.raises(NotReadyError) as caught:
        resolve("sglang", lambda: NO_GPU, not_asked)
    for word in ("sglang", "engine=llamacpp", "backend=local"):
        assert word in one_line(caught)


def test_gpu_without_driver_is_an_error() -> None:
    with pytest.raises(NotReadyError, match="driver is not loaded") as caught:
        resolve("vllm", lambda: GPU_WITHOUT_DRIVER, not_asked)
    assert "0000:01:00.0" in one_line(caught)


def test_gpu_that_docker_cannot_use_is_an_error() -> None:
    with pytest.raises(NotReadyError, match="Container Toolkit") as caught:
        resolve("vllm", lambda: GPU, lambda: DockerGpus(False, False, False))
    assert "/dev/nvidia0" in one_line(caught)


def test_daemon_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with pytest.raises(NotReadyError) as caught:
        resolve("vllm", lambda: GPU)
    for words in ("/dev/nvidia0", "does not answer (no socket)", "start docker", "or use backend=local"):
        assert words in one_line(caught)


@pytest.mark.slow
def test_real_daemon_without_the_nvidia_runtime(daemon: docker.DockerClient) -> None:
    if DockerGpus.probe().usable:
        pytest.skip("this daemon can give GPUs")
    with pytest.raises(NotReadyError, match=r"Docker cannot use it.*nvidia-ctk runtime configure"):
        resolve("sglang", lambda: GPU)
