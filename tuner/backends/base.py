"""The contract of a backend: where a server runs. Knows how to start, watch and remove one; knows nothing of engines' flags."""

from __future__ import annotations

import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tuner.launch import Endpoint, ExitStatus, LaunchSpec

READY_POLL_S = 0.05

DIAGNOSIS_LINES = 400
"""Lines of a dead server's log in `ExitStatus.log_tail`: a root cause stands above the tracebacks of all ranks that follow it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Whose deployment it is, and where its files go.

    Attributes:
        study: Study name.
        trial: Trial number.
        folder: Existing directory of this trial for `server.log` and the like.
    """

    study: str
    trial: int
    folder: Path


class ServerExited(Exception):
    """The server ended although nobody asked it to.

    Args:
        status: How it ended, for `Engine.diagnose`.
    """

    def __init__(self, status: ExitStatus) -> None:
        super().__init__(f"server exited with code {status.code}")
        self.status = status


class NotReadyInTime(Exception):
    """The server runs but did not answer before its deadline.

    Args:
        timeout_s: The deadline in seconds.
        log_tail: The last lines of its output.
    """

    def __init__(self, timeout_s: float, log_tail: str) -> None:
        super().__init__(f"not ready after {timeout_s:g} s")
        self.timeout_s = timeout_s
        self.log_tail = log_tail


class Deployment(ABC):
    """One running server. A context manager: leaving it removes the server, whatever happened inside.

    Implementations pass `tests/conformance/backend.py`.
    """

    endpoint: Endpoint
    log_path: Path
    queued_s: float = 0.0
    """Seconds that the server has waited for its place, which say nothing about its start."""

    @abstractmethod
    def exit_status(self) -> ExitStatus | None:
        """None while the server runs; how it ended afterwards. Cheap enough to be asked many times a second."""

    @abstractmethod
    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the server's output, without raising."""

    @abstractmethod
    def close(self) -> None:
        """Stops the server in order, then by force, and removes all that belongs to it. May be called again; does not raise for a server
        that is already gone."""

    def wait_ready(self, answers: Callable[[Endpoint], bool], timeout_s: float) -> None:
        """Returns as soon as `answers(endpoint)` is true.

        Args:
            answers: Asks the server once.
            timeout_s: Seconds that the start may take; what `queued_s` counts comes on top.

        Raises:
            ServerExited: the server ended first; noticed at once.
            NotReadyInTime: `timeout_s` seconds went by.
            TrialFailure: it will never be ready, and the backend itself can tell whose fault that is (no such image, no place for it).
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if (status := self.exit_status()) is not None:
                raise ServerExited(status)
            if answers(self.endpoint):
                return
            if time.monotonic() >= deadline:
                raise NotReadyInTime(timeout_s, self.log_tail())
            time.sleep(READY_POLL_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Backend(ABC):
    """Starts deployments and finds those that dead owners left behind."""

    name: ClassVar[str]
    clock: Callable[[], float] = staticmethod(time.monotonic)
    """Seconds since some moment, by which trials are charged. A backend whose servers are only recorded has one that runs by itself."""
    stuck: Sequence[str] = ()
    """What the last `reap` could not remove, and why: one line each."""

    @abstractmethod
    def check(self) -> None:
        """Verifies, once per study, that deployments can work here.

        Raises:
            NotReadyError: names the cause and the fix.
        """

    @abstractmethod
    def deploy(self, spec: LaunchSpec, place: Place) -> Deployment:
        """Starts the server and returns at once; readiness is `Deployment.wait_ready`.

        Raises:
            Infeasible: the configuration asks for more than there is here.
            Transient: nobody's fault, worth another try.
            Systemic: no deployment can work (executable or image not found).
        """

    def refuse(self, spec: LaunchSpec) -> str | None:
        """Why `spec` can certainly never be deployed here, in one line; None where it may. Asks nobody, and is valid after `check`."""
        return None

    @abstractmethod
    def reap(self) -> list[str]:
        """Removes what owners that no longer live have left; leaves those of the living alone. Returns one line for each removal."""

    def describe(self) -> Mapping[str, str]:
        """Facts for the study's record, such as the digest of the image. Short scalars, no secrets. Valid after `check`."""
        return {}

    def launch_text(self, spec: LaunchSpec) -> str:
        """What a user would type into a shell to run `spec` without tuner; on one host it listens on loopback and port 8000. Secrets stand
        there by name only."""
        return shlex.join(spec.bound("127.0.0.1", 8000))
