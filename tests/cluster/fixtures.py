"""Fixtures: a played cluster for one test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.played import PlayedCluster
from tests.cluster.playing import MODEL, RUNTIME


@pytest.fixture
def cluster() -> Iterator[PlayedCluster]:
    """A played cluster with one node of four GPUs; OME's small CRDs."""
    with PlayedCluster() as played:
        yield played


@pytest.fixture
def strict_cluster() -> Iterator[PlayedCluster]:
    """The same with OME's own CRDs, where they are here."""
    with PlayedCluster(full_crds=True) as played:
        yield played


@pytest.fixture
def furnished(cluster: PlayedCluster) -> PlayedCluster:
    """A played cluster with a model and a runtime, whose server is a stub."""
    cluster.add_model(MODEL, "/models/tiny")
    cluster.add_runtime(RUNTIME, ["python3", "no-such-launcher.py"], probe_path="/")
    return cluster
