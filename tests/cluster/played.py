"""A whole played cluster: an API server with OME, scheduler and kubelet beside it. Nothing here is Kubernetes but the words on the wire."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.cluster.api_server import ApiServer
from tests.cluster.connection import Connection, Object, Refused
from tests.cluster.crds import ome_crds, small_ome_crds
from tests.cluster.envtest import RealApiServer, assets
from tests.cluster.kubelet import Kubelet
from tests.cluster.loop import Loop, Mirror
from tests.cluster.objects import cluster_base_model, cluster_serving_runtime, manager, model_label, namespace, node
from tests.cluster.ome_controller import OmeController
from tests.cluster.owner_deletion import OwnerDeletion
from tests.cluster.quota_usage import QuotaUsage
from tests.cluster.scheduler import Scheduler
from tests.cluster.workloads import Deployments, Jobs

NAMESPACE = "tuner"
OME_NAMESPACE = "ome"
NODE = "gpu-node-1"
MANAGER_IMAGE = "ghcr.io/sgl-project/ome-manager:v0.1.5"

_MIRRORED = ("inferenceservices", "deployments", "replicasets", "pods", "jobs", "nodes", "resourcequotas")
_LEFT = ("inferenceservices", "deployments", "replicasets", "pods", "services", "jobs", "configmaps")
_BUILT_IN = {("configmaps", "kube-root-ca.crt"), ("services", "kubernetes")}
_CRDS_S = 30.0


class PlayedCluster:
    """A context manager: namespaces `tuner` and `ome`, OME's manager, one node with four GPUs, no model and no runtime.

    Args:
        full_crds: OME's own CRDs where they are here, which check everything and load more slowly.
        gpus: How many GPUs the node has; None: no device plugin.

    Attributes:
        server: The API double, or the real API server where `KUBEBUILDER_ASSETS` names one.
        connection: An administrator's connection to it.
        ome, deployments, jobs, scheduler, kubelet: The played parts, with their knobs.
    """

    def __init__(self, *, full_crds: bool = False, gpus: int | None = 4) -> None:
        self._crds = ome_crds() if full_crds else small_ome_crds()
        self._gpus = gpus
        self._mirrors: dict[str, Mirror] = {}
        self._loops: list[Loop] = []

    def __enter__(self) -> Self:
        folder = assets()
        if folder is None:
            self.server: Any = ApiServer()
            self.server.__enter__()
            authority = None
        else:
            self.server = RealApiServer(folder)
            authority = str(self.server.authority)
        try:
            self.connection = Connection(self.server.url, self.server.admin_token, authority)
            self._install()
            self._populate()
            self._play(collect=folder is not None)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()
        faults = [fault for loop in self._loops for fault in loop.errors]
        if faults and error is None:
            raise AssertionError(f"the played cluster itself failed: {faults}") from faults[0]

    @property
    def url(self) -> str:
        return str(self.server.url)

    @property
    def token(self) -> str:
        return str(self.server.token)

    @property
    def real(self) -> bool:
        """Whether the API server is a real one, which has no faults on command, and no logs and ports of pods."""
        return not isinstance(self.server, ApiServer)

    def kubeconfig(self, folder: Path, namespace: str | None = NAMESPACE) -> Path:
        """Writes a kubeconfig that leads here."""
        path: Path = self.server.kubeconfig(folder, namespace)
        return path

    def add(self, manifest: Object) -> Object:
        """Creates an object, with its status."""
        return self.connection.add(manifest)

    def add_model(self, name: str, path: str | Path, *, state: str = "Ready", nodes: Sequence[str] = (NODE,)) -> Object:
        """A ClusterBaseModel that lies at `path` of the nodes."""
        for place in nodes:
            self.connection.merge(self.connection.get("nodes", None, place), {"metadata": {"labels": {model_label(name): "Ready"}}})
        return self.add(cluster_base_model(name, str(path), state, nodes))

    def add_runtime(self, name: str, command: Sequence[str] | None = None, args: Sequence[str] | None = None, **more: Any) -> Object:
        """A ClusterServingRuntime; see `cluster_serving_runtime`."""
        return self.add(cluster_serving_runtime(name, command=command, args=args, **more))

    def objects(self, plural: str, namespace: str | None = NAMESPACE, **query: object) -> list[Object]:
        """What exists of a kind."""
        return self.connection.objects(plural, namespace, **query)

    def get(self, plural: str, name: str, namespace: str | None = NAMESPACE) -> Object | None:
        return self.connection.find(plural, namespace, name)

    def pods(self, service: str, namespace: str = NAMESPACE) -> list[Object]:
        """The pods of an InferenceService."""
        return self.objects("pods", namespace, label_selector=f"ome.io/inferenceservice={service}")

    def events(self, name: str, namespace: str = NAMESPACE) -> list[Object]:
        """The Events about the objects of that name."""
        return self.objects("events", namespace, field_selector=f"involvedObject.name={name}")

    def leftovers(self, namespace: str = NAMESPACE) -> list[str]:
        """What still exists: objects as `plural/name`, processes as `process/pid`."""
        found = [f"{plural}/{each['metadata']['name']}" for plural in _LEFT for each in self.objects(plural, namespace)]
        built_in = {"/".join(pair) for pair in _BUILT_IN}
        return [each for each in found if each not in built_in] + [f"process/{pid}" for pid in self.kubelet.processes()]

    def _install(self) -> None:
        if isinstance(self.server, ApiServer):
            for crd in self._crds:
                self.server.install(crd)
            return
        for crd in self._crds:
            self.connection.create(crd)
        deadline = time.monotonic() + _CRDS_S
        while not all(self._served(crd["spec"]["names"]["plural"]) for crd in self._crds):
            if time.monotonic() > deadline:
                raise TimeoutError(f"OME's CRDs are not served after {_CRDS_S} s")
            time.sleep(0.1)

    def _served(self, plural: str) -> bool:
        try:
            self.connection.request("GET", f"/apis/ome.io/v1beta1/{plural}", limit=1)
        except Refused:
            return False
        return True

    def _populate(self) -> None:
        for name in (NAMESPACE, OME_NAMESPACE):
            self.add(namespace(name))
        self.add(manager("ome-controller-manager", OME_NAMESPACE, MANAGER_IMAGE))
        self.add(node(NODE, self._gpus))

    def _play(self, *, collect: bool) -> None:
        self._mirrors = {plural: Mirror(self.connection, plural) for plural in _MIRRORED}
        services, deployments, replica_sets, pods, jobs, nodes, quotas = self._mirrors.values()
        self.ome = OmeController(self.connection, services, deployments, pods)
        self.deployments = Deployments(self.connection, deployments, replica_sets, pods)
        self.jobs = Jobs(self.connection, jobs, pods)
        self.scheduler = Scheduler(self.connection, pods, nodes)
        self.kubelet = Kubelet(self.connection, pods)
        usage = QuotaUsage(self.connection, quotas, pods)
        self._loops = [self.ome, self.deployments, self.jobs, self.scheduler, self.kubelet, usage]
        if collect:
            owned = [*self._mirrors.values(), Mirror(self.connection, "services"), Mirror(self.connection, "configmaps")]
            self._mirrors |= {"services": owned[-2], "configmaps": owned[-1]}
            self._loops.append(OwnerDeletion(self.connection, *owned))
        else:
            self.server.node = self.kubelet
        for mirror in self._mirrors.values():
            mirror.start()
        for mirror in self._mirrors.values():
            mirror.wait_listed()
        for loop in self._loops:
            loop.start()

    def _stop(self) -> None:
        for loop in self._loops:
            loop.close()
        for mirror in self._mirrors.values():
            mirror.close()
        self.server.stop()
