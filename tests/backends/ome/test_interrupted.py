"""What breaks in between: the way to a server, a removal that a user does not wait for, leftovers that do not go."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path

import pytest

from tests.backends.ome.deploying import backend_at, furnish, stub_spec
from tests.cluster.played import PlayedCluster
from tests.conformance.backend import PATIENCE_S, answers, eventually, fetch
from tuner.backends.base import Deployment, Place
from tuner.backends.ome import deployment as ome_deployment
from tuner.backends.ome.backend import Ome
from tuner.errors import NotReadyError, Systemic
from tuner.owner import Owner

pytestmark = pytest.mark.slow

GONE = Owner(Owner.current().host, 2**22 - 1, 1.0, Owner.current().boot).to_str()


@pytest.fixture
def backend(cluster: PlayedCluster, tmp_path: Path) -> Ome:
    furnish(cluster)
    return backend_at(cluster.kubeconfig(tmp_path))


def deploy(backend: Ome, folder: Path, trial: int = 1) -> Deployment:
    place = Place("some-study", trial, folder / str(trial))
    place.folder.mkdir()
    deployment = backend.deploy(stub_spec("serve"), place)
    deployment.wait_ready(answers, PATIENCE_S)
    return deployment


def test_a_port_forward_that_breaks_is_nobodys_fault(cluster: PlayedCluster, backend: Ome, tmp_path: Path) -> None:
    with deploy(backend, tmp_path) as server:
        assert server.exit_status() is None
        cluster.server.stop()
        fetch(server.endpoint)
        eventually(lambda: server.exit_status() is not None, "it is noticed")
        cluster.server.restart()
        status = server.exit_status()
        assert status is not None
        assert status.disturbed.startswith("The way to the server through the Kubernetes API broke")
    assert cluster.leftovers() == []


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_during_the_removal_leaves_nothing(cluster: PlayedCluster, backend: Ome, tmp_path: Path) -> None:
    server = deploy(backend, tmp_path)
    cluster.server.faults.add(lambda method, path: method == "DELETE", status=503, times=3)

    def interrupt() -> None:
        eventually(lambda: any(request.method == "DELETE" for request in cluster.server.requests), "the removal has begun")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        server.close()
    assert cluster.leftovers() == []


def test_an_api_that_stays_away_is_told_and_given_up(
    cluster: PlayedCluster, backend: Ome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in (("AWAY_S", 1.0), ("TOLD_AFTER_S", 0.2), ("AFTER_INTERRUPT_S", 0.5)):
        monkeypatch.setattr(ome_deployment, name, value)
    told: list[str] = []
    backend._on_progress = told.append
    cluster.ome.paused = True
    place = Place("some-study", 1, tmp_path)
    with caplog.at_level(logging.WARNING), backend.deploy(stub_spec("serve"), place) as server:
        eventually(lambda: server._look() is not None, "all is listed")  # type: ignore[attr-defined]
        cluster.server.stop()
        with pytest.raises(Systemic, match="does not answer"):
            server.wait_ready(answers, PATIENCE_S)
    assert any(line.startswith("Waiting, for at most 1 s: the Kubernetes API") for line in told), told
    assert "`tuner clean backend=ome` removes it later" in caplog.text
    cluster.server.restart()
    cluster.ome.paused = False
    [service] = cluster.objects("inferenceservices")
    cluster.connection.delete(service)
    eventually(lambda: cluster.leftovers() == [], "nothing is left")


def test_leftovers_go_side_by_side_and_those_that_do_not_are_told(cluster: PlayedCluster, backend: Ome, tmp_path: Path) -> None:
    servers = [deploy(backend, tmp_path, trial) for trial in (1, 2, 3)]
    for server in servers:
        server._lease.close()  # type: ignore[attr-defined]
    for service in cluster.objects("inferenceservices"):
        cluster.connection.merge(service, {"metadata": {"annotations": {"tuner.owner": GONE}}})
    cluster.ome.stuck_finalizer = True
    hasty = backend_at(tmp_path / "kubeconfig", delete_timeout_s=1.0)
    assert hasty.reap() == []
    assert len(hasty.stuck) == 3
    assert all("cannot remove the InferenceService" in line and "finalizers" in line for line in hasty.stuck)
    cluster.ome.stuck_finalizer = False
    eventually(lambda: cluster.leftovers() == [], "nothing is left")
    assert hasty.reap() == []
    assert hasty.stuck == []


def test_a_namespace_that_does_not_exist_is_no_clean_one(cluster: PlayedCluster, tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="has no namespace nowhere"):
        backend_at(cluster.kubeconfig(tmp_path), namespace="nowhere").reap()
