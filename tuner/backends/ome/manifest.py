"""The InferenceService of one trial. Only fields that OME 0.1.5 to 1.x share; see docs/kubernetes.md for what each is good for."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuner.backends.base import Place
from tuner.backends.ome.catalogue import Runtime
from tuner.errors import Infeasible
from tuner.kube.merge_patch import merged
from tuner.kube.resources import INFERENCE_SERVICE, Object, inside
from tuner.launch import LaunchSpec
from tuner.ome_settings import AUTOSCALER, OmeBackendSettings, SecretReference
from tuner.section import SECRET

CONTAINER = "ome-container"
"""Name of the engine's container, which OME's defaults, status and metrics look for [pkg/constants/constants.go of v0.1.5]."""

MANAGED_BY = {"app.kubernetes.io/managed-by": "tuner"}
STUDY, TRIAL, OWNER, EXPIRES, DEPLOYMENT = "tuner.study", "tuner.trial", "tuner.owner", "tuner.expires-at", "tuner.deployment"
QUEUE = "kueue.x-k8s.io/queue-name"

READINESS_PERIOD_S = 5
"""A shipped runtime asks once a minute, which would be lost at each start."""
STARTUP_PERIOD_S = 5


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds an object, and until when it may stay if nobody can tell whether he lives.

    Attributes:
        owner: `Owner.to_str`.
        expires: When it may be removed in any case.
    """

    owner: str
    expires: datetime

    @classmethod
    def of(cls, owner: str, seconds: float) -> Lease:
        """A lease from now on."""
        return cls(owner, datetime.now(UTC) + timedelta(seconds=seconds))

    @property
    def annotations(self) -> dict[str, str]:
        """How it is written on the object."""
        return {OWNER: self.owner, EXPIRES: self.expires.strftime("%Y-%m-%dT%H:%M:%SZ")}


def unique_name(place: Place) -> str:
    """A name for a trial's InferenceService: at most 40 characters, its last 20 unlike those of any other, because OME names a ConfigMap
    by them [pkg/constants/constants.go of v0.1.5]."""
    study = hashlib.sha256(place.study.encode()).hexdigest()[:6]
    return f"tuner-{study}-t{place.trial % 10**6:04d}-{secrets.token_hex(5)}"


