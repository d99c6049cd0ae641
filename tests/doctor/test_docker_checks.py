from __future__ import annotations

import io
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.doctor.conftest import GPU_ENGINE, composed
from tests.nvml import Device, Driver
from tuner.backends.docker_gpus import REMEDY
from tuner.backends.docker_request import OWNER_LABEL, STUDY_LABEL, TRIAL_LABEL
from tuner.doctor import docker_checks, gpu_container
from tuner.doctor.docker_checks import DockerChecks
from tuner.doctor.examination import examine
from tuner.doctor.servers import Server
from tuner.errors import NotReadyError
from tuner.finding import Finding
from tuner.owner import Owner

Become = Callable[..., Driver]


def checks(*overrides: str, image: str = "no/such:image") -> DockerChecks:
    return DockerChecks(composed("backend=docker", *GPU_ENGINE, f"engine.image='{image}'", *overrides))


class ClientDouble:
    """A double of the docker SDK's client: answers as daemons do that are not here."""

    def __init__(self, info: dict[str, Any], version: dict[str, Any]) -> None:
        self.info, self.version = lambda: info, lambda: version
        self.api = self

    def close(self) -> None:
        pass


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., DockerChecks]:
    """Checks whose daemon gives these answers."""

    def with_daemon(address: str = "unix:///var/run/docker.sock", api: str = "1.50", engine: str = "Engine", **info: Any) -> DockerChecks:
        version = {"Version": "28.1.1", "ApiVersion": api, "Components": [{"Name": engine}]}
        monkeypatch.setattr(docker_checks, "connect", lambda: ClientDouble(info, version))
        monkeypatch.setenv("DOCKER_HOST", address)
        return checks()

    return with_daemon


