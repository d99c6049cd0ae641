"""Copies a container's output into a file while it runs, across broken streams and restarts of the container."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tuner.kube.cluster import Cluster, Stream
from tuner.kube.errors import ApiError

_FIRST_POLL_S, _LONGEST_POLL_S = 0.3, 1.0
_CLOSE_S = 0.3
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")

Moment = tuple[str, str]
"""When a line was written: UTC to the second as `sinceTime` wants it, and the digits of the fraction of that second."""


class LogFollower:
    """Fills a log file from the API.

    Args:
        cluster: Where the pod is.
        path: The file, which is made anew.
        container: Name of the container.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, cluster: Cluster, path: Path, container: str) -> None:
        self._cluster = cluster
        self._container = container
        self._file = path.open("wb", buffering=0)
        self._last: Moment = ("", "")
        self._at_last = 0  # lines that were written at that moment
        self._stream: Stream | None = None
        self._finished = threading.Event()
        self._broken_off = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def follow(self, pod: Callable[[], str | None]) -> None:
        """Starts to copy.

        Args:
            pod: Tells the name of the pod; None while it has no node.
        """
        self._thread = threading.Thread(target=self._copy, args=(pod,), name="log", daemon=True)
        self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Ends. Until `timeout_s` seconds have gone by, a stream that still delivers may come to its own end."""
        self._finished.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            with self._lock:
                self._broken_off = True
                if self._stream is not None:
                    self._stream.close()
            self._thread.join(_CLOSE_S)
        self._file.close()

    def _copy(self, pod: Callable[[], str | None]) -> None:
        name: str | None = None
        pause_s = _FIRST_POLL_S
        while not self._broken_off:
            last_round = self._finished.is_set()
            name = name or pod()
            before = self._last
            # a container that has not started is answered with 400, a node that does not answer with 500; neither matters here
            with contextlib.suppress(ApiError, ValueError):
                if name is not None:
                    self._read(name)
            if last_round:
                return
            pause_s = _FIRST_POLL_S if name is None or self._last != before else min(2 * pause_s, _LONGEST_POLL_S)
            self._finished.wait(pause_s)

    def _read(self, pod: str) -> None:
        last, known = self._last, self._at_last
        stream = self._cluster.log(pod, self._container, follow=True, since=last[0])
        with self._lock:
            self._stream = stream
            if self._broken_off:
                stream.close()
        with stream:
            for line in stream:
                stamp, _, text = line.partition(" ")
                moment = moment_of(stamp)
                # what has no time is the kubelet's word about the log, not the container's
                if moment is None or moment < last:
                    continue
                if moment == last and known > 0:  # `sinceTime` knows whole seconds only
                    known -= 1
                    continue
                self._write(moment, text)

    def _write(self, moment: Moment, text: str) -> None:
        self._file.write(f"{text}\n".encode())
        self._at_last = self._at_last + 1 if moment == self._last else 1
        self._last = moment


def moment_of(stamp: str) -> Moment | None:
    """From RFC 3339; nodes write their own time zone. None where it is something else."""
    found = _STAMP.fullmatch(stamp)
    if found is None:
        return None
    second = datetime.fromisoformat(found[1] + found[3]).astimezone(UTC)
    return second.strftime("%Y-%m-%dT%H:%M:%SZ"), (found[2] or "").ljust(9, "0")
