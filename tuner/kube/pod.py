"""What a pod's status says about one of its containers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from tuner.kube.errors import one_line
from tuner.kube.resources import Object, condition, inside

DISRUPTED = "DisruptionTarget"
_FAILED_FROM_OUTSIDE = {
    "Evicted",
    "Preempting",
    "Preempted",
    "Terminated",
    "NodeShutdown",
    "NodeLost",
    "NodeAffinity",
    "TopologyAffinityError",
    "UnexpectedAdmissionError",
}
"""`status.reason` of pods that the kubelet or a controller ended [k8s.io/kubernetes pkg/kubelet]."""

_IMAGE_WAITS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"}
)
_CONFIG_WAITS = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError", "PreStartHookError"}
)
"""Reasons for which containers wait [kubelet, pkg/kubelet/images/types.go and pkg/kubelet/kuberuntime]."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended.

    Attributes:
        code: Exit code as the shell counts it; None where the kubelet does not know.
        reason: `Error`, `Completed`, `OOMKilled`, `StartError`, ...
        message: The end of its log or of its termination message.
    """

    code: int | None
    reason: str
    message: str

    @property
    def oom_killed(self) -> bool:
        """Whether the kernel killed it for want of main memory."""
        return self.reason == "OOMKilled"

    @property
    def never_started(self) -> bool:
        """Whether its program could not be started at all: containerd's and CRI-O's words."""
        return self.reason in ("StartError", "ContainerCannotRun", "CreateContainerError", "RunContainerError")


@dataclass(frozen=True, slots=True)
class PodState:
    """One look at a pod.

    Attributes:
        name: Its name.
        uid: Its uid.
        node: The node that it was given; empty while it waits for one.
        address: Its IP address; empty while it has none.
        phase: As the API has it.
        gated: Whether a queue holds it back (scheduling gates).
        unschedulable: What the scheduler says why no node can take it now; empty where it does not say so.
        disturbed: Who else ended it (eviction, preemption, a lost node); empty where nobody did.
        deleting: Whether its deletion has been asked for.
        waiting: Why the container, or an init container before it, does not run: `CrashLoopBackOff`, `ContainerCreating`.
        waiting_message: Details to `waiting`.
        running: Whether the container runs.
        ready: Whether it passes its readiness probe.
        restarts: How often the container was started again.
        ended: How it ended last; None where it never did.
        init_failed: How an init container failed last; empty where none did.
    """

    name: str
    uid: str
    node: str
    address: str
    phase: str
    gated: bool
    unschedulable: str
    disturbed: str
    deleting: bool
    waiting: str
    waiting_message: str
    running: bool
    ready: bool
    restarts: int
    ended: Ended | None
    init_failed: str

    @classmethod
    def of(cls, pod: Object, container: str) -> Self:
        """From a pod's object.

        Args:
            pod: The object.
            container: Name of the container that matters; empty takes the first.
        """
        status = pod.get("status") or {}
        own = [s for s in status.get("containerStatuses") or () if not container or s.get("name") == container]
        main = own[0] if own else {}
        init = status.get("initContainerStatuses") or []
        scheduled = condition(pod, "PodScheduled") or {}
        waits: Object = next((s["state"]["waiting"] for s in [*init, main] if inside(s, "state", "waiting")), {})
        last = inside(main, "state", "terminated") or inside(main, "lastState", "terminated")
        placed = scheduled.get("status") != "False"
        return cls(
            name=str(inside(pod, "metadata", "name") or ""),
            uid=str(inside(pod, "metadata", "uid") or ""),
            node=str(inside(pod, "spec", "nodeName") or ""),
            address=str(status.get("podIP") or ""),
            phase=str(status.get("phase") or "Pending"),
            gated=not placed and scheduled.get("reason") == "SchedulingGated",
            unschedulable=one_line(str(scheduled.get("message") or "no node can take it"))
            if not placed and scheduled.get("reason") != "SchedulingGated"
            else "",
            disturbed=_disturbed(pod),
            deleting=inside(pod, "metadata", "deletionTimestamp") is not None,
            waiting=str(waits.get("reason") or ""),
            waiting_message=one_line(str(waits.get("message") or "")),
            running=inside(main, "state", "running") is not None,
            ready=main.get("ready") is True,
            restarts=int(main.get("restartCount") or 0),
            ended=None if last is None else _ended(last),
            init_failed=next((text for s in init if (text := _init_failure(s))), ""),
        )

    @property
    def lacks_image(self) -> bool:
        """Whether its image cannot be had, for now or for good: `waiting_message` has the registry's answer."""
        return self.waiting in _IMAGE_WAITS

    @property
    def cannot_be_made(self) -> bool:
        """Whether the kubelet fails to make or to start its container, and goes on trying."""
        return self.waiting in _CONFIG_WAITS

    @property
    def started(self) -> bool:
        """Whether its container has been started."""
        return self.running or self.ended is not None


def _ended(last: Object) -> Ended:
    reason = str(last.get("reason") or "")
    # the kubelet lost sight of it, and puts 137 for want of a code
    code = None if reason == "ContainerStatusUnknown" else last.get("exitCode")
    return Ended(code, reason, str(last.get("message") or ""))


def _disturbed(pod: Object) -> str:
    status = pod.get("status") or {}
    disruption = condition(pod, DISRUPTED)
    if disruption is not None and disruption.get("status") == "True":
        return one_line(f"{disruption.get('reason') or 'disrupted'}: {disruption.get('message') or 'the cluster ended the pod'}")
    reason = str(status.get("reason") or "")
    # `OutOfnvidia.com/gpu`: the node gave away what the scheduler had counted on
    if status.get("phase") == "Failed" and (reason in _FAILED_FROM_OUTSIDE or reason.startswith("OutOf")):
        return one_line(f"{reason}: {status.get('message') or 'the cluster ended the pod'}")
    return ""


def _init_failure(status: Object) -> str:
    ended = inside(status, "state", "terminated") or inside(status, "lastState", "terminated")
    if ended is None or ended.get("exitCode") == 0:
        return ""
    return one_line(f"{status.get('name')} ended with exit code {ended.get('exitCode')}: {ended.get('message') or ended.get('reason')}")
