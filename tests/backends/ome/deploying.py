"""What the tests of the backend `ome` share: the backend in a played cluster, and its launch specs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.conformance.backend import STUB
from tuner.backends.ome.backend import Ome
from tuner.launch import LaunchSpec
from tuner.ome_settings import OmeBackendSettings

if TYPE_CHECKING:
    from tests.cluster.played import PlayedCluster  # processes that only deploy need not wait for it

MODEL, RUNTIME = "some-model", "some-runtime"


def furnish(cluster: PlayedCluster) -> None:
    """A model and a runtime whose probe asks for `/`."""
    cluster.add_model(MODEL, "/mnt/models/some-model")
    cluster.add_runtime(RUNTIME, ["python3", "-m", "some.server"], ["--host", "0.0.0.0", "--port", "8080"], probe_path="/")


def settings(kubeconfig: Path, /, **changes: Any) -> OmeBackendSettings:
    values = {
        "name": "ome",
        "model": {"name": MODEL},
        "runtime": {"name": RUNTIME},
        "kubeconfig": str(kubeconfig),
        "stop_grace_s": 1,
        "delete_timeout_s": 20.0,
    }
    return OmeBackendSettings.model_validate(values | changes)


def backend_at(kubeconfig: Path, /, **changes: Any) -> Ome:
    return Ome(settings(kubeconfig, **changes))


def stub_spec(mode: str, gpus: int = 0, **env: str) -> LaunchSpec:
    return LaunchSpec((sys.executable, str(STUB), mode, "{host}", "{port}"), "stub", env=env, gpus=gpus, ready_timeout_s=60.0)
