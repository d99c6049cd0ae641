"""What an API server refuses of objects of the built-in kinds beyond types and missing fields, for the double of it."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.metadata import check_labels
from tests.cluster.statuses import Cause

_POD_MAY_CHANGE = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates")
_POD_CHANGE = (
    "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"
)


def check(kind: str, thing: dict[str, Any]) -> list[Cause]:
    """What is wrong with a new object beyond types and missing fields."""
    spec = thing.get("spec") or {}
    if kind == "Pod":
        return _check_containers(spec, "spec")
    if kind not in ("Job", "Deployment", "ReplicaSet"):
        return []
    template = spec["template"]
    causes = check_labels(template["metadata"].get("labels") or {}, "spec.template.labels")
    causes += _check_containers(template["spec"], "spec.template.spec")
    return causes + (_check_restart_policy(template["spec"]) if kind == "Job" else _check_selector(spec))


def _check_restart_policy(spec: dict[str, Any]) -> list[Cause]:
    if (policy := spec["restartPolicy"]) in ("Never", "OnFailure"):
        return []
    message = f'Unsupported value: "{policy}": supported values: "OnFailure", "Never"'
    return [Cause("FieldValueNotSupported", message, "spec.template.spec.restartPolicy")]


def _check_selector(spec: dict[str, Any]) -> list[Cause]:
    labels = spec["template"]["metadata"].get("labels") or {}
    wanted = spec.get("selector", {}).get("matchLabels") or {}
    if all(labels.get(name) == value for name, value in wanted.items()):
        return []
    message = f"Invalid value: {json.dumps(labels)}: `selector` does not match template `labels`"
    return [Cause("FieldValueInvalid", message, "spec.template.metadata.labels")]


def _check_containers(spec: dict[str, Any], path: str) -> list[Cause]:
    if not spec.get("containers"):
        return [Cause("FieldValueRequired", "Required value", f"{path}.containers")]
    causes = []
    names = set()
    volumes = [volume.get("name") for volume in spec.get("volumes") or []]
    for place, container in enumerate(spec["containers"]):
        field = f"{path}.containers[{place}]"
        if not container.get("image"):
            causes.append(Cause("FieldValueRequired", "Required value", f"{field}.image"))
        if container.get("name") in names:
            causes.append(Cause("FieldValueDuplicate", f'Duplicate value: "{container["name"]}"', f"{field}.name"))
        names.add(container.get("name"))
        for number, mount in enumerate(container.get("volumeMounts") or []):
            if mount.get("name") not in volumes:
                causes.append(Cause("FieldValueNotFound", f'Not found: "{mount.get("name")}"', f"{field}.volumeMounts[{number}].name"))
        requests, limits = (container.get("resources", {}).get(side) or {} for side in ("requests", "limits"))
        if (asked := requests.get("nvidia.com/gpu")) != limits.get("nvidia.com/gpu"):
            message = f'Invalid value: "{asked}": must be equal to nvidia.com/gpu limit of {limits.get("nvidia.com/gpu")}'
            causes.append(Cause("FieldValueInvalid", message, f"{field}.resources.requests"))
    return causes


def check_change(kind: str, old: dict[str, Any], new: dict[str, Any]) -> list[Cause]:
    """What of a change is forbidden."""
    if kind == "Pod" and _frozen_pod(old) != _frozen_pod(new):
        return [Cause("FieldValueForbidden", _POD_CHANGE, "spec")]
    if kind == "Pod" and (node := old["spec"].get("nodeName")) and new["spec"].get("nodeName") != node:
        return [Cause("FieldValueForbidden", _POD_CHANGE, "spec")]
    for part in ("template", "selector"):
        if kind == "Job" and old["spec"].get(part) != new["spec"].get(part):
            return [Cause("FieldValueInvalid", f"Invalid value: {json.dumps(new['spec'].get(part))}: field is immutable", f"spec.{part}")]
    if kind == "Deployment" and old["spec"].get("selector") != new["spec"].get("selector"):
        shown = json.dumps(new["spec"].get("selector"))
        return [Cause("FieldValueInvalid", f"Invalid value: {shown}: field is immutable", "spec.selector")]
    return []


def _frozen_pod(pod: dict[str, Any]) -> dict[str, Any]:
    spec = {name: value for name, value in pod["spec"].items() if name not in _POD_MAY_CHANGE}
    for part in ("containers", "initContainers"):
        spec[part] = [{k: v for k, v in container.items() if k != "image"} for container in spec.get(part) or []]
    return spec


def quota_exceeded(pods: list[dict[str, Any]], pod: dict[str, Any], quota: dict[str, Any]) -> str | None:
    """Why a ResourceQuota has no room for one more pod, in the words of its admission; `pods` are those of its namespace."""
    living = [other for other in pods if other.get("status", {}).get("phase") not in ("Succeeded", "Failed")]
    over = []
    for name, most in (quota.get("spec", {}).get("hard") or {}).items():
        asked = _asked(pod, name)
        used = sum(_asked(other, name) for other in living)
        if asked and used + asked > float(most):
            over.append((name, asked, used, most))
    if not over:
        return None
    requested, used_text, limited = (
        ",".join(f"{entry[0]}={entry[part]:g}" if part != 3 else f"{entry[0]}={entry[3]}" for entry in over) for part in (1, 2, 3)
    )
    return f"exceeded quota: {quota['metadata']['name']}, requested: {requested}, used: {used_text}, limited: {limited}"


def _asked(pod: dict[str, Any], name: str) -> float:
    """How much of a quota a pod takes: pods, and GPUs and the like, which are counted in whole numbers."""
    if name in ("pods", "count/pods"):
        return 1
    side, _, resource = name.partition(".")
    if side not in ("requests", "limits") or "/" not in resource:
        return 0
    return sum(float((c.get("resources", {}).get(side) or {}).get(resource, 0)) for c in pod["spec"].get("containers") or [])
