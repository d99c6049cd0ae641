"""What a study on a cluster needs, examined before its first trial: by the backend's check, which stops at a failure, and by `doctor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tuner.backends.ome import gpu_check, installation, quotas, rights, serving
from tuner.backends.ome.asking import PATIENCE_S, refused
from tuner.backends.ome.sweep import abandoned
from tuner.finding import Finding, failed, ok, skipped, warning
from tuner.kube.cluster import Cluster
from tuner.kube.errors import ApiError
from tuner.kube.removal import kind_of
from tuner.kube.resources import INFERENCE_SERVICE, NAMESPACE, Object, inside
from tuner.ome_settings import OmeBackendSettings

_UNAUTHORIZED, _FORBIDDEN = 401, 403
_SHOWN = 5
_NO_DRY_RUN = "does not support dry run"
_WEBHOOK_DOWN = "failed calling webhook"

Check = Callable[[], Finding]


@dataclass(frozen=True, slots=True)
class Needs:
    """What a study asks of its cluster.

    Attributes:
        fewest: GPUs of the smallest configuration of the space; 0 for an engine on the CPU.
        most: GPUs of the largest.
        manifest: InferenceService of a trial, or what makes it when it is wanted; None where there is none to try.
        jobs: Whether genai-bench runs as Jobs.
    """

    fewest: int
    most: int
    manifest: Object | Callable[[], Object | None] | None
    jobs: bool = False


def checks(cluster: Cluster, settings: OmeBackendSettings, needs: Needs) -> Iterator[tuple[str, Check]]:
    """The checks by name, in the order in which one explains the next. None of them raises.

    Once the cluster did not answer one of them, or knows no such user, the others are skipped: they would wait in vain, and say the same.

    Args:
        cluster: The cluster.
        settings: Of the backend.
        needs: What the study asks of it.
    """
    guard = _Guard(cluster)
    yield "cluster", guard(lambda: _cluster(cluster), "tell its version")
    yield "namespace", guard(lambda: _namespace(cluster), f"read namespace {cluster.namespace}")
    yield "rights", guard(lambda: rights.check(cluster, settings, needs.jobs), "ask for your rights")
    yield "ome", guard(lambda: installation.check(cluster, settings.ome_namespace), f"list deployments in {settings.ome_namespace}")
    yield "model", guard(lambda: serving.check_model(cluster, settings), f"read {settings.model.kind} {settings.model.name}")
    yield "runtime", guard(lambda: _runtime(cluster, settings), f"read {settings.runtime.kind} {settings.runtime.name}")
    if needs.fewest:
        yield "gpus", guard(lambda: gpu_check.check(cluster, settings, needs.fewest, needs.most), "list nodes")
    yield "quota", guard(lambda: quotas.check(cluster, settings, needs.fewest), "list resourcequotas")
    yield "dry_run", guard(lambda: _dry_run(cluster, needs), "create an InferenceService")
    yield "leftovers", guard(lambda: _leftovers(cluster), "list inferenceservices")


def names(fewest: int) -> tuple[str, ...]:
    """The names of all checks, in order.

    Args:
        fewest: GPUs of the smallest configuration.
    """
    every = ("cluster", "namespace", "rights", "ome", "model", "runtime", "gpus", "quota", "dry_run", "leftovers")
    return tuple(name for name in every if fewest or name != "gpus")


class _Guard:
    """Makes checks that do not raise, and do not ask in vain."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._useless = ""

    def __call__(self, check: Check, doing: str) -> Check:
        def guarded() -> Finding:
            if self._useless:
                return skipped(self._useless)
            try:
                return check()
            except ApiError as error:
                if error.away:
                    self._useless = "the cluster does not answer"
                elif error.status == _UNAUTHORIZED:
                    self._useless = "the cluster does not accept your credentials"
                return refused(error, self._cluster, doing)

        return guarded


def _cluster(cluster: Cluster) -> Finding:
    version = str(cluster.ask("/version").get("gitVersion") or "of an unknown version")
    return ok(f"Kubernetes {version}, {cluster.title}")


def _namespace(cluster: Cluster) -> Finding:
    name = cluster.namespace
    try:
        found = cluster.get(NAMESPACE, name, PATIENCE_S)
    except ApiError as error:
        if error.status != _FORBIDDEN:
            raise
        # a list in a namespace that does not exist is empty, and no error
        return skipped(f"whether namespace {name} exists may not be seen by this user")
    if found is None:
        return failed(f"there is no namespace {name}", f"`kubectl create namespace {name}`, or set backend.namespace")
    if inside(found, "metadata", "deletionTimestamp"):
        return failed(f"namespace {name} is being deleted", "wait until it is gone and make it anew, or set backend.namespace")
    return ok(f"namespace {name} exists")


def _runtime(cluster: Cluster, settings: OmeBackendSettings) -> Finding:
    return serving.check_runtime(cluster, settings, installation.version(cluster, settings.ome_namespace))


def _dry_run(cluster: Cluster, needs: Needs) -> Finding:
    manifest = needs.manifest() if callable(needs.manifest) else needs.manifest
    if manifest is None:
        return skipped("there is no manifest to try")
    try:
        cluster.create(INFERENCE_SERVICE, manifest, dry_run=True)
    except ApiError as error:
        if _NO_DRY_RUN in error.message:
            return skipped(f"an admission webhook of the cluster knows no dry run ({error.message})")
        if _WEBHOOK_DOWN in error.message:
            return failed(
                f"an admission webhook does not answer ({error.message})",
                "see whether the pods of ome-controller-manager run and are ready",
            )
        if error.status in (400, 403, 422):
            return failed(f"the cluster refuses the InferenceService of a trial ({error.message})", "see backend.patch and backend.runtime")
        raise
    return ok("the cluster would accept the InferenceService of a trial")


def _leftovers(cluster: Cluster) -> Finding:
    left = [f"{kind_of(each.leftover)} {each.leftover.name}" for each in abandoned(cluster)]
    if not left:
        return ok(f"killed runs have left nothing in namespace {cluster.namespace}")
    more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
    return warning(
        f"left by killed runs in namespace {cluster.namespace}: {', '.join(left[:_SHOWN])}{more}",
        "`python -m tuner clean` with the same backend; the next run does the same at its start",
    )
