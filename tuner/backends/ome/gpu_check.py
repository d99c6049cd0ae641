"""Whether a cluster has the GPUs that a search space asks for, where the model is."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.backends.ome.asking import PATIENCE_S
from tuner.backends.ome.catalogue import MODELS, model_label
from tuner.backends.ome.nodes import ServerNode, in_use, nested, read_nodes
from tuner.backends.ome.serving import on_claim
from tuner.finding import Finding, failed, ok, skipped, warning
from tuner.kube.cluster import Cluster
from tuner.kube.errors import ApiError
from tuner.kube.resources import inside
from tuner.ome_settings import OmeBackendSettings

_FORBIDDEN = 403
_SHOWN = 5
_PLUGIN = "install NVIDIA's GPU operator or device plugin, and see the log of its pods: the node needs driver and container toolkit"
_SMALLER = "lower tp, pp or dp in the space, or add a node"


def check(cluster: Cluster, settings: OmeBackendSettings, fewest: int, most: int) -> Finding:
    """Compares the nodes with the search space.

    Args:
        cluster: Where they are.
        settings: Of the backend.
        fewest: GPUs of the smallest configuration.
        most: GPUs of the largest.

    Raises:
        ApiError: the cluster does not tell.
    """
    resource = settings.gpu_resource
    try:
        nodes = read_nodes(cluster, resource)
    except ApiError as error:
        if error.status != _FORBIDDEN:
            raise
        return skipped("the nodes may not be seen by this user")
    usable = [node for node in nodes if node.gpus and node.schedulable]
    if not usable:
        return _none(nodes, resource)
    greatest = max(node.gpus for node in usable)
    seen = f"{_listed(usable)} offer {resource}"
    if greatest < fewest:
        return failed(f"{seen}; the smallest configuration needs {fewest} on one node", _SMALLER)
    near = _with_model(cluster, settings, usable)
    if not near:
        fix = "see spec.storage of the model and the pods of ome-model-agent-daemonset on those nodes"
        return failed(f"{seen}, but the model {settings.model.name} is on none of them", fix)
    greatest = max(node.gpus for node in near)
    seen = f"{_listed(near)} offer {resource} and hold the model"
    if greatest < fewest:
        return failed(f"{seen}; the smallest configuration needs {fewest} on one node", _SMALLER)
    if greatest < most:
        return warning(f"{seen}; configurations that need more than {greatest} will be refused, the space has some up to {most}", _SMALLER)
    return _free(cluster, resource, near, fewest, seen)


def _none(nodes: Sequence[ServerNode], resource: str) -> Finding:
    cordoned = [node for node in nodes if node.gpus]
    if cordoned:
        return failed(
            f"{_listed(cordoned)} offer {resource}, but take no pods: they are cordoned", f"`kubectl uncordon {cordoned[0].name}`"
        )
    names = ", ".join(node.name for node in nodes[:_SHOWN]) + (f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else "")
    seen = f"no node offers {resource}: none of {names}" if len(nodes) > 1 else f"no node offers {resource}: {names or 'there is none'}"
    if others := sorted({name for node in nodes for name in node.extended}):
        return failed(f"{seen}; there is {', '.join(others)}", "set backend.gpu_resource to the one that is meant, or " + _PLUGIN)
    if (inner := nested(nodes)) is not None:
        return failed(f"{seen}. This is {inner.what}", inner.fix)
    return failed(seen, _PLUGIN)


def _with_model(cluster: Cluster, settings: OmeBackendSettings, nodes: Sequence[ServerNode]) -> Sequence[ServerNode]:
    """Those that hold the model: pods of other nodes would wait for ever, because OME selects them by the label."""
    if not settings.model.name:
        return nodes
    label = model_label(settings.model, cluster.namespace)
    try:
        model = cluster.get(MODELS[settings.model.kind], settings.model.name, PATIENCE_S)
    except ApiError as error:
        if error.status != _FORBIDDEN:
            raise
        return [node for node in nodes if label and node.labels.get(label) == "Ready"] or nodes
    if on_claim(model):
        return nodes
    ready = inside(model, "status", "nodesReady") or ()
    return [node for node in nodes if node.name in ready or (label and node.labels.get(label) == "Ready")]


def _free(cluster: Cluster, resource: str, nodes: Sequence[ServerNode], fewest: int, seen: str) -> Finding:
    if tainted := [node for node in nodes if node.taints]:
        keys = ", ".join(dict.fromkeys(taint for node in tainted for taint in node.taints))
        seen += f"; only to pods that tolerate {keys}" if len(tainted) == len(nodes) else f"; some only to pods that tolerate {keys}"
    try:
        held = in_use(cluster, resource)
    except ApiError as error:
        if error.status != _FORBIDDEN:
            raise
        return ok(f"{seen}; how many are in use may not be seen by this user")
    free = {node.name: node.gpus - held.get(node.name, 0) for node in nodes}
    if max(free.values()) < fewest:
        used = ", ".join(f"{held.get(node.name, 0)} of {node.gpus} on {node.name}" for node in nodes[:_SHOWN])
        return warning(f"{seen}; in use are {used}", "the first trial will wait until others end, for at most backend.queue_timeout_s")
    return ok(f"{seen}; {sum(free.values())} are free")


def _listed(nodes: Sequence[ServerNode]) -> str:
    told = [f"{node.name} ({node.gpus}{f' x {node.gpu_product}' if node.gpu_product else ''})" for node in nodes[:_SHOWN]]
    return ", ".join(told) + (f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else "")
