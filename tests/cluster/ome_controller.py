"""Plays OME's controller (v0.1.5), because OME cannot run without a cluster: makes Deployment and Services, writes the status."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tests.cluster.connection import Connection, Object, Refused
from tests.cluster.loop import Loop, Mirror, Recorder, condition, owned_by, set_condition, soonest
from tests.cluster.merging import COMPONENT_FIELDS, merge_engine, render
from tests.cluster.objects import GPU, model_label

FINALIZER = "inferenceservice.finalizers"
SERVICE_LABEL = "ome.io/inferenceservice"
CONTAINER = "ome-container"

_FIRST_RETRY_S = 0.2
_LAST_RETRY_S = 2.0
_CRASH_LOOK_S = 0.2
_DEFAULT_PROGRESS_DEADLINE_S = 600


class Unresolved(Exception):
    """Why nothing is deployed: `reason` and text of the Warning Event, which is all that a user sees."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True)
class _Trouble:
    """A service that could not be resolved: when it is tried again, and how long after that."""

    due: float = 0.0
    delay_s: float = _FIRST_RETRY_S


class OmeController(Loop):
    """The controller.

    Attributes:
        silent: It is down: nothing is created, no status written, no finalizer removed.
        paused: It has not come to new services yet; deletions go on.
        stuck_finalizer: It never removes its finalizer.
        notices_crashes: It sees a crash within tenths of a second. False: as OME does, only when something about the Deployment changes.
        progress_deadline_s: `progressDeadlineSeconds` of the Deployments it makes.
    """

    def __init__(self, connection: Connection, services: Mirror, deployments: Mirror, pods: Mirror) -> None:
        super().__init__(services, deployments)
        self.silent = False
        self.paused = False
        self.stuck_finalizer = False
        self.notices_crashes = True
        self.progress_deadline_s = _DEFAULT_PROGRESS_DEADLINE_S
        self._connection = connection
        self._services = services
        self._deployments = deployments
        self._pods = pods
        self._recorder = Recorder(connection, "v1beta1Controllers")
        self._troubles: dict[str, _Trouble] = {}

    def act(self) -> float | None:
        if self.silent:
            # Somebody may set the knob back, and no event tells of that.
            return _CRASH_LOOK_S
        return soonest(*[self.attempt(lambda service=service: self._reconcile(service)) for service in self._services.objects()])

    def _reconcile(self, service: Object) -> float | None:
        if "deletionTimestamp" in service["metadata"]:
            return self._finalize(service)
        if self.paused:
            return _CRASH_LOOK_S
        if FINALIZER not in service["metadata"].get("finalizers", []):
            service = self._connection.change(service, _add_finalizer)
        deployment = next(iter(self._deployments.owned(service)), None)
        if deployment is None:
            delay_s = self._deploy(service)
            if delay_s is not None:
                return delay_s
        return self._report_status(service, deployment)

    def _finalize(self, service: Object) -> float | None:
        """What OME made belongs to the service by ownerReferences and is left to the garbage collector, as OME does."""
        if self.stuck_finalizer:
            return _CRASH_LOOK_S
        if FINALIZER in service["metadata"].get("finalizers", []):
            self._connection.change(service, _remove_finalizer)
        return None

    def _deploy(self, service: Object) -> float | None:
        trouble = self._troubles.setdefault(service["metadata"]["uid"], _Trouble())
        if time.monotonic() < trouble.due:
            return trouble.due - time.monotonic()
        try:
            self._create(service)
        except Unresolved as error:
            self._recorder.record(service, "Warning", error.reason, str(error))
            trouble.due = time.monotonic() + trouble.delay_s
            trouble.delay_s = min(2 * trouble.delay_s, _LAST_RETRY_S)
            return trouble.due - time.monotonic()
        return None

    def _create(self, service: Object) -> None:
        model, runtime = self._resolve(service)
        made = deployment_of(service, model, runtime, self.progress_deadline_s)
        container = made["spec"]["template"]["spec"]["containers"][0]
        if not container["name"]:
            complaint = "spec.template.spec.containers[0].name: Required value"
            raise Unresolved("InternalError", f'Deployment.apps "{made["metadata"]["name"]}" is invalid: {complaint}')
        for child in (*_service_objects(service, made), made):
            try:
                self._connection.create(child)
            except Refused as error:
                if error.status == 422:
                    raise Unresolved("InternalError", error.message) from error
                if error.status != 409:
                    raise

    def _resolve(self, service: Object) -> tuple[Object, Object]:
        spec, namespace = service["spec"], service["metadata"]["namespace"]
        wanted = spec.get("model")
        if not wanted:
            raise Unresolved("ModelReconcileError", "model reference is required")
        model = self._find(("basemodels", "clusterbasemodels"), namespace, wanted["name"])
        if model is None:
            raise Unresolved("ModelReconcileError", f"No BaseModel or ClusterBaseModel with the name: {wanted['name']}")
        if model["spec"].get("disabled"):
            raise Unresolved("ModelReconcileError", f"model {wanted['name']} is disabled")
        named = spec.get("runtime")
        if not named:
            raise Unresolved("RuntimeSelectionError", f"Failed to find runtime for model {wanted['name']}: none is marked autoSelect")
        runtime = self._find(("servingruntimes", "clusterservingruntimes"), namespace, named["name"])
        if runtime is None:
            raise Unresolved("RuntimeValidationError", f"runtime {named['name']} not found")
        _check_support(runtime, model)
        if spec.get("engine") is None:
            raise Unresolved("DeploymentModeError", "engine component is required")
        return model, runtime

    def _find(self, plurals: tuple[str, str], namespace: str, name: str) -> Object | None:
        own, cluster = plurals
        return self._connection.find(own, namespace, name) or self._connection.find(cluster, None, name)

    def _report_status(self, service: Object, deployment: Object | None) -> float | None:
        old = service.get("status", {})
        if deployment is None or not old.get("conditions"):
            status = _unknown(old)
        else:
            pod = next((pod for pod in self._pods.objects() if _is_first_pod(pod, service)), None)
            status = status_of(service, deployment, pod)
        if status != old:
            self._connection.change(service, lambda current: current.update(status=status), "status")
            self._tell_of_readiness(service, status)
        return _CRASH_LOOK_S if self.notices_crashes else None

    def _tell_of_readiness(self, service: Object, status: Object) -> None:
        was, is_ready = (condition(each, "Ready").get("status") == "True" for each in (service, {"status": status}))
        name = service["metadata"]["name"]
        if is_ready and not was:
            self._recorder.record(service, "Normal", "InferenceServiceReady", f"InferenceService [{name}] is Ready")
        if was and not is_ready:
            self._recorder.record(service, "Warning", "InferenceServiceNotReady", f"InferenceService [{name}] is no longer Ready")


