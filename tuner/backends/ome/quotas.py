"""The ResourceQuotas of a namespace, as far as they limit trials, and Kueue's queue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tuner.backends.ome.asking import PATIENCE_S
from tuner.backends.ome.nodes import count
from tuner.finding import Finding, failed, ok, skipped, warning
from tuner.kube.cluster import Cluster
from tuner.kube.errors import ApiError
from tuner.kube.resources import RESOURCE_QUOTA, Resource, inside, name_of
from tuner.ome_settings import OmeBackendSettings

_FORBIDDEN = 403
_KUEUE = "kueue.x-k8s.io"
_ONE_EACH = ("pods", "count/pods", "count/deployments.apps", "count/services", "count/inferenceservices.ome.io")
"""What each trial makes one of."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One bound of a quota.

    Attributes:
        quota: Name of the ResourceQuota.
        key: What is limited, as `requests.nvidia.com/gpu`.
        hard: How many there may be.
        used: How many there are.
        scoped: Whether it only counts some pods, perhaps none of a trial's.
    """

    quota: str
    key: str
    hard: int
    used: int
    scoped: bool


def gpu_keys(gpu_resource: str) -> tuple[str, str]:
    """How quotas write a limit on GPUs. Kubernetes itself has the first alone for extended resources."""
    return f"requests.{gpu_resource}", f"limits.{gpu_resource}"


def limits(cluster: Cluster) -> Iterator[Limit]:
    """All bounds of the namespace.

    Raises:
        ApiError: there is no answer, or this user may not list them.
    """
    for quota in cluster.list(RESOURCE_QUOTA, patience_s=PATIENCE_S)[0]:
        scoped = bool(inside(quota, "spec", "scopes") or inside(quota, "spec", "scopeSelector"))
        # the status comes a moment after the object
        hard = inside(quota, "status", "hard") or inside(quota, "spec", "hard") or {}
        for key, value in hard.items():
            yield Limit(name_of(quota), key, count(value), count(inside(quota, "status", "used", key)), scoped)


def check(cluster: Cluster, settings: OmeBackendSettings, fewest: int) -> Finding:
    """Whether quota, budget and queue leave room for a trial.

    Args:
        cluster: Where to look.
        settings: Of the backend.
        fewest: GPUs of the smallest configuration.

    Raises:
        ApiError: the cluster does not tell.
    """
    budget = settings.gpu_budget
    if budget is not None and budget < fewest:
        return failed(
            f"backend.gpu_budget={budget}, and the smallest configuration needs {fewest} GPUs",
            "raise it, or lower tp, pp or dp in the space",
        )
    if settings.local_queue is not None and (trouble := _queue(cluster, settings.local_queue)) is not None:
        return trouble
    try:
        found = list(limits(cluster))
    except ApiError as error:
        if error.status != _FORBIDDEN:
            raise
        return skipped(f"the ResourceQuotas of namespace {cluster.namespace} may not be seen by this user")
    keys = gpu_keys(settings.gpu_resource)
    needs = dict.fromkeys(keys, fewest) | dict.fromkeys(_ONE_EACH, 1)
    bounds = [limit for limit in found if needs.get(limit.key)]
    for limit in bounds:
        need = needs[limit.key]
        seen = f"ResourceQuota {limit.quota} allows {limit.hard} {limit.key} in namespace {cluster.namespace}, a trial needs {need}"
        if limit.hard < need and not limit.scoped:
            return failed(seen, "have it raised, or choose another namespace by backend.namespace")
        if limit.hard - limit.used < need:
            held = f"{seen}; {limit.used} are in use"
            return warning(held, "trials will wait until others end, for at most backend.queue_timeout_s")
    most = min((limit.hard for limit in bounds if limit.key in keys and not limit.scoped), default=None)
    if budget is not None and most is not None and budget > most:
        return warning(
            f"backend.gpu_budget={budget} is more than the {most} GPUs that the quota of namespace {cluster.namespace} allows",
            f"set backend.gpu_budget={most}, or have the quota raised",
        )
    told = ", ".join(f"{limit.used} of {limit.hard} {limit.key} in use" for limit in bounds)
    return ok(told or f"no ResourceQuota limits trials in namespace {cluster.namespace}")


def _queue(cluster: Cluster, name: str) -> Finding | None:
    """What is wrong with Kueue's queue: a pod whose queue does not exist is never let go."""
    where = f"backend.local_queue={name}"
    try:
        version = inside(cluster.ask(f"/apis/{_KUEUE}"), "preferredVersion", "version")
        queue = cluster.get(Resource(_KUEUE, str(version), "localqueues", "LocalQueue"), name, PATIENCE_S)
    except ApiError as error:
        if error.status == _FORBIDDEN:
            return None
        if error.status != 404:
            raise
        return failed(f"{where}, and the cluster has no Kueue to heed it", "install Kueue, or leave backend.local_queue out")
    if queue is None:
        return failed(f"{where}: there is no such LocalQueue in namespace {cluster.namespace}", "`kubectl get localqueues` lists them")
    return None
