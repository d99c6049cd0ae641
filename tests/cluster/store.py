"""The state behind the double of an API server: objects by kind, one counter of versions, and the history that watches read."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

Thing: TypeAlias = dict[str, Any]
KindKey: TypeAlias = tuple[str, str]
"""Group and plural."""
_FIRST_VERSION = 200
"""A real cluster has written much before anybody's first request, so that version 1 is too old to watch from."""


@dataclass(frozen=True, slots=True)
class Change:
    """One step of the history: `old` is None for a creation, `new` None for a removal, `last` what the object was at its removal."""

    version: int
    old: Thing | None
    new: Thing | None
    last: Thing


class Store:
    """Objects are never changed in place once they are stored: readers need no copies, and history keeps them as they were.

    Attributes:
        lock: Held for every sequence of reads and writes that belongs together.
        changed: Notified after each write.
        version: The newest resourceVersion.
        oldest: Watches from a version before this one are told that it expired.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = _FIRST_VERSION
        self.oldest = _FIRST_VERSION
        self._things: dict[KindKey, dict[tuple[str, str], Thing]] = defaultdict(dict)
        self._history: dict[KindKey, list[Change]] = defaultdict(list)

    def get(self, kind: KindKey, namespace: str | None, name: str) -> Thing | None:
        with self.lock:
            return self._things[kind].get((namespace or "", name))

    def all(self, kind: KindKey, namespace: str | None = None) -> list[Thing]:
        """The objects of a kind, in the order in which they are listed; of one namespace, or of all."""
        with self.lock:
            return [thing for (place, _), thing in sorted(self._things[kind].items()) if namespace is None or place == namespace]

    def everything(self) -> Iterator[tuple[KindKey, Thing]]:
        """All objects of all kinds; hold the lock meanwhile."""
        for kind, things in list(self._things.items()):
            for thing in list(things.values()):
                yield kind, thing

    def put(self, kind: KindKey, thing: Thing) -> Thing:
        """Stores a new object or a new state of one, and gives it its resourceVersion."""
        with self.changed:
            key = (thing["metadata"].get("namespace", ""), thing["metadata"]["name"])
            old = self._things[kind].get(key)
            self.version += 1
            thing["metadata"]["resourceVersion"] = str(self.version)
            self._things[kind][key] = thing
            self._history[kind].append(Change(self.version, old, thing, thing))
            self.changed.notify_all()
            return thing

    def remove(self, kind: KindKey, thing: Thing) -> None:
        """Removes an object; watches are told of it as `thing` with the version of the removal."""
        with self.changed:
            old = self._things[kind].pop((thing["metadata"].get("namespace", ""), thing["metadata"]["name"]))
            self.version += 1
            last = thing | {"metadata": thing["metadata"] | {"resourceVersion": str(self.version)}}
            self._history[kind].append(Change(self.version, old, None, last))
            self.changed.notify_all()

    def since(self, kind: KindKey, version: int) -> list[Change]:
        """What happened after `version`, oldest first."""
        with self.lock:
            history = self._history[kind]
            start = len(history)
            while start and history[start - 1].version > version:
                start -= 1
            return history[start:]

    def compact(self) -> None:
        """Lets nobody begin to watch from before now. Watches that are open go on: they miss nothing."""
        with self.lock:
            self.oldest = self.version