def _add_finalizer(service: Object) -> None:
    service["metadata"]["finalizers"] = [*service["metadata"].get("finalizers", []), FINALIZER]


def _remove_finalizer(service: Object) -> None:
    service["metadata"]["finalizers"] = [each for each in service["metadata"].get("finalizers", []) if each != FINALIZER]


def _check_support(runtime: Object, model: Object) -> None:
    name, spec = runtime["metadata"]["name"], runtime["spec"]
    if spec.get("disabled"):
        raise Unresolved("RuntimeValidationError", f"runtime {name} is disabled")
    has = model["spec"]
    for supported in spec.get("supportedModelFormats", []):
        same_format = supported.get("modelFormat", {}).get("name") == has.get("modelFormat", {}).get("name")
        if same_format and supported.get("modelArchitecture") in (None, has.get("modelArchitecture")):
            return
    complaint = f"model format '{has.get('modelFormat', {}).get('name')}' not in supported formats"
    raise Unresolved("RuntimeValidationError", f"Runtime {name} does not support model {model['metadata']['name']}: {complaint}")


def deployment_of(service: Object, model: Object, runtime: Object, progress_deadline_s: int) -> Object:
    """The Deployment of a service's engine.

    Raises:
        Unresolved: the engine's container is no template that OME can fill in.
    """
    metadata = service["metadata"]
    engine = merge_engine(runtime["spec"].get("engineConfig", {}), service["spec"]["engine"])
    try:
        container = render(engine.get("runner", {"name": ""}), metadata)
    except ValueError as error:
        raise Unresolved("MergeSpecsError", str(error)) from error
    container = _completed(container, model)
    labels = _labels(service, model, runtime) | engine.get("labels", {})
    pod = {key: value for key, value in engine.items() if key not in COMPONENT_FIELDS and key != "containers"}
    place = model_label(model["metadata"]["name"], model["metadata"].get("namespace"))
    pod["nodeSelector"] = {**pod.get("nodeSelector", {}), place: "Ready"}
    pod["volumes"] = [*pod.get("volumes", []), {"name": model["metadata"]["name"], "hostPath": {"path": model["spec"]["storage"]["path"]}}]
    pod["containers"] = [container, *engine.get("containers", [])]
    annotations = metadata.get("annotations", {}) | engine.get("annotations", {})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _child_metadata(service, f"{metadata['name']}-engine", labels, annotations),
        "spec": {
            "replicas": engine.get("minReplicas", 1),
            "selector": {"matchLabels": {"app": f"{metadata['name']}-engine"}},
            "progressDeadlineSeconds": progress_deadline_s,
            "strategy": engine.get("deploymentStrategy", {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
            "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
        },
    }


def _completed(container: Object, model: Object) -> Object:
    path = model["spec"]["storage"]["path"]
    gpus = container.get("resources", {}).get("limits", {}).get(GPU, "1")
    added = [{"name": "MODEL_PATH", "value": path}, {"name": "PARALLELISM_SIZE", "value": str(gpus)}]
    own = {entry["name"] for entry in added}
    env = [entry for entry in container.get("env", []) if entry["name"] not in own]
    mounts = [*container.get("volumeMounts", []), {"name": model["metadata"]["name"], "mountPath": path, "readOnly": True}]
    return {"terminationMessagePolicy": "File", **container, "env": [*env, *added], "volumeMounts": mounts}


def _labels(service: Object, model: Object, runtime: Object) -> dict[str, str]:
    name = service["metadata"]["name"]
    known = {
        SERVICE_LABEL: name,
        "component": "engine",
        "app": f"{name}-engine",
        "serving-runtime": runtime["metadata"]["name"],
        "base-model-name": model["metadata"]["name"],
        "base-model-type": "Serving",
        "base-model-vendor": model["spec"].get("vendor", ""),
        "fine-tuned-serving": "false",
    }
    return known | service["metadata"].get("labels", {})


def _child_metadata(service: Object, name: str, labels: dict[str, str], annotations: dict[str, str]) -> Object:
    namespace = service["metadata"]["namespace"]
    return {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations, "ownerReferences": [owned_by(service)]}


def _service_objects(service: Object, deployment: Object) -> list[Object]:
    """`<name>-engine`, and `<name>`, which exists where OME makes no ingress; the model's ConfigMap by the tail of the name."""
    name = service["metadata"]["name"]
    metadata, container = deployment["metadata"], deployment["spec"]["template"]["spec"]["containers"][0]
    ports = [
        {"name": port.get("name", "http1"), "port": port["containerPort"], "targetPort": port["containerPort"], "protocol": "TCP"}
        for port in container.get("ports", [{"containerPort": 8080}])
    ]
    made: list[Object] = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _child_metadata(service, child, metadata["labels"], metadata["annotations"]),
            "spec": {"selector": {"app": f"{name}-engine"}, "ports": ports, "type": "ClusterIP"},
        }
        for child in (f"{name}-engine", name)
    ]
    configuration = _child_metadata(service, f"modelconfig-{name[-20:]}", metadata["labels"], {})
    return [*made, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": configuration, "data": {"models.json": "[]"}}]


def _is_first_pod(pod: Object, service: Object) -> bool:
    labels = pod["metadata"].get("labels", {})
    same_place = pod["metadata"]["namespace"] == service["metadata"]["namespace"]
    return same_place and labels.get(SERVICE_LABEL) == service["metadata"]["name"] and "deletionTimestamp" not in pod["metadata"]


def _unknown(old: Object) -> Object:
    """The moment before the first full status."""
    conditions: list[Object] = list(old.get("conditions", []))
    for kind in ("EngineReady", "IngressReady", "Ready"):
        if all(entry["type"] != kind for entry in conditions):
            set_condition(conditions, kind, "Unknown")
    return {**old, "conditions": conditions}


def status_of(service: Object, deployment: Object, pod: Object | None) -> Object:
    """The status of a service whose Deployment exists: initialising, ready, or with a failed load."""
    old, metadata = service.get("status", {}), service["metadata"]
    port = _port(deployment)
    host = f"{metadata['namespace']}.svc.cluster.local:{port}"
    ready = condition(deployment, "Available").get("status") == "True"
    conditions: list[Object] = [dict(entry) for entry in old.get("conditions", [])]
    if ready:
        set_condition(conditions, "EngineReady", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        set_condition(conditions, "Ready", "True")
    else:
        for kind in ("EngineReady", "Ready"):
            set_condition(conditions, kind, "False", "Initializing", "engine component initializing")
    set_condition(conditions, "IngressReady", "True", "IngressDisabled")
    url = f"http://{metadata['name']}.{host}"
    return {
        "url": url,
        "address": {"url": url},
        "observedGeneration": deployment.get("status", {}).get("observedGeneration", 1),
        "components": {"engine": {"url": f"http://{metadata['name']}-engine.{host}"} if ready else {}},
        "conditions": sorted(conditions, key=lambda entry: str(entry["type"])),
        "modelStatus": _model_status(old.get("modelStatus", {}), ready, pod),
    }


def _port(deployment: Object) -> int:
    ports = deployment["spec"]["template"]["spec"]["containers"][0].get("ports") or [{"containerPort": 8080}]
    return int(ports[0]["containerPort"])


def _model_status(old: Object, ready: bool, pod: Object | None) -> Object:
    """As OME does it: only the first pod's container tells of a failed load, and what was told of it once stays."""
    kept = {"lastFailureInfo": old["lastFailureInfo"]} if "lastFailureInfo" in old else {}
    if ready:
        states = {"activeModelState": "Loaded", "targetModelState": "Loaded"}
        copies = {"failedCopies": 0, "totalCopies": 1}
        return {"transitionStatus": "UpToDate", "modelRevisionStates": states, "modelCopies": copies, **kept}
    ended = _failed_load(pod) if pod is not None else None
    if ended is None:
        return {"transitionStatus": "InProgress", "modelRevisionStates": {"activeModelState": "", "targetModelState": "Pending"}, **kept}
    failure: dict[str, Any] = {"reason": "ModelLoadFailed", "exitCode": ended["exitCode"]}
    if ended.get("message"):
        failure["message"] = ended["message"]
    states = {"activeModelState": "", "targetModelState": "FailedToLoad"}
    return {"transitionStatus": "BlockedByFailedLoad", "modelRevisionStates": states, "lastFailureInfo": failure}


def _failed_load(pod: Object) -> Object | None:
    """How the container ended: terminated for reason Error, or waiting in CrashLoopBackOff after any end."""
    for container in pod.get("status", {}).get("containerStatuses", []):
        if container["name"] != CONTAINER:
            continue
        terminated: Object | None = container.get("state", {}).get("terminated")
        if terminated and terminated.get("reason") == "Error":
            return terminated
        if container.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff":
            last: Object | None = container.get("lastState", {}).get("terminated")
            return last
    return None
