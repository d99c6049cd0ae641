"""The Job that runs the load generator for one load level."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from tuner.benchmark.driver_process import GRACE_S, READY_S
from tuner.benchmark.job_request import LevelRequest
from tuner.benchmark_settings import JobSettings
from tuner.kube.merge_patch import merged
from tuner.kube.resources import JOB

CONTAINER = "load-generator"
WORKER = ("python", "-m", "tuner.benchmark.job_worker")

RESOURCES: Mapping[str, Mapping[str, str]] = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "4Gi"}}
"""genai-bench keeps one core busy and needs well below 1 GiB for common tokenizers. No limit on CPU: it would delay its timestamps."""

STOP_S = 5
KEPT_S = 600
"""Seconds after its end for which the cluster keeps a Job that nobody deletes."""
SLACK_S = 60.0
USER = 65532
"""Any user but root; named here because the image's own may be root."""

_GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


@dataclass(frozen=True, slots=True)
class ModelMount:
    """The model's folder on the nodes that have it: there is a tokenizer in it.

    Attributes:
        path: Absolute path of the folder on the node (`spec.storage.path` of OME's model), the same in the pod, read-only.
        node_selector: Labels of the nodes that have it.
    """

    path: str
    node_selector: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Marks:
    """By which a Job is found again, and known as its owner's: see docs/kubernetes.md."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


MarksFor = Callable[[float], Marks]
"""The marks of an object that is made now and must not be taken for abandoned within so many seconds."""


def level_s(max_time_s: float) -> float:
    """Seconds from the start of the container after which its level must have ended."""
    return READY_S + max_time_s + GRACE_S + SLACK_S


def job(request: LevelRequest, settings: JobSettings, namespace: str, marks_for: MarksFor, mount: ModelMount | None) -> dict[str, Any]:
    """The manifest, under a new name.

    Args:
        request: The level.
        settings: The keys of `benchmark.job`.
        namespace: Where it is to be.
        marks_for: Gives its labels and annotations.
        mount: The model's folder where the tokenizer is that of the model; else None.
    """
    deadline_s = ceil(settings.start_timeout_s + level_s(request.load.max_time_s))
    marks = marks_for(deadline_s + KEPT_S)
    manifest = {
        "apiVersion": JOB.api_version,
        "kind": JOB.kind,
        "metadata": {
            "name": f"tuner-load-{secrets.token_hex(4)}",
            "namespace": namespace,
            "labels": dict(marks.labels),
            "annotations": dict(marks.annotations),
        },
        "spec": {
            "backoffLimit": 0,  # a second attempt would measure a server that the first has loaded
            "activeDeadlineSeconds": deadline_s,
            "ttlSecondsAfterFinished": KEPT_S,
            "template": {"metadata": {"labels": dict(marks.labels)}, "spec": _pod(request, settings, mount)},
        },
    }
    result: dict[str, Any] = merged(manifest, settings.patch)
    return result


def _pod(request: LevelRequest, settings: JobSettings, mount: ModelMount | None) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}]
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": STOP_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(request, settings, mounts)],
        "volumes": volumes,
    }
    node_selector = dict(settings.node_selector)
    if mount is not None:
        volumes.append({"name": "model", "hostPath": {"path": mount.path, "type": "Directory"}})
        mounts.append({"name": "model", "mountPath": mount.path, "readOnly": True})
        node_selector = {**mount.node_selector, **node_selector}
        pod["tolerations"] = [_GPU_TAINT]  # nodes that have the model are kept for pods with GPUs
    if node_selector:
        pod["nodeSelector"] = node_selector
    if settings.service_account is not None:
        pod["serviceAccountName"] = settings.service_account
    return pod


def _container(request: LevelRequest, settings: JobSettings, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    # Kubernetes expands $(NAME) in a command, and takes $$ for $
    return {
        "name": CONTAINER,
        "image": settings.image,
        "command": [*WORKER, request.to_str().replace("$", "$$")],
        "env": [{"name": "HOME", "value": "/tmp"}],  # of a user that the image does not know
        "resources": settings.model_dump(include={"resources"})["resources"] or RESOURCES,
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
    }
