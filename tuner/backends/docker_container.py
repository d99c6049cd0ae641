"""One server in a container: watched by asking the daemon, stopped in order, removed on every way out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

from docker.models.containers import Container

from tuner.backends.base import DIAGNOSIS_LINES, Deployment
from tuner.backends.docker_connection import DAEMON_ERRORS, RESTART_S
from tuner.backends.docker_log import LogFollower
from tuner.backends.docker_removal import remove
from tuner.backends.docker_state import ContainerState, stopped_from_outside
from tuner.backends.log_file import tail
from tuner.launch import Endpoint, ExitStatus

_LOG = logging.getLogger(__name__)
_LOOK_EACH_S = 0.2
_LOG_END_S = 5.0


class DockerDeployment(Deployment):
    """A server of `Docker`; made by `Docker.deploy`.

    Args:
        container: Started.
        started: Its `ContainerState.started`.
        endpoint: Where it answers.
        log_path: Its log.
        log: Fills `log_path`.
        stop_grace_s: Seconds between SIGTERM and SIGKILL.
        on_closed: Called at the end with whether the container is gone; if not, it has to be removed later.
    """

    def __init__(
        self,
        container: Container,
        started: str,
        endpoint: Endpoint,
        log_path: Path,
        log: LogFollower,
        stop_grace_s: float,
        on_closed: Callable[[bool], None],
    ) -> None:
        self.endpoint = endpoint
        self.log_path = log_path
        self._container = container
        self._started = started
        self._log = log
        self._stop_grace_s = stop_grace_s
        self._on_closed = on_closed
        self._status: ExitStatus | None = None
        self._next_look = 0.0
        self._daemon_away = False
        self._closed = False

    def exit_status(self) -> ExitStatus | None:
        """See `Deployment.exit_status`. While the daemon does not answer this waits for it, for the time that a restart takes: whether the
        server runs cannot be known, and without its daemon it is out of reach in any case."""
        if self._status is None and time.monotonic() >= self._next_look:
            self._status = self._look()
            self._next_look = time.monotonic() + _LOOK_EACH_S
        return self._status

    def log_tail(self, lines: int = 40) -> str:
        return tail(self.log_path, lines)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            try:
                if self.exit_status() is None:
                    self._container.stop(timeout=math.ceil(self._stop_grace_s))
            except DAEMON_ERRORS as error:
                _LOG.debug("cannot stop %s: %s", self._container.name, error)
            finally:  # also when a second Ctrl-C interrupts the wait: then by force
                self._note_end()
        finally:
            self._remove()

    def _look(self) -> ExitStatus | None:
        try:
            state = ContainerState.of(self._container, RESTART_S)
        except DAEMON_ERRORS:
            self._daemon_away = True
            return self._ended(None, "The Docker daemon went away while the server ran, and did not come back in time.")
        if state is None:
            return self._ended(None, "Somebody removed the server's container while it ran.")
        if state.started != self._started:
            return self._ended(state, "Somebody restarted the server's container.")
        if state.paused:
            return self._ended(state, "Somebody paused the server's container.")
        if state.running:
            return None
        if stopped_from_outside(self._container):
            return self._ended(state, "The server's container was stopped from outside, by somebody or by a restart of the Docker daemon.")
        return self._ended(state, "")

    def _ended(self, state: ContainerState | None, disturbed: str) -> ExitStatus:
        runs = state is not None and state.running
        if not runs and not self._daemon_away:
            self._log.finish(_LOG_END_S)
        if state is None or runs:
            return ExitStatus(None, False, self.log_tail(DIAGNOSIS_LINES), disturbed)
        return ExitStatus(state.exit_code, state.oom_killed, self.log_tail(DIAGNOSIS_LINES), disturbed)

    def _note_end(self) -> None:
        """Kills what still runs, and keeps how it ended: after its removal nobody can tell."""
        if self._status is not None:
            return
        self._status = ExitStatus(None)
        try:
            state = ContainerState.of(self._container)
            if state is not None and state.running:
                self._container.kill()
                state = ContainerState.of(self._container)
            self._status = self._ended(state, "")
        except DAEMON_ERRORS as error:
            _LOG.debug("cannot tell how %s ended: %s", self._container.name, error)

    def _remove(self) -> None:
        gone = False
        try:
            gone = remove(self._container.client, self._container.id, 0.0 if self._daemon_away else RESTART_S)
            if gone:
                self._log.finish(_LOG_END_S)
        finally:
            self._on_closed(gone)
