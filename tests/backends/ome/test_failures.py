"""Each way in which a cluster fails a server, played: whose fault it is said to be, in which words, and that nothing is left behind."""

from __future__ import annotations

import dataclasses
import http.client
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.ome.deploying import MODEL, backend_at, furnish, stub_spec
from tests.backends.ome.shapes import CUDA
from tests.cluster.objects import resource_quota
from tests.cluster.played import PlayedCluster
from tests.conformance.backend import PATIENCE_S, answers, eventually, fetch
from tuner.backends.base import Deployment, NotReadyInTime, Place, ServerExited
from tuner.backends.ome import backend as ome_backend
from tuner.backends.ome import deployment as ome_deployment
from tuner.backends.ome import verdict
from tuner.errors import Infeasible, Systemic, Transient, TrialFailure
from tuner.launch import ExitStatus, LaunchSpec

pytestmark = pytest.mark.slow

_SHORT_S = 0.5


class World:
    """A played cluster, and one deployment in it at a time."""

    def __init__(self, cluster: PlayedCluster, folder: Path) -> None:
        self.cluster = cluster
        self._folder = folder
        self._kubeconfig = cluster.kubeconfig(folder)
        self.options: dict[str, Any] = {}
        self.others: set[str] = set()

    def leftovers(self) -> list[str]:
        return [left for left in self.cluster.leftovers() if left not in self.others]

    def deploy(self, spec: LaunchSpec | None = None) -> Deployment:
        trial = self._folder / "trial"
        trial.mkdir(exist_ok=True)
        self.backend = backend_at(self._kubeconfig, **self.options)
        return self.backend.deploy(spec or stub_spec("serve"), Place("some-study", 7, trial))

    def fails(self, kind: type[TrialFailure], spec: LaunchSpec | None = None) -> str:
        """Deploys, expects a failure of exactly this class, and returns its reason."""
        with pytest.raises(kind) as caught, self.deploy(spec) as server:
            server.wait_ready(answers, PATIENCE_S)
        assert type(caught.value) is kind
        reason = str(caught.value)
        assert "\n" not in reason
        assert self.leftovers() == []
        return reason

    def ends(self, spec: LaunchSpec) -> ExitStatus:
        """Deploys, expects the server to end before it is ready, and returns how."""
        with pytest.raises(ServerExited) as caught, self.deploy(spec) as server:
            server.wait_ready(answers, PATIENCE_S)
        assert self.leftovers() == []
        return caught.value.status

    def pod(self) -> dict[str, Any]:
        [pod] = self.cluster.objects("pods")
        return pod


@pytest.fixture
def world(cluster: PlayedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in ("RESOLUTION_S", "IMAGE_S", "NO_IMAGE_S", "CONFIG_S", "FORBIDDEN_S"):
        monkeypatch.setattr(verdict, name, _SHORT_S)
    monkeypatch.setattr(ome_backend, "CREATE_PATIENCE_S", 3.0)
    cluster.kubelet.probe_period_s = 0.05
    furnish(cluster)
    world = World(cluster, tmp_path)
    yield world
    assert world.leftovers() == []


def creating(method: str, path: str) -> bool:
    return method == "POST" and path.endswith("/inferenceservices")


class TestCreation:
    @pytest.mark.parametrize(
        ("status", "message", "kind", "part"),
        [
            (
                403,
                'admission webhook "inferenceservice.ome-webhook-server.validator" denied the request: no',
                Systemic,
                "denied the request: no",
            ),
            (
                403,
                'inferenceservices.ome.io is forbidden: User "u" cannot create resource',
                Systemic,
                "bind the role of docs/kubernetes.md",
            ),
            (403, "exceeded quota: services, requested: count/inferenceservices.ome.io=1", Transient, "quota is used up"),
            (422, "spec.engine.minReplicas: Invalid value", Systemic, "spec.engine.minReplicas: Invalid value"),
            (401, "Unauthorized", Systemic, "does not accept your credentials"),
        ],
    )
    def test_refused_at_once(self, world: World, status: int, message: str, kind: type[TrialFailure], part: str) -> None:
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "reason": "", "message": message}
        world.cluster.server.faults.add(creating, status=status, body=body, times=None)
        assert part in world.fails(kind)
        assert sum(creating(request.method, request.path) for request in world.cluster.server.requests) == 1

    @pytest.mark.parametrize(
        "fault",
        [
            {"status": 500, "body": "failed calling webhook"},
            {"status": 429, "headers": {"Retry-After": "1"}},
            {"status": 503},
            {"reset": True},
            {"reset": True, "after": True},
            {"status": 504, "after": True},
        ],
        ids=["webhook", "busy", "unavailable", "reset", "answer lost", "late failure"],
    )
    def test_repeated_and_made_once(self, world: World, fault: dict[str, Any]) -> None:
        world.cluster.server.faults.add(creating, times=1, **fault)
        with world.deploy() as server:
            server.wait_ready(answers, PATIENCE_S)
            assert len(world.cluster.objects("inferenceservices")) == 1

    def test_given_up(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ome_backend, "CREATE_PATIENCE_S", _SHORT_S)
        world.cluster.server.faults.add(creating, status=500, body="failed calling webhook", times=None)
        assert "failed calling webhook" in world.fails(Transient)

    def test_an_answer_that_never_comes_leaves_nothing(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ome_backend, "CREATE_PATIENCE_S", _SHORT_S)

        def create_or_look(method: str, path: str) -> bool:
            return creating(method, path) or (method == "GET" and "/inferenceservices/" in path)

        world.cluster.server.faults.add(create_or_look, reset=True, after=True, times=None)
        with pytest.raises(Systemic, match="does not answer"):
            world.deploy()
        world.cluster.server.faults.clear()
        eventually(lambda: world.backend.deploy(stub_spec("serve"), Place("s", 1, world._folder / "trial")).close() or True, "a next trial")
        assert world.leftovers() == []

    def test_an_argument_that_ome_would_take_for_a_template(self, world: World) -> None:
        spec = stub_spec("serve")
        assert "{{" in world.fails(Infeasible, dataclasses.replace(spec, argv=(*spec.argv, '--json={"a":{{"b":1}}')))


