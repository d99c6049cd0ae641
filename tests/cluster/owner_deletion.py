"""Plays Kubernetes' garbage collector over HTTP, beside a real API server, which does not bring it. The API double has its own."""

from __future__ import annotations

from collections.abc import Sequence

from tests.cluster.connection import Connection, Object
from tests.cluster.loop import Loop, Mirror

_FOREGROUND = "foregroundDeletion"


def doomed(objects: Sequence[Object]) -> list[Object]:
    """What is to be deleted: objects all of whose owners are gone, or one of whose owners waits for them in a foreground deletion."""
    known = {each["metadata"]["uid"]: each for each in objects}
    found = []
    for each in objects:
        owners = each["metadata"].get("ownerReferences", [])
        if not owners or "deletionTimestamp" in each["metadata"]:
            continue
        orphaned = all(owner["uid"] not in known for owner in owners)
        if orphaned or any(_waits(known.get(owner["uid"])) for owner in owners):
            found.append(each)
    return found


def released(objects: Sequence[Object]) -> list[Object]:
    """Owners in a foreground deletion that nothing holds any more."""
    owners = [owner for each in objects for owner in each["metadata"].get("ownerReferences", [])]
    held = {owner["uid"] for owner in owners if owner.get("blockOwnerDeletion")}
    return [each for each in objects if _waits(each) and each["metadata"]["uid"] not in held]


def _waits(owner: Object | None) -> bool:
    return owner is not None and "deletionTimestamp" in owner["metadata"] and _FOREGROUND in owner["metadata"].get("finalizers", [])


class OwnerDeletion(Loop):
    """The garbage collector for the kinds of its mirrors; the owners of these kinds must be among them."""

    def __init__(self, connection: Connection, *mirrors: Mirror) -> None:
        super().__init__(*mirrors)
        self._connection = connection
        self._mirrors = mirrors

    def act(self) -> float | None:
        objects = [each for mirror in self._mirrors for each in mirror.objects()]
        for each in doomed(objects):
            self.attempt(lambda each=each: self._delete(each, objects))
        for each in released(objects):
            self.attempt(lambda each=each: self._release(each))
        return None

    def _delete(self, each: Object, objects: Sequence[Object]) -> None:
        """What the object owns itself goes before it."""
        uid = each["metadata"]["uid"]
        owns = any(owner["uid"] == uid for other in objects for owner in other["metadata"].get("ownerReferences", []))
        self._connection.delete(each, policy="Foreground" if owns else "Background")

    def _release(self, owner: Object) -> None:
        def drop(current: Object) -> None:
            current["metadata"]["finalizers"] = [name for name in current["metadata"].get("finalizers", []) if name != _FOREGROUND]

        self._connection.change(owner, drop)
