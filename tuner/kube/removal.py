"""Removing an object for good: only when its pods are gone is what they held free."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tuner.kube.cluster import Cluster
from tuner.kube.errors import ApiError
from tuner.kube.resources import JOB, POD, Resource, inside, name_of, uid_of

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0
_ANSWER_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Leftover:
    """An object that has to go.

    Attributes:
        resource: Its kind: InferenceService or Job. Its pods bear its name in the label `Resource.pod_label`.
        name: Its name.
        uid: Its uid; empty where it is not known whether it was made at all.
    """

    resource: Resource
    name: str
    uid: str = ""


def ask_to_end(cluster: Cluster, leftovers: Iterable[Leftover]) -> None:
    """Deletes several objects without waiting, so that they end side by side; `remove` waits for each, and asks again."""
    for leftover in leftovers:
        with contextlib.suppress(ApiError):
            cluster.delete(leftover.resource, leftover.name, leftover.uid, patience_s=0.0)


def remove(cluster: Cluster, leftover: Leftover, patience_s: float) -> str:
    """Deletes an object in the foreground and waits until it and its pods are gone.

    Asks again for as long as the API server is away. One that does not exist is fine.

    Args:
        cluster: Where it is.
        leftover: Which one.
        patience_s: Seconds to wait.

    Returns:
        Empty when all is gone; else what still stands in the way, in one line.
    """
    deadline = time.monotonic() + patience_s
    pause_s = _FIRST_PAUSE_S
    asked = False
    while True:
        try:
            if not asked:
                cluster.delete(leftover.resource, leftover.name, leftover.uid, patience_s=0.0)
                asked = True
            why = _what_is_left(cluster, leftover)
        except ApiError as error:
            why = f"the Kubernetes API failed ({error})"
            if not error.passing and error.status != 409:
                return why
        if not why or time.monotonic() >= deadline:
            return why
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)


def _what_is_left(cluster: Cluster, leftover: Leftover) -> str:
    found = cluster.get(leftover.resource, leftover.name, _ANSWER_PATIENCE_S)
    pods, _ = cluster.list(POD, labels=f"{leftover.resource.pod_label}={leftover.name}", patience_s=_ANSWER_PATIENCE_S)
    if pods:
        nodes = ", ".join(sorted({str(inside(pod, "spec", "nodeName") or "no node") for pod in pods}))
        return f"its pod {name_of(pods[0])} on {nodes} does not end: see whether the node is well"
    if found is None or (leftover.uid and uid_of(found) != leftover.uid):
        return ""
    finalizers = ", ".join(inside(found, "metadata", "finalizers") or ()) or "none"
    return f"its finalizers are not taken off ({finalizers}): see whether {leftover.resource.controller} runs"


def kind_of(leftover: Leftover) -> str:
    """How to call it in a sentence."""
    return "load generator" if leftover.resource is JOB else "InferenceService"
