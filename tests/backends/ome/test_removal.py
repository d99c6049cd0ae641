"""Removal in a played cluster: finalizers that stay, nodes that are lost, what dead tuners left, and what a study makes of it."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.backends.ome.deploying import backend_at, furnish, stub_spec
from tests.cluster.played import PlayedCluster
from tests.conformance.backend import PATIENCE_S, answers, eventually
from tuner.backends.base import Place
from tuner.backends.ome import deployment as ome_deployment
from tuner.backends.ome.backend import Ome
from tuner.backends.ome.manifest import EXPIRES, OWNER
from tuner.errors import NotReadyError, Systemic, Transient
from tuner.owner import Owner

pytestmark = pytest.mark.slow

DEAD = "another-host:1:2.0:"
GONE = Owner(Owner.current().host, 2**22 - 1, 1.0, Owner.current().boot).to_str()


@pytest.fixture
def kubeconfig(cluster: PlayedCluster, tmp_path: Path) -> Path:
    furnish(cluster)
    return cluster.kubeconfig(tmp_path)


def place(folder: Path, trial: int = 7) -> Place:
    trial_folder = folder / f"trial-{trial}"
    trial_folder.mkdir(exist_ok=True)
    return Place("some study", trial, trial_folder)


def serve(backend: Ome, folder: Path, trial: int = 7) -> None:
    with backend.deploy(stub_spec("serve"), place(folder, trial)) as server:
        server.wait_ready(answers, PATIENCE_S)


class TestStuck:
    def test_a_finalizer_is_said_and_the_study_goes_on(
        self, cluster: PlayedCluster, kubeconfig: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        backend = backend_at(kubeconfig, delete_timeout_s=0.5)
        cluster.ome.stuck_finalizer = True
        with caplog.at_level(logging.WARNING):
            serve(backend, tmp_path, 1)
        assert "its finalizers are not taken off (inferenceservice.finalizers): see whether OME's controller runs" in caplog.text
        assert len(cluster.objects("inferenceservices")) == 1
        serve(backend, tmp_path, 2)
        cluster.ome.stuck_finalizer = False
        eventually(lambda: cluster.leftovers() == [], "the finalizers come off")

    def test_or_it_ends(self, cluster: PlayedCluster, kubeconfig: Path, tmp_path: Path) -> None:
        backend = backend_at(kubeconfig, delete_timeout_s=0.5, on_stuck="stop")
        cluster.ome.stuck_finalizer = True
        serve(backend, tmp_path, 1)
        with pytest.raises(Systemic, match=r"of an earlier trial cannot be removed .*finalizers"):
            backend.deploy(stub_spec("serve"), place(tmp_path, 2))
        cluster.ome.stuck_finalizer = False
        eventually(lambda: cluster.leftovers() == [], "the finalizers come off")
        serve(backend, tmp_path, 3)

    def test_a_lost_node_is_named_and_its_gpus_stay_taken(
        self, cluster: PlayedCluster, kubeconfig: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        backend = backend_at(kubeconfig, delete_timeout_s=0.5, gpu_budget=1)
        with caplog.at_level(logging.WARNING), backend.deploy(stub_spec("serve", gpus=1), place(tmp_path, 1)) as server:
            server.wait_ready(answers, PATIENCE_S)
            cluster.kubelet.stuck = True
        assert "on gpu-node-1 does not end: see whether the node is well" in caplog.text
        with pytest.raises(Transient, match=r"of backend\.gpu_budget=1 0 are free now"):
            backend.deploy(stub_spec("serve", gpus=1), place(tmp_path, 2))
        cluster.kubelet.stuck = False
        eventually(lambda: cluster.leftovers() == [], "the pod ends")
        with backend.deploy(stub_spec("serve", gpus=1), place(tmp_path, 3)):
            pass
        eventually(lambda: cluster.leftovers() == [], "its end, for which half a second may be too short")


class TestBudget:
    def test_of_gpus(self, cluster: PlayedCluster, kubeconfig: Path, tmp_path: Path) -> None:
        backend = backend_at(kubeconfig, gpu_budget=3)
        with backend.deploy(stub_spec("serve", gpus=2), place(tmp_path, 1)):
            with pytest.raises(Transient, match=r"needs 2 GPUs, of backend\.gpu_budget=3 1 are free now"):
                backend.deploy(stub_spec("serve", gpus=2), place(tmp_path, 2))
            with backend.deploy(stub_spec("serve", gpus=1), place(tmp_path, 3)) as server:
                server.wait_ready(answers, PATIENCE_S)
        with backend.deploy(stub_spec("serve", gpus=2), place(tmp_path, 4)):
            pass

    def test_certain_excess_is_refused_without_a_deployment(self, kubeconfig: Path) -> None:
        backend = backend_at(kubeconfig)
        backend.check()
        assert backend.refuse(stub_spec("serve", gpus=4)) is None
        refusal = backend.refuse(stub_spec("serve", gpus=5))
        assert refusal is not None
        assert "needs 5 GPUs, and a server can have 4" in refusal


class TestSweep:
    def left(self, cluster: PlayedCluster, kubeconfig: Path, folder: Path, annotations: dict[str, str]) -> str:
        """Deploys, and makes it look as if another had."""
        deployment = backend_at(kubeconfig).deploy(stub_spec("serve"), place(folder))
        deployment.wait_ready(answers, PATIENCE_S)
        deployment._lease.close()  # type: ignore[attr-defined]
        [service] = cluster.objects("inferenceservices")
        cluster.connection.merge(service, {"metadata": {"annotations": annotations}})
        return str(service["metadata"]["name"])

    def time(self, **ago: Any) -> str:
        return (datetime.now(UTC) - timedelta(**ago)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def test_of_an_owner_that_is_dead(self, cluster: PlayedCluster, kubeconfig: Path, tmp_path: Path) -> None:
        name = self.left(cluster, kubeconfig, tmp_path, {OWNER: GONE})
        assert backend_at(kubeconfig).reap() == [f"removed the InferenceService {name} of study some study, trial 7, left by a dead tuner"]
        assert cluster.leftovers() == []

    def test_of_an_owner_elsewhere_only_when_its_lease_has_run_out(self, cluster: PlayedCluster, kubeconfig: Path, tmp_path: Path) -> None:
        name = self.left(cluster, kubeconfig, tmp_path, {OWNER: DEAD, EXPIRES: self.time(minutes=-1)})
        assert backend_at(kubeconfig).reap() == []
        [service] = cluster.objects("inferenceservices")
        cluster.connection.merge(service, {"metadata": {"annotations": {EXPIRES: self.time(seconds=1)}}})
        assert backend_at(kubeconfig).reap() == [
            f"removed the InferenceService {name} of study some study, trial 7, whose lease has run out"
        ]

    def test_a_lease_is_renewed(self, cluster: PlayedCluster, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Hasty(ome_deployment.LeaseKeeper):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments[:-1], 0.3)

        monkeypatch.setattr(ome_deployment, "LeaseKeeper", Hasty)
        with backend_at(kubeconfig).deploy(stub_spec("serve"), place(tmp_path)):

            def expires() -> str:
                return str(cluster.objects("inferenceservices")[0]["metadata"]["annotations"][EXPIRES])

            first = expires()
            eventually(lambda: expires() != first, "a new date")

    def test_strangers_are_left_alone(self, cluster: PlayedCluster, kubeconfig: Path) -> None:
        stranger = {
            "apiVersion": "ome.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": "of-somebody", "namespace": "tuner", "annotations": {EXPIRES: self.time(days=1), OWNER: GONE}},
            "spec": {},
        }
        cluster.ome.silent = True
        made = cluster.add(stranger)
        assert backend_at(kubeconfig).reap() == []
        assert cluster.get("inferenceservices", "of-somebody") is not None
        cluster.connection.delete(made)

    def test_without_a_cluster(self, tmp_path: Path) -> None:
        with PlayedCluster() as cluster:
            kubeconfig = cluster.kubeconfig(tmp_path)
        with pytest.raises(NotReadyError, match=r"does not answer \(connection refused\)"):
            backend_at(kubeconfig).reap()
