"""Whole studies with `backend=docker` as a user runs them: a real daemon, the real llama.cpp engine in it, the real genai-bench.

Most runs start as forks (`WarmRun`): a process of its own each, without the seconds of its imports.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container
from optuna.trial import TrialState

from tests.backends.docker_deploying import backend_in, stub_spec
from tests.conformance.backend import PATIENCE_S, answers
from tests.killed_at import arrange
from tests.user import DEADLINE_S, wait_until
from tests.warm_tuner import WarmRun
from tuner.backends.base import Place
from tuner.backends.docker_request import OWNER_LABEL, STUDY_LABEL

pytestmark = pytest.mark.slow

STUDY = "in-containers"


class Host:
    """What a study may leave behind on the daemon's host."""

    def __init__(self, daemon: docker.DockerClient, study: str) -> None:
        self._daemon = daemon
        self._study = study
        self._volumes_before = self._dangling()

    def containers(self) -> list[Container]:
        listed = self._daemon.api.containers(all=True, filters={"label": f"{STUDY_LABEL}={self._study}"})
        return [container for entry in listed if (container := self._get(entry["Id"])) is not None]

    def _get(self, identity: str) -> Container | None:
        with contextlib.suppress(docker.errors.NotFound):
            return self._daemon.containers.get(identity)
        return None

    def volumes(self) -> set[str]:
        """New ones that belong to no container."""
        return self._dangling() - self._volumes_before

    def _dangling(self) -> set[str]:
        return {volume["Name"] for volume in self._daemon.api.volumes(filters={"dangling": True})["Volumes"] or ()}

    def statuses(self) -> set[str]:
        return {container.status for container in self.containers()}


@pytest.fixture
def host(daemon: docker.DockerClient, tmp_path: Path) -> Iterator[Host]:
    host = Host(daemon, name(tmp_path))
    yield host
    for container in host.containers():
        with contextlib.suppress(docker.errors.APIError):
            container.remove(force=True, v=True)


def name(folder: Path) -> str:
    return f"{STUDY}-{folder.name}"[:60]


def options(run: WarmRun, image: str) -> list[str]:
    return ["backend=docker", f"engine.image={image}", f"study_name={name(run.folder)}", "backend.stop_grace_s=2"]


def test_a_study_ends_with_a_front_and_leaves_nothing(run: WarmRun, host: Host, docker_image: str) -> None:
    process = run.start("trials=3", *options(run, docker_image))
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output
    assert "llamacpp on backend docker" in output
    assert "Pareto front" in output
    assert "docker run --rm --init -p 127.0.0.1:8000:8000" in output, "no launch command"
    finished = run.finished()
    assert [trial.user_attrs["outcome"] for trial in finished] == ["measured"] * 3
    for trial in finished:
        assert set(trial.user_attrs["measurements"]) == {"1", "2"}
        assert trial.user_attrs["effective"]["n_ctx"] >= 8192
        log = (run.folder / trial.user_attrs["folder"] / "server.log").read_text()
        assert "llama" in log
    assert host.containers() == []
    assert host.volumes() == set()
    assert run.processes() == []


def test_an_interrupted_study_leaves_nothing(run: WarmRun, host: Host, docker_image: str) -> None:
    process = run.fork("trials=2", *options(run, docker_image), "workload.min_requests=64")
    wait_until(lambda: host.statuses() == {"running"}, "a container runs")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, output
    assert (host.containers(), host.volumes(), run.processes()) == ([], set(), [])


