from __future__ import annotations

from pathlib import Path

import docker
import pytest
import requests

from tuner.backends import auto
from tuner.backends.auto import DockerGpus, resolve
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


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (docker.errors.DockerException("Error while ...: ('Connection aborted.', FileNotFoundError(2, 'No such file'))"), "start docker"),
        (docker.errors.DockerException("('Connection aborted.', PermissionError(13, 'Permission denied'))"), "usermod -aG docker"),
        (docker.errors.APIError("500 Server Error"), "start docker"),
        (requests.exceptions.ConnectionError("refused\nby peer"), "start docker"),
    ],
)
def test_unreachable_daemon(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    def from_env(timeout: int) -> None:
        raise error

    monkeypatch.setattr(docker, "from_env", from_env)
    with pytest.raises(NotReadyError) as caught:
        resolve("vllm", lambda: GPU)
    assert words in one_line(caught)


def test_dead_socket_through_the_real_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with pytest.raises(NotReadyError, match="no socket") as caught:
        DockerGpus.probe()
    assert "start docker" in one_line(caught)


@pytest.fixture
def _no_hook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.mark.usefixtures("_no_hook")
def test_info_of_a_plain_daemon_offers_no_gpu(tmp_path: Path) -> None:
    assert not DockerGpus.from_info({"Runtimes": {"runc": {}, "io.containerd.runc.v2": {}}}).usable
    assert not DockerGpus.from_info({"Runtimes": None, "CDISpecDirs": [str(tmp_path / "missing")], "DiscoveredDevices": None}).usable


@pytest.mark.usefixtures("_no_hook")
def test_nvidia_runtime() -> None:
    assert DockerGpus.from_info({"Runtimes": {"runc": {}, "nvidia": {"path": "nvidia-container-runtime"}}}) == DockerGpus(
        True, False, False
    )


@pytest.mark.usefixtures("_no_hook")
def test_discovered_cdi_devices() -> None:
    devices = [{"Source": "cdi", "ID": "amd.com/gpu=0"}, {"Source": "cdi", "ID": "nvidia.com/gpu=all"}]
    assert DockerGpus.from_info({"DiscoveredDevices": devices[1:]}) == DockerGpus(False, False, True)
    assert not DockerGpus.from_info({"DiscoveredDevices": devices[:1]}).usable


@pytest.mark.usefixtures("_no_hook")
def test_cdi_files_of_older_daemons(tmp_path: Path) -> None:
    info = {"CDISpecDirs": [str(tmp_path)]}
    (tmp_path / "amd.yaml").write_text("kind: amd.com/gpu\n")
    (tmp_path / "readme.txt").write_text("nvidia.com/gpu")
    assert not DockerGpus.from_info(info).usable
    (tmp_path / "nvidia.yaml").write_text("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\n")
    assert DockerGpus.from_info(info) == DockerGpus(False, False, True)


@pytest.mark.usefixtures("_no_hook")
def test_hook_on_the_path(tmp_path: Path) -> None:
    hook = tmp_path / "bin" / "nvidia-container-runtime-hook"
    hook.parent.mkdir()
    hook.write_text("")
    hook.chmod(0o755)
    assert DockerGpus.from_info({}) == DockerGpus(False, True, False)


def test_docker_later_says_what_to_do_now() -> None:
    assert "backend=local" in auto.DOCKER_LATER
    assert "\n" not in auto.DOCKER_LATER
