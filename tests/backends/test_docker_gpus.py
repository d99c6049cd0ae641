from __future__ import annotations

from pathlib import Path

import docker
import pytest

from tuner.backends.docker_gpus import DockerGpus, device_requests
from tuner.errors import NotReadyError


@pytest.fixture
def _no_hook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.mark.usefixtures("_no_hook")
class TestInfo:
    def test_a_plain_daemon_offers_no_gpu(self, tmp_path: Path) -> None:
        assert not DockerGpus.from_info({"Runtimes": {"runc": {}, "io.containerd.runc.v2": {}}}).usable
        assert not DockerGpus.from_info({"Runtimes": None, "CDISpecDirs": [str(tmp_path / "missing")], "DiscoveredDevices": None}).usable

    def test_nvidia_runtime(self) -> None:
        info = {"Runtimes": {"runc": {}, "nvidia": {"path": "nvidia-container-runtime"}}}
        assert DockerGpus.from_info(info) == DockerGpus(True, False, False)

    def test_discovered_cdi_devices(self) -> None:
        devices = [{"Source": "cdi", "ID": "amd.com/gpu=0"}, {"Source": "cdi", "ID": "nvidia.com/gpu=all"}]
        assert DockerGpus.from_info({"DiscoveredDevices": devices[1:]}) == DockerGpus(False, False, True)
        assert not DockerGpus.from_info({"DiscoveredDevices": devices[:1]}).usable

    def test_cdi_files_of_older_daemons(self, tmp_path: Path) -> None:
        info = {"CDISpecDirs": [str(tmp_path)]}
        (tmp_path / "amd.yaml").write_text("kind: amd.com/gpu\n")
        (tmp_path / "readme.txt").write_text("nvidia.com/gpu")
        assert not DockerGpus.from_info(info).usable
        (tmp_path / "nvidia.yaml").write_text("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\n")
        assert DockerGpus.from_info(info) == DockerGpus(False, False, True)

    def test_hook_on_the_path(self, tmp_path: Path) -> None:
        hook = tmp_path / "bin" / "nvidia-container-runtime-hook"
        hook.parent.mkdir()
        hook.write_text("")
        hook.chmod(0o755)
        assert DockerGpus.from_info({}) == DockerGpus(False, True, False)


def test_device_requests() -> None:
    assert device_requests((), 2) == []
    assert device_requests(None, 0) == []
    (named,) = device_requests(("GPU-a", "1"), 2)
    assert (named.device_ids, named.count, named.capabilities) == (["GPU-a", "1"], 0, [["gpu"]])
    (counted,) = device_requests(None, 2)
    assert (counted.device_ids, counted.count, counted.capabilities) == ([], 2, [["gpu"]])


def test_no_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with pytest.raises(NotReadyError, match="no socket"):
        DockerGpus.probe()


@pytest.mark.slow
def test_probe_asks_the_real_daemon(daemon: docker.DockerClient) -> None:
    assert DockerGpus.probe().runtime == ("nvidia" in daemon.info()["Runtimes"])
