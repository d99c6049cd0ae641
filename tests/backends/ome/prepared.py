"""A cluster in which a study could begin, on the API double: OME, a model, its runtime and a node with GPUs. Tests then spoil one thing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.api_server import ApiServer
from tests.cluster.crds import small_ome_crds
from tests.cluster.objects import cluster_base_model, cluster_serving_runtime, manager, model_label, namespace, node
from tuner.backends.ome import preflight
from tuner.backends.ome.preflight import Needs
from tuner.finding import Finding
from tuner.kube.cluster import Cluster
from tuner.kube.connection import Address, connect
from tuner.ome_settings import OmeBackendSettings

Manifest = dict[str, Any]
Permissions = Callable[[str, str, str, str], bool]

NAMESPACE, OME, NODE, MODEL, RUNTIME, IMAGE = "tuner", "ome", "gpu-node-1", "llama", "srt-llama", "lmsysorg/sglang:v0.5.23-cu129"
COMMAND = ("python3", "-m", "sglang.launch_server", "--model-path", "$(MODEL_PATH)", "--tp-size", "1")


def settings(**keys: Any) -> OmeBackendSettings:
    return OmeBackendSettings.model_validate({"name": "ome", "model": {"name": MODEL}, "runtime": {"name": RUNTIME}, **keys})


def model(state: str = "Ready", nodes: tuple[str, ...] = (NODE,)) -> Manifest:
    return dict(copy.deepcopy(cluster_base_model(MODEL, "/raid/llama", state, nodes)))


def runtime() -> Manifest:
    return dict(copy.deepcopy(cluster_serving_runtime(RUNTIME, IMAGE, COMMAND)))


def gpu_node(name: str = NODE, gpus: int | None = 4, labels: Mapping[str, str] | None = None) -> Manifest:
    return dict(copy.deepcopy(node(name, gpus, {model_label(MODEL): "Ready"} | dict(labels or {}))))


def controller(image: str = "ghcr.io/sgl-project/ome-manager:v0.1.5", ready: int = 1) -> Manifest:
    deployment = dict(copy.deepcopy(manager("ome-controller-manager", OME, image)))
    deployment["status"]["readyReplicas"] = ready
    return deployment


def trial(name: str = "tuner-abc-t0001-0123456789") -> Manifest:
    return {
        "apiVersion": "ome.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"model": {"name": MODEL}, "runtime": {"name": RUNTIME}, "engine": {"minReplicas": 1, "maxReplicas": 1}},
    }


class Prepared:
    """The double and what it is prepared with.

    Attributes:
        server: The double.
        cluster: tuner's connection to it.
    """

    def __init__(self, server: ApiServer, cluster: Cluster) -> None:
        self.server = server
        self.cluster = cluster

    def add(self, *manifests: Manifest) -> None:
        for manifest in manifests:
            self.server.seed(manifest)

    def findings(self, fewest: int = 1, most: int = 1, *, jobs: bool = False, manifest: Any = None, **keys: Any) -> dict[str, Finding]:
        """What all checks say."""
        needs = Needs(fewest, most, manifest, jobs)
        return {name: check() for name, check in preflight.checks(self.cluster, settings(**keys), needs)}

    def forbid(self, *refused: tuple[str, str]) -> None:
        """Takes away these verbs on these resources, in all groups and namespaces."""
        self.server.permissions = lambda verb, group, resource, namespace: (verb, resource) not in refused


@contextmanager
def prepared(folder: Path, *, without: tuple[str, ...] = ()) -> Iterator[Prepared]:
    """Such a cluster, without the objects of the kinds named in `without`, which a test adds in its own form."""
    with ApiServer() as server:
        for crd in small_ome_crds() if "CRD" not in without else ():
            server.install(crd)
        ready = Prepared(server, connect(Address(str(server.kubeconfig(folder)), namespace=NAMESPACE)))
        for name in (NAMESPACE, OME):
            if f"Namespace {name}" not in without:
                server.seed(namespace(name))
        parts = [controller(), gpu_node(), *([model(), runtime()] if "CRD" not in without else ())]
        ready.add(*(part for part in parts if part["kind"] not in without))
        yield ready
