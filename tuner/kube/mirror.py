"""A local copy of the objects that a selector matches, kept up to date by list and watch in a thread.

The client's own informer loses its place on custom objects, and asks a failing server every few seconds without ever backing off.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from tuner.kube.cluster import Cluster, Stream
from tuner.kube.errors import ApiError
from tuner.kube.resources import Object, Resource, inside, name_of

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_BUSY_S = 1.0
"""A watch that ended sooner did no good: a pause comes before the next, also where no error was told."""


class Mirror:
    """Copies of objects, by name.

    Args:
        cluster: Where they are.
        resource: Their kind.
        labels: Label selector.
        fields: Field selector.
        keep: Which of them are wanted.
        changed: Called in the thread of the mirror after each change.
    """

    def __init__(
        self,
        cluster: Cluster,
        resource: Resource,
        labels: str = "",
        fields: str = "",
        keep: Callable[[Object], bool] = lambda obj: True,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._cluster = cluster
        self._resource = resource
        self._labels = labels
        self._fields = fields
        self._keep = keep
        self._changed = changed
        self._objects: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._closed = threading.Event()
        self._synced = threading.Event()
        self._trouble: tuple[float, ApiError] | None = None
        self._version = ""
        self._watching_since = math.inf
        self._thread = threading.Thread(target=self._follow, name=f"mirror of {resource.plural}", daemon=True)
        self._thread.start()

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The present state; not to be changed."""
        with self._lock:
            return list(self._objects.values())

    @property
    def synced(self) -> bool:
        """Whether the objects have been listed once."""
        return self._synced.is_set()

    @property
    def trouble(self) -> tuple[float, ApiError] | None:
        """Since when the server has not told of changes, by the monotonic clock, and its last error; None while all is well."""
        return self._trouble

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
        with self._lock:
            if self._stream is not None:
                self._stream.close()

    def _follow(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._closed.is_set():
            self._watching_since = math.inf
            try:
                if not self._version:
                    self._list()
                self._watch()
            except ApiError as error:
                self._fail(error)
            if time.monotonic() - self._watching_since >= _BUSY_S:
                pause_s = _FIRST_PAUSE_S
            else:
                self._closed.wait(pause_s * random.uniform(0.5, 1.5))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _fail(self, error: ApiError) -> None:
        # a server that is away or busy knows the version still, and a list would burden it more; any other refusal may be about the version
        if not error.away and error.status != 429:
            self._version = ""
        if not error.gone:
            since = self._trouble[0] if self._trouble is not None else time.monotonic()
            self._trouble = (since, error)

    def _list(self) -> None:
        items, version = self._cluster.list(self._resource, self._labels, self._fields, patience_s=0.0)
        with self._lock:
            self._objects = {name_of(item): item for item in items if self._keep(item)}
        self._version = version
        self._synced.set()
        self._changed()

    def _watch(self) -> None:
        """Follows the changes since the last version until the server ends the stream."""
        stream = self._cluster.watch(self._resource, self._version, self._labels, self._fields)
        # a quiet watch tells nothing for a minute, and is fine
        self._trouble = None
        self._watching_since = time.monotonic()
        with self._lock:
            self._stream = stream
            if self._closed.is_set():
                stream.close()
        with stream:
            try:
                for line in stream:
                    self._take(line)
            except ApiError as error:
                # a broken stream is no trouble: the next watch goes on from where this one came to
                if not error.away:
                    raise

    def _take(self, line: str) -> None:
        if not line.strip():
            return
        try:
            event = json.loads(line)
            kind, obj = event["type"], event["object"]
        except (ValueError, KeyError, TypeError) as error:  # the connection ended within a line
            raise ApiError.no_answer(error) from error
        if kind == "ERROR":
            raise ApiError(int(obj.get("code") or 500), str(obj.get("reason") or ""), str(obj.get("message") or ""))
        if kind in ("ADDED", "MODIFIED", "DELETED"):
            self._put(obj, there=kind != "DELETED" and self._keep(obj))
        self._version = str(inside(obj, "metadata", "resourceVersion") or self._version)

    def _put(self, obj: dict[str, Any], there: bool) -> None:
        name = name_of(obj)
        with self._lock:
            if not there and name not in self._objects:
                return
            if there:
                self._objects[name] = obj
            else:
                del self._objects[name]
        self._changed()
