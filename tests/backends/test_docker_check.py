"""Doubles of podman's service, of an old daemon and of one on another host, none of which runs here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.backends.docker_deploying import backend_in
from tuner.backends import docker as docker_backend
from tuner.errors import NotReadyError
from tuner.gpus import GpuSlots

DOCKER = {"ApiVersion": "1.41", "Version": "20.10.24", "Components": [{"Name": "Engine"}, {"Name": "containerd"}]}
PODMAN = {"ApiVersion": "1.41", "Version": "4.3.1", "Components": [{"Name": "Podman Engine"}, {"Name": "Conmon"}]}


class ClientDouble:
    def __init__(self, version: dict[str, Any]) -> None:
        self._version = version

    def version(self) -> dict[str, Any]:
        return self._version

    def info(self) -> dict[str, Any]:
        return {"Runtimes": {"runc": {}}}


@pytest.fixture
def answers_with(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda version: monkeypatch.setattr(docker_backend, "connect", lambda *_: ClientDouble(version))


def test_podman_is_refused(answers_with: Any, tmp_path: Path) -> None:
    answers_with(PODMAN)
    with pytest.raises(NotReadyError, match=r"^this is podman's service, which ignores requests for GPUs: start Docker"):
        backend_in(tmp_path).check()


def test_an_old_daemon_is_refused(answers_with: Any, tmp_path: Path) -> None:
    answers_with(DOCKER | {"ApiVersion": "1.39", "Version": "18.09.9"})
    with pytest.raises(NotReadyError, match=r"^Docker 18\.09\.9 is too old \(API 1\.39\): install 19\.03 or newer$"):
        backend_in(tmp_path).check()


class TestOnAnotherHost:
    @pytest.fixture(autouse=True)
    def _elsewhere(self, answers_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        answers_with(DOCKER)
        monkeypatch.setenv("DOCKER_HOST", "tcp://gpu-host:2376")

    def test_loopback_cannot_be_reached(self, tmp_path: Path) -> None:
        with pytest.raises(NotReadyError, match=r"^backend\.bind=127\.0\.0\.1: servers of the Docker daemon on gpu-host cannot be reached"):
            backend_in(tmp_path).check()

    def test_an_address_of_that_host_can(self, tmp_path: Path) -> None:
        backend = backend_in(tmp_path, None, GpuSlots(None), bind="10.0.0.7")
        backend.check()  # what is on this host's path says nothing about that host's GPUs
        assert backend._reachable_at() == "10.0.0.7"

    @pytest.mark.parametrize("bind", ["0.0.0.0", "::"])
    def test_all_addresses_mean_its_name(self, tmp_path: Path, bind: str) -> None:
        backend = backend_in(tmp_path, bind=bind)
        backend.check()
        assert backend._reachable_at() == "gpu-host"


@pytest.mark.parametrize(
    ("bind", "reached"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("10.0.0.1", "10.0.0.1")]
)
def test_on_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bind: str, reached: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
    assert backend_in(tmp_path, bind=bind)._reachable_at() == reached


def test_a_variable_that_is_not_set(answers_with: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers_with(DOCKER)
    monkeypatch.setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
    monkeypatch.delenv("MY_TOKEN", raising=False)
    with pytest.raises(NotReadyError, match=r"^backend\.environment\.MY_TOKEN: .*: export MY_TOKEN$"):
        backend_in(tmp_path, environment={"MY_TOKEN": None}).check()
