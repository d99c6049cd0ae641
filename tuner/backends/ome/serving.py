"""The model and the runtime of a study: whether OME can serve the one by the other."""

from __future__ import annotations

import difflib

from packaging.version import Version

from tuner.backends.ome import fit
from tuner.backends.ome.asking import PATIENCE_S
from tuner.backends.ome.catalogue import MODELS, RUNTIMES
from tuner.backends.ome.installation import LENIENT
from tuner.finding import Finding, failed, ok, skipped, warning
from tuner.kube.cluster import Cluster
from tuner.kube.errors import ApiError
from tuner.kube.resources import Object, Resource, inside, name_of
from tuner.ome_settings import OmeBackendSettings

_FORBIDDEN = 403
_SHOWN = 10
_STATES = {
    "Creating": "wait until OME has made it",
    "Importing": "wait until OME has imported it",
    "In_Transit": "wait for the download, which the pods of ome-model-agent-daemonset log",
    "In_Training": "wait until its training has ended",
    "Failed": "see the logs of the pods of ome-model-agent-daemonset: a wrong storageUri, no token for a gated model, or a full disk",
}


def check_model(cluster: Cluster, settings: OmeBackendSettings) -> Finding:
    """Whether OME has put the model on a node.

    Raises:
        ApiError: the cluster does not tell.
    """
    reference, resource = settings.model, MODELS[settings.model.kind]
    if not reference.name:
        return _unnamed(resource, "backend.model")
    try:
        model = cluster.get(resource, reference.name, PATIENCE_S)
    except ApiError as error:
        if error.status != _FORBIDDEN:
            raise
        return skipped(f"{reference.kind} {reference.name} may not be read by this user ({error.message})")
    if model is None:
        return _absent(cluster, resource, reference.name, "backend.model")
    what = f"{reference.kind} {reference.name}"
    if inside(model, "spec", "disabled"):
        return failed(f"{what} is disabled", "set its spec.disabled to false, or name another in backend.model")
    state, ready, broken = (inside(model, "status", key) for key in ("state", "nodesReady", "nodesFailed"))
    but = f", not on {', '.join(map(str, broken))}, where it failed" if broken else ""
    if state != "Ready":
        fix = _STATES.get(str(state), "see whether OME's controller and the pods of ome-model-agent-daemonset run")
        return failed(f"{what} is {state or 'without a state'}{but}", fix)
    if on_claim(model):
        return ok(f"{what} is ready on a PersistentVolumeClaim")
    if not ready:
        fix = "see its spec.storage.nodeSelector and nodeAffinity, and whether ome-model-agent-daemonset has a pod on each node with a GPU"
        return failed(f"{what} is Ready, but on no node{but}", fix)
    return ok(f"{what} is ready on {_few(ready)}{but}")


def on_claim(model: Object | None) -> bool:
    """Whether a model lies on a PersistentVolumeClaim: then nodes have no copy, and pods are not bound to those that have."""
    return str(inside(model, "spec", "storage", "storageUri") or "").startswith("pvc://")


def check_runtime(cluster: Cluster, settings: OmeBackendSettings, ome: Version | None) -> Finding:
    """Whether the runtime can be varied by trials, and serves the model.

    Args:
        cluster: Where it is.
        settings: Of the backend.
        ome: Version of OME, where it is known.

    Raises:
        ApiError: the cluster does not tell.
    """
    reference, resource = settings.runtime, RUNTIMES[settings.runtime.kind]
    if not reference.name:
        return _unnamed(resource, "backend.runtime")
    runtime = cluster.get(resource, reference.name, PATIENCE_S)
    if runtime is None:
        return _absent(cluster, resource, reference.name, "backend.runtime")
    what = f"{reference.kind} {reference.name}"
    other = "name another in backend.runtime"
    if inside(runtime, "spec", "disabled"):
        return failed(f"{what} is disabled", f"set its spec.disabled to false, or {other}")
    engine = inside(runtime, "spec", "engineConfig") or {}
    if engine.get("leader") or engine.get("worker"):
        return failed(f"{what} spreads one server over several nodes (leader and worker)", f"{other}: tuner varies servers of one node")
    if not engine.get("runner"):
        return failed(f"{what} has no engineConfig.runner", f"{other}, of an engine that runs in one container")
    image = settings.image or inside(engine, "runner", "image")
    if not image:
        return failed(f"{what} names no image", "set backend.image")
    return _suits(cluster, settings, runtime, f"{what} with {image}", ome)


def _suits(cluster: Cluster, settings: OmeBackendSettings, runtime: Object, what: str, ome: Version | None) -> Finding:
    if not settings.model.name:
        return ok(what)
    try:
        model = cluster.get(MODELS[settings.model.kind], settings.model.name, PATIENCE_S)
    except ApiError as error:
        if error.status != _FORBIDDEN:
            raise
        model = None
    if model is None:
        return ok(what)
    found = fit.judge(model, runtime)
    fix = f"name a runtime for {settings.model.name} in backend.runtime, or change its supportedModelFormats and modelSizeRange"
    if found.against and (ome is None or ome < LENIENT):
        return failed(f"{what} is for {found.against}: OME would never start a server", fix)
    if found.against or found.doubt:
        return warning(f"{what} may not be meant for the model: {found.against or found.doubt}", fix)
    return ok(f"{what} serves {settings.model.name}")


def _unnamed(resource: Resource, key: str) -> Finding:
    return failed(f"{key}.name is not set", f"name a {resource.kind} there: `kubectl get {resource.plural}` lists them")


def _absent(cluster: Cluster, resource: Resource, name: str, key: str) -> Finding:
    where = f" in namespace {cluster.namespace}" if resource.namespaced else ""
    try:
        names = sorted(name_of(each) for each in cluster.list(resource, patience_s=PATIENCE_S)[0])
    except ApiError:
        names = []
    close = difflib.get_close_matches(name, names, _SHOWN) or names
    fix = (
        f"set {key}.name to one of {_few(close)}"
        if names
        else f"make it: deploy/examples/ shows how, `kubectl get {resource.plural}` lists"
    )
    return failed(f"there is no {resource.kind} {name}{where}", fix)


def _few(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