class TestAnswers:
    def test_podman(self, answering: Callable[..., DockerChecks]) -> None:
        finding = answering(engine="Podman Engine").daemon()
        assert finding.verdict == "failed"
        assert "podman" in finding.seen

    def test_an_old_one(self, answering: Callable[..., DockerChecks]) -> None:
        old = answering(api="1.24")
        assert old.daemon().verdict == "ok"
        assert (old.api().verdict, old.api().fix) == ("failed", "install Docker 19.03 or newer")

    def test_with_the_toolkit(self, answering: Callable[..., DockerChecks]) -> None:
        ready = answering(Runtimes={"nvidia": {}}, DockerRootDir="/usr", DiscoveredDevices=[{"ID": "nvidia.com/gpu=0"}])
        ready.daemon()
        assert ready.sees_gpus
        assert ready.gpus().seen == "Docker gives GPUs to containers by the runtime `nvidia` and CDI"
        assert (ready.root, ready.elsewhere) == ("/usr", None)

    def test_on_another_host(self, answering: Callable[..., DockerChecks], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        hooks = tmp_path / "bin"  # what is on this host's PATH and in its folders says nothing about the other
        hooks.mkdir()
        for name in ("nvidia-container-runtime-hook", "nvidia.yaml"):
            (hooks / name).write_text("nvidia.com/gpu")
            (hooks / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(hooks))
        far = answering("tcp://gpu-host:2375", Runtimes={"runc": {}}, DockerRootDir="/usr", CDISpecDirs=[str(hooks)])
        assert far.daemon().seen == "Docker 28.1.1 at tcp://gpu-host:2375"
        assert (far.elsewhere, far.root) == ("gpu-host", None)
        assert far.gpus().verdict == "warning"
        for info in ({"Runtimes": {"nvidia": {}}}, {"DiscoveredDevices": [{"ID": "nvidia.com/gpu=all"}]}):
            far = answering("tcp://gpu-host:2375", **info)
            far.daemon()
            assert far.gpus().verdict == "ok"

    def test_of_minikube(self, answering: Callable[..., DockerChecks], gpu_host: Become, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu_host(Device("GPU-a"))
        answering("tcp://192.168.49.2:2376", Name="minikube", Labels=["provider=docker"], Runtimes={"runc": {}})
        monkeypatch.setenv("MINIKUBE_ACTIVE_DOCKERD", "minikube")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        finding = examine(composed("backend=docker", *GPU_ENGINE)).findings["nesting"]
        assert finding.verdict == "failed"
        assert "the Docker daemon is that of Minikube's node minikube" in finding.seen
        assert "`eval $(minikube docker-env -u)`" in finding.fix

    def test_in_a_virtual_machine(self, answering: Callable[..., DockerChecks]) -> None:
        inside = answering(DockerRootDir="/of/the/machine")
        inside.daemon()
        assert inside.root is None


class TestSilence:
    @pytest.fixture
    def silent(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DockerChecks:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
        return checks()

    def test_cause_and_fix(self, silent: DockerChecks) -> None:
        with pytest.raises(NotReadyError, match=r"does not answer \(no socket\): install or start Docker"):
            silent.daemon()

    def test_the_rest_is_skipped(self, silent: DockerChecks) -> None:
        with pytest.raises(NotReadyError):
            silent.daemon()
        for check in (silent.api, silent.gpus, silent.image, lambda: silent.container_gpu(1)):
            assert check().verdict == "skipped"
        assert silent.servers() == []
        assert silent.root is None

    def test_something_else_listens_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tuner.backends.docker_connection._FIRST_ANSWER_S", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as server:
            monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.getsockname()[1]}")
            with pytest.raises(NotReadyError, match=r"does not answer"):
                checks().daemon()


@pytest.fixture
def connected(daemon: docker.DockerClient) -> Iterator[Callable[..., DockerChecks]]:
    opened: list[DockerChecks] = []

    def connect(*overrides: str, image: str = "no/such:image") -> DockerChecks:
        made = checks(*overrides, image=image).__enter__()
        made.daemon()
        opened.append(made)
        return made

    yield connect
    for one in opened:
        one.__exit__(None, None, None)


@pytest.mark.slow
class TestRealDaemon:
    def test_is_in_order(self, daemon: docker.DockerClient, connected: Callable[..., DockerChecks]) -> None:
        real = connected()
        finding = real.daemon()
        assert (finding.verdict, finding.fix) == ("ok", "")
        assert daemon.version()["Version"] in finding.seen
        assert real.api().verdict == "ok"
        assert real.root == daemon.info()["DockerRootDir"]

    def test_without_the_toolkit(self, daemon: docker.DockerClient, connected: Callable[..., DockerChecks]) -> None:
        real = connected()
        if real.sees_gpus:
            pytest.skip("this machine's Docker can give GPUs to containers")
        assert (real.gpus().verdict, real.gpus().fix) == ("failed", REMEDY)

    def test_image(self, docker_image: str, connected: Callable[..., DockerChecks]) -> None:
        there = connected(image=docker_image)
        finding = there.image()
        assert finding.verdict == "ok"
        assert finding.seen.startswith(f"{docker_image}, ")
        assert finding.seen.endswith(" GB")
        assert not there.must_pull
        missing = connected()
        assert missing.image().verdict == "warning"
        assert missing.must_pull
        assert missing.container_gpu(1).verdict == "skipped"
        finding = connected("backend.pull=never").image()
        assert (finding.verdict, finding.fix) == ("failed", "`docker pull no/such:image`, or set backend.pull=missing")

    def test_no_image_named(self, connected: Callable[..., DockerChecks]) -> None:
        finding = connected("engine.image=null", image="x").image()
        assert (finding.verdict, finding.fix) == ("failed", "set engine.image")

    def test_servers(self, daemon: docker.DockerClient, docker_image: str, connected: Callable[..., DockerChecks]) -> None:
        labels = {OWNER_LABEL: Owner.current().to_str(), STUDY_LABEL: "of-the-doctors-test", TRIAL_LABEL: "4"}
        container = daemon.containers.create(docker_image, ["python3"], labels=labels)
        try:
            assert Server("container", "of-the-doctors-test", "4", True) in connected().servers()
        finally:
            container.remove(v=True, force=True)


NVIDIA_SMI = {
    "two": "print('GPU 0: NVIDIA H100 (UUID: GPU-a)\\nGPU 1: NVIDIA H100 (UUID: GPU-b)')",
    "none": "import sys; print('No devices were found'); sys.exit(6)",
    "hanging": "import time; time.sleep(60)",
}


@pytest.fixture(scope="module")
def with_smi(daemon: docker.DockerClient, docker_image: str) -> Iterator[Callable[[str], str]]:
    """Images that hold a double of nvidia-smi, which the NVIDIA Container Toolkit would put there."""
    made: list[str] = []

    def make(kind: str) -> str:
        name = f"{docker_image}-{kind}"
        if name in made:
            return name
        file = f"#!/usr/bin/python3\n{NVIDIA_SMI[kind]}\n".encode()
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            entry = tarfile.TarInfo("nvidia-smi")
            entry.mode, entry.size = 0o755, len(file)
            archive.addfile(entry, io.BytesIO(file))
        container = daemon.containers.create(docker_image, ["python3"])
        try:
            container.put_archive("/usr/bin", packed.getvalue())
            repository, _, tag = docker_image.partition(":")
            container.commit(repository, f"{tag}-{kind}")
        finally:
            container.remove(v=True, force=True)
        made.append(name)
        return name

    yield make
    for name in made:
        daemon.images.remove(name, force=True)


@pytest.mark.slow
class TestContainerGpu:
    @pytest.fixture(autouse=True)
    def nothing_left(self, daemon: docker.DockerClient) -> Iterator[None]:
        yield
        assert daemon.containers.list(all=True, filters={"label": f"{STUDY_LABEL}=doctor"}) == []

    @pytest.fixture
    def gpu_is_granted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """This machine has none that Docker could give: the request is left out, all the rest is real."""
        monkeypatch.setattr("tuner.backends.docker_request.device_requests", lambda ids, count: [])

    def check(self, connected: Callable[..., DockerChecks], gpu_host: Become, image: str, *overrides: str, count: int = 2) -> Finding:
        gpu_host(Device("GPU-a"), Device("GPU-b"))
        real = connected(*overrides, image=image)
        real.image()
        return real.container_gpu(count)

    def test_without_the_toolkit(self, docker_image: str, connected: Callable[..., DockerChecks], gpu_host: Become) -> None:
        with pytest.raises(NotReadyError, match=r"^Docker cannot give GPUs to containers: install the NVIDIA Container Toolkit"):
            self.check(connected, gpu_host, docker_image)

    @pytest.mark.usefixtures("gpu_is_granted")
    def test_seen(self, with_smi: Callable[[str], str], connected: Callable[..., DockerChecks], gpu_host: Become) -> None:
        image = with_smi("two")
        assert self.check(connected, gpu_host, image) == Finding(
            "ok", f"a container of {image} sees 2: GPU 0: NVIDIA H100, GPU 1: NVIDIA H100"
        )
        assert self.check(connected, gpu_host, image, count=3).verdict == "failed"

    @pytest.mark.usefixtures("gpu_is_granted")
    def test_not_seen(self, with_smi: Callable[[str], str], connected: Callable[..., DockerChecks], gpu_host: Become) -> None:
        finding = self.check(connected, gpu_host, with_smi("none"))
        assert finding.verdict == "failed"
        assert finding.seen.endswith("nvidia-smi says: No devices were found")

    @pytest.mark.usefixtures("gpu_is_granted")
    def test_an_image_without_nvidia_smi(self, docker_image: str, connected: Callable[..., DockerChecks], gpu_host: Become) -> None:
        finding = self.check(connected, gpu_host, docker_image)
        assert finding.verdict == "warning"
        assert "NVIDIA_DRIVER_CAPABILITIES" in finding.fix

    @pytest.mark.usefixtures("gpu_is_granted")
    def test_a_driver_that_hangs(
        self, with_smi: Callable[[str], str], connected: Callable[..., DockerChecks], gpu_host: Become, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gpu_container, "DEADLINE_S", 1.0)
        finding = self.check(connected, gpu_host, with_smi("hanging"))
        assert finding.verdict == "failed"
        assert "within 1 s" in finding.seen

    @pytest.mark.usefixtures("gpu_is_granted")
    def test_an_interrupt_leaves_no_container(
        self, with_smi: Callable[[str], str], daemon: docker.DockerClient, connected: Callable[..., DockerChecks], gpu_host: Become
    ) -> None:
        gpu_host(Device("GPU-a"))
        real = connected(image=with_smi("hanging"))
        check = threading.Thread(target=real.container_gpu, args=(1,))
        check.start()
        deadline = time.monotonic() + 20
        while not (found := daemon.containers.list(filters={"label": f"{STUDY_LABEL}=doctor"})) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert found
        real.__exit__(None, None, None)
        assert daemon.containers.list(all=True, filters={"label": f"{STUDY_LABEL}=doctor"}) == []
        check.join()

    @pytest.mark.usefixtures("gpu_is_granted")
    def test_options_that_the_host_refuses(self, docker_image: str, connected: Callable[..., DockerChecks], gpu_host: Become) -> None:
        with pytest.raises(NotReadyError, match=r"^Unknown runtime specified no-such-runtime: "):
            self.check(connected, gpu_host, docker_image, "+backend.container.runtime=no-such-runtime")


@pytest.mark.gpu
@pytest.mark.slow
def test_a_container_with_real_gpus(docker_image: str, connected: Callable[..., DockerChecks]) -> None:
    real = connected(image=docker_image)
    assert real.gpus().verdict == "ok"
    real.image()
    assert real.container_gpu(1).verdict == "ok"
