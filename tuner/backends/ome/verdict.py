"""From what is seen of a trial's InferenceService, Deployment, pods and events to what becomes of the trial.

The rules are those of docs/kubernetes.md. OME's own status hides most failures, and stays empty for some: pods and events decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tuner.backends.ome.failures import image_failure, resolution_failure
from tuner.backends.ome.manifest import CONTAINER, replicas_ready
from tuner.errors import Systemic, Transient, TrialFailure
from tuner.kube.errors import one_line
from tuner.kube.pod import PodState
from tuner.kube.resources import Object, condition, inside, uid_of

Phase = Literal["resolving", "queued", "pulling", "starting"]

RESOLUTION_S = 30.0
"""OME repeats an event of a failed resolution with growing pauses; what went away by itself is not repeated."""
NOTHING_S = 120.0
"""Without a Deployment, a pod or an event by then nobody works on the InferenceService."""
NO_IMAGE_S = 10.0
IMAGE_S = 60.0
CONFIG_S = 30.0
INIT_S = 30.0
FORBIDDEN_S = 10.0
"""How long a complaint must last before it counts: the kubelet and the controllers try again by themselves. A registry that answers that it
has no such image will go on to say so."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each phase may last, in seconds; `restarts` is a number."""

    queue_s: float
    pull_s: float
    start_s: float
    restarts: int


