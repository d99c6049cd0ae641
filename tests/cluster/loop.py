"""How the played controllers run: copies of the API's objects kept up by watches, and threads that act when something changed."""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from tests.cluster.connection import Connection, Object, Refused

_LOG = logging.getLogger(__name__)
_RETRY_S = 0.1
"""How long after an API server's refusal or silence the next try comes."""
_EXPECTED = {404, 409, 410, 429, 500, 502, 503, 504}
"""Refusals that any controller meets and gets over by trying again."""


def now() -> str:
    """The time as Kubernetes writes it, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_since(stamp: str) -> float:
    """Seconds since a time that Kubernetes wrote."""
    return (datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds()


def owner_of(target: Object) -> str | None:
    """The uid of the controller that made an object."""
    return next((owner["uid"] for owner in target["metadata"].get("ownerReferences", []) if owner.get("controller")), None)


def owned_by(owner: Object) -> Object:
    """The reference that controllers put on what they make."""
    metadata = owner["metadata"]
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": metadata["name"], "uid": metadata["uid"]}
    return {**reference, "controller": True, "blockOwnerDeletion": True}


def set_condition(conditions: list[Object], kind: str, status: str, reason: str = "", message: str = "") -> None:
    """Puts a condition in place; its time moves only where its status changes."""
    entry = {"type": kind, "status": status, "lastTransitionTime": now()}
    entry.update({name: value for name, value in (("reason", reason), ("message", message)) if value})
    for place, old in enumerate(conditions):
        if old["type"] == kind:
            if old["status"] == status:
                entry["lastTransitionTime"] = old.get("lastTransitionTime") or entry["lastTransitionTime"]
            conditions[place] = {**{name: old[name] for name in old if name not in ("reason", "message")}, **entry}
            return
    conditions.append(entry)


def condition(target: Object, kind: str) -> Object:
    """The condition of that type, or an empty one."""
    return next((entry for entry in target.get("status", {}).get("conditions", []) if entry["type"] == kind), {})


class Mirror:
    """What the API server holds of one kind, in all namespaces. `watchers` are called after each change, in the mirror's thread."""

    def __init__(self, connection: Connection, plural: str) -> None:
        self.watchers: list[Callable[[], None]] = []
        self._connection = connection
        self._plural = plural
        self._objects: dict[str, Object] = {}
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._closed = threading.Event()
        self._listed = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"mirror of {plural}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait_listed(self, timeout_s: float = 10.0) -> None:
        """Waits until the first list is here."""
        if not self._listed.wait(timeout_s):
            raise TimeoutError(f"no list of {self._plural} in {timeout_s} s")

    def objects(self) -> list[Object]:
        """All objects, oldest first; the caller's own copies."""
        with self._lock:
            known = copy.deepcopy(list(self._objects.values()))
        return sorted(known, key=lambda each: (each["metadata"]["creationTimestamp"], int(each["metadata"]["resourceVersion"])))

    def owned(self, owner: Object) -> list[Object]:
        """The objects that `owner` controls."""
        return [each for each in self.objects() if owner_of(each) == owner["metadata"]["uid"]]

    def get(self, uid: str) -> Object | None:
        with self._lock:
            return copy.deepcopy(self._objects.get(uid))

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            if self._socket is not None:
                _break(self._socket)
        self._thread.join(timeout=5)

    def _follow(self) -> None:
        while not self._closed.is_set():
            try:
                self._list_and_watch()
            except (OSError, Refused) as error:
                _LOG.debug("the watch of %s broke: %s", self._plural, error)
                self._closed.wait(_RETRY_S)

    def _list_and_watch(self) -> None:
        items, version = self._connection.objects_at(self._plural)
        with self._lock:
            self._objects = {each["metadata"]["uid"]: each for each in items}
        self._listed.set()
        self._tell()
        for event in self._connection.watch(self._plural, version, self._opened):
            if event["type"] == "ERROR":
                return
            if event["type"] != "BOOKMARK":
                self._take(event["type"], event["object"])
                self._tell()

    def _opened(self, stream: socket.socket) -> None:
        with self._lock:
            self._socket = stream
        if self._closed.is_set():
            _break(stream)

    def _take(self, kind: str, changed: Object) -> None:
        uid = changed["metadata"]["uid"]
        with self._lock:
            if kind == "DELETED":
                self._objects.pop(uid, None)
            else:
                self._objects[uid] = changed

    def _tell(self) -> None:
        for watcher in self.watchers:
            watcher()


