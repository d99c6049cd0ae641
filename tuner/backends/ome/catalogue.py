"""What a cluster offers to serve with: the runtime and the model that the settings name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from tuner.errors import NotReadyError
from tuner.kube.cluster import Cluster
from tuner.kube.connection import explain
from tuner.kube.errors import ApiError
from tuner.kube.resources import (
    BASE_MODEL,
    CLUSTER_BASE_MODEL,
    CLUSTER_SERVING_RUNTIME,
    SERVING_RUNTIME,
    Object,
    Resource,
    inside,
)
from tuner.ome_settings import ModelReference, RuntimeReference

PORT = 8080
"""Of all runtimes in OME's catalogue [config/runtimes of v0.1.5]."""

_LONGEST_CLUSTER_MODEL, _LONGEST_MODEL = 32, 38

RUNTIMES = {resource.kind: resource for resource in (CLUSTER_SERVING_RUNTIME, SERVING_RUNTIME)}
MODELS = {resource.kind: resource for resource in (CLUSTER_BASE_MODEL, BASE_MODEL)}


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime, as far as a trial takes something over from it.

    Attributes:
        manifest: The whole object.
        runner: Its container of the engine; empty where it has none.
    """

    manifest: Object
    runner: Object

    @classmethod
    def read(cls, cluster: Cluster, reference: RuntimeReference, patience_s: float = 0.0) -> Self:
        """Asks for the runtime.

        Raises:
            NotReadyError: it is not there, or the cluster does not answer.
        """
        manifest = _read(cluster, RUNTIMES[reference.kind], reference.name, "backend.runtime", patience_s)
        return cls(manifest, inside(manifest, "spec", "engineConfig", "runner") or {})

    @property
    def image(self) -> str | None:
        """Its image."""
        return self.runner.get("image")

    @property
    def words(self) -> tuple[str, ...]:
        """Its command line."""
        return (*(self.runner.get("command") or ()), *(self.runner.get("args") or ()))

    @property
    def port(self) -> int:
        """Where its container listens, and its Service."""
        ports = [port.get("containerPort") for port in self.runner.get("ports") or ()]
        return int(ports[0]) if ports and ports[0] else PORT

    def has_probe(self, name: str) -> bool:
        """Whether it has the probe `readinessProbe`, `startupProbe` or `livenessProbe`."""
        return bool(self.runner.get(name))


def read_model(cluster: Cluster, reference: ModelReference, patience_s: float = 0.0) -> dict[str, Any]:
    """The object of a model.

    Raises:
        NotReadyError: it is not there, or the cluster does not answer.
    """
    return _read(cluster, MODELS[reference.kind], reference.name, "backend.model", patience_s)


def model_label(reference: ModelReference, namespace: str) -> str | None:
    """The label of nodes that hold the model, whose value there is `Ready` [OME v0.1.5, pkg/constants/constants.go].

    None for a long name: the key of a label is bounded, and OME puts a hash in its place [OME documentation, base models].
    """
    if reference.kind == "ClusterBaseModel":
        return f"models.ome.io/clusterbasemodel.{reference.name}" if len(reference.name) <= _LONGEST_CLUSTER_MODEL else None
    fits = len(namespace) + len(reference.name) <= _LONGEST_MODEL
    return f"models.ome.io/{namespace}.basemodel.{reference.name}" if fits else None


def _read(cluster: Cluster, resource: Resource, name: str, key: str, patience_s: float) -> dict[str, Any]:
    try:
        found = cluster.get(resource, name, patience_s)
    except ApiError as error:
        raise NotReadyError(explain(error, cluster, f"read {resource.plural}")) from error
    if found is None:
        where = f" in namespace {cluster.namespace}" if resource.namespaced else ""
        raise NotReadyError(f"{key}: there is no {resource.kind} {name}{where}: `kubectl get {resource.plural}` lists those that exist")
    return found