def label_value(text: str) -> str:
    """`text` as the value of a label: at most 63 letters, digits, `-`, `_`, `.`, and neither end of the last three."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:63].strip("-_.")


def inference_service(
    name: str, spec: LaunchSpec, settings: OmeBackendSettings, namespace: str, runtime: Runtime, place: Place, lease: Lease
) -> dict[str, Any]:
    """The manifest.

    Args:
        name: See `unique_name`.
        spec: What the engine asks for.
        settings: The keys of `backend`.
        namespace: Where it is to be.
        runtime: The runtime it names.
        place: Whose it is.
        lease: Who holds it.

    Raises:
        Infeasible: an argument cannot be written in a manifest of OME.
    """
    argv = [escaped(word, settings.model_path) for word in spec.bound("0.0.0.0", runtime.port)]
    # OME replaces both lists of the runtime as a whole, but each only where the other object gives it, too
    split = next((i for i, word in enumerate(argv) if word.startswith("--")), 1)
    runner: dict[str, Any] = {
        "name": CONTAINER,
        "command": argv[:split],
        "args": argv[split:],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **_probes(runtime, spec.ready_timeout_s),
    }
    if settings.image is not None:
        runner["image"] = settings.image
    if environment := _environment(spec.env, settings):
        runner["env"] = environment
    if spec.gpus:
        gpus = {settings.gpu_resource: str(spec.gpus)}
        runner["resources"] = {"requests": gpus, "limits": dict(gpus)}
    labels = {**MANAGED_BY, STUDY: label_value(place.study), TRIAL: str(place.trial), DEPLOYMENT: name}
    if settings.local_queue is not None:
        labels[QUEUE] = settings.local_queue
    manifest: dict[str, Any] = {
        "apiVersion": INFERENCE_SERVICE.api_version,
        "kind": INFERENCE_SERVICE.kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels,
            # OME makes an autoscaler otherwise, which adds a server to the one that is measured
            "annotations": {AUTOSCALER: "external", STUDY: place.study, **lease.annotations},
        },
        "spec": {
            "model": settings.model.model_dump(),
            "runtime": settings.runtime.model_dump(),
            "engine": {
                "minReplicas": 1,
                "maxReplicas": 1,
                "terminationGracePeriodSeconds": settings.stop_grace_s,
                "runner": runner,
            },
        },
    }
    return dict(merged(manifest, settings.patch))


def exported(spec: LaunchSpec, settings: OmeBackendSettings, namespace: str, runtime: Runtime) -> dict[str, Any]:
    """The manifest of a server that is to stay: without the marks by which tuner removes its own, and without its impatience.

    Raises:
        Infeasible: see `inference_service`.
    """
    place, lease = Place("", 0, Path()), Lease("", datetime.now(UTC))
    full = inference_service("", spec, settings, namespace, runtime, place, lease)
    name = re.sub(r"[^a-z0-9]+", "-", spec.served_model.rpartition("/")[2].lower()).strip("-")
    marks = {*MANAGED_BY, STUDY, TRIAL, OWNER, EXPIRES, DEPLOYMENT}
    metadata = {key: value for key, value in full["metadata"].items() if key not in ("labels", "annotations")}
    for key in ("labels", "annotations"):
        if kept := {name: value for name, value in full["metadata"][key].items() if name not in marks}:
            metadata[key] = kept
    metadata["name"] = f"m-{name}"[:34].rstrip("-") + "-tuned"
    engine = {key: value for key, value in full["spec"]["engine"].items() if key != "terminationGracePeriodSeconds"}
    return {**full, "metadata": metadata, "spec": {**full["spec"], "engine": engine}}


def escaped(word: str, model_path: str) -> str:
    """A word of the command line as it must stand in a manifest to arrive as it is.

    Kubernetes expands `$(NAME)` there and takes `$$` for `$`; only the model's path is meant to be expanded. OME runs the container's JSON
    as a Go template, whose beginning cannot be escaped [utils/merging.go of v0.1.5].

    Raises:
        Infeasible: `word` holds `{{`.
    """
    if "{{" in word:
        raise Infeasible(f"OME takes {{{{ for the beginning of a template, and {word} holds it: write nested objects as {{ {{")
    if word == model_path:
        return word
    kept = word.replace("$", "$$")
    return kept.replace(model_path.replace("$", "$$"), model_path) if "$(" in model_path else kept


def replicas_ready(service: Object) -> bool:
    """Whether OME calls an InferenceService ready.

    `Ready` leaves out the decoder and the router, which an admission policy may have added. Other fields of the status, `url` and
    `modelStatus.transitionStatus`, look ready from the beginning.
    """
    found = {entry.get("type"): entry.get("status") for entry in inside(service, "status", "conditions") or ()}
    parts = [found.get(kind) for kind in ("EngineReady", "DecoderReady", "RouterReady") if kind in found]
    return found.get("Ready") == "True" and all(status == "True" for status in parts)


def _probes(runtime: Runtime, ready_timeout_s: float) -> dict[str, Any]:
    """Changes to the runtime's probes, which OME merges field by field. A probe that the runtime lacks would have no handler."""
    probes: dict[str, Any] = {}
    if runtime.has_probe("readinessProbe"):
        probes["readinessProbe"] = {"periodSeconds": READINESS_PERIOD_S}
    if runtime.has_probe("startupProbe"):
        failures = int(ready_timeout_s / STARTUP_PERIOD_S) + 1
        probes["startupProbe"] = {"initialDelaySeconds": 1, "periodSeconds": STARTUP_PERIOD_S, "failureThreshold": failures}
    return probes


def _environment(own: Mapping[str, str], settings: OmeBackendSettings) -> list[dict[str, Any]]:
    """Variables of the engine and of the settings. Those of the engine that hold a secret stay here: a manifest is no place for one."""
    entries: dict[str, dict[str, Any]] = {
        name: {"name": name, "value": value.replace("$", "$$")} for name, value in own.items() if not SECRET.search(name)
    }
    for name, value in settings.environment.items():
        if isinstance(value, SecretReference):
            entries[name] = {"name": name, "valueFrom": {"secretKeyRef": {"name": value.secret, "key": value.key}}}
        else:
            entries[name] = {"name": name, "value": _text(value).replace("$", "$$")}
    return list(entries.values())


def _text(value: bool | int | float | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
