"""Asking the cluster that the settings name: which it is, how long checks ask, and what becomes of an error."""

from __future__ import annotations

import re

from tuner.finding import Finding, failed
from tuner.kube.cluster import Cluster
from tuner.kube.connection import Address, connect, explain
from tuner.kube.errors import ApiError
from tuner.ome_settings import OmeBackendSettings

PATIENCE_S = 5.0
"""Seconds for which a check repeats a request that the cluster could not take for the moment: somebody waits for what it says."""

_IN_BRACKETS = re.compile(r"(?P<seen>.*?\)): (?P<fix>.+)")


def refused(error: ApiError, cluster: Cluster, doing: str) -> Finding:
    """A failure in the words of `connection.explain`, whose causes end with what the server said, in brackets.

    Args:
        error: What came instead of an answer.
        cluster: Who was asked.
        doing: What was tried, as `list pods`.
    """
    text = explain(error, cluster, doing)
    if parts := _IN_BRACKETS.fullmatch(text):
        return failed(parts["seen"], parts["fix"])
    seen, _, fix = text.partition(": ")
    return failed(seen, fix)


def cluster_of(settings: OmeBackendSettings) -> Cluster:
    """The cluster that the settings name; not asked yet.

    Raises:
        NotReadyError: none is configured.
    """
    return connect(Address(settings.kubeconfig, settings.context, settings.namespace))
