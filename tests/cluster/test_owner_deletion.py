"""Which objects a garbage collector takes, without a cluster."""

from __future__ import annotations

from typing import Any

from tests.cluster.owner_deletion import doomed, released


def thing(uid: str, *owners: str, leaving: bool = False, finalizers: tuple[str, ...] = ()) -> dict[str, Any]:
    references = [{"uid": owner, "blockOwnerDeletion": True} for owner in owners]
    metadata: dict[str, Any] = {"uid": uid, "name": uid, "ownerReferences": references, "finalizers": list(finalizers)}
    return {"metadata": metadata | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if leaving else {})}


def uids(objects: list[dict[str, Any]]) -> list[str]:
    return [each["metadata"]["uid"] for each in objects]


def test_the_living_are_left_alone() -> None:
    objects = [thing("service"), thing("deployment", "service"), thing("pod", "deployment")]
    assert doomed(objects) == []
    assert released(objects) == []


def test_what_lost_its_owner_goes() -> None:
    assert uids(doomed([thing("deployment", "service"), thing("pod", "deployment")])) == ["deployment"]


def test_one_living_owner_is_enough() -> None:
    assert doomed([thing("one"), thing("shared", "one", "gone")]) == []


def test_a_foreground_deletion_waits_for_what_it_owns() -> None:
    owner = thing("service", leaving=True, finalizers=("foregroundDeletion",))
    objects = [owner, thing("deployment", "service")]
    assert uids(doomed(objects)) == ["deployment"]
    assert released(objects) == []
    assert uids(released([owner])) == ["service"]


def test_other_finalizers_are_not_its_business() -> None:
    objects = [thing("service", leaving=True, finalizers=("inferenceservice.finalizers",)), thing("deployment", "service")]
    assert doomed(objects) == []
    assert released(objects) == []
