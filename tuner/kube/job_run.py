"""One Job with one pod, from its creation to the end of its pod."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tuner.interrupts import interrupts_deferred
from tuner.kube.cluster import PATIENCE_S, Cluster, labelled
from tuner.kube.errors import ApiError, one_line
from tuner.kube.job_log import JobLog
from tuner.kube.mirror import Mirror
from tuner.kube.pod import PodState
from tuner.kube.resources import EVENT, JOB, POD, Object, inside, name_of

REMOVAL_S = 60.0
"""Seconds beyond its grace in which a pod must be gone. One that stays is left to the cluster: the Job has its own deadline."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
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
        self._may_exist = False

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
        return labelled({"job-name": self._name})

    def _create(self) -> None:
        """Creates the Job once, however often the request must be repeated: the name is the Job's alone."""
        deadline = time.monotonic() + PATIENCE_S
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                self._cluster.create(JOB, self._manifest)
                self._may_exist = True
                return
            except ApiError as error:
                if error.status == 409 and self._may_exist:
                    return
                if not error.passing:
                    raise
                # the request may have been carried out; asking comes first, for a quota may have no room for a second Job
                self._may_exist = True
                with contextlib.suppress(ApiError):
                    if self._cluster.get(JOB, self._name, patience_s=0.0) is not None:
                        return
                wait_s = error.retry_after_s or pause_s * random.uniform(0.5, 1.5)
                if time.monotonic() + wait_s > deadline:
                    raise
            time.sleep(wait_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _remove(self) -> None:
        with interrupts_deferred():
            if self._log is not None:
                self._log.close()
            if self._pods is not None:
                self._pods.close()
            if not self._may_exist:
                return
            try:
                self._cluster.delete(JOB, self._name)
                gone = self._wait_until_gone()
            except ApiError as error:
                _LOG.warning("Job %s of %s could not be deleted (%s): `tuner clean` does it later", self._name, self._cluster.title, error)
                return
        self._may_exist = False
        if not gone:
            _LOG.warning("Job %s of %s is being deleted, but its pod stays: see `kubectl describe`", self._name, self._cluster.title)

    def _wait_until_gone(self) -> bool:
        grace_s = inside(self._manifest, "spec", "template", "spec", "terminationGracePeriodSeconds") or 30
        deadline = time.monotonic() + grace_s + REMOVAL_S
        pause_s = _FIRST_PAUSE_S
        while self._cluster.list(POD, labels=self._selector)[0] or self._cluster.get(JOB, self._name) is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return True
