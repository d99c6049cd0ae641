"""Renews the date until which an object may stay if nobody can tell whether its owner lives: a sweeper on another host cannot."""

from __future__ import annotations

import contextlib
import threading

from tuner.backends.ome.manifest import Lease
from tuner.kube.cluster import Cluster
from tuner.kube.errors import ApiError
from tuner.kube.resources import Resource


class LeaseKeeper:
    """Writes a new date at each third of the lease, until it is closed.

    Args:
        cluster: Where the object is.
        resource: Its kind.
        name: Its name.
        owner: `Owner.to_str`.
        lease_s: Length of the lease, in seconds.
    """

    def __init__(self, cluster: Cluster, resource: Resource, name: str, owner: str, lease_s: float) -> None:
        self._cluster = cluster
        self._resource = resource
        self._name = name
        self._owner = owner
        self._lease_s = lease_s
        self._closed = threading.Event()
        threading.Thread(target=self._keep, name=f"lease of {name}", daemon=True).start()

    def close(self) -> None:
        """Ends it."""
        self._closed.set()

    def _keep(self) -> None:
        while not self._closed.wait(self._lease_s / 3):
            annotations = Lease.of(self._owner, self._lease_s).annotations
            with contextlib.suppress(ApiError):  # gone, or the API is away: the next third is soon enough
                self._cluster.patch(self._resource, self._name, {"metadata": {"annotations": annotations}})
