"""The backend `ome` in a played cluster: the conformance of all backends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.ome.deploying import backend_at, furnish, stub_spec
from tests.cluster.played import PlayedCluster
from tests.conformance.backend import BackendSuite
from tuner.backends.ome.backend import Ome
from tuner.launch import LaunchSpec

pytestmark = pytest.mark.slow

OWNER = """
import sys, time
from pathlib import Path
from tests.backends.ome.deploying import backend_at, stub_spec
from tests.conformance.backend import answers
from tuner.backends.base import Place
folder = Path(sys.argv[1])
trial = folder / "foreign"
trial.mkdir()
deployment = backend_at(folder / "kubeconfig").deploy(stub_spec(sys.argv[2]), Place("some-study", 9, trial))
deployment.wait_ready(answers, 60)
# the port-forward ends with this process: the pod's own address is what remains
pod = deployment._sight.view().pods[0]
print(f"http://{pod['status']['podIP']}:8080", flush=True)
time.sleep(3600)
"""


class TestConformance(BackendSuite):
    @pytest.fixture(autouse=True)
    def played(self, tmp_path: Path) -> Iterator[None]:
        with PlayedCluster() as self.cluster:
            self.cluster.kubelet.probe_period_s = 0.05
            furnish(self.cluster)
            self.kubeconfig = self.cluster.kubeconfig(tmp_path)
            yield
            assert self.cluster.leftovers() == []

    @pytest.fixture
    def backend(self) -> Ome:
        return backend_at(self.kubeconfig)

    def spec(self, tmp_path: Path, mode: str, **env: str) -> LaunchSpec:
        return stub_spec(mode, **env)

    def leftovers(self, tmp_path: Path) -> list[str]:
        return self.cluster.leftovers()

    def foreign_owner(self, tmp_path: Path, mode: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", OWNER, str(tmp_path), mode]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
