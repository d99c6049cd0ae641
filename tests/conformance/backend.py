"""What every backend must do. A test module of a backend inherits `BackendSuite` and fills in its four hooks."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuner.backends.base import Backend, Deployment, NotReadyInTime, Place, ServerExited
from tuner.errors import Systemic
from tuner.launch import Endpoint, LaunchSpec

STUB = Path(__file__).with_name("stub_server.py")
PATIENCE_S = 60.0
"""Far more than anything here takes; only a fault or a stalled machine reaches it."""


def answers(endpoint: Endpoint) -> bool:
    """Whether a server answers at `endpoint`."""
    return fetch(endpoint) is not None


def fetch(endpoint: Endpoint, path: str = "/") -> str | None:
    """The body of the reply, or None where there is none. Past any proxy that the environment names."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(endpoint.url + path, timeout=5) as reply:
            return reply.read().decode()
    except OSError:
        return None


def eventually(condition: Callable[[], object], what: str) -> None:
    """Waits until `condition()` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


class BackendSuite(ABC):
    """The tests.

    Attributes:
        removed_with_owner: Whether servers end by themselves when their owner is killed; otherwise the next `reap` ends them.
    """

    removed_with_owner = False

    @pytest.fixture
    @abstractmethod
    def backend(self, tmp_path: Path) -> Backend:
        """The backend, with a stop grace of some tenths of a second, its state apart from that of other tests."""

    @abstractmethod
    def spec(self, tmp_path: Path, mode: str, **env: str) -> LaunchSpec:
        """Launches `stub_server.py` in one of its modes."""

    @abstractmethod
    def leftovers(self, tmp_path: Path) -> list[str]:
        """Whatever still exists of the deployments of this test: processes, containers."""

    @abstractmethod
    def foreign_owner(self, tmp_path: Path, mode: str) -> subprocess.Popen[str]:
        """Another process that deploys `spec(tmp_path, mode)`, waits until it is ready, prints its URL and then sleeps until killed."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        folder = tmp_path / "trial"
        folder.mkdir()
        return Place("some-study", 7, folder)

    @pytest.fixture
    def server(self, backend: Backend, place: Place, tmp_path: Path) -> Iterator[Deployment]:
        with backend.deploy(self.spec(tmp_path, "serve", STUB_ANSWER="it works"), place) as deployment:
            deployment.wait_ready(answers, PATIENCE_S)
            yield deployment

    def test_is_ready_here(self, backend: Backend) -> None:
        backend.check()

    def test_serves_with_its_environment(self, server: Deployment) -> None:
        assert fetch(server.endpoint) == "it works"
        assert server.exit_status() is None

    def test_endpoint_is_loopback_and_names_the_model(self, server: Deployment, tmp_path: Path) -> None:
        assert server.endpoint.url.startswith("http://127.0.0.1:")
        assert server.endpoint.model == self.spec(tmp_path, "serve").served_model

    def test_output_is_logged(self, server: Deployment, place: Place) -> None:
        assert server.log_path == place.folder / "server.log"
        eventually(lambda: "stub server: serve" in server.log_path.read_text(), "output in the log")
        assert "stub server: serve" in server.log_tail()

    def test_early_exit_tells_code_and_log(self, backend: Backend, place: Place, tmp_path: Path) -> None:
        with backend.deploy(self.spec(tmp_path, "exit"), place) as deployment:
            with pytest.raises(ServerExited) as caught:
                deployment.wait_ready(answers, PATIENCE_S)
            assert caught.value.status.code == 3
            assert not caught.value.status.oom_killed
            assert "no room for the model" in caught.value.status.log_tail
            assert deployment.exit_status() == caught.value.status

    def test_late_exit_is_noticed(self, server: Deployment) -> None:
        fetch(server.endpoint, "/crash")
        eventually(lambda: server.exit_status() is not None, "exit status")
        status = server.exit_status()
        assert status is not None
        assert status.code == 4
        assert "out of luck" in status.log_tail

    def test_not_ready_in_time(self, backend: Backend, place: Place, tmp_path: Path) -> None:
        with backend.deploy(self.spec(tmp_path, "deaf"), place) as deployment:
            eventually(lambda: "deaf" in deployment.log_tail(), "output in the log")
            with pytest.raises(NotReadyInTime) as caught:
                deployment.wait_ready(answers, 0.2)
            assert "stub server: deaf" in caught.value.log_tail
        assert self.leftovers(tmp_path) == []

    @pytest.mark.parametrize("mode", ["serve", "stubborn", "forking"])
    def test_close_leaves_nothing(self, backend: Backend, place: Place, tmp_path: Path, mode: str) -> None:
        with backend.deploy(self.spec(tmp_path, mode), place) as deployment:
            deployment.wait_ready(answers, PATIENCE_S)
            assert self.leftovers(tmp_path) != []
        assert self.leftovers(tmp_path) == []
        assert not answers(deployment.endpoint)
        assert deployment.exit_status() is not None
        assert "stub server" in deployment.log_tail()

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_errors_remove_the_server_and_pass(self, backend: Backend, place: Place, tmp_path: Path, error: type[BaseException]) -> None:
        def use() -> None:
            with backend.deploy(self.spec(tmp_path, "forking"), place) as deployment:
                deployment.wait_ready(answers, PATIENCE_S)
                raise error

        with pytest.raises(error):
            use()
        assert self.leftovers(tmp_path) == []

    def test_exited_server_leaves_nothing(self, backend: Backend, place: Place, tmp_path: Path) -> None:
        with backend.deploy(self.spec(tmp_path, "exit"), place) as deployment:
            eventually(lambda: deployment.exit_status() is not None, "exit status")
        assert self.leftovers(tmp_path) == []

    def test_close_again_is_harmless(self, backend: Backend, place: Place, tmp_path: Path) -> None:
        deployment = backend.deploy(self.spec(tmp_path, "serve"), place)
        deployment.close()
        status = deployment.exit_status()
        deployment.close()
        assert deployment.exit_status() == status

    def test_two_at_once(self, backend: Backend, place: Place, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.mkdir()
        with (
            backend.deploy(self.spec(tmp_path, "serve", STUB_ANSWER="one"), place) as one,
            backend.deploy(self.spec(tmp_path, "serve", STUB_ANSWER="two"), Place("some-study", 8, other)) as two,
        ):
            one.wait_ready(answers, PATIENCE_S)
            two.wait_ready(answers, PATIENCE_S)
            assert one.endpoint.url != two.endpoint.url
            assert (fetch(one.endpoint), fetch(two.endpoint)) == ("one", "two")
            one.close()
            assert fetch(two.endpoint) == "two"

    def test_missing_executable_stops_the_study(self, backend: Backend, place: Place, tmp_path: Path) -> None:
        spec = LaunchSpec(("no-such-server", "--port", "{port}"), "stub", image=self.spec(tmp_path, "serve").image)
        with pytest.raises(Systemic, match="no-such-server"), backend.deploy(spec, place) as deployment:
            deployment.wait_ready(answers, PATIENCE_S)
        assert self.leftovers(tmp_path) == []

    def test_reap_leaves_the_living(self, backend: Backend, server: Deployment, tmp_path: Path) -> None:
        owner = self.foreign_owner(tmp_path, "serve")
        try:
            assert owner.stdout is not None
            foreign = Endpoint(owner.stdout.readline().strip(), "stub")
            assert backend.reap() == []
            assert answers(foreign)
            assert answers(server.endpoint)
        finally:
            owner.kill()
            owner.wait()
        self._expect_removal(backend, foreign)
        assert answers(server.endpoint)

    @pytest.mark.parametrize("mode", ["serve", "stubborn", "forking"])
    def test_killed_owner_leaves_nothing(self, backend: Backend, tmp_path: Path, mode: str) -> None:
        owner = self.foreign_owner(tmp_path, mode)
        assert owner.stdout is not None
        foreign = Endpoint(owner.stdout.readline().strip(), "stub")
        assert answers(foreign)
        owner.kill()
        owner.wait()
        self._expect_removal(backend, foreign)
        assert self.leftovers(tmp_path) == []

    def _expect_removal(self, backend: Backend, foreign: Endpoint) -> None:
        if self.removed_with_owner:
            eventually(lambda: not answers(foreign), "the server's end without its owner")
        backend.reap()
        assert not answers(foreign)
        assert backend.reap() == []
