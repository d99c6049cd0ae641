"""Making an object exactly once, over a connection on which answers may get lost."""

from __future__ import annotations

import time
from typing import Any

from tuner.errors import Systemic, Transient, TrialFailure
from tuner.kube.cluster import Cluster
from tuner.kube.connection import explain
from tuner.kube.errors import ApiError
from tuner.kube.resources import Object, Resource, inside, name_of

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0


def create_or_adopt(cluster: Cluster, resource: Resource, manifest: Object, label: str, patience_s: float) -> dict[str, Any]:
    """Creates an object; one that an unanswered request has already made is taken over.

    Args:
        cluster: Where it is to be.
        resource: Its kind.
        manifest: The object; its name is unique to this call.
        label: The label whose value tells it from any other of the same name.
        patience_s: Seconds for which a server that is away or busy is asked again.

    Raises:
        ApiError: it was refused, or could not be made in that time.
    """
    deadline = time.monotonic() + patience_s
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return cluster.create(resource, manifest)
        except ApiError as error:
            if (error.away or error.status == 409) and (found := _own(cluster, resource, manifest, label)) is not None:
                return found
            wait_s = error.retry_after_s or pause_s
            if not error.passing or time.monotonic() + wait_s > deadline:
                raise
        time.sleep(wait_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def creation_failure(error: ApiError, cluster: Cluster) -> TrialFailure:
    """What it means for a trial that its InferenceService was not made."""
    if error.status == 403 and "exceeded quota" in error.message:
        return Transient(f"the namespace's quota is used up ({error.message}): wait, or raise it")
    if error.status == 403 and "admission webhook" in error.message:
        return Systemic(f"OME refuses the InferenceService ({error.message}): check backend.model, backend.runtime and backend.patch")
    if error.status in (400, 409, 422):
        return Systemic(f"the cluster refuses the InferenceService ({error.message}): check backend.patch, and the version of OME's CRDs")
    if error.status == 404 and error.found_api:
        return Systemic(f"the cluster has no namespace {cluster.namespace}: create it, or set backend.namespace")
    if error.passing and not error.away:
        return Transient(explain(error, cluster, "create InferenceServices"), str(error))
    return Systemic(explain(error, cluster, "create InferenceServices"), str(error))


def _own(cluster: Cluster, resource: Resource, manifest: Object, label: str) -> dict[str, Any] | None:
    try:
        found = cluster.get(resource, name_of(manifest), patience_s=0.0)
    except ApiError:
        return None
    keys = ("metadata", "labels", label)
    return found if found is not None and inside(found, *keys) == inside(manifest, *keys) else None