@dataclass(frozen=True, slots=True)
class View:
    """What is known at one moment; None and empty where nothing is there.

    Attributes:
        service: The InferenceService.
        deployment: Its Deployment.
        pods: Its pods.
        events: Events on it, on its Deployment and on its pods.
    """

    service: Object | None = None
    deployment: Object | None = None
    pods: Sequence[Object] = ()
    events: Sequence[Object] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing is decided yet.

    Attributes:
        phase: What it waits for.
        why: In a few words, for people.
    """

    phase: Phase
    why: str


@dataclass(frozen=True, slots=True)
class Serving:
    """OME calls it ready, and its pod is."""

    pod: PodState


@dataclass(frozen=True, slots=True)
class Over:
    """It will never be ready, or is so no more, and the cluster itself tells why."""

    failure: TrialFailure


@dataclass(frozen=True, slots=True)
class Crashed:
    """Its container ended; the engine tells why from the log."""

    pod: PodState


@dataclass(frozen=True, slots=True)
class Disturbed:
    """Somebody else ended it.

    Attributes:
        what: A whole sentence.
    """

    what: str


@dataclass(frozen=True, slots=True)
class Late:
    """Its container runs, but for too long without being ready."""


Verdict = Waiting | Serving | Over | Crashed | Disturbed | Late


@dataclass(slots=True)
class Judge:
    """Judges one deployment at moments that follow each other.

    Attributes:
        uid: Of the InferenceService.
        patience: How long each phase may last.
        spent: Seconds spent in each phase so far.
    """

    uid: str
    patience: Patience
    spent: dict[Phase, float] = field(default_factory=dict)
    _first_seen: dict[str, float] = field(default_factory=dict)
    _last_look: float | None = None
    _last_phase: Phase = "resolving"
    _pod: str = ""
    _served: int | None = None  # restarts of the container when it was ready first

    def look(self, view: View, now: float) -> Verdict:
        """What becomes of the trial.

        Args:
            view: What is seen.
            now: Monotonic time in seconds.
        """
        if self._last_look is not None:
            self.spent[self._last_phase] = self.spent.get(self._last_phase, 0.0) + now - self._last_look
        self._last_look = now
        verdict = self._gone(view) or self._judge(view, now)
        if isinstance(verdict, Waiting):
            self._last_phase = verdict.phase
            return self._in_time(verdict)
        if isinstance(verdict, Serving) and self._served is None:
            self._served = verdict.pod.restarts
        return verdict

    def _gone(self, view: View) -> Verdict | None:
        if view.service is None:
            return Disturbed("Somebody deleted the server's InferenceService.")
        if uid_of(view.service) != self.uid:
            return Disturbed("Somebody replaced the server's InferenceService.")
        if inside(view.service, "metadata", "deletionTimestamp") is not None:
            return Disturbed("Somebody deletes the server's InferenceService.")
        return None

    def _judge(self, view: View, now: float) -> Verdict:
        pods = [PodState.of(pod, CONTAINER) for pod in view.pods]
        mine = next((pod for pod in pods if pod.uid == self._pod), None)
        if self._pod and mine is None:
            return Disturbed(self._pod_gone(view))
        # a pod that is being removed may still be listed beside the one that takes its place
        pod = mine or next((pod for pod in pods if not pod.deleting), pods[0] if pods else None)
        if pod is None:
            return self._without_pod(view, now)
        if pod.node:
            self._pod = pod.uid
        return self._of_pod(view, pod, now)

    def _of_pod(self, view: View, pod: PodState, now: float) -> Verdict:
        if pod.disturbed:
            return Disturbed(f"The cluster ended the server's pod ({pod.disturbed}).")
        if pod.deleting:
            return Disturbed("Somebody deletes the server's pod.")
        if pod.ended is not None and pod.ended.never_started:
            return Over(_not_started(pod.ended.message))
        if self._crashed(pod):
            return Crashed(pod)
        if pod.init_failed and self._lasts("init", now, INIT_S):
            return Over(Transient(f"an init container of the server's pod fails ({pod.init_failed}): see the runtime and the model agent"))
        if not pod.init_failed:
            self._first_seen.pop("init", None)
        if not pod.node:
            return self._queued(pod)
        if (verdict := self._complains(pod, now)) is not None:
            return verdict
        if pod.running and pod.ready and view.service is not None and replicas_ready(view.service):
            return Serving(pod)
        if self._served is not None:
            why = "OME does not call it so" if pod.ready else "its readiness probe fails under load"
            return Disturbed(f"The server is not ready any more: {why}.")
        if pod.running and self._stalled(view):
            return Late()
        if pod.running:
            return Waiting("starting", f"the server starts on {pod.node}")
        return Waiting("starting" if pod.started else "pulling", f"{pod.waiting or 'ContainerCreating'} on {pod.node}")

    def _crashed(self, pod: PodState) -> bool:
        if pod.ended is None:
            return False
        if self._served is not None:
            return pod.restarts > self._served or not pod.running
        # a pod that does not restart its containers has had its last
        last = self.patience.restarts == 0 or pod.phase in ("Failed", "Succeeded")
        return pod.restarts > self.patience.restarts or (last and not pod.running)

    def _complains(self, pod: PodState, now: float) -> Verdict | None:
        """A kubelet that cannot make the container says so for as long as it goes on trying."""
        if pod.lacks_image:
            failure = image_failure(pod.waiting, pod.waiting_message)
            if self._lasts("image", now, NO_IMAGE_S if isinstance(failure, Systemic) else IMAGE_S):
                return Over(failure)
            return Waiting("pulling", f"{pod.waiting}: {pod.waiting_message}")
        if pod.cannot_be_made:
            if "executable file not found" in pod.waiting_message:
                return Over(_not_started(pod.waiting_message))
            if self._lasts("config", now, CONFIG_S):
                what = f"{pod.waiting}: {pod.waiting_message}"
                return Over(
                    Systemic(f"the server's container cannot be made ({what}): check backend.environment, backend.patch and the runtime")
                )
            return Waiting("pulling", f"{pod.waiting}: {pod.waiting_message}")
        self._first_seen.pop("image", None)
        self._first_seen.pop("config", None)
        return None

    def _queued(self, pod: PodState) -> Verdict:
        if pod.gated:
            return Waiting("queued", "held back by its queue (SchedulingGated)")
        if pod.unschedulable:
            return Waiting("queued", pod.unschedulable)
        return Waiting("queued", "no node yet")

    def _without_pod(self, view: View, now: float) -> Verdict:
        refused = condition(view.deployment or {}, "ReplicaFailure")
        if refused is not None and refused.get("status") == "True":
            message = one_line(str(refused.get("message") or refused.get("reason")))
            if "exceeded quota" in message:  # [kube-apiserver, plugin/pkg/admission/resourcequota]
                return Waiting("queued", message)
            if self._lasts("forbidden", now, FORBIDDEN_S):
                return Over(Systemic(f"the cluster refuses the server's pod ({message}): check backend.patch and the namespace's policies"))
            return Waiting("resolving", message)
        if view.deployment is not None:
            return Waiting("resolving", "its Deployment has no pod yet")
        complaint = _complaint(view, self.uid)
        if complaint is not None:
            if self._lasts("resolution", now, RESOLUTION_S):
                return Over(complaint)
            return Waiting("resolving", str(complaint))
        self._first_seen.pop("resolution", None)
        return Waiting("resolving", "OME makes its Deployment")

    def _in_time(self, waiting: Waiting) -> Verdict:
        spent, patience = self.spent.get(waiting.phase, 0.0), self.patience
        match waiting.phase:
            case "resolving" if spent >= NOTHING_S:
                return Over(
                    Transient(f"nothing has come of the InferenceService for {spent:.0f} s ({waiting.why}): does OME's controller run?")
                )
            case "queued" if spent >= patience.queue_s:
                what = f"no place for the server within {patience.queue_s:g} s ({waiting.why})"
                return Over(Transient(f"{what}: wait until GPUs are free, or raise backend.queue_timeout_s"))
            case "pulling" if spent >= patience.pull_s:
                what = f"the server's container was not started within {patience.pull_s:g} s ({waiting.why})"
                return Over(Transient(f"{what}: see `kubectl describe pod`, or raise backend.pull_timeout_s"))
            case "starting" if spent >= patience.start_s:
                return Late()
        return waiting

    def _stalled(self, view: View) -> bool:
        """Whether the Deployment has given up. It counts from the pod's creation, waits for GPUs and images included, and 600 s suffice for
        that: only where the start may not take longer is it more than a hint."""
        progress = condition(view.deployment or {}, "Progressing") or {}
        exceeded = progress.get("status") == "False" and progress.get("reason") == "ProgressDeadlineExceeded"
        waited = self.spent.get("queued", 0.0) + self.spent.get("pulling", 0.0)
        deadline_s = inside(view.deployment, "spec", "progressDeadlineSeconds") or 600
        return exceeded and waited < 1.0 and self.patience.start_s <= deadline_s

    def _pod_gone(self, view: View) -> str:
        for event in view.events:
            if event.get("reason") in ("Preempted", "Evicted", "TaintManagerEviction", "NodeNotReady"):
                return (
                    f"The cluster removed the server's pod ({one_line(str(event.get('reason')))}: {one_line(str(event.get('message')))})."
                )
        return "Somebody removed the server's pod."

    def _lasts(self, complaint: str, now: float, seconds: float) -> bool:
        return now - self._first_seen.setdefault(complaint, now) >= seconds


def _not_started(message: str) -> TrialFailure:
    what = one_line(message)
    if "executable file not found" in message or "no such file or directory" in message:
        return Systemic(f"engine.executable: the server's image has no such program ({what}): set it to the server's program")
    return Systemic(f"the server's container cannot be started ({what}): check backend.patch and the runtime")


def _complaint(view: View, uid: str) -> TrialFailure | None:
    """The last warning of OME's on the InferenceService that says why nothing comes of it."""
    own = [event for event in view.events if inside(event, "involvedObject", "uid") in (uid, None, "") and event.get("type") == "Warning"]
    own = [event for event in own if inside(event, "involvedObject", "kind") == "InferenceService"]
    own.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or inside(event, "metadata", "creationTimestamp")))
    for event in reversed(own):
        failure = resolution_failure(str(event.get("reason")), one_line(str(event.get("message"))))
        if failure is not None:
            return failure
    return None
