"""The cluster of an experiment on backend=ome: the checks that its runs make, each as a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from tuner.backends.ome import preflight
from tuner.backends.ome.asking import cluster_of
from tuner.errors import NotReadyError, TunerError
from tuner.finding import Finding, skipped
from tuner.kube.cluster import Cluster
from tuner.kube.errors import ApiError
from tuner.kube.resources import Object
from tuner.ome_settings import OmeBackendSettings
from tuner.settings import Settings

Check = Callable[[], Finding]


def cluster_checks(settings: Settings, backend: OmeBackendSettings, fewest: int, most: int) -> Iterator[tuple[str, Check]]:
    """The checks by name. Where no cluster is configured, `cluster` says so and the others are skipped.

    Args:
        settings: The experiment.
        backend: The keys of its backend.
        fewest: GPUs of the smallest configuration.
        most: GPUs of the largest.
    """
    try:
        cluster = cluster_of(backend)
    except NotReadyError as error:
        yield "cluster", partial(Finding.failure, error)
        for name in preflight.names(fewest)[1:]:
            yield name, partial(skipped, "no cluster is configured")
        return
    needs = preflight.Needs(fewest, most, partial(_manifest, settings, cluster), settings.benchmark.mode == "job")
    yield from preflight.checks(cluster, backend, needs)


def _manifest(settings: Settings, cluster: Cluster) -> Object | None:
    from tuner.parties import dry_run_manifest  # it knows all engines, which only this one check needs

    try:
        return dry_run_manifest(settings, cluster)
    except (TunerError, ApiError):  # what is wrong is told by `configuration` and `runtime`
        return None