@pytest.fixture
def living(daemon: docker.DockerClient, docker_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A container of another study, whose owner, this process, lives."""
    folder = tmp_path_factory.mktemp("living")
    backend = backend_in(folder, docker_image)
    with backend.deploy(stub_spec(docker_image, "serve"), Place("living-study", 0, folder)) as deployment:
        deployment.wait_ready(answers, PATIENCE_S)
        [listed] = daemon.api.containers(filters={"label": f"{STUDY_LABEL}=living-study"})
        yield daemon.containers.get(listed["Id"])


@pytest.mark.parametrize(("stage", "left"), [("created", {"created"}), ("starting", None), ("loading", {"running"}), ("stopping", None)])
def test_clean_removes_what_a_killed_tuner_left_and_nothing_else(
    run: WarmRun, host: Host, docker_image: str, living: Container, stage: str, left: set[str] | None
) -> None:
    process = run.fork("trials=2", *options(run, docker_image), arrange=partial(arrange, stage))
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == -signal.SIGKILL, output
    [container] = host.containers()
    assert left is None or {container.status} == left
    assert OWNER_LABEL in container.labels
    code, output = run.finish("clean")
    assert code == 0, output
    assert f"removed the container of study {name(run.folder)}, trial 0, left by a dead tuner" in output
    wait_until(lambda: not run.processes(), "nothing of the killed run is left")
    assert (host.containers(), host.volumes()) == ([], set())
    living.reload()
    assert living.status == "running"


@pytest.fixture
def silent_registry() -> Iterator[socket.socket]:
    """Takes connections and never answers, so that a pull lasts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE_S)
        yield server


def test_a_pull_ends_with_a_killed_tuner(run: WarmRun, host: Host, silent_registry: socket.socket) -> None:
    image = f"127.0.0.1:{silent_registry.getsockname()[1]}/engine:1"
    process = run.fork("trials=1", *options(run, image))
    connection, _ = silent_registry.accept()
    with connection:
        process.kill()
        process.communicate(timeout=DEADLINE_S)
        connection.settimeout(DEADLINE_S)
        while connection.recv(4096):  # the daemon hangs up when nobody waits for the pull any more
            pass
    code, output = run.finish("clean")
    assert (code, output.splitlines()[-1]) == (0, "Nothing was left behind.")
    wait_until(lambda: not run.processes(), "nothing of the killed run is left")
    assert (host.containers(), host.volumes()) == ([], set())


def test_the_next_run_removes_what_a_killed_one_left(run: WarmRun, host: Host, docker_image: str) -> None:
    process = run.fork("trials=1", *options(run, docker_image), arrange=partial(arrange, "loading"))
    process.communicate(timeout=DEADLINE_S)
    assert host.statuses() == {"running"}
    code, output = run.finish("trials=1", *options(run, docker_image))
    assert code == 0, output
    assert "left by a dead tuner" in output
    assert "1 trial of a killed run will be tried again" in output
    assert len(run.finished()) == 1
    assert not run.trials(TrialState.RUNNING)
    assert host.containers() == []


class TestNotReady:
    """What is missing is said in one line, at once, and no study is begun."""

    def refused(self, run: WarmRun, *arguments: str) -> str:
        code, output = run.finish(*arguments)
        assert code == 3, output
        assert output.strip().count("\n") == 0, output
        assert run.trials() == []
        return output

    def test_no_gpu(self, run: WarmRun) -> None:
        if Path("/dev/nvidia0").exists():
            pytest.skip("this host has a GPU")
        output = self.refused(run, "+experiment=llama1b", "backend=docker")
        assert output.startswith("tuner: backend=docker: engine sglang needs an NVIDIA GPU and this host has none. Run it on a GPU host")

    def test_no_daemon(self, run: WarmRun) -> None:
        missing = run.folder / "docker.sock"
        run.environment["DOCKER_HOST"] = f"unix://{missing}"
        output = self.refused(run, *options(run, "some/image"))
        assert f"the Docker daemon at unix://{missing} does not answer (no socket): install or start Docker" in output

    def test_no_image(self, run: WarmRun, daemon: docker.DockerClient) -> None:
        output = self.refused(run, *options(run, "tuner-test/no-such-image:1"), "backend.pull=never")
        assert "the image tuner-test/no-such-image:1 is not on the Docker host, and backend.pull=never" in output

    def test_a_limit_that_the_daemon_cannot_give(self, run: WarmRun, host: Host, docker_image: str) -> None:
        code, output = run.finish("trials=2", *options(run, docker_image), f"backend.cpus={(os.cpu_count() or 1) + 64}")
        assert code == 3, output
        assert "backend.cpus" in output.splitlines()[-1]
        assert host.containers() == []
