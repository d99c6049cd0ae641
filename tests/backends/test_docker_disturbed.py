"""What others do to a server: people with docker commands, and daemons that go away. The configuration must not be blamed for it."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.backends.docker_deploying import backend_in, containers_of, stub_spec
from tests.backends.private_daemon import PrivateDaemon
from tests.conformance.backend import PATIENCE_S, answers, eventually
from tuner.backends import docker as docker_backend
from tuner.backends import docker_container, docker_log
from tuner.backends.base import Deployment, Place, ServerExited
from tuner.errors import Systemic
from tuner.gpus import GpuSlots
from tuner.launch import ExitStatus, LaunchSpec

pytestmark = pytest.mark.slow

COUNT = "import itertools, time\nfor n in itertools.count(): print(n); time.sleep(0.002)"


def status_of(deployment: Deployment) -> ExitStatus:
    eventually(lambda: deployment.exit_status() is not None, "exit status")
    status = deployment.exit_status()
    assert status is not None
    return status


class TestBySomebody:
    @pytest.fixture
    def server(self, docker_image: str, tmp_path: Path, place: Place, nothing_left: None) -> Iterator[Deployment]:
        with backend_in(tmp_path).deploy(stub_spec(docker_image, "serve"), place) as deployment:
            deployment.wait_ready(answers, PATIENCE_S)
            yield deployment

    @pytest.fixture
    def container(self, server: Deployment, daemon: docker.DockerClient, tmp_path: Path) -> docker.models.containers.Container:
        (container,) = containers_of(daemon, tmp_path)
        return container

    @pytest.mark.parametrize(
        ("deed", "arguments", "sentence", "code"),
        [
            ("remove", {"force": True, "v": True}, "Somebody removed the server's container while it ran.", None),
            ("restart", {"timeout": 0}, "Somebody restarted the server's container.", None),
            ("pause", {}, "Somebody paused the server's container.", None),
            ("kill", {}, "The server's container was stopped from outside, by somebody or by a restart of the Docker daemon.", 137),
            (
                "stop",
                {"timeout": 5},
                "The server's container was stopped from outside, by somebody or by a restart of the Docker daemon.",
                143,
            ),
        ],
    )
    def test_is_told(
        self,
        server: Deployment,
        container: docker.models.containers.Container,
        deed: str,
        arguments: dict[str, object],
        sentence: str,
        code: int | None,
    ) -> None:
        getattr(container, deed)(**arguments)
        status = status_of(server)
        assert (status.disturbed, status.code, status.oom_killed) == (sentence, code, False)
        assert "stub server: serve" in status.log_tail
        with pytest.raises(ServerExited):
            server.wait_ready(answers, 0.0)
        server.close()
        assert server.exit_status() == status


@pytest.mark.usefixtures("nothing_left")
def test_a_server_that_kills_itself_was_not_disturbed(docker_image: str, tmp_path: Path, place: Place) -> None:
    spec = LaunchSpec(("python3", "-c", "import os; os.kill(os.getpid(), 9)"), "stub", image=docker_image)
    with backend_in(tmp_path).deploy(spec, place) as deployment:
        status = status_of(deployment)
        assert (status.code, status.oom_killed, status.disturbed) == (137, False, "")


class TestByTheDaemon:
    @pytest.fixture(autouse=True)
    def _on_the_private_daemon(self, private_daemon: PrivateDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_HOST", private_daemon.url)

    @pytest.fixture
    def gone_for_good(self, private_daemon: PrivateDaemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Shortens the wait for a daemon; leaves one that runs."""
        for module in (docker_backend, docker_container, docker_log):
            monkeypatch.setattr(module, "RESTART_S", 0.5)
        yield
        private_daemon.start()

    @pytest.mark.parametrize("how", ["kill", "stop"])
    def test_restart_under_load(self, private_daemon: PrivateDaemon, tmp_path: Path, place: Place, how: str) -> None:
        with backend_in(tmp_path).deploy(counting(private_daemon), place) as deployment:
            eventually(lambda: "100" in deployment.log_tail(), "a longer log")
            getattr(private_daemon, how)()
            private_daemon.start()
            status = status_of(deployment)
            assert status.disturbed.startswith("The server's container was stopped from outside")
            (container,) = containers_of(private_daemon.client(), tmp_path)
            assert deployment.log_path.read_bytes() == container.logs()
        assert containers_of(private_daemon.client(), tmp_path) == []

    def test_that_comes_back_in_time_has_not_ended_a_server_that_lived_on(
        self, private_daemon: PrivateDaemon, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(docker_container, "_LOOK_EACH_S", 0.0)
        private_daemon.stop()
        private_daemon.start("--live-restore")
        deployment = backend_in(tmp_path).deploy(counting(private_daemon), place)
        eventually(lambda: "100" in deployment.log_tail(), "a longer log")
        private_daemon.kill()
        threading.Timer(0.5, private_daemon.start, ["--live-restore"]).start()
        assert deployment.exit_status() is None
        known = int(deployment.log_tail(1))
        eventually(lambda: int(deployment.log_tail(1)) > known + 100, "a log that goes on")
        deployment.close()
        numbers = [int(line) for line in deployment.log_path.read_text().splitlines()]
        assert numbers == list(range(len(numbers)))
        private_daemon.stop()
        private_daemon.start()

    @pytest.mark.usefixtures("gone_for_good")
    def test_that_stays_away(self, private_daemon: PrivateDaemon, tmp_path: Path, place: Place, caplog: pytest.LogCaptureFixture) -> None:
        slots = GpuSlots(())
        backend = backend_in(tmp_path, None, slots)
        deployment = backend.deploy(stub_spec(private_daemon.image, "serve"), place)
        deployment.wait_ready(answers, PATIENCE_S)
        private_daemon.kill()
        status = status_of(deployment)
        assert status.disturbed == "The Docker daemon went away while the server ran, and did not come back in time."
        with caplog.at_level(logging.WARNING):
            deployment.close()
        assert re.search(r"container tuner-some-study-7-\w+ cannot be removed now", caplog.text)
        with pytest.raises(Systemic, match="does not answer"):
            backend.deploy(stub_spec(private_daemon.image, "serve"), place)
        private_daemon.start()
        assert len(containers_of(private_daemon.client(), tmp_path)) == 1
        with backend.deploy(stub_spec(private_daemon.image, "serve"), place):
            assert len(containers_of(private_daemon.client(), tmp_path)) == 1
        assert containers_of(private_daemon.client(), tmp_path) == []
        private_daemon.stop()

    def test_that_is_just_restarting_is_waited_for(self, private_daemon: PrivateDaemon, tmp_path: Path, place: Place) -> None:
        backend = backend_in(tmp_path, private_daemon.image)
        backend.check()
        private_daemon.stop()
        threading.Timer(0.5, private_daemon.start).start()
        with backend.deploy(stub_spec(private_daemon.image, "serve"), place) as deployment:
            deployment.wait_ready(answers, PATIENCE_S)


def counting(private_daemon: PrivateDaemon) -> LaunchSpec:
    return LaunchSpec(("python3", "-c", COUNT), "stub", image=private_daemon.image)
