"""The nodes of a cluster as far as GPUs are concerned, and clusters that live inside one machine and have none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from kubernetes.utils import parse_quantity

from tuner.backends.ome.asking import PATIENCE_S
from tuner.kube.cluster import Cluster
from tuner.kube.resources import NODE, POD, Object, inside, name_of

_MIB = 2**20
_MINIKUBE = "minikube start --driver=docker --container-runtime=docker --gpus=all"
_OWN_RESOURCES = ("kubernetes.io/", "hugepages-", "attachable-volumes-")
_FINISHED = ("Succeeded", "Failed")
_KEEPS_PODS_AWAY = ("NoSchedule", "NoExecute")


@dataclass(frozen=True, slots=True)
class ServerNode:
    """A node.

    Attributes:
        name: Its name.
        gpus: GPUs that it gives to pods altogether.
        schedulable: Whether it takes new pods.
        taints: Those that keep pods away which do not tolerate them: `nvidia.com/gpu=present:NoSchedule`.
        labels: Its labels.
        extended: Names of the other resources of devices that it offers, as `amd.com/gpu`.
        provider: What made the node, in its own words: `kind://docker/kind/kind-control-plane`.
    """

    name: str
    gpus: int
    schedulable: bool
    taints: tuple[str, ...]
    labels: Mapping[str, str]
    extended: tuple[str, ...]
    provider: str

    @classmethod
    def read(cls, node: Object, gpu_resource: str) -> Self:
        """From a Node."""
        allocatable = inside(node, "status", "allocatable") or {}
        devices = [name for name in allocatable if "/" in name and name != gpu_resource and not name.startswith(_OWN_RESOURCES)]
        return cls(
            name_of(node),
            count(allocatable.get(gpu_resource)),
            not inside(node, "spec", "unschedulable"),
            tuple(_taint(taint) for taint in inside(node, "spec", "taints") or () if taint.get("effect") in _KEEPS_PODS_AWAY),
            inside(node, "metadata", "labels") or {},
            tuple(name for name in devices if count(allocatable[name])),
            str(inside(node, "spec", "providerID") or ""),
        )

    @property
    def gpu_memory_bytes(self) -> int | None:
        """Memory of one of its GPUs, by the label of NVIDIA's GPU feature discovery, which is in MiB."""
        text = self.labels.get("nvidia.com/gpu.memory", "")
        return int(text) * _MIB if text.isdecimal() else None

    @property
    def gpu_product(self) -> str | None:
        """What its GPUs are, by the same discovery: `NVIDIA-H100-80GB-HBM3`."""
        return self.labels.get("nvidia.com/gpu.product")


@dataclass(frozen=True, slots=True)
class Nested:
    """A cluster whose nodes live inside of one machine, and see its GPUs only if they are passed on.

    Attributes:
        what: Which it is.
        fix: How it gets GPUs.
    """

    what: str
    fix: str


def read_nodes(cluster: Cluster, gpu_resource: str) -> list[ServerNode]:
    """All nodes.

    Raises:
        ApiError: there is no answer, or this user may not list them.
    """
    return [ServerNode.read(node, gpu_resource) for node in cluster.list(NODE, patience_s=PATIENCE_S)[0]]


def in_use(cluster: Cluster, gpu_resource: str) -> dict[str, int]:
    """GPUs that pods hold, by node.

    Raises:
        ApiError: there is no answer, or this user may not list the pods of all namespaces.
    """
    held: dict[str, int] = {}
    for pod in cluster.list(POD, patience_s=PATIENCE_S, everywhere=True)[0]:
        node = inside(pod, "spec", "nodeName")
        if node and inside(pod, "status", "phase") not in _FINISHED:
            held[node] = held.get(node, 0) + requested(pod, gpu_resource)
    return held


def requested(pod: Object, gpu_resource: str) -> int:
    """GPUs that a pod holds: those of all its containers together, or of the greediest of those that run before them."""

    def asked(containers: Iterable[Object]) -> list[int]:
        return [count(inside(container, "resources", "requests", gpu_resource)) for container in containers]

    together = sum(asked(inside(pod, "spec", "containers") or ()))
    return max([together, *asked(inside(pod, "spec", "initContainers") or ())])


def count(quantity: object) -> int:
    """A quantity of whole things, which Kubernetes may write as `1k`; 0 where there is none."""
    try:
        return int(parse_quantity(quantity)) if quantity is not None else 0  # type: ignore[no-untyped-call]
    except ValueError:
        return 0


def nested(nodes: Iterable[ServerNode]) -> Nested | None:
    """What the cluster lives in, where that is known to give its nodes no GPU by itself.

    Signs: Minikube labels its nodes (kubernetes/minikube, pkg/minikube/node/start.go), kind and k3s write a provider's id on theirs
    (kubernetes-sigs/kind, pkg/cluster/internal/kubeadm/config.go; k3s-io/k3s, pkg/cloudprovider), k3d names its nodes after itself, and
    Docker Desktop has one node of its own name.
    """
    for node in nodes:
        if "minikube.k8s.io/name" in node.labels or node.name == "minikube":
            # https://minikube.sigs.k8s.io/docs/tutorials/nvidia/
            return Nested("Minikube, started without GPUs", f"`minikube delete && {_MINIKUBE}`, on a host whose `nvidia-smi` works")
        if node.name in ("docker-desktop", "desktop-control-plane"):
            return Nested(
                "Docker Desktop, whose virtual machine has no GPU for Kubernetes",
                f"use a cluster on Linux, such as Minikube: `{_MINIKUBE}`",
            )
        if node.provider.startswith("kind://"):
            return Nested(
                "kind, whose nodes are containers without GPUs", "make the cluster with nvkind (https://github.com/NVIDIA/nvkind)"
            )
        if node.name.startswith("k3d-"):
            return Nested(
                "k3d, whose nodes are containers without GPUs",
                "make the cluster with `k3d cluster create --gpus=all --image=...` and an image that holds NVIDIA's runtime "
                "(https://k3d.io/stable/usage/advanced/cuda/)",
            )
    return None


def _taint(taint: Mapping[str, str]) -> str:
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint.get('key')}{value}:{taint.get('effect')}"
