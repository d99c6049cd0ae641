"""Objects as a cluster with OME shows them, for tests of what tuner makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UID = "0f0e2c1e-0000-4000-8000-000000000001"
NODE = "gpu-node-1"
CUDA = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


def service(ready: bool = False, uid: str = UID, deleting: bool = False, **status: Any) -> dict[str, Any]:
    """An InferenceService in one of the states of ome.md section 8: initialising, or ready."""
    word = "True" if ready else "False"
    conditions = [
        {"type": "EngineReady", "status": word, "reason": "MinimumReplicasAvailable" if ready else "Initializing"},
        {"type": "IngressReady", "status": "True", "reason": "IngressDisabled"},
        {"type": "Ready", "status": word},
    ]
    metadata: dict[str, Any] = {"name": "tuner-x", "uid": uid}
    if deleting:
        metadata["deletionTimestamp"] = "2026-11-25T12:00:00Z"
    model = {"transitionStatus": "UpToDate" if ready else "InProgress"}
    return {"metadata": metadata, "status": {"url": "http://tuner-x.tuner:8080", "conditions": conditions, "modelStatus": model} | status}


def pod(
    state: dict[str, Any] | None = None,
    *,
    node: str = NODE,
    ready: bool = False,
    restarts: int = 0,
    last: dict[str, Any] | None = None,
    conditions: Sequence[dict[str, Any]] = (),
    uid: str = "pod-1",
    deleting: bool = False,
    init: Sequence[dict[str, Any]] = (),
    **status: Any,
) -> dict[str, Any]:
    """A pod whose container is in `state`, as `{"running": {}}`."""
    container = {
        "name": "ome-container",
        "ready": ready,
        "restartCount": restarts,
        "state": state or {},
        "lastState": {"terminated": last} if last else {},
    }
    metadata: dict[str, Any] = {"name": f"tuner-x-engine-{uid}", "uid": uid}
    if deleting:
        metadata["deletionTimestamp"] = "2026-11-25T12:00:00Z"
    scheduled = [{"type": "PodScheduled", "status": "True"}] if node else []
    return {
        "metadata": metadata,
        "spec": {"nodeName": node} if node else {},
        "status": {
            "phase": "Pending" if not (state or {}).get("running") else "Running",
            "podIP": "10.0.0.7" if node else "",
            "conditions": [*scheduled, *conditions],
            "containerStatuses": [container] if node else [],
            "initContainerStatuses": list(init),
        }
        | status,
    }


def running(**more: Any) -> dict[str, Any]:
    return pod({"running": {"startedAt": "2026-11-25T12:00:00Z"}}, **more)


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    return pod({"waiting": {"reason": reason, "message": message}}, **more)


def terminated(code: int, reason: str = "Error", message: str = "", **more: Any) -> dict[str, Any]:
    return pod({"terminated": {"exitCode": code, "reason": reason, "message": message}}, **more)


def unschedulable(message: str, reason: str = "Unschedulable") -> dict[str, Any]:
    return pod(node="", conditions=[{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}])


def event(reason: str, message: str, kind: str = "InferenceService", warning: bool = True, uid: str = UID) -> dict[str, Any]:
    return {
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": message,
        "involvedObject": {"kind": kind, "name": "tuner-x", "uid": uid},
        "lastTimestamp": "2026-11-25T12:00:00Z",
    }


def deployment(kind: str = "", status: str = "", reason: str = "", message: str = "") -> dict[str, Any]:
    conditions = [{"type": kind, "status": status, "reason": reason, "message": message}] if kind else []
    return {"metadata": {"name": "tuner-x-engine"}, "spec": {"progressDeadlineSeconds": 600}, "status": {"conditions": conditions}}