class TestResolution:
    def test_a_model_that_is_gone(self, world: World) -> None:
        world.options = {"model": {"name": "another"}}
        reason = world.fails(Systemic)
        assert "another" in reason
        assert "backend.model" in reason

    def test_nobody_works_on_it(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verdict, "NOTHING_S", _SHORT_S)
        world.cluster.ome.paused = True
        assert "does OME's controller run?" in world.fails(Transient)


class TestImageAndContainer:
    def test_no_such_image(self, world: World) -> None:
        world.options = {"image": "registry.example/none:1"}
        world.cluster.kubelet.bad_images["registry.example/none:1"] = (
            'failed to pull and unpack image "registry.example/none:1": failed to resolve reference "registry.example/none:1": not found'
        )
        assert "registry.example/none:1" in world.fails(Systemic)

    def test_a_registry_that_is_away(self, world: World) -> None:
        world.cluster.kubelet.backoff_s = 5.0
        world.cluster.kubelet.fail_pull(50, "dial tcp: lookup registry.example: no such host")
        assert "must reach the registry" in world.fails(Transient)

    def test_a_registry_that_comes_back(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verdict, "IMAGE_S", PATIENCE_S)
        world.cluster.kubelet.fail_pull(1, "dial tcp: lookup registry.example: no such host")
        with world.deploy() as server:
            server.wait_ready(answers, PATIENCE_S)

    def test_a_secret_that_is_missing(self, world: World) -> None:
        world.options = {"environment": {"HF_TOKEN": {"secret": "hf", "key": "token"}}}
        reason = world.fails(Systemic)
        assert "CreateContainerConfigError" in reason
        assert "backend.environment" in reason

    def test_no_such_program(self, world: World) -> None:
        reason = world.fails(Systemic, LaunchSpec(("no-such-server", "--port", "{port}"), "stub"))
        assert reason.startswith("engine.executable: ")
        assert "no-such-server" in reason


class TestCrash:
    def crashing(self, code: int, text: str = "") -> LaunchSpec:
        program = f"import sys; print({text!r}, flush=True); sys.exit({code})"
        return LaunchSpec((sys.executable, "-c", program), "stub")

    def test_tells_code_and_log(self, world: World) -> None:
        status = world.ends(self.crashing(1, CUDA))
        assert (status.code, status.oom_killed, status.disturbed) == (1, False, "")
        assert CUDA in status.log_tail

    def test_tells_the_log_where_it_cannot_be_followed(self, world: World) -> None:
        world.cluster.server.faults.add(lambda method, path: path.endswith("/log"), status=500, times=None)
        status = world.ends(self.crashing(1, CUDA))
        assert CUDA in status.log_tail, "not even by the termination message"

    def test_out_of_main_memory(self, world: World) -> None:
        with world.deploy(stub_spec("deaf")) as server:
            eventually(lambda: "deaf" in server.log_tail(), "the server runs")
            world.cluster.kubelet.oom_kill(world.pod())
            with pytest.raises(ServerExited) as caught:
                server.wait_ready(answers, PATIENCE_S)
        assert caught.value.status.oom_killed
        assert caught.value.status.code == 137

    def test_without_an_error(self, world: World) -> None:
        assert world.ends(self.crashing(0)).code == 0


