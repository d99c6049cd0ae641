"""Whether the pod of a load generator will still come to something, and if not, whose fault it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tuner.benchmark_settings import JobSettings
from tuner.errors import Systemic, Transient, TrialFailure
from tuner.kube.job_run import Warned
from tuner.kube.pod import PodState

BAD_IMAGE = "InvalidImageName"

IMAGE_S = 60.0
CONFIG_S = 30.0
REFUSED_S = 15.0
"""How long a complaint must last before it counts: the kubelet and the Job controller try again by themselves."""

EVENTS_S = 5.0
"""Seconds between two looks at the events, where the pod itself does not say why it waits."""

_NO_TUNER = re.compile(r"No module named '?tuner")
_NO_FOLDER = "hostPath type check failed"  # [kubelet, pkg/volume/host_path]
_QUOTA = "exceeded quota"  # [kube-apiserver, plugin/pkg/admission/resourcequota]


@dataclass(slots=True)
class Judge:
    """Judges one Job's pod at moments that follow each other.

    Attributes:
        settings: The keys of `benchmark.job`.
        level_s: Seconds from the start of the container after which it must have told its result.
        warnings: Asks for the warning events of the Job and its pod.
    """

    settings: JobSettings
    level_s: float
    warnings: Callable[[], Sequence[Warned]]
    _since: dict[str, float] = field(default_factory=dict)
    _warned: Sequence[Warned] = ()

    def look(self, pod: PodState | None, now: float) -> TrialFailure | None:
        """What has gone wrong for good; None while nothing has.

        Args:
            pod: The pod, while it has not ended by itself.
            now: Monotonic time in seconds.
        """
        waited_s = self._lasts("job", now)
        if pod is None:
            if "pod" in self._since:
                return Transient("somebody removed the load generator's pod")
            return self._refused(now) or self._late(waited_s, self._last_warning() or "it has no pod yet")
        self._lasts("pod", now)
        if pod.disturbed:
            return Transient(f"the cluster ended the load generator ({pod.disturbed})")
        if pod.deleting:
            return Transient("somebody removed the load generator's pod")
        if pod.phase == "Failed" and not pod.started:
            return Transient("the node did not admit the load generator's pod")
        if pod.started:
            if self._lasts("started", now) < self.level_s:
                return None
            return Transient(f"the load generator did not end its load level within {self.level_s:g} s")
        return self._complains(pod, now) or self._late(waited_s, self._why(pod))

    def ended(self, pod: PodState, tail: str) -> TrialFailure:
        """Why a pod ended without telling its result.

        Args:
            pod: The pod, its container ended.
            tail: The last lines of its log.
        """
        assert pod.ended is not None
        what = pod.ended.message or pod.ended.reason
        if pod.disturbed:
            return Transient(f"the cluster ended the load generator ({pod.disturbed})")
        if pod.ended.oom_killed:
            return Systemic("benchmark.job.resources: the load generator ran out of memory (OOMKilled); raise limits.memory", tail)
        if pod.ended.never_started:
            return self._useless(" ".join(what.split())[-200:], tail)
        if found := _NO_TUNER.search(tail):
            return self._useless(found[0], tail)
        if pod.ended.code == 0:
            return Transient("the load generator ended, but its results could not be read from its log", tail)
        return Transient(f"the load generator ended by itself with exit code {pod.ended.code}", tail)

    def _useless(self, why: str, tail: str) -> TrialFailure:
        image = self.settings.image
        return Systemic(f"benchmark.job.image: {image} cannot run the load generator ({why}); build it from deploy/Dockerfile", tail)

    def _complains(self, pod: PodState, now: float) -> TrialFailure | None:
        """A kubelet that cannot make the container says so for as long as it goes on trying."""
        what = f"{pod.waiting}: {pod.waiting_message}" if pod.waiting_message else pod.waiting
        if pod.waiting == BAD_IMAGE or self._holds("image", pod.lacks_image, now) >= IMAGE_S:
            fix = "check its name and tag, and name a benchmark.job.service_account with imagePullSecrets if it is private"
            return Systemic(f"benchmark.job.image: {self.settings.image} cannot be pulled ({what}); {fix}")
        if self._holds("config", pod.cannot_be_made, now) >= CONFIG_S:
            return Systemic(f"benchmark.job: the load generator's container cannot be made ({what}); check its image and its patch")
        if pod.node:
            for warned in self._look_at_events(now):
                if _NO_FOLDER in warned.message:
                    fix = "name a tokenizer of the hub or of the image"
                    return Systemic(f"benchmark.job.tokenizer: the node does not have the model's folder ({warned.message}); {fix}")
        return None

    def _refused(self, now: float) -> TrialFailure | None:
        """A pod that may not be made shows in the events of its Job only."""
        refusals = [warned for warned in self._look_at_events(now) if warned.reason == "FailedCreate" and _QUOTA not in warned.message]
        if not refusals or self._lasts("refused", now) < REFUSED_S:
            return None
        message = refusals[-1].message
        if "hostPath" in message:
            fix = "its policy forbids the model's folder: name a tokenizer of the hub or of the image"
            return Systemic(f"benchmark.job.tokenizer: the namespace refuses the load generator's pod ({message}); {fix}")
        return Systemic(f"benchmark.job: the namespace refuses the load generator's pod ({message}); change its resources or patch")

    def _why(self, pod: PodState) -> str:
        if pod.unschedulable:
            return pod.unschedulable
        if pod.lacks_image:
            return f"{pod.waiting}: {pod.waiting_message}"
        return self._last_warning() or pod.waiting or "no node yet"

    def _late(self, waited_s: float, why: str) -> TrialFailure | None:
        if waited_s < self.settings.start_timeout_s:
            return None
        fix = "make room, or change benchmark.job.resources, node_selector or start_timeout_s"
        return Transient(f"the load generator was not started within {self.settings.start_timeout_s:g} s ({why}): {fix}")

    def _look_at_events(self, now: float) -> Sequence[Warned]:
        if self._lasts("events", now) >= EVENTS_S:
            self._warned = self.warnings()
            self._since["events"] = now
        return self._warned

    def _last_warning(self) -> str:
        return f"{self._warned[-1].reason}: {self._warned[-1].message}" if self._warned else ""

    def _holds(self, complaint: str, seen: bool, now: float) -> float:
        """Seconds for which a complaint has been heard without a break."""
        if not seen:
            self._since.pop(complaint, None)
            return -1.0
        return self._lasts(complaint, now)

    def _lasts(self, what: str, now: float) -> float:
        return now - self._since.setdefault(what, now)
