"""Watches all that tells how a trial's server fares: its InferenceService, Deployment, pods and their events."""

from __future__ import annotations

import threading

from tuner.backends.ome.verdict import View
from tuner.kube.cluster import Cluster
from tuner.kube.errors import ApiError
from tuner.kube.mirror import Mirror
from tuner.kube.resources import DEPLOYMENT, EVENT, INFERENCE_SERVICE, POD, Object, inside, name_of


class Sight:
    """Four watches, for as long as a deployment lives.

    Args:
        cluster: Where it is.
        name: Name of the InferenceService.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._change = threading.Event()
        changed = self._change.set
        own = f"metadata.name={name}"

        def concerns(event: Object) -> bool:
            about = str(inside(event, "involvedObject", "name") or "")
            return about == name or about.startswith(f"{name}-")

        self._service = Mirror(cluster, INFERENCE_SERVICE, fields=own, changed=changed)
        self._deployment = Mirror(cluster, DEPLOYMENT, fields=f"{own}-engine", changed=changed)
        self._pods = Mirror(cluster, POD, labels=f"{INFERENCE_SERVICE.pod_label}={name},component=engine", changed=changed)
        # a field selector names one object, and the events are those of three kinds
        self._events = Mirror(cluster, EVENT, keep=concerns, changed=changed)
        self._mirrors = (self._service, self._deployment, self._pods, self._events)

    def view(self) -> View | None:
        """What is known now; None until all has been listed once."""
        if not all(mirror.synced for mirror in self._mirrors):
            return None
        services, deployments = self._service.objects, self._deployment.objects
        return View(services[0] if services else None, deployments[0] if deployments else None, self._pods.objects, self._events.objects)

    def pod(self) -> str | None:
        """The name of the pod that has been given a node and is to stay; None while there is none."""
        for pod in self._pods.objects:
            if inside(pod, "spec", "nodeName") and inside(pod, "metadata", "deletionTimestamp") is None:
                return name_of(pod)
        return None

    def wait(self, timeout_s: float) -> None:
        """Returns at the next change, or after `timeout_s` seconds."""
        self._change.wait(timeout_s)
        self._change.clear()

    @property
    def trouble(self) -> tuple[float, ApiError] | None:
        """Since when one of the watches has failed, by the monotonic clock, and its error; the longest."""
        found = [mirror.trouble for mirror in self._mirrors]
        return min((trouble for trouble in found if trouble is not None), key=lambda trouble: trouble[0], default=None)

    def close(self) -> None:
        """Ends the watches."""
        for mirror in self._mirrors:
            mirror.close()
