"""What tuners that run no more have left in a namespace."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from tuner.backends.ome.manifest import EXPIRES, MANAGED_BY, OWNER, STUDY, TRIAL
from tuner.kube.cluster import Cluster, labelled
from tuner.kube.errors import ApiError
from tuner.kube.removal import Leftover
from tuner.kube.resources import INFERENCE_SERVICE, JOB, Object, inside, name_of, uid_of
from tuner.owner import Owner


@dataclass(frozen=True, slots=True)
class Abandoned:
    """One of them.

    Attributes:
        leftover: The object.
        study: Study name.
        trial: Trial number; empty for a load generator.
        expired: True where the owner could not be asked and its lease has run out; False where it is certainly dead.
    """

    leftover: Leftover
    study: str
    trial: str
    expired: bool


def owned(cluster: Cluster) -> list[tuple[Leftover, Object]]:
    """All objects that some tuner has made in the namespace.

    Raises:
        ApiError: they cannot be listed.
    """
    found: list[tuple[Leftover, Object]] = []
    for resource in (INFERENCE_SERVICE, JOB):
        try:
            items, _ = cluster.list(resource, labels=labelled(MANAGED_BY), patience_s=0.0)
        except ApiError as error:
            if resource is JOB and error.status == 403:  # the right is needed only for benchmark.mode=job, and so are the objects
                continue
            raise
        found += [(Leftover(resource, name_of(item), uid_of(item)), item) for item in items if _annotation(item, OWNER)]
    return found


def abandoned(cluster: Cluster) -> list[Abandoned]:
    """Those whose owner certainly lives no more, or cannot be asked and has let its lease run out.

    Raises:
        ApiError: they cannot be listed.
    """
    found = []
    for leftover, item in owned(cluster):
        expired = has_expired(_annotation(item, EXPIRES))
        if not Owner.living(_annotation(item, OWNER)):
            expired = False
        elif not expired:
            continue
        trial = str(inside(item, "metadata", "labels", TRIAL) or "")
        found.append(Abandoned(leftover, _annotation(item, STUDY), trial, expired))
    return found


def has_expired(text: str) -> bool:
    """Whether an RFC 3339 time has gone by; False for what nobody can read."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")) < datetime.now(UTC)
    except (ValueError, TypeError):
        return False


def _annotation(item: Object, name: str) -> str:
    return str(inside(item, "metadata", "annotations", name) or "")
