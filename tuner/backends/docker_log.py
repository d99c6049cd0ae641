"""Copies what a container writes into a file while it runs, and makes the file complete when the stream broke."""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

from docker.models.containers import Container

from tuner.backends.docker_connection import DAEMON_ERRORS, RESTART_S
from tuner.backends.docker_state import ContainerState

_LOG = logging.getLogger(__name__)
_PAUSE_S = 0.1


class LogFollower:
    """Writes a container's output to a file, from its first byte.

    The stream of a daemon that dies just ends, without an error. A container's log is therefore read again from its beginning then, and
    what the file already holds is left out: the daemon keeps the order of the bytes, while a start by time would lose or repeat some.

    Args:
        path: The file, created here.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._written = 0
        self._thread: Thread | None = None

    def follow(self, container: Container) -> None:
        """Begins to copy."""
        self._thread = Thread(target=self._run, args=(container,), name=f"log of {container.name}", daemon=True)
        self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Waits until all is copied of a container that has ended or is gone."""
        if self._thread is None:
            self._file.close()
        else:
            self._thread.join(timeout_s)

    def _run(self, container: Container) -> None:
        try:
            with self._file:
                self._copy(container, follow=True)
                while _runs(container):
                    time.sleep(_PAUSE_S)
                    self._copy(container, follow=True)
                self._copy(container, follow=False)
        except OSError as error:
            _LOG.warning("cannot write %s any more: %s", self._path, error.strerror)

    def _copy(self, container: Container, follow: bool) -> None:
        known = self._written
        for chunk in _chunks(container, follow):
            new = chunk[known:]
            known -= min(known, len(chunk))
            if new:
                self._file.write(new)
                self._file.flush()
                self._written += len(new)


def _chunks(container: Container, follow: bool) -> Iterator[bytes]:
    try:
        yield from container.logs(stream=True, follow=follow)
    except (*DAEMON_ERRORS, struct.error):  # the last from a stream that breaks within the header of a chunk
        return


def _runs(container: Container) -> bool:
    """Whether the container still writes, as far as the daemon tells within the time of a restart."""
    try:
        state = ContainerState.of(container, RESTART_S)
    except DAEMON_ERRORS:
        return False
    return state is not None and state.running
