"""What an API server fills into new objects of the built-in kinds, for the double of it."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable
from typing import Any

_addresses = itertools.count(1)


def fill(kind: str, thing: dict[str, Any]) -> None:
    """Defaults of a new object, in place. Its metadata is complete already."""
    if kind in _DEFAULTS:
        _DEFAULTS[kind](thing)


def _pod(thing: dict[str, Any]) -> None:
    spec = thing.setdefault("spec", {})
    _pod_spec(spec)
    spec.setdefault("priority", 0)
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    tolerations = spec.setdefault("tolerations", [])
    for trouble in ("not-ready", "unreachable"):
        key = f"node.kubernetes.io/{trouble}"
        if not any(entry.get("key") == key for entry in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    thing["status"] = {"phase": "Pending", "qosClass": _quality(spec)}


def _pod_spec(spec: dict[str, Any]) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        _container(container)
    if account := spec.get("serviceAccountName"):
        spec.setdefault("serviceAccount", account)


def _container(container: dict[str, Any]) -> None:
    resources = container.setdefault("resources", {})
    if limits := resources.get("limits"):
        resources["requests"] = limits | (resources.get("requests") or {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    image = container.get("image", "").rsplit("/", 1)[-1]
    latest = "@" not in image and (":" not in image or image.endswith(":latest"))
    container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
    for port in container.get("ports") or []:
        port.setdefault("protocol", "TCP")
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        if settings := container.get(probe):
            _probe(settings)


def _probe(probe: dict[str, Any]) -> None:
    defaults = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
    for name, value in defaults.items():
        probe.setdefault(name, value)
    if request := probe.get("httpGet"):
        request.setdefault("path", "/")
        request.setdefault("scheme", "HTTP")


def _quality(spec: dict[str, Any]) -> str:
    """The quality of service of a pod: cpu and memory decide alone."""
    resources = [container.get("resources", {}) for container in spec.get("containers") or []]
    asked = [
        {k: v for k, v in (part.get(side) or {}).items() if k in ("cpu", "memory")} for part in resources for side in ("requests", "limits")
    ]
    if not any(asked):
        return "BestEffort"
    guaranteed = all(set(part.get("limits") or ()) >= {"cpu", "memory"} and part["limits"] == part.get("requests") for part in resources)
    return "Guaranteed" if guaranteed else "Burstable"


def _deployment(thing: dict[str, Any]) -> None:
    spec = thing.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    _template(spec)


def _replica_set(thing: dict[str, Any]) -> None:
    spec = thing.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    _template(spec)


def _template(spec: dict[str, Any]) -> None:
    template = spec.setdefault("template", {})
    template.setdefault("metadata", {})
    _pod_spec(template.setdefault("spec", {}))


def _job(thing: dict[str, Any]) -> None:
    spec = thing.setdefault("spec", {})
    defaults = {
        "parallelism": 1,
        "completions": 1,
        "backoffLimit": 6,
        "completionMode": "NonIndexed",
        "suspend": False,
        "podReplacementPolicy": "TerminatingOrFailed",
    }
    for name, value in defaults.items():
        spec.setdefault(name, value)
    template = spec.setdefault("template", {})
    # Only here does the template keep what was given: without a restart policy a Job is refused.
    policy = (template.get("spec") or {}).get("restartPolicy")
    _template(spec)
    template["spec"]["restartPolicy"] = policy or "Always"
    if not spec.get("manualSelector"):
        uid, name = thing["metadata"]["uid"], thing["metadata"]["name"]
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
        labels = template["metadata"].setdefault("labels", {})
        for prefix in ("", "batch.kubernetes.io/"):
            labels[f"{prefix}controller-uid"] = uid
            labels[f"{prefix}job-name"] = name


def _service(thing: dict[str, Any]) -> None:
    spec = thing.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    spec.setdefault("internalTrafficPolicy", "Cluster")
    spec.setdefault("ipFamilies", ["IPv4"])
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    if "clusterIP" not in spec:
        number = next(_addresses)
        spec["clusterIP"] = f"10.96.{number // 250 % 250}.{number % 250 + 1}"
    spec.setdefault("clusterIPs", [spec["clusterIP"]])
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))
    thing["status"] = {"loadBalancer": {}}


def _namespace(thing: dict[str, Any]) -> None:
    thing["spec"] = {"finalizers": ["kubernetes"]}
    thing["status"] = {"phase": "Active"}
    thing["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = thing["metadata"]["name"]


def _secret(thing: dict[str, Any]) -> None:
    thing.setdefault("type", "Opaque")
    for name, text in (thing.pop("stringData", None) or {}).items():
        thing.setdefault("data", {})[name] = base64.b64encode(text.encode()).decode()


def _volume_claim(thing: dict[str, Any]) -> None:
    thing.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
    thing["status"] = {"phase": "Pending"}


def _definition(thing: dict[str, Any]) -> None:
    accepted = [{"type": kind, "status": "True", "reason": kind} for kind in ("NamesAccepted", "Established")]
    stored = [version["name"] for version in thing["spec"]["versions"] if version["storage"]]
    thing["status"] = {"conditions": accepted, "acceptedNames": thing["spec"]["names"], "storedVersions": stored}


_DEFAULTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "Pod": _pod,
    "Deployment": _deployment,
    "ReplicaSet": _replica_set,
    "Job": _job,
    "Service": _service,
    "Namespace": _namespace,
    "Secret": _secret,
    "PersistentVolumeClaim": _volume_claim,
    "CustomResourceDefinition": _definition,
}
