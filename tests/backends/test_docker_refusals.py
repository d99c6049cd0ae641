"""What a real daemon refuses: each answer ends in the right class, with the user's key in it, and leaves nothing behind."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.backends.docker_deploying import backend_in, containers_of, stub_spec
from tests.conformance.backend import eventually
from tuner.backends import docker as docker_backend
from tuner.backends.base import Place
from tuner.backends.docker import Docker
from tuner.backends.docker_gpus import DockerGpus
from tuner.errors import Infeasible, NotReadyError, Systemic, Transient, TrialFailure
from tuner.gpus import GpuSlots
from tuner.launch import LaunchSpec, Mount

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_left")]


def failure(backend: Docker, spec: LaunchSpec, place: Place, daemon: docker.DockerClient, folder: Path) -> TrialFailure:
    """Deploys in vain, and asserts that nothing is left."""
    with pytest.raises(TrialFailure) as caught:
        backend.deploy(spec, place)
    assert containers_of(daemon, folder) == []
    assert "\n" not in caught.value.reason
    return caught.value


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"memory": "1m"}, r"Minimum memory limit allowed is .*: raise backend\.memory"),
        ({"cpus": 4096.0}, r"Range of CPUs is from .*: lower backend\.cpus"),
        ({"bind": "192.0.2.1"}, r".*cannot assign requested address.*: backend\.bind must be an address of the Docker host"),
        ({"mounts": [{"source": "/no/such"}]}, r"/no/such does not exist on the Docker host, .*: check backend\.mounts"),
        ({"container": {"runtime": "nvidia"}}, r"Unknown runtime specified nvidia: install the NVIDIA Container Toolkit.*"),
        ({"container": {"network_mode": "none"}}, r"backend\.container\.network_mode=none: no port can be published.*"),
        ({"container": {"network_mode": "no-such-network"}}, r"the Docker daemon refuses: network no-such-network not found: .*backend"),
        ({"container": {"devices": 5}}, r"backend\.container: the docker SDK refuses an argument: .*"),
        ({"environment": {"NO_SUCH_VARIABLE": None}}, r"backend\.environment\.NO_SUCH_VARIABLE: .*: export NO_SUCH_VARIABLE"),
    ],
)
def test_of_the_users_settings(
    daemon: docker.DockerClient, docker_image: str, tmp_path: Path, place: Place, changes: dict[str, object], reason: str
) -> None:
    refused = failure(backend_in(tmp_path, **changes), stub_spec(docker_image, "serve"), place, daemon, tmp_path)
    assert isinstance(refused, Systemic)
    assert re.fullmatch(reason, refused.reason)
    assert not Path("/no/such").exists()


@pytest.mark.parametrize(("name", "limit"), [("memlock", -1), ("nofile", 1 << 40)])
def test_of_a_ulimit_names_it(daemon: docker.DockerClient, docker_image: str, tmp_path: Path, place: Place, name: str, limit: int) -> None:
    if name == "memlock" and (os.geteuid() != 0 or has_capability(CAP_SYS_RESOURCE)):
        pytest.skip("this host allows it")  # no host allows the other
    refused = failure(backend_in(tmp_path, ulimits={name: limit}), stub_spec(docker_image, "serve"), place, daemon, tmp_path)
    assert isinstance(refused, Systemic)
    assert refused.reason == f"the Docker host does not allow backend.ulimits.{name}: lower it, or leave it out"


CAP_SYS_RESOURCE = 24  # include/uapi/linux/capability.h


def has_capability(number: int) -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return bool(effective >> number & 1)


def test_of_the_engines_mount_names_the_model(daemon: docker.DockerClient, docker_image: str, tmp_path: Path, place: Place) -> None:
    missing = tmp_path / "missing"
    spec = LaunchSpec(("python3",), "stub", image=docker_image, mounts=(Mount(missing, "/model"),))
    refused = failure(backend_in(tmp_path), spec, place, daemon, tmp_path)
    assert isinstance(refused, Systemic)
    assert "engine.model" in refused.reason
    assert not missing.exists()


def test_of_a_missing_image(daemon: docker.DockerClient, tmp_path: Path, place: Place) -> None:
    refused = failure(backend_in(tmp_path), stub_spec("no-such-image:1", "serve"), place, daemon, tmp_path)
    assert isinstance(refused, Systemic)
    assert refused.reason == "the image no-such-image:1 is not on the Docker host: pull it, or set backend.pull=missing"


@pytest.mark.parametrize("program", ["no-such-server", "/no/such/server", "./no-such-server"])
def test_of_a_missing_program(daemon: docker.DockerClient, docker_image: str, tmp_path: Path, place: Place, program: str) -> None:
    refused = failure(backend_in(tmp_path), LaunchSpec((program,), "stub", image=docker_image), place, daemon, tmp_path)
    assert isinstance(refused, Systemic)
    assert refused.reason.startswith(f"engine.executable: there is no {program!r} in the image {docker_image}")


def test_of_a_name_that_is_taken(
    daemon: docker.DockerClient, docker_image: str, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = daemon.containers.create(docker_image, ["true"], name=f"stranger-{os.getpid()}")
    try:
        monkeypatch.setattr("tuner.backends.docker_request.container_name", lambda place: stranger.name)
        refused = failure(backend_in(tmp_path), stub_spec(docker_image, "serve"), place, daemon, tmp_path)
        assert type(refused) is Transient
        stranger.reload()
    finally:
        stranger.remove(v=True)


@pytest.fixture
def fixed_port(monkeypatch: pytest.MonkeyPatch, daemon: docker.DockerClient, docker_image: str) -> Iterator[None]:
    """Has the backend ask for a port that a container holds already."""
    holder = daemon.containers.create(
        docker_image, ["python3", "-c", "import time; time.sleep(600)"], ports={"8000/tcp": ("127.0.0.1", None)}
    )
    holder.start()
    holder.reload()
    port = int(holder.ports["8000/tcp"][0]["HostPort"])
    make = docker_backend.create_arguments
    monkeypatch.setattr(docker_backend, "create_arguments", lambda *given: make(*given) | {"ports": {"8000/tcp": ("127.0.0.1", port)}})
    yield
    holder.remove(v=True, force=True)


@pytest.mark.usefixtures("fixed_port")
def test_of_a_port_that_is_taken(daemon: docker.DockerClient, docker_image: str, tmp_path: Path, place: Place) -> None:
    refused = failure(backend_in(tmp_path), stub_spec(docker_image, "serve"), place, daemon, tmp_path)
    assert type(refused) is Transient
    assert refused.reason == "another container took the port"


class TestWithoutGpuRuntime:
    @pytest.fixture(autouse=True)
    def _no_runtime(self, daemon: docker.DockerClient) -> None:
        if DockerGpus.from_info(daemon.info()).usable:
            pytest.skip("this daemon can give GPUs")

    @pytest.mark.parametrize(
        ("ids", "gpus", "request_"),
        [
            (["GPU-a", "GPU-b", "GPU-c"], 2, {"Count": 0, "DeviceIDs": ["GPU-a", "GPU-b"]}),
            (None, 2, {"Count": 2, "DeviceIDs": []}),
        ],
    )
    def test_the_request_is_made_and_its_refusal_stops_the_study(
        self,
        daemon: docker.DockerClient,
        docker_image: str,
        tmp_path: Path,
        place: Place,
        monkeypatch: pytest.MonkeyPatch,
        ids: list[str] | None,
        gpus: int,
        request_: dict[str, object],
    ) -> None:
        seen = []
        start = docker.models.containers.Container.start

        def start_and_see(container: docker.models.containers.Container) -> None:
            seen.extend(container.attrs["HostConfig"]["DeviceRequests"])
            start(container)

        monkeypatch.setattr(docker.models.containers.Container, "start", start_and_see)
        slots = GpuSlots(ids)
        refused = failure(backend_in(tmp_path, None, slots), stub_spec(docker_image, "serve", gpus=gpus), place, daemon, tmp_path)
        assert isinstance(refused, Systemic)
        assert refused.reason.startswith("Docker cannot give GPUs to containers: install the NVIDIA Container Toolkit")
        assert seen == [{"Driver": "", "Capabilities": [["gpu"]], "Options": {}, **request_}]
        if ids is not None:
            assert set(slots.take(len(ids)) or ()) == set(ids)

    def test_check_says_so_before_any_trial(self, docker_image: str, tmp_path: Path) -> None:
        with pytest.raises(NotReadyError, match=r"^Docker cannot give GPUs to containers: install .*nvidia-ctk runtime configure"):
            backend_in(tmp_path, docker_image, GpuSlots(["GPU-a"])).check()

    def test_a_study_without_gpus_asks_for_none(self, docker_image: str, tmp_path: Path, place: Place) -> None:
        backend = backend_in(tmp_path, docker_image, GpuSlots(()))
        backend.check()
        with backend.deploy(stub_spec(docker_image, "serve", gpus=2), place):
            pass


def test_more_gpus_than_there_are_are_the_configurations_fault(
    daemon: docker.DockerClient, docker_image: str, tmp_path: Path, place: Place
) -> None:
    with pytest.raises(Infeasible):
        backend_in(tmp_path, None, GpuSlots(["GPU-a"])).deploy(stub_spec(docker_image, "serve", gpus=2), place)
    assert containers_of(daemon, tmp_path) == []


def test_of_memory_that_the_server_takes(docker_image: str, tmp_path: Path, place: Place) -> None:
    program = "import time; print('loading', flush=True); weights = b'x' * (400 << 20); time.sleep(600)"
    spec = LaunchSpec(("python3", "-c", program), "stub", image=docker_image)
    with backend_in(tmp_path, memory="64m").deploy(spec, place) as deployment:
        eventually(lambda: deployment.exit_status() is not None, "exit status")
        status = deployment.exit_status()
    assert status is not None
    assert (status.code, status.oom_killed, status.disturbed) == (137, True, "")
    assert "loading" in status.log_tail


def test_of_memory_that_a_child_of_the_server_takes(docker_image: str, tmp_path: Path, place: Place) -> None:
    program = "import subprocess, sys; sys.exit(abs(subprocess.call([sys.executable, '-c', 'b = bytes(1) * (400 << 20)'])) == 9 and 1)"
    spec = LaunchSpec(("python3", "-c", program), "stub", image=docker_image)
    with backend_in(tmp_path, memory="64m").deploy(spec, place) as deployment:
        eventually(lambda: deployment.exit_status() is not None, "exit status")
        status = deployment.exit_status()
    assert status is not None
    assert (status.code, status.oom_killed) == (1, True)


class TestWithoutDaemon:
    @pytest.fixture(autouse=True)
    def _down(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
        monkeypatch.setattr(docker_backend, "RESTART_S", 0.5)

    def test_check_names_cause_and_fix(self, tmp_path: Path) -> None:
        with pytest.raises(NotReadyError) as caught:
            backend_in(tmp_path, "image").check()
        assert str(caught.value) == (
            f"the Docker daemon at unix://{tmp_path}/docker.sock does not answer (no socket): "
            "install or start Docker (`sudo systemctl start docker`), or set DOCKER_HOST"
        )

    def test_deploy_stops_the_study(self, tmp_path: Path, place: Place) -> None:
        with pytest.raises(Systemic, match="does not answer"):
            backend_in(tmp_path).deploy(stub_spec("image", "serve"), place)

    def test_reap_cannot_look(self, tmp_path: Path) -> None:
        with pytest.raises(NotReadyError, match="does not answer"):
            backend_in(tmp_path).reap()
