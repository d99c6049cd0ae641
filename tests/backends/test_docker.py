from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

import tuner
from tests.backends import docker_deploying
from tests.backends.docker_deploying import backend_in, containers_of, stub_spec
from tests.conformance.backend import PATIENCE_S, BackendSuite, answers, eventually, fetch
from tuner.backends.base import Place
from tuner.backends.docker import Docker
from tuner.backends.docker_log import LogFollower
from tuner.errors import Systemic
from tuner.gpus import GpuSlots
from tuner.launch import LaunchSpec, Mount
from tuner.owner import Owner

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_left")]

FOLDER_ANSWER = """
import http.server, sys
http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def start_owner(folder: Path, image: str, mode: str, stage: str = "serving") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", docker_deploying.__name__, str(folder), image, mode, stage]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


class TestConformance(BackendSuite):
    @pytest.fixture(autouse=True)
    def _surroundings(self, daemon: docker.DockerClient, docker_image: str) -> None:
        self.daemon = daemon
        self.image = docker_image

    @pytest.fixture
    def backend(self, tmp_path: Path, docker_image: str) -> Docker:
        return backend_in(tmp_path, docker_image)

    def spec(self, tmp_path: Path, mode: str, **env: str) -> LaunchSpec:
        return stub_spec(self.image, mode, **env)

    def leftovers(self, tmp_path: Path) -> list[str]:
        return [container.name for container in containers_of(self.daemon, tmp_path)]

    def foreign_owner(self, tmp_path: Path, mode: str) -> subprocess.Popen[str]:
        return start_owner(tmp_path, self.image, mode)


def test_what_is_asked_of_docker(
    daemon: docker.DockerClient, docker_image: str, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_OUTSIDE", "top-secret-2")
    model = tmp_path / "model"
    model.mkdir()
    backend = backend_in(
        tmp_path,
        docker_image,
        shm_size="64m",
        ulimits={"memlock": 8388608, "stack": 67108864},
        memory="256m",
        cpus=0.5,
        environment={"NCCL_DEBUG": "INFO", "SWITCH": True, "FROM_OUTSIDE": None},
        mounts=[{"source": "/usr", "target": "/host-usr"}],
        container={"cap_add": ["SYS_NICE"]},
    )
    spec = LaunchSpec(
        ("python3", "/srv/stub_server.py", "serve", "{host}", "{port}"),
        "stub",
        env={"HF_TOKEN": "top-secret-1"},
        image=docker_image,
        mounts=(Mount(model, "/model"),),
    )
    with backend.deploy(spec, place) as deployment:
        (container,) = containers_of(daemon, tmp_path)
        asked, host = container.attrs["Config"], container.attrs["HostConfig"]
        assert container.name.startswith("tuner-some-study-7-")
        assert asked["Entrypoint"] + asked["Cmd"] == ["python3", "/srv/stub_server.py", "serve", "0.0.0.0", "8000"]
        assert asked["Labels"]["tuner.study"] == "some-study"
        assert asked["Labels"]["tuner.trial"] == "7"
        assert asked["Labels"]["tuner.version"] == tuner.__version__
        assert Owner.parse(asked["Labels"]["tuner.owner"]) == Owner.current()
        own = {"PYTHONUNBUFFERED=1", "HF_TOKEN=top-secret-1", "NCCL_DEBUG=INFO", "SWITCH=true", "FROM_OUTSIDE=top-secret-2"}
        assert own <= set(asked["Env"])
        assert {(mount["Source"], mount["Target"], mount["ReadOnly"]) for mount in host["Mounts"]} == {
            (str(model), "/model", True),
            ("/usr", "/host-usr", True),
        }
        assert host["PortBindings"] == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
        assert (host["ShmSize"], host["IpcMode"], host["Init"]) == (64 << 20, "private", True)
        assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (256 << 20, 256 << 20, 500_000_000)
        assert {(limit["Name"], limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]} == {
            ("memlock", 8388608, 8388608),
            ("stack", 67108864, 67108864),
        }
        assert (host["LogConfig"]["Type"], host["RestartPolicy"]["Name"], host["AutoRemove"]) == ("json-file", "", False)
        assert host["CapAdd"] == ["SYS_NICE"]
        assert not host["DeviceRequests"]
        without_env = {**container.attrs, "Config": {**asked, "Env": []}}
        assert "top-secret" not in str(without_env)
        assert "top-secret" not in deployment.log_path.read_text()


def test_mounts_are_read_only(docker_image: str, tmp_path: Path, place: Place) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("the model")
    write = "open('/model/x', 'w')"
    spec = LaunchSpec(("python3", "-c", write), "stub", image=docker_image, mounts=(Mount(model, "/model"),))
    with backend_in(tmp_path).deploy(spec, place) as deployment:
        eventually(lambda: deployment.exit_status() is not None, "exit status")
        assert "Read-only file system" in deployment.log_tail()
    spec = LaunchSpec(
        ("python3", "-c", FOLDER_ANSWER, "{host}", "{port}"), "stub", image=docker_image, mounts=(Mount(model, "/srv/model"),)
    )
    with backend_in(tmp_path).deploy(spec, place) as deployment:
        deployment.wait_ready(answers, PATIENCE_S)
        assert fetch(deployment.endpoint, "/model/config.json") == "the model"


def test_orderly_stop_comes_first(docker_image: str, tmp_path: Path, place: Place) -> None:
    program = "import signal,sys,time; signal.signal(signal.SIGTERM, lambda *a: sys.exit('bye')); print('up'); time.sleep(600)"
    patient = backend_in(tmp_path, stop_grace_s=PATIENCE_S)
    deployment = patient.deploy(LaunchSpec(("python3", "-c", program), "stub", image=docker_image), place)
    eventually(lambda: "up" in deployment.log_tail(), "output, although it is not flushed")
    deployment.close()
    assert "bye" in deployment.log_tail()
    status = deployment.exit_status()
    assert status is not None
    assert (status.code, status.disturbed) == (1, "")
    assert "bye" in status.log_tail


def test_stop_codes_are_the_shells(docker_image: str, tmp_path: Path, place: Place) -> None:
    for mode, code in (("serve", 143), ("stubborn", 137)):
        deployment = backend_in(tmp_path).deploy(stub_spec(docker_image, mode), place)
        deployment.wait_ready(answers, PATIENCE_S)
        deployment.close()
        status = deployment.exit_status()
        assert status is not None
        assert (status.code, status.oom_killed, status.disturbed) == (code, False, "")


def test_interrupt_of_the_stop_removes_by_force(docker_image: str, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = backend_in(tmp_path, stop_grace_s=600.0).deploy(stub_spec(docker_image, "stubborn"), place)
    deployment.wait_ready(answers, PATIENCE_S)
    post = docker.api.APIClient.post

    def interrupted(client: docker.api.APIClient, url: str, **arguments: object) -> object:
        if url.endswith("/stop"):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
        return post(client, url, **arguments)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(docker.api.APIClient, "post", interrupted)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            deployment.close()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not answers(deployment.endpoint)
    status = deployment.exit_status()
    assert status is not None
    assert status.code == 137


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("stage", ["create", "start"])
def test_interrupt_of_the_launch_leaves_nothing(
    docker_image: str, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    post = docker.api.APIClient.post

    def interrupted(client: docker.api.APIClient, url: str, **arguments: object) -> object:
        if url.endswith(f"/{stage}"):
            os.kill(os.getpid(), signal.SIGINT)
        return post(client, url, **arguments)

    slots = GpuSlots(["GPU-a"])
    backend = backend_in(tmp_path, docker_image, slots)
    monkeypatch.setattr(docker.api.APIClient, "post", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backend.deploy(stub_spec(docker_image, "serve"), place)
    assert slots.take(1) == ("GPU-a",)


def test_interrupt_of_a_deployment_that_runs_already_leaves_nothing(
    docker_image: str, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(log: LogFollower, container: Container) -> None:
        assert container.client.containers.get(container.id).status == "running"
        raise KeyboardInterrupt

    slots = GpuSlots(["GPU-a"])
    monkeypatch.setattr(LogFollower, "follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backend_in(tmp_path, docker_image, slots).deploy(stub_spec(docker_image, "serve"), place)
    assert slots.take(1) == ("GPU-a",)


@pytest.mark.parametrize("stage", ["created", "starting", "loading", "stopping"])
def test_reap_removes_what_an_owner_killed_at_any_stage_left(
    docker_image: str, daemon: docker.DockerClient, tmp_path: Path, stage: str
) -> None:
    owner = start_owner(tmp_path, docker_image, "stubborn", stage)
    assert owner.stdout is not None
    assert owner.stdout.readline() == f"{stage}\n"
    backend = backend_in(tmp_path)
    assert backend.reap() == []
    volumes = volumes_of(daemon, tmp_path)
    owner.kill()
    owner.wait()
    lines = backend.reap()
    assert len(lines) == 1
    assert "study some-study, trial 9" in lines[0]
    assert not volumes & {volume.name for volume in daemon.volumes.list()}


def test_close_takes_the_volumes_along(docker_image: str, daemon: docker.DockerClient, tmp_path: Path, place: Place) -> None:
    with backend_in(tmp_path).deploy(stub_spec(docker_image, "serve"), place):
        volumes = volumes_of(daemon, tmp_path)
        assert len(volumes) == 1
    assert not volumes & {volume.name for volume in daemon.volumes.list()}


def volumes_of(daemon: docker.DockerClient, folder: Path) -> set[str]:
    (container,) = containers_of(daemon, folder)
    return {mount["Name"] for mount in container.attrs["Mounts"] if mount["Type"] == "volume"}


def test_two_reapers_at_once(docker_image: str, tmp_path: Path) -> None:
    owner = start_owner(tmp_path, docker_image, "serve")
    assert owner.stdout is not None
    owner.stdout.readline()
    owner.kill()
    owner.wait()
    others = [
        subprocess.Popen([sys.executable, "-c", REAPER], env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}) for _ in "ab"
    ]
    assert [other.wait() for other in others] == [0, 0]


REAPER = """
from tests.backends.docker_deploying import backend_in
from pathlib import Path
backend_in(Path("/")).reap()
"""


def test_missing_trial_folder_stops_the_study(docker_image: str, tmp_path: Path) -> None:
    with pytest.raises(Systemic, match="cannot write"):
        backend_in(tmp_path).deploy(stub_spec(docker_image, "serve"), Place("some-study", 7, tmp_path / "missing"))


def test_facts_for_the_record(docker_image: str, tmp_path: Path, daemon: docker.DockerClient) -> None:
    backend = backend_in(tmp_path, docker_image)
    backend.check()
    assert backend.describe() == {
        "image": docker_image,
        "image_id": daemon.images.get(docker_image).id,
        "docker": daemon.version()["Version"],
    }
