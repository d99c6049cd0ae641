"""Load levels as Jobs of a played cluster. Its containers are processes of this host: the real load generator, or a short one instead."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.benchmark.paced_server import PacedServer
from tests.cluster.connection import Object
from tests.cluster.kubelet import Kubelet
from tests.cluster.objects import GPU
from tests.cluster.played import PlayedCluster
from tests.conformance.backend import eventually
from tests.conformance.benchmark import API_KEY, BenchmarkSuite, alive, load
from tuner.benchmark import job as job_module
from tuner.benchmark import job_judge, job_manifest
from tuner.benchmark.base import Benchmark, ServerUnusable
from tuner.benchmark.client import Client, genai_bench_version
from tuner.benchmark.job import JobBench
from tuner.benchmark.job_manifest import Marks
from tuner.benchmark.measurement import Measurement, Timing
from tuner.benchmark_settings import JobSettings
from tuner.errors import ConfigError, Systemic, Transient
from tuner.kube import job_run
from tuner.kube.cluster import Cluster
from tuner.kube.connection import Address, connect
from tuner.launch import Endpoint

pytestmark = pytest.mark.slow

LABELS = {"app.kubernetes.io/managed-by": "tuner"}
NOWHERE = Endpoint("http://127.0.0.1:9", "fake")
TIMING = Timing(1.0, 1.0, 1.0, 1.0, 1.0)
MEASUREMENT = Measurement(4, 16, {}, 3.5, 3.0, TIMING, TIMING, TIMING, 100.5, 250.25, 5.0, 0.25, False)

SCRIPT = f"""
import os, random, sys, time
from tuner.benchmark.base import ServerUnusable
from tuner.benchmark.job_messages import Speaker, to_outcome
from tuner.benchmark.measurement import Measurement
speaker = Speaker(sys.stdout.buffer)
def finish():
    speaker.send("level-4.json", random.Random(7).randbytes(20_000))
    speaker.send("outcome.json", to_outcome(Measurement.from_dict({MEASUREMENT.to_dict()!r})))
    speaker.end()
speaker.say("hello", version="1.2.3", tuner="x")
"""
"""The beginning of a load generator that starts in no time and says what a test wants."""


def marks(seconds: float) -> Marks:
    return Marks(LABELS, {"tuner.owner": "me"})


@pytest.fixture
def near(cluster: PlayedCluster, tmp_path: Path) -> Cluster:
    """The product's own way to the cluster."""
    return connect(Address(str(cluster.kubeconfig(tmp_path))))


