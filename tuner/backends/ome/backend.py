"""The backend `ome`: a server is an InferenceService of OME, which the cluster's own scheduler places."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import yaml

from tuner.backends.base import Backend, Deployment, Place
from tuner.backends.log_file import LOG_NAME
from tuner.backends.ome import preflight
from tuner.backends.ome.asking import cluster_of
from tuner.backends.ome.capacity import Capacity
from tuner.backends.ome.capacity import read as read_capacity
from tuner.backends.ome.catalogue import Runtime
from tuner.backends.ome.deployment import OmeDeployment
from tuner.backends.ome.failures import creation_failure
from tuner.backends.ome.manifest import CONTAINER, Lease, exported, inference_service, unique_name
from tuner.backends.ome.reach import access
from tuner.backends.ome.sweep import abandoned
from tuner.errors import NotReadyError, Systemic, Transient
from tuner.interrupts import interrupts_deferred
from tuner.kube.cluster import Cluster
from tuner.kube.connection import explain
from tuner.kube.creation import create_or_adopt
from tuner.kube.errors import ApiError
from tuner.kube.log import LogFollower
from tuner.kube.removal import Leftover, ask_to_end, kind_of, remove
from tuner.kube.resources import INFERENCE_SERVICE, NAMESPACE, uid_of
from tuner.launch import LaunchSpec
from tuner.ome_settings import OmeBackendSettings
from tuner.owner import Owner

_LOG = logging.getLogger(__name__)
CREATE_PATIENCE_S = 60.0
UNDO_S = 10.0


class Ome(Backend):
    """Starts servers as InferenceServices.

    Args:
        settings: The keys of `backend`.
        needs: What the search space asks of the cluster, for `check`; None where servers are only removed.
        on_progress: Is told, in a line, what takes long and what the user should know.
    """

    name = "ome"

    def __init__(
        self,
        settings: OmeBackendSettings,
        needs: Callable[[Cluster], preflight.Needs] | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        self._settings = settings
        self._needs = needs
        self._on_progress = on_progress or _LOG.info
        self._connected: Cluster | None = None
        self._runtime: Runtime | None = None
        self._capacity = Capacity(None, None, None)
        self._facts: dict[str, str] = {}
        self._lock = threading.Lock()
        self._gpus = 0
        self._stuck: dict[Leftover, int] = {}

    def check(self) -> None:
        cluster = self.cluster()
        needs = self._needs(cluster) if self._needs is not None else preflight.Needs(0, 0, None)
        for name, check in preflight.checks(cluster, self._settings, needs):
            if name == "leftovers":  # `reap` comes next
                continue
            finding = check()
            if finding.verdict == "failed":
                raise NotReadyError(f"{finding.seen}: {finding.fix}")
            if finding.verdict == "warning":
                self._on_progress(f"{finding.seen}: {finding.fix}")
        if access(self._settings) == "port_forward" and not needs.jobs:
            self._on_progress(
                "The load goes through a port-forward: good enough to try things out, not to measure. "
                "benchmark.mode=job measures inside the cluster; other ways stand in docs/kubernetes.md."
            )
        runtime = self._read_runtime(cluster)
        self._capacity = read_capacity(cluster, self._settings)
        self._facts = {
            "cluster": cluster.title,
            "namespace": cluster.namespace,
            "runtime": self._settings.runtime.name,
            "image": self._settings.image or runtime.image or "",
        }

    def deploy(self, spec: LaunchSpec, place: Place) -> Deployment:
        cluster = self._ready_cluster()
        runtime = self._read_runtime(cluster)
        owner = Owner.current().to_str()
        log_path = place.folder / LOG_NAME
        with ExitStack() as undo:
            self._take(spec.gpus)
            undo.callback(self._give_back, spec.gpus)
            try:
                log = LogFollower(cluster, log_path, CONTAINER)
            except OSError as error:
                raise Systemic(f"cannot write {log_path} ({error.strerror}): check the study's folder and the free disk space") from error
            undo.callback(log.finish, 0.0)
            name = unique_name(place)
            lease = Lease.of(owner, self._settings.lease_s)
            manifest = inference_service(name, spec, self._settings, cluster.namespace, runtime, place, lease)
            with interrupts_deferred():
                service = Leftover(INFERENCE_SERVICE, name, self._create(cluster, manifest))
                undo.callback(remove, cluster, service, UNDO_S)

            def closed(why: str) -> None:
                if why:
                    with self._lock:
                        self._stuck[service] = spec.gpus
                else:
                    self._give_back(spec.gpus)

            deployment = OmeDeployment(
                cluster, service, spec, self._settings, runtime.port, log_path, log, owner, closed, self._on_progress
            )
            undo.pop_all()
        return deployment

    def refuse(self, spec: LaunchSpec) -> str | None:
        most = self._capacity.per_server
        if most is not None and spec.gpus > most:
            return f"needs {spec.gpus} GPUs, and a server can have {most}: no node, quota or backend.gpu_budget has more"
        return None

    def reap(self) -> list[str]:
        cluster = self.cluster()
        try:
            self._require_namespace(cluster)
            found = abandoned(cluster)
        except ApiError as error:
            raise NotReadyError(explain(error, cluster, "list what tuner has made")) from error
        patience_s = self._settings.stop_grace_s + self._settings.delete_timeout_s
        if found:
            self._on_progress(f"Removing {len(found)} left by dead tuners, which may take up to {patience_s:g} s")
        ask_to_end(cluster, [one.leftover for one in found])
        deadline = time.monotonic() + patience_s
        removed, stuck = [], []
        for one in found:
            what = f"the {kind_of(one.leftover)} {one.leftover.name} of study {one.study}{f', trial {one.trial}' if one.trial else ''}"
            if why := remove(cluster, one.leftover, max(0.0, deadline - time.monotonic())):
                stuck.append(f"cannot remove {what}: {why}")
            else:
                removed.append(f"removed {what}, {'whose lease has run out' if one.expired else 'left by a dead tuner'}")
        self.stuck = stuck
        return removed

    def _require_namespace(self, cluster: Cluster) -> None:
        """Tells a namespace without leftovers from one that does not exist: a list of the latter is empty, too."""
        try:
            found = cluster.get(NAMESPACE, cluster.namespace, patience_s=0.0)
        except ApiError as error:
            if error.status != 403:
                raise
        else:
            if found is None:
                raise NotReadyError(
                    f"the cluster has no namespace {cluster.namespace}: set backend.namespace to the one that trials ran in"
                )

    def describe(self) -> Mapping[str, str]:
        return self._facts

    def launch_text(self, spec: LaunchSpec) -> str:
        """A manifest, as one command for a shell."""
        cluster = self.cluster()
        manifest = exported(spec, self._settings, cluster.namespace, self._read_runtime(cluster))
        text = yaml.safe_dump(manifest, sort_keys=False, width=1000)
        return f"kubectl apply -f - <<'EOF'\n{text}EOF"

    def cluster(self) -> Cluster:
        """The cluster that the settings name; not asked yet.

        Raises:
            NotReadyError: none is configured.
        """
        if self._connected is None:
            self._connected = cluster_of(self._settings)
        return self._connected

    @property
    def capacity(self) -> Capacity:
        """What one server can have. Valid after `check`."""
        return self._capacity

    def _read_runtime(self, cluster: Cluster) -> Runtime:
        if self._runtime is None:
            self._runtime = Runtime.read(cluster, self._settings.runtime)
        return self._runtime

    def _ready_cluster(self) -> Cluster:
        """The cluster, when nothing that an earlier deployment could not remove stands in the way.

        Raises:
            Systemic: it does, and `backend.on_stuck` says that the study ends; or the cluster is not configured any more.
        """
        try:
            cluster = self.cluster()
        except NotReadyError as error:
            raise Systemic(str(error)) from error
        with self._lock:
            stuck = dict(self._stuck)
        for service, gpus in stuck.items():
            why = remove(cluster, service, 0.0)
            if not why:
                with self._lock:
                    if self._stuck.pop(service, None) is not None:
                        self._gpus -= gpus
            elif self._settings.on_stuck == "stop":
                raise Systemic(f"InferenceService {service.name} of an earlier trial cannot be removed ({why}): delete it by hand")
        return cluster

    def _create(self, cluster: Cluster, manifest: Mapping[str, Any]) -> str:
        """Creates the InferenceService and returns its uid; if that fails, none is left."""
        name = str(manifest["metadata"]["name"])
        try:
            return uid_of(create_or_adopt(cluster, INFERENCE_SERVICE, manifest, CREATE_PATIENCE_S))
        except BaseException as error:
            unknown = not isinstance(error, ApiError) or error.passing
            leftover = Leftover(INFERENCE_SERVICE, name)
            if unknown and remove(cluster, leftover, 0.0):  # no answer, or an interrupt: it may exist nevertheless
                with self._lock:
                    self._stuck[leftover] = 0
            if isinstance(error, ApiError):
                raise creation_failure(error, cluster) from error
            raise

    def _take(self, gpus: int) -> None:
        budget = self._settings.gpu_budget
        with self._lock:
            if budget is not None and self._gpus + gpus > budget:
                raise Transient(f"needs {gpus} GPUs, of backend.gpu_budget={budget} {budget - self._gpus} are free now")
            self._gpus += gpus

    def _give_back(self, gpus: int) -> None:
        with self._lock:
            self._gpus -= gpus
