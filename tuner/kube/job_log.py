"""The output of a container that runs once, line by line as it is written, across broken connections."""

from __future__ import annotations

import contextlib
import queue
import threading

from tuner.kube.cluster import Cluster, Stream
from tuner.kube.errors import ApiError
from tuner.kube.log import moment_of

_AGAIN_S = 0.5


class JobLog:
    """Follows a container's log in a thread. After a break some lines come again, and one may have come in part.

    Args:
        cluster: Where the pod is.
        pod: Its name; its container has been started.
        container: Name of the container.
        silence_s: Seconds within which it always writes something: connections die without a word.
    """

    def __init__(self, cluster: Cluster, pod: str, container: str, silence_s: float) -> None:
        self._cluster = cluster
        self._pod = pod
        self._container = container
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._since = ""
        self._silence_s = silence_s
        self._stream: Stream | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"log of {pod}", daemon=True)
        self._thread.start()

    def new_lines(self) -> list[str]:
        """What has come since the last call."""
        return [self._lines.get_nowait() for _ in range(self._lines.qsize())]

    def all_lines(self) -> list[str]:
        """The whole log as it is now.

        Raises:
            ApiError: it cannot be had.
        """
        with self._cluster.log(self._pod, self._container) as stream:
            return list(stream)

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
        with self._lock:
            if self._stream is not None:
                self._stream.close()
        self._thread.join(_AGAIN_S)

    def _follow(self) -> None:
        while not self._closed.is_set():
            # a node that cannot be asked at the moment, or a stream that broke: what is missed then comes again
            with contextlib.suppress(ApiError):
                self._read()
            self._closed.wait(_AGAIN_S)

    def _read(self) -> None:
        stream = self._cluster.log(self._pod, self._container, follow=True, since=self._since, silence_s=self._silence_s)
        with self._lock:
            self._stream = stream
            if self._closed.is_set():
                stream.close()
        with stream:
            for line in stream:
                written, _, text = line.partition(" ")
                self._lines.put(text)
                if (moment := moment_of(written)) is not None:
                    self._since, _ = moment