def _break(stream: socket.socket) -> None:
    # An error says that its own thread closed it meanwhile: that is what was wanted.
    with contextlib.suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)


class Loop:
    """A thread that calls `act` when one of the mirrors changed, or after as many seconds as the last `act` asked for.

    Attributes:
        errors: What went wrong in a way that controllers do not get over: faults of the played cluster itself.
    """

    def __init__(self, *mirrors: Mirror) -> None:
        self.errors: list[BaseException] = []
        self._woken = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        for mirror in mirrors:
            mirror.watchers.append(self.wake)

    def act(self) -> float | None:
        """One pass over everything; returns in how many seconds the next one is due, None: when something changes."""
        raise NotImplementedError

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        self._closed = True
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)

    def attempt(self, step: Callable[[], float | None]) -> float | None:
        """Does one thing for one object, so that its trouble is not that of the others. Returns in how many seconds to look again."""
        try:
            return step()
        except Refused as error:
            if error.status not in _EXPECTED:
                self._fail(error)
            return _RETRY_S
        except OSError as error:
            _LOG.debug("%s: %s", self._thread.name, error)
            return _RETRY_S
        except Exception as error:  # a thread has nobody to raise to; `errors` is asked at the end
            self._fail(error)
            return _RETRY_S

    def _run(self) -> None:
        delay_s: float | None = 0.0
        while not self._closed:
            self._woken.wait(delay_s)
            self._woken.clear()
            if not self._closed:
                delay_s = self.attempt(self.act)

    def _fail(self, error: Exception) -> None:
        if not self._closed:
            _LOG.error("%s failed", self._thread.name, exc_info=error)
            self.errors.append(error)


def soonest(*delays_s: float | None) -> float | None:
    """The first of several times to look again."""
    return min((delay for delay in delays_s if delay is not None), default=None)


class Recorder:
    """Writes Events as controllers do: the same one again only raises its count."""

    _numbers = itertools.count(1)

    def __init__(self, connection: Connection, component: str) -> None:
        self._connection = connection
        self._component = component
        self._written: dict[tuple[str, str, str], Object] = {}

    def record(self, about: Mapping[str, Any], kind: str, reason: str, message: str) -> None:
        """An Event of type `kind`, Normal or Warning. One that is refused is forgotten, as in a namespace that is being deleted."""
        try:
            self._write(about, kind, reason, message)
        except Refused as error:
            _LOG.debug("no event %s: %s", reason, error)

    def _write(self, about: Mapping[str, Any], kind: str, reason: str, message: str) -> None:
        metadata = about["metadata"]
        key = (metadata["uid"], reason, message)
        try:
            if key in self._written:
                count = self._written[key]["count"] + 1
                self._written[key] = self._connection.merge(self._written[key], {"count": count, "lastTimestamp": now()})
                return
        except Refused as error:
            if error.status != 404:
                raise
        self._written[key] = self._connection.create(self._event(about, kind, reason, message))

    def _event(self, about: Mapping[str, Any], kind: str, reason: str, message: str) -> Object:
        metadata, stamp = about["metadata"], now()
        involved = {"kind": about["kind"], "apiVersion": about["apiVersion"], "name": metadata["name"], "uid": metadata["uid"]}
        if "namespace" in metadata:
            involved["namespace"] = metadata["namespace"]
        namespace = metadata.get("namespace", "default")
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{metadata['name']}.{time.time_ns():x}{next(self._numbers):x}", "namespace": namespace},
            "involvedObject": involved,
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": self._component},
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
