"""Deletion as a Kubernetes API server does it: preconditions, grace, finalizers and propagation; for the double of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.cluster.core_kinds import Kind
from tests.cluster.metadata import FOREGROUND, ORPHAN, now
from tests.cluster.operations import DEFINITIONS, Operations, key
from tests.cluster.statuses import conflict, success
from tests.cluster.store import Thing


@dataclass(frozen=True, slots=True)
class Deletion:
    """How something is to be deleted.

    Attributes:
        grace_s: Seconds until a pod is killed; None for what its specification says.
        propagation: Foreground, Background, Orphan, or None for what is usual for the kind.
        uid, version: What the object must be.
    """

    grace_s: int | None = None
    propagation: str | None = None
    uid: str | None = None
    version: str | None = None
    dry_run: bool = False


def asked(query: Mapping[str, str], body: Mapping[str, Any]) -> Deletion:
    """What a request says; its body counts more than its query."""
    grace = body.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
    propagation = body.get("propagationPolicy") or query.get("propagationPolicy")
    orphan = body.get("orphanDependents", query.get("orphanDependents"))
    if propagation is None and orphan is not None:
        propagation = "Orphan" if str(orphan).lower() == "true" else "Background"
    conditions = body.get("preconditions") or {}
    dry_run = bool(body.get("dryRun") or query.get("dryRun"))
    return Deletion(None if grace is None else int(grace), propagation, conditions.get("uid"), conditions.get("resourceVersion"), dry_run)


def delete(operations: Operations, kind: Kind, namespace: str | None, name: str, how: Deletion) -> Thing:
    """Deletes an object, or marks it as terminating. Returns what the server answers: the object or a Status."""
    with operations.store.lock:
        thing = operations.get(kind, namespace, name)
        _check(kind, thing, how)
        marked = _marked(kind, thing, how)
        stays = _stays(kind, marked)
        if not how.dry_run:
            if stays and marked != thing:
                operations.store.put(key(kind), marked)
            elif not stays:
                if key(kind) == DEFINITIONS:
                    _undefine(operations, marked)
                operations.store.remove(key(kind), marked)
    if stays or kind.returned_when_deleted:
        return marked
    return success(name, kind.group, kind.plural, thing["metadata"]["uid"])


def _check(kind: Kind, thing: Thing, how: Deletion) -> None:
    record = thing["metadata"]
    for told, wanted, found in (("UID", how.uid, record["uid"]), ("ResourceVersion", how.version, record["resourceVersion"])):
        if wanted is not None and wanted != found:
            message = f"the {told} in the precondition ({wanted}) does not match the {told} in record ({found})."
            raise conflict(kind.kind, kind.group, record["name"], f"{message} The object might have been deleted and then recreated")


def _marked(kind: Kind, thing: Thing, how: Deletion) -> Thing:
    """The object as terminating."""
    new = copy.deepcopy(thing)
    record = new["metadata"]
    finalizers = _finalizers(kind, record.get("finalizers") or [], how.propagation)
    if finalizers:
        record["finalizers"] = finalizers
    else:
        record.pop("finalizers", None)
    grace = _grace_s(kind, thing, how)
    if "deletionTimestamp" not in record:
        record["deletionTimestamp"] = now(grace)
        record["deletionGracePeriodSeconds"] = grace
        if "generation" in record:
            record["generation"] += 1
        if kind.kind == "Namespace":
            new["status"] = {"phase": "Terminating"}
    elif how.grace_s is not None and grace < record["deletionGracePeriodSeconds"]:
        record["deletionTimestamp"] = now(grace)
        record["deletionGracePeriodSeconds"] = grace
    return new


def _finalizers(kind: Kind, present: list[str], propagation: str | None) -> list[str]:
    # Jobs keep the default of the days before garbage collection: their pods stay.
    if propagation is None and kind.kind == "Job" and FOREGROUND not in present:
        propagation = "Orphan"
    if propagation is None:
        return present
    others = [finalizer for finalizer in present if finalizer not in (FOREGROUND, ORPHAN)]
    return others + {"Foreground": [FOREGROUND], "Orphan": [ORPHAN]}.get(propagation, [])


def _grace_s(kind: Kind, thing: Thing, how: Deletion) -> int:
    """Only a pod that runs on a node has time to end."""
    over = thing.get("status", {}).get("phase") in ("Succeeded", "Failed")
    if kind.kind != "Pod" or over or not thing["spec"].get("nodeName"):
        return 0
    return int(thing["spec"].get("terminationGracePeriodSeconds", 30) if how.grace_s is None else how.grace_s)


def _stays(kind: Kind, marked: Thing) -> bool:
    record = marked["metadata"]
    return bool(record.get("finalizers") or record["deletionGracePeriodSeconds"] or kind.kind == "Namespace")


def _undefine(operations: Operations, definition: Thing) -> None:
    """A definition takes its objects along."""
    spec = definition["spec"]
    for version in spec["versions"]:
        operations.kinds.pop((spec["group"], version["name"], spec["names"]["plural"]), None)
    name = (spec["group"], spec["names"]["plural"])
    for thing in operations.store.all(name):
        operations.store.remove(name, thing)