@pytest.fixture
def bench(near: Cluster, tokenizer: str) -> JobBench:
    return JobBench(near, JobSettings(image="tuner:1", tokenizer=tokenizer), Client("unused"), marks)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script after `SCRIPT` in place of the load generator."""

    def put(rest: str) -> None:
        monkeypatch.setattr(job_manifest, "WORKER", ("python", "-c", SCRIPT + rest))

    return put


@pytest.fixture(autouse=True)
def nothing_left(cluster: PlayedCluster) -> Iterator[None]:
    """Whatever a test does: no Job, no pod, no process stays."""
    yield
    assert cluster.leftovers() == []


def the_pod(cluster: PlayedCluster) -> Object:
    (only,) = cluster.objects("pods")
    return only


def running(cluster: PlayedCluster) -> bool:
    return any(pod.get("status", {}).get("phase") == "Running" for pod in cluster.objects("pods"))


def once_running(cluster: PlayedCluster, act: Callable[[Object], object]) -> None:
    """Does something to the pod, from another thread, as soon as it runs and its log was asked for: then the bench has seen it run.

    A pod that comes and goes between two looks would be missed, and waited for until `start_timeout_s`.
    """

    def wait_and_act() -> None:
        eventually(lambda: running(cluster), "a running pod")
        if not cluster.real:
            eventually(lambda: any(asked.path.endswith("/log") for asked in cluster.server.requests), "a look at its log")
        act(the_pod(cluster))

    threading.Thread(target=wait_and_act, daemon=True).start()


class TestJobMode(BenchmarkSuite):
    @pytest.fixture
    def benchmark(self, bench: JobBench) -> Iterator[Benchmark]:
        with bench:
            yield bench

    def test_counts_partial_errors_and_keeps_secrets(self, benchmark: Benchmark, tmp_path: Path) -> None:
        """Servers in a cluster have no key: none is sent. They are asked at their address inside it, and the progress comes out."""
        progress: list[int] = []
        with PacedServer(lambda number: "echo" if number % 3 == 0 else "ok") as server:
            inside = replace(NOWHERE, inside_url=server.endpoint.url)
            measurement = benchmark.run(inside, load(), tmp_path, alive, progress.append)
        assert set(measurement.errors) == {"429"}
        assert 0.2 < measurement.error_rate < 0.5
        assert set(server.authorizations) == {"Bearer unused"}
        assert progress == sorted(set(progress)) != []
        assert progress[-1] <= len(server.bodies)


def test_a_bad_tokenizer_is_systemic(bench: JobBench, worker: Callable[[str], None], tmp_path: Path) -> None:
    worker(
        "from tuner.errors import Systemic\n"
        "speaker.send('outcome.json', to_outcome(Systemic('genai-bench refuses its settings: no tokenizer', 'a log')))\nspeaker.end()"
    )
    with pytest.raises(Systemic, match=r"refuses its settings.*benchmark\.job\.tokenizer.*benchmark\.job\.image") as caught:
        bench.run(NOWHERE, load(), tmp_path, alive)
    assert "\n" not in caught.value.reason
    assert caught.value.detail == "a log"


def test_a_key_stays_here(cluster: PlayedCluster, near: Cluster, worker: Callable[[str], None], tmp_path: Path) -> None:
    worker("finish()")
    JobBench(near, JobSettings(image="tuner:1"), Client("org/tokenizer", api_key=API_KEY), marks).run(NOWHERE, load(), tmp_path, alive)
    assert API_KEY not in json.dumps([request.body for request in cluster.server.requests])
    created = next(request.body for request in cluster.server.requests if request.method == "POST")
    assert created["metadata"]["labels"] == LABELS


def test_a_tokenizer_of_this_host_is_none_for_a_pod(near: Cluster, tokenizer: str) -> None:
    with pytest.raises(ConfigError, match=r"^benchmark\.job\.tokenizer: missing; "):
        JobBench(near, JobSettings(image="tuner:1"), Client(tokenizer), marks)


def test_results_come_whole(bench: JobBench, worker: Callable[[str], None], tmp_path: Path) -> None:
    assert bench.version() == genai_bench_version()
    worker(
        "speaker.say('progress', finished=3)\nspeaker.say('progress', finished=9)\nprint('noise', file=sys.stderr, flush=True)\nfinish()"
    )
    progress: list[int] = []
    assert bench.run(NOWHERE, load(), tmp_path, alive, progress.append) == MEASUREMENT
    assert progress == [3, 9]
    assert len((tmp_path / "level-4.json").read_bytes()) == 20_000
    assert bench.version() == "1.2.3"


def test_an_unusable_server_leaves_its_raw_results(bench: JobBench, worker: Callable[[str], None], tmp_path: Path) -> None:
    worker(
        "speaker.send('level-4.json', b'raw')\n"
        "speaker.send('outcome.json', to_outcome(ServerUnusable('all of 8 requests failed', True)))\nspeaker.end()"
    )
    with pytest.raises(ServerUnusable, match="all of 8") as caught:
        bench.run(NOWHERE, load(), tmp_path, alive)
    assert caught.value.rejected
    assert (tmp_path / "level-4.json").read_bytes() == b"raw"


class Breaking:
    """A double of the kubelet's log: its streams break in the middle of a line, each a little later than the one before."""

    def __init__(self, kubelet: Kubelet, breaks: int) -> None:
        self._kubelet = kubelet
        self.left = breaks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kubelet, name)

    def log(self, *arguments: Any, **named: Any) -> Iterator[bytes]:
        return self._cut(self._kubelet.log(*arguments, **named))

    def _cut(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        self.left -= 1
        whole = 6 - self.left
        for number, piece in enumerate(pieces):
            if self.left >= 0 and number == whole:
                yield piece[: len(piece) // 2]
                raise ConnectionError
            yield piece


def test_a_log_that_breaks_off_is_read_again(
    cluster: PlayedCluster, bench: JobBench, worker: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.server.node = Breaking(cluster.kubelet, breaks=4)
    worker("for number in range(1, 12): speaker.say('progress', finished=number); time.sleep(0.1)\nfinish()")
    progress: list[int] = []
    assert bench.run(NOWHERE, load(), tmp_path, alive, progress.append) == MEASUREMENT
    assert progress == sorted(set(progress))
    assert progress[-1] == 11
    assert cluster.server.node.left < 0


def test_a_silent_stream_is_given_up_for_another(
    cluster: PlayedCluster, bench: JobBench, worker: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "SILENCE_S", 0.5)
    cluster.server.faults.add(lambda method, path: "follow" in path.query, delay_s=3600.0)
    worker("finish()\ntime.sleep(600)")
    assert bench.run(NOWHERE, load(), tmp_path, alive) == MEASUREMENT


def test_a_log_that_cannot_be_followed_is_read_at_the_end(
    cluster: PlayedCluster, bench: JobBench, worker: Callable[[str], None], tmp_path: Path
) -> None:
    cluster.server.faults.add(lambda method, path: path.endswith("/log") and "follow" in path.query, status=500, times=None)
    worker("finish()")
    assert bench.run(NOWHERE, load(), tmp_path, alive) == MEASUREMENT


def test_a_log_that_cannot_be_read_at_all(
    cluster: PlayedCluster, bench: JobBench, worker: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "LOG_S", 0.3)
    cluster.server.faults.add(lambda method, path: path.endswith("/log"), status=500, times=None)
    worker("finish()")
    with pytest.raises(Transient, match="could not be read from its log"):
        bench.run(NOWHERE, load(), tmp_path, alive)


@pytest.mark.parametrize(("subresource", "doing"), [("jobs", "create jobs"), ("pods", "watch pods"), ("pods/log", "read logs of pods")])
def test_a_missing_right_stops_the_study(
    cluster: PlayedCluster, bench: JobBench, worker: Callable[[str], None], tmp_path: Path, subresource: str, doing: str
) -> None:
    worker("finish()")
    verbs = {"create", "watch"} if subresource != "pods/log" else {"get"}
    cluster.server.permissions = lambda verb, group, resource, namespace: not (resource == subresource and verb in verbs)
    with pytest.raises(Systemic, match=f"does not allow to {doing}") as caught:
        bench.run(NOWHERE, load(), tmp_path, alive)
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize("how", [{"reset": True}, {"status": 504}], ids=["lost", "504"])
def test_a_create_whose_answer_was_lost_is_adopted(
    cluster: PlayedCluster, bench: JobBench, worker: Callable[[str], None], tmp_path: Path, how: dict[str, Any]
) -> None:
    worker("finish()")
    cluster.server.faults.add(lambda method, path: method == "POST" and path.endswith("/jobs"), after=True, **how)
    assert bench.run(NOWHERE, load(), tmp_path, alive) == MEASUREMENT
    assert len([request for request in cluster.server.requests if request.method == "POST"]) == 1


def test_a_create_that_did_not_arrive_is_repeated(
    cluster: PlayedCluster, bench: JobBench, worker: Callable[[str], None], tmp_path: Path
) -> None:
    worker("finish()")
    cluster.server.faults.add(lambda method, path: method == "POST" and path.endswith("/jobs"), reset=True, times=2)
    assert bench.run(NOWHERE, load(), tmp_path, alive) == MEASUREMENT
    names = {request.body["metadata"]["name"] for request in cluster.server.requests if request.method == "POST"}
    assert len(names) == 1


def test_an_api_that_stays_away_is_transient(
    cluster: PlayedCluster, bench: JobBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_run, "PATIENCE_S", 0.3)
    cluster.server.faults.add(lambda method, path: method == "POST", status=503, times=None)
    with pytest.raises(Transient, match="create jobs"):
        bench.run(NOWHERE, load(), tmp_path, alive)


@pytest.mark.parametrize(
    ("status", "message", "kind", "says"),
    [
        (422, 'Job.batch "x" is invalid: spec.template.spec.nodeSelector', Systemic, r"^benchmark\.job: the cluster refuses.*nodeSelector"),
        (403, 'admission webhook "policy" denied the request: no hostPath', Systemic, r"^benchmark\.job: the cluster refuses.*no hostPath"),
        (403, 'jobs.batch "x" is forbidden: exceeded quota: q, requested: count/jobs.batch=1', Transient, "exceeded quota"),
    ],
)
def test_what_the_creation_is_answered(
    cluster: PlayedCluster, bench: JobBench, tmp_path: Path, status: int, message: str, kind: type[Exception], says: str
) -> None:
    body = {"kind": "Status", "status": "Failure", "code": status, "reason": "Forbidden", "message": message}
    cluster.server.faults.add(lambda method, path: method == "POST", status=status, body=body)
    with pytest.raises(kind, match=says):
        bench.run(NOWHERE, load(), tmp_path, alive)


def test_an_image_that_cannot_be_pulled_stops_the_study(
    cluster: PlayedCluster, bench: JobBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_judge, "IMAGE_S", 0.5)
    cluster.kubelet.bad_images["tuner:1"] = "manifest unknown"
    with pytest.raises(Systemic, match=r"^benchmark\.job\.image: tuner:1 cannot be pulled.*manifest unknown"):
        bench.run(NOWHERE, load(), tmp_path, alive)


def test_an_image_without_python_stops_the_study(bench: JobBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_manifest, "WORKER", ("no-such-python",))
    with pytest.raises(Systemic, match=r"^benchmark\.job\.image: tuner:1 cannot run the load generator.*not found"):
        bench.run(NOWHERE, load(), tmp_path, alive)


def test_an_image_without_tuner_stops_the_study(bench: JobBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_manifest, "WORKER", ("python", "-m", "tuner.no_such_module"))
    with pytest.raises(Systemic, match=r"^benchmark\.job\.image: tuner:1 cannot run the load generator.*No module named"):
        bench.run(NOWHERE, load(), tmp_path, alive)


def test_no_node_in_time_is_transient(near: Cluster, tokenizer: str, tmp_path: Path) -> None:
    settings = JobSettings(image="tuner:1", tokenizer=tokenizer, node_selector={"pool": "none"}, start_timeout_s=0.5)
    with pytest.raises(Transient, match=r"not started within 0\.5 s.*node affinity/selector.*benchmark\.job\.resources, node_selector"):
        JobBench(near, settings, Client("unused"), marks).run(NOWHERE, load(), tmp_path, alive)


def test_a_pod_beyond_the_quota_is_transient(
    cluster: PlayedCluster, near: Cluster, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_judge, "EVENTS_S", 0.1)
    hard = {f"requests.{GPU}": "0"}
    cluster.add({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "tuner"}, "spec": {"hard": hard}})
    settings = JobSettings(image="tuner:1", tokenizer=tokenizer, resources={"limits": {GPU: 1}}, start_timeout_s=1.0)
    with pytest.raises(Transient, match="exceeded quota"):
        JobBench(near, settings, Client("unused"), marks).run(NOWHERE, load(), tmp_path, alive)


def test_memory_that_ran_out_stops_the_study(
    cluster: PlayedCluster, bench: JobBench, worker: Callable[[str], None], tmp_path: Path
) -> None:
    worker("time.sleep(600)")
    once_running(cluster, cluster.kubelet.oom_kill)
    with pytest.raises(Systemic, match=r"^benchmark\.job\.resources: .*OOMKilled"):
        bench.run(NOWHERE, load(), tmp_path, alive)


@pytest.mark.parametrize("how", ["evicted", "preempted", "deleted"])
def test_what_others_do_to_the_pod_is_transient(
    cluster: PlayedCluster, bench: JobBench, worker: Callable[[str], None], tmp_path: Path, how: str
) -> None:
    worker("time.sleep(600)")
    act = {"evicted": cluster.kubelet.evict, "preempted": cluster.scheduler.preempt, "deleted": cluster.connection.delete}[how]
    once_running(cluster, act)
    with pytest.raises(Transient, match=r"the cluster ended the load generator|somebody removed"):
        bench.run(NOWHERE, load(), tmp_path, alive)


def test_a_crash_is_transient_and_comes_with_the_log(bench: JobBench, worker: Callable[[str], None], tmp_path: Path) -> None:
    worker("sys.exit('out of luck')")
    with pytest.raises(Transient, match="exit code 1") as caught:
        bench.run(NOWHERE, load(), tmp_path, alive)
    assert caught.value.detail == "out of luck"


def test_a_level_that_never_ends_is_transient(
    bench: JobBench, worker: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "level_s", lambda max_time_s: 0.5)
    worker("time.sleep(600)")
    with pytest.raises(Transient, match="did not end its load level"):
        bench.run(NOWHERE, load(), tmp_path, alive)


@pytest.mark.parametrize("when", ["queued", "running"])
def test_a_dead_server_ends_the_job_at_once(
    cluster: PlayedCluster, bench: JobBench, worker: Callable[[str], None], tmp_path: Path, when: str
) -> None:
    worker("time.sleep(600)")
    cluster.scheduler.silent = when == "queued"

    def alive_until_there() -> bool:
        return not (cluster.objects("jobs") if when == "queued" else running(cluster))

    with pytest.raises(ServerUnusable, match="the server ended"):
        bench.run(NOWHERE, load(), tmp_path, alive_until_there)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_errors_leave_nothing_and_pass(
    cluster: PlayedCluster, bench: JobBench, worker: Callable[[str], None], tmp_path: Path, error: type[BaseException]
) -> None:
    worker("time.sleep(600)")

    def interrupt() -> bool:
        if running(cluster):
            raise error
        return True

    with pytest.raises(error):
        bench.run(NOWHERE, load(), tmp_path, interrupt)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_the_job_is_created_leaves_nothing(cluster: PlayedCluster, bench: JobBench, tmp_path: Path) -> None:
    def hit(method: str, path: str) -> bool:
        if method == "POST":
            os.kill(os.getpid(), signal.SIGINT)
        return False

    cluster.server.faults.add(hit)
    with pytest.raises(KeyboardInterrupt):
        bench.run(NOWHERE, load(), tmp_path, alive)
    assert [request.method for request in cluster.server.requests].count("DELETE") == 1


def test_a_deletion_that_is_answered_late_is_waited_for(
    cluster: PlayedCluster, bench: JobBench, worker: Callable[[str], None], tmp_path: Path
) -> None:
    worker("finish()")
    cluster.server.faults.add(lambda method, path: method == "DELETE", status=503, times=2)
    assert bench.run(NOWHERE, load(), tmp_path, alive) == MEASUREMENT


def test_watches_that_break_do_no_harm(cluster: PlayedCluster, bench: JobBench, worker: Callable[[str], None], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    worker(f"while not os.path.exists({str(broken)!r}):\n    time.sleep(0.02)\nfinish()")
    once_running(cluster, lambda pod: (cluster.server.compact(), cluster.server.drop_watches(), broken.touch()))
    assert bench.run(NOWHERE, load(), tmp_path, alive) == MEASUREMENT
