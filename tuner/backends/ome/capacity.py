"""What a cluster can give one server at most: for the feasibility gate, which may only refuse what is certain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.backends.ome.nodes import ServerNode, read_nodes
from tuner.backends.ome.quotas import gpu_keys, limits
from tuner.kube.cluster import Cluster
from tuner.kube.errors import ApiError
from tuner.ome_settings import OmeBackendSettings


@dataclass(frozen=True, slots=True)
class Capacity:
    """Bounds from above.

    Attributes:
        per_server: GPUs that one server can have; None where nothing limits them, as far as can be seen.
        memory_bytes: Memory of the largest GPU; None where the nodes do not tell.
        product: What that GPU is; None where the nodes do not tell.
    """

    per_server: int | None = None
    memory_bytes: int | None = None
    product: str | None = None


def read(cluster: Cluster, settings: OmeBackendSettings) -> Capacity:
    """Asks for nodes and quotas, as far as this user may see them. Never fails: what cannot be seen limits nothing."""
    nodes = _gpu_nodes(cluster, settings.gpu_resource)
    bounds = [*_quota(cluster, settings.gpu_resource)]
    if settings.gpu_budget is not None:
        bounds.append(settings.gpu_budget)
    if nodes is None:
        return Capacity(min(bounds, default=None))
    bounds.append(max((node.gpus for node in nodes if node.schedulable), default=0))
    largest = max(nodes, key=lambda node: node.gpu_memory_bytes or 0, default=None)
    # a node without the label may have the largest GPU of all
    if largest is None or any(node.gpu_memory_bytes is None for node in nodes):
        return Capacity(min(bounds))
    return Capacity(min(bounds), largest.gpu_memory_bytes, largest.gpu_product)


def _gpu_nodes(cluster: Cluster, gpu_resource: str) -> Sequence[ServerNode] | None:
    try:
        return [node for node in read_nodes(cluster, gpu_resource) if node.gpus]
    except ApiError:
        return None


def _quota(cluster: Cluster, gpu_resource: str) -> Sequence[int]:
    try:
        return [limit.hard for limit in limits(cluster) if limit.key in gpu_keys(gpu_resource) and not limit.scoped]
    except ApiError:
        return []