class TestQueue:
    def occupied(self, world: World, gpus: int) -> None:
        limits = {"nvidia.com/gpu": str(gpus)}
        other = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "other", "namespace": "ome"},
            "spec": {
                "containers": [
                    {"name": "c", "image": "i", "command": ["sleep", "600"], "resources": {"requests": limits, "limits": limits}}
                ],
            },
        }
        world.cluster.add(other)
        eventually(world.cluster.kubelet.processes, "the other pod runs")
        world.others = set(world.cluster.leftovers())

    def test_no_gpu_is_free(self, world: World) -> None:
        self.occupied(world, 3)
        world.options = {"queue_timeout_s": _SHORT_S}
        reason = world.fails(Transient, stub_spec("serve", gpus=2))
        assert "Insufficient nvidia.com/gpu" in reason
        assert "backend.queue_timeout_s" in reason

    def test_until_one_is(self, world: World) -> None:
        self.occupied(world, 3)
        world.options = {"queue_timeout_s": PATIENCE_S}
        with world.deploy(stub_spec("serve", gpus=2)) as server:
            eventually(lambda: server.exit_status() is None and server.queued_s > 2 * _SHORT_S, "it waits")
            world.cluster.connection.delete(world.cluster.objects("pods", "ome")[0])
            server.wait_ready(answers, PATIENCE_S)
            assert server.queued_s > 2 * _SHORT_S

    def test_held_back_by_its_queue(self, world: World) -> None:
        world.options = {
            "queue_timeout_s": _SHORT_S,
            "patch": {"spec": {"engine": {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}]}}},
        }
        assert "SchedulingGated" in world.fails(Transient)

    def test_a_quota(self, world: World) -> None:
        world.cluster.add(resource_quota("gpus", "tuner", 1))
        world.options = {"queue_timeout_s": _SHORT_S}
        assert "exceeded quota" in world.fails(Transient, stub_spec("serve", gpus=2))


class TestLate:
    def test_a_server_that_does_not_answer(self, world: World) -> None:
        with world.deploy(stub_spec("deaf")) as server:
            eventually(lambda: "deaf" in server.log_tail(), "the server runs")
            with pytest.raises(NotReadyInTime) as caught:
                server.wait_ready(answers, _SHORT_S)
        assert "stub server: deaf" in caught.value.log_tail

    def test_one_that_is_ready_but_not_for_tuner(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ome_deployment, "REACH_S", _SHORT_S)
        world.options = {"url": "http://127.0.0.1:9/{name}"}
        assert "check backend.access and backend.url" in world.fails(Systemic)


class TestUnderLoad:
    """Somebody or something ends a server that was ready: the numbers are worth nothing, and the configuration is not at fault."""

    def disturbed(self, world: World, disturb: Callable[[], object]) -> str:
        with world.deploy() as server:
            server.wait_ready(answers, PATIENCE_S)
            assert server.exit_status() is None
            disturb()
            eventually(lambda: server.exit_status() is not None, "it is noticed")
            status = server.exit_status()
        assert status is not None
        assert world.leftovers() == []
        return status.disturbed

    def test_preempted(self, world: World) -> None:
        assert "PreemptionByScheduler" in self.disturbed(world, lambda: world.cluster.scheduler.preempt(world.pod()))

    def test_evicted(self, world: World) -> None:
        assert "low on resource: memory" in self.disturbed(world, lambda: world.cluster.kubelet.evict(world.pod()))

    def test_pod_deleted(self, world: World) -> None:
        assert "server's pod" in self.disturbed(world, lambda: world.cluster.connection.delete(world.pod()))

    def test_service_deleted(self, world: World) -> None:
        def delete() -> None:
            [service] = world.cluster.objects("inferenceservices")
            world.cluster.connection.delete(service)

        assert "InferenceService" in self.disturbed(world, delete)

    def test_a_crash_is_its_own_fault(self, world: World) -> None:
        with world.deploy() as server:
            server.wait_ready(answers, PATIENCE_S)
            with pytest.raises((AssertionError, http.client.HTTPException)):
                assert fetch(server.endpoint, "/crash") is not None
            eventually(lambda: server.exit_status() is not None, "it is noticed")
            status = server.exit_status()
            assert status is not None
            assert (status.code, status.disturbed) == (4, "")
            assert "out of luck" in status.log_tail


class TestApi:
    def test_an_outage_while_it_serves_harms_nothing(self, world: World) -> None:
        with world.deploy() as server:
            server.wait_ready(answers, PATIENCE_S)
            world.cluster.server.stop()
            assert server.exit_status() is None
            world.cluster.server.restart()
            assert server.exit_status() is None

    def test_watches_that_break_and_expire_miss_nothing(self, world: World) -> None:
        with world.deploy() as server:
            world.cluster.server.drop_watches()
            world.cluster.server.compact()
            server.wait_ready(answers, PATIENCE_S)
            world.cluster.server.drop_watches()
            world.cluster.server.compact()
            fetch(server.endpoint, "/crash")
            eventually(lambda: server.exit_status() is not None, "the crash is noticed")

    def test_credentials_that_run_out(self, world: World) -> None:
        watching = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": 401,
            "reason": "Unauthorized",
            "message": "Unauthorized",
        }

        def events(method: str, path: str) -> bool:
            return method == "GET" and path.endswith("/events")

        world.cluster.server.faults.add(events, status=401, body=watching, times=None)
        assert "does not accept your credentials" in world.fails(Systemic)

    def test_model_and_port_come_from_the_cluster(self, world: World) -> None:
        with world.deploy() as server:
            server.wait_ready(answers, PATIENCE_S)
            [service] = world.cluster.objects("inferenceservices")
            assert service["spec"]["model"] == {"name": MODEL, "kind": "ClusterBaseModel"}
            name = service["metadata"]["name"]
            assert server.endpoint.inside_url == f"http://{name}-engine.tuner.svc.cluster.local:8080"
