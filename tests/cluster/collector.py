"""The garbage collector and the namespace controller of the double: what an owner's or a namespace's deletion entails.

A bare API server has neither; without them no foreground deletion would ever end.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

from tests.cluster.core_kinds import Kind
from tests.cluster.deletion import Deletion, delete
from tests.cluster.metadata import FOREGROUND, ORPHAN
from tests.cluster.operations import Operations, key
from tests.cluster.store import Thing


class Collector:
    """Looks after each change, in a thread of its own, until it is stopped."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._store = operations.store
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="garbage collector", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._store.changed:
            self._stopping = True
            self._store.changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        seen = -1
        with self._store.changed:
            while not self._stopping:
                if self._store.version == seen:
                    self._store.changed.wait()
                else:
                    seen = self._store.version
                    self._collect()

    def _collect(self) -> None:
        """Looks at everything until something is to be done, and does it; what was seen is old after that, and the next look begins."""
        kinds = {key(kind): kind for kind in self._operations.kinds.values()}
        found = [(kinds[name], thing) for name, thing in self._store.everything() if name in kinds]
        living = {thing["metadata"]["uid"] for _, thing in found}
        dependents: dict[str, list[tuple[Kind, Thing]]] = defaultdict(list)
        for kind, thing in found:
            for owner in thing["metadata"].get("ownerReferences") or ():
                dependents[owner["uid"]].append((kind, thing))
        seen = self._store.version
        for kind, thing in found:
            if self._store.version != seen:
                return
            if "deletionTimestamp" in thing["metadata"]:
                self._finish(kind, thing, dependents)
            elif not living.issuperset(owner["uid"] for owner in thing["metadata"].get("ownerReferences") or ()):
                self._part(kind, thing, living)

    def _part(self, kind: Kind, thing: Thing, living: set[str]) -> None:
        """What has lost all its owners goes; what has lost some forgets those."""
        left = [owner for owner in thing["metadata"]["ownerReferences"] if owner["uid"] in living]
        if left:
            self._disown(kind, thing, left)
        else:
            self._delete(kind, thing, None if kind.kind != "Job" else "Background")

    def _finish(self, kind: Kind, thing: Thing, dependents: dict[str, list[tuple[Kind, Thing]]]) -> None:
        """Does what the deletion of an owner or of a namespace waits for."""
        finalizers, uid = thing["metadata"].get("finalizers") or [], thing["metadata"]["uid"]
        mine = dependents.get(uid, [])
        if kind.kind == "Namespace":
            self._empty(kind, thing)
        elif ORPHAN in finalizers:
            for other_kind, other in mine:
                self._disown(other_kind, other, [owner for owner in other["metadata"]["ownerReferences"] if owner["uid"] != uid])
            self._drop_finalizer(kind, thing, ORPHAN)
        elif FOREGROUND in finalizers:
            for other_kind, other in mine:
                self._delete(other_kind, other, "Foreground" if dependents.get(other["metadata"]["uid"]) else "Background")
            if not any(_blocks(other, uid) for _, other in mine):
                self._drop_finalizer(kind, thing, FOREGROUND)

    def _disown(self, kind: Kind, thing: Thing, owners: list[Any]) -> None:
        """Leaves these owners only."""
        self._operations.edit(kind, thing, lambda new: _set_or_drop(new["metadata"], "ownerReferences", owners))

    def _delete(self, kind: Kind, thing: Thing, propagation: str | None) -> None:
        record = thing["metadata"]
        if "deletionTimestamp" not in record:
            delete(self._operations, kind, record.get("namespace"), record["name"], Deletion(propagation=propagation))

    def _drop_finalizer(self, kind: Kind, thing: Thing, finalizer: str) -> None:
        rest = [other for other in thing["metadata"]["finalizers"] if other != finalizer]
        metadata = dict(thing["metadata"])
        _set_or_drop(metadata, "finalizers", rest)
        if rest or metadata["deletionGracePeriodSeconds"]:
            self._store.put(key(kind), thing | {"metadata": metadata})
        else:
            self._store.remove(key(kind), thing | {"metadata": metadata})

    def _empty(self, kind: Kind, namespace: Thing) -> None:
        """Deletes what a terminating namespace holds, and then the namespace."""
        name = namespace["metadata"]["name"]
        kinds = {key(other): other for other in self._operations.kinds.values() if other.namespaced}
        content = [(other, thing) for place, other in kinds.items() for thing in self._store.all(place, name)]
        for other, thing in content:
            self._delete(other, thing, "Background")
        if not content:
            self._store.remove(key(kind), namespace)


def _blocks(thing: Thing, owner: str) -> bool:
    return any(entry["uid"] == owner and entry.get("blockOwnerDeletion") for entry in thing["metadata"].get("ownerReferences") or ())


def _set_or_drop(metadata: dict[str, Any], name: str, values: list[Any]) -> None:
    if values:
        metadata[name] = values
    else:
        metadata.pop(name, None)
