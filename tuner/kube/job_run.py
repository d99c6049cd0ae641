"""One Job with one pod, from its creation to the end of its pod."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tuner.interrupts import interrupts_deferred
from tuner.kube.cluster import PATIENCE_S, Cluster, labelled
from tuner.kube.creation import create_or_adopt
from tuner.kube.errors import ApiError, one_line
from tuner.kube.job_log import JobLog
from tuner.kube.mirror import Mirror
from tuner.kube.pod import PodState
from tuner.kube.removal import Leftover, remove
from tuner.kube.resources import EVENT, JOB, POD, Object, inside, name_of

REMOVAL_S = 60.0
"""Seconds beyond its grace in which a pod must be gone. One that stays is left to the cluster: the Job has its own deadline."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning event, on the Job or on its pod.

    Attributes:
        reason: In one word: `FailedCreate`, `FailedMount`.
        message: One line.
    """

    reason: str
    message: str


class JobRun:
    """A Job that exists between enter and exit; exit waits until its pod is gone.

    Args:
        cluster: Where it is.
        manifest: The Job, with a name that nothing else has.
        container: Name of the container that matters.
        silence_s: See `JobLog`.
    """

    def __init__(self, cluster: Cluster, manifest: Object, container: str, silence_s: float) -> None:
        self._cluster = cluster
        self._manifest = manifest
        self._container = container
        self._silence_s = silence_s
        self._name = name_of(manifest)
        self._pods: Mirror | None = None
        self._log: JobLog | None = None
        self._may_exist = True  # an interrupted request may be carried out all the same

    def __enter__(self) -> Self:
        """Creates it.

        Raises:
            ApiError: the server refused, or did not answer.
        """
        try:
            with interrupts_deferred():
                self._create()
            self._pods = Mirror(self._cluster, POD, labels=self._selector)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._remove()

    @property
    def pod(self) -> PodState | None:
        """The newest look at its pod; None while there is none, and when it is gone."""
        found = self._pods.objects if self._pods is not None else []
        return PodState.of(found[0], self._container) if found else None

    @property
    def trouble(self) -> ApiError | None:
        """Why nothing is seen of the pod at the moment; None while all is well."""
        trouble = self._pods.trouble if self._pods is not None else None
        return None if trouble is None else trouble[1]

    def log(self, pod: PodState) -> JobLog:
        """The log of its pod, whose container has been started."""
        if self._log is None:
            self._log = JobLog(self._cluster, pod.name, self._container, self._silence_s)
        return self._log

    def warnings(self) -> Sequence[Warned]:
        """The warning events on the Job and its pod, oldest first; none where the server does not tell."""
        names = [self._name, *(name_of(pod) for pod in (self._pods.objects if self._pods is not None else ()))]
        events: list[Object] = []
        for name in names:
            with contextlib.suppress(ApiError):
                events += self._cluster.list(EVENT, fields=f"involvedObject.name={name},type=Warning", patience_s=0.0)[0]
        events.sort(key=lambda event: str(event.get("lastTimestamp") or inside(event, "metadata", "creationTimestamp") or ""))
        return [Warned(str(event.get("reason")), one_line(str(event.get("message")))) for event in events]

    @property
    def _selector(self) -> str:
        return labelled({JOB.pod_label: self._name})

    def _create(self) -> None:
        try:
            create_or_adopt(self._cluster, JOB, self._manifest, PATIENCE_S)
        except ApiError as error:
            self._may_exist = error.passing
            raise
        self._may_exist = True

    def _remove(self) -> None:
        with interrupts_deferred():
            if self._log is not None:
                self._log.close()
            if self._pods is not None:
                self._pods.close()
            if not self._may_exist:
                return
            grace_s = inside(self._manifest, "spec", "template", "spec", "terminationGracePeriodSeconds") or 30
            why = remove(self._cluster, Leftover(JOB, self._name), grace_s + REMOVAL_S)
        self._may_exist = False
        if why:
            _LOG.warning(
                "Job %s of %s cannot be removed now: %s; `tuner clean backend=ome` removes it later", self._name, self._cluster.title, why
            )
