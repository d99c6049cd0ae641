"""Making an object exactly once, over a connection on which answers may get lost."""

from __future__ import annotations

import random
import time
from typing import Any

from tuner.kube.cluster import Cluster
from tuner.kube.errors import ApiError
from tuner.kube.resources import Object, Resource, inside, name_of

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0


def create_or_adopt(cluster: Cluster, resource: Resource, manifest: Object, patience_s: float) -> dict[str, Any]:
    """Creates an object; one that an unanswered request has already made is taken over.

    Args:
        cluster: Where it is to be.
        resource: Its kind.
        manifest: The object. Its name is unique to this call, and so are its labels and annotations together.
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
            # asked before it is sent again: a quota may have no room for a second one, and would say so instead of that it exists
            if (error.passing or error.status == 409) and (found := _own(cluster, resource, manifest)) is not None:
                return found
            wait_s = error.retry_after_s or pause_s * random.uniform(0.5, 1.5)
            if not error.passing or time.monotonic() + wait_s > deadline:
                raise
        time.sleep(wait_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _own(cluster: Cluster, resource: Resource, manifest: Object) -> dict[str, Any] | None:
    try:
        found = cluster.get(resource, name_of(manifest), patience_s=0.0)
    except ApiError:
        return None
    return found if found is not None and all(_marks(manifest, key) <= _marks(found, key) for key in ("labels", "annotations")) else None


def _marks(obj: Object, key: str) -> set[tuple[str, str]]:
    return set((inside(obj, "metadata", key) or {}).items())
