"""A double of a kubelet, because no container runs in the tests of tuner/kube: it keeps logs in memory and cuts their streams on demand."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import datetime

from tests.cluster.statuses import error

_TICK_S = 0.02


class Writer:
    """A container that writes: the log of every pod on its node.

    Attributes:
        asked: The `sinceTime` of each request so far.
    """

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self._lines: list[tuple[str, bytes]] = []
        self._changed = threading.Condition()
        self._run = 0
        self._running = False
        self._cuts = 0

    def start(self) -> None:
        """Starts the container, again where it ran before: then the log of the one before is gone."""
        with self._changed:
            self._lines, self._running, self._run = [], True, self._run + 1
            self._changed.notify_all()

    def write(self, stamp: str, text: str, end: str = "\n") -> None:
        with self._changed:
            self._lines.append((stamp, f"{stamp} {text}{end}".encode()))
            self._changed.notify_all()

    def end(self) -> None:
        """Ends the container; what it wrote stays."""
        with self._changed:
            self._running = False
            self._changed.notify_all()

    def cut(self) -> None:
        """Breaks the streams that are open."""
        with self._changed:
            self._cuts += 1
            self._changed.notify_all()

    def log(
        self,
        namespace: str,
        pod: str,
        container: str,
        previous: bool,
        follow: bool,
        since_time: str | None,
        timestamps: bool,
        tail_lines: int | None,
    ) -> Iterator[bytes]:
        self.asked.append(since_time)
        with self._changed:
            run, cuts, sent = self._run, self._cuts, 0
            if run == 0:
                raise error(400, f'container "{container}" in pod "{pod}" is waiting to start: ContainerCreating')
        since = datetime.fromisoformat(since_time) if since_time else None
        while True:
            with self._changed:
                if run != self._run:
                    return
                if cuts != self._cuts:
                    raise OSError("the stream is cut")
                new, running = self._lines[sent:], self._running
                sent += len(new)
            for stamp, line in new:
                if since is None or _second(stamp) is None or _second(stamp) >= since:
                    yield line if timestamps else line.partition(b" ")[2]
            if not (follow and running):
                return
            yield b""
            with self._changed:
                if len(self._lines) == sent:
                    self._changed.wait(_TICK_S)

    def connect(self, namespace: str, pod: str, port: int) -> socket.socket:
        raise ConnectionRefusedError


def _second(stamp: str) -> datetime | None:
    try:
        return datetime.fromisoformat(stamp)
    except ValueError:
        return None
