"""Whole studies with `backend=ome` as a user runs them, in a played cluster: the real llama.cpp engine or a double of SGLang as a pod's
process, and the real genai-bench. Most runs start as forks (`WarmRun`): a process of its own each, without the seconds of its imports."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.backends.ome.deploying import RUNTIME, backend_at, stub_spec
from tests.backends.ome.deploying import furnish as furnish_stub
from tests.cluster.played import PlayedCluster
from tests.conformance.backend import PATIENCE_S, answers, eventually
from tests.killed_in_cluster import arrange
from tests.standins.running import SGLANG
from tests.test_standin_studies import CONFIG
from tests.user import DEADLINE_S, wait_until
from tests.warm_tuner import WarmRun
from tuner.backends.base import Place
from tuner.backends.ome import verdict
from tuner.backends.ome.manifest import STUDY
from tuner.engines.llamacpp import LlamaCpp

pytestmark = pytest.mark.slow

SERVER = (sys.executable, "-m", "tuner.engines.llamacpp_server")
IMAGE = "docker.io/lmsysorg/sglang:v0.5.23-cu129-amd64"
# whose readiness would else take as long as the played kubelet waits for an answer
SGLANG_ENV = {"STANDIN_GPU_GIB": "40", "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false"}
POD = 'backend.url="http://{pod_ip}:{port}"'


@pytest.fixture
def llamacpp(cluster: PlayedCluster, nano_engine: LlamaCpp, run: WarmRun) -> list[str]:
    """Options of a study of the smallest model, which OME has put on the node."""
    model = nano_engine.describe()["model_file"]
    cluster.add_model("nano", model)
    cluster.add_runtime("llamacpp", SERVER, ["--model", "$(MODEL_PATH)", "--host", "0.0.0.0", "--port", "8080", "--metrics"])
    run.environment |= {"KUBECONFIG": str(cluster.kubeconfig(run.folder))}
    executable = f"engine.executable=[{','.join(SERVER)}]"
    names = ["backend.model.name=nano", "backend.runtime.name=llamacpp", "backend.stop_grace_s=1"]
    return ["engine=llamacpp", "backend=ome", executable, *names]


def services(cluster: PlayedCluster, study: str = "") -> list[dict[str, Any]]:
    found = cluster.objects("inferenceservices")
    return [each for each in found if not study or each["metadata"]["annotations"][STUDY] == study]


def test_a_study_ends_with_a_front_and_leaves_nothing(run: WarmRun, cluster: PlayedCluster, llamacpp: list[str]) -> None:
    process = run.start("trials=2", *llamacpp)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output
    assert "llamacpp on backend ome" in output
    assert "port-forward: good enough to try things out, not to measure" in output
    assert "Pareto front" in output
    assert "kubectl apply -f - <<'EOF'\napiVersion: ome.io/v1beta1" in output
    finished = run.finished()
    assert [trial.user_attrs["outcome"] for trial in finished] == ["measured"] * 2
    for trial in finished:
        assert set(trial.user_attrs["measurements"]) == {"1", "2"}
        assert trial.user_attrs["effective"]["n_ctx"] >= 8192
        assert "llama" in (run.folder / trial.user_attrs["folder"] / "server.log").read_text()
    assert cluster.leftovers() == []
    assert run.processes() == []


def test_load_from_inside_the_cluster(run: WarmRun, cluster: PlayedCluster, llamacpp: list[str], nano_engine: LlamaCpp) -> None:
    job = ["benchmark.mode=job", "benchmark.job.image=registry/tuner:1", f"benchmark.job.tokenizer={nano_engine.tokenizer}"]
    code, output = run.finish("trials=1", *llamacpp, *job, "workload.levels=[2]")
    assert code == 0, output
    assert "port-forward" not in output
    [trial] = run.finished()
    [level] = (run.folder / trial.user_attrs["folder"]).glob("level-*.json")
    assert "genai-bench" in json.loads(level.read_text())["load_generator"]
    [measurement] = trial.user_attrs["measurements"].values()
    assert measurement["completed"] >= 4
    assert measurement["client_cpu_share"] is not None
    assert cluster.leftovers() == []


@pytest.fixture
def sglang(cluster: PlayedCluster, nano_engine: LlamaCpp, run: WarmRun) -> list[str]:
    """Options of a study of a double of SGLang on a simulated GPU of 40 GiB, of which the weights take 20."""
    folder = run.folder / "model"
    shutil.copytree(nano_engine.tokenizer, folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    cluster.add_model("llama", folder)
    words = ["--model-path", "$(MODEL_PATH)", "--host", "0.0.0.0", "--port", "8080", "--tp-size", "1", "--log-requests", "--enable-metrics"]
    cluster.add_runtime("srt-llama", [sys.executable, str(SGLANG), *words], image=IMAGE, env=SGLANG_ENV)
    run.environment |= {"KUBECONFIG": str(cluster.kubeconfig(run.folder))}
    return [
        *("engine=sglang", "space=sglang", "backend=ome", f"engine.model={folder}", f"engine.executable=[{sys.executable},{SGLANG}]"),
        *("backend.model.name=llama", "backend.runtime.name=srt-llama", "+backend.environment.STANDIN_WEIGHTS_GIB='20'", POD),
        "space.mem_fraction_static={type:float,low:0.564,high:0.998,step:0.217,default:0.781}",
        *("space.max_running_requests=2", "space.chunked_prefill_size=512", "space.tp_size.high=4", "sampler=random"),
        # one configuration of seven wants all four GPUs of the node
        "space.constraints=['tp_size < 4 or mem_fraction_static < 0.6']",
        *("backend.queue_timeout_s=3", "backend.stop_grace_s=1"),
    ]


def hold_a_gpu(cluster: PlayedCluster) -> None:
    """Somebody else's pod takes one of the node's four GPUs."""
    one = {"nvidia.com/gpu": "1"}
    container = {"name": "c", "image": "i", "command": ["sleep", "3600"], "resources": {"requests": one, "limits": one}}
    cluster.add({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other", "namespace": "ome"}, "spec": {"containers": [container]}})
    eventually(cluster.kubelet.processes, "the other pod runs")


def impatient() -> None:
    """Makes tuner believe soon that there is no such image."""
    verdict.IMAGE_S = verdict.NO_IMAGE_S = 1.0


def test_outcomes_of_servers_that_fail_in_the_cluster(run: WarmRun, cluster: PlayedCluster, sglang: list[str]) -> None:
    """Some run out of GPU memory, one finds no place, one finds no image: which stops the study until that is mended."""
    hold_a_gpu(cluster)
    others = cluster.leftovers()
    started: list[str] = []

    def break_the_third(pod: dict[str, Any]) -> None:
        started.append(pod["metadata"]["name"])
        if len(started) == 3:
            cluster.kubelet.bad_images[IMAGE] = f'failed to resolve reference "{IMAGE}": {IMAGE}: not found'

    cluster.kubelet.before_start = break_the_third
    code, output = run.finish("trials=6", *sglang, arrange=impatient)
    assert code == 3, output
    assert "the server's image cannot be pulled" in output.splitlines()[-1]
    assert "check backend.image or the runtime's image" in output.splitlines()[-1]
    assert cluster.leftovers() == others
    assert len(run.finished()) == 2

    cluster.kubelet.bad_images.clear()
    code, output = run.finish("trials=6", *sglang)
    assert code == 0, output
    finished = run.finished()
    outcomes = Counter(trial.user_attrs["outcome"] for trial in finished)
    assert sum(outcomes.values()) == 6
    assert outcomes["measured"] >= 1
    infeasible = [trial.user_attrs for trial in finished if trial.user_attrs["outcome"] == "infeasible"]
    assert infeasible
    assert all("CUDA out of memory" in attributes["reason"] for attributes in infeasible), infeasible
    assert {attributes["memory"] for attributes in infeasible} == {"capture"}
    unplaced = [trial.user_attrs for trial in run.trials() if "no place for the server" in trial.user_attrs.get("reason", "")]
    assert [attributes["configuration"]["tp_size"] for attributes in unplaced] == [4, 4], "once, and once more"
    assert all("Insufficient nvidia.com/gpu" in attributes["reason"] for attributes in unplaced)
    # the runtime's own flags hold for the default, too; what only costs throughput does not
    default = next(trial for trial in finished if trial.user_attrs.get("default"))
    assert default.user_attrs["effective"]["tp_size"] == 1
    assert "log_requests" not in json.dumps(run.trials()[0].user_attrs)
    assert cluster.leftovers() == others
    assert run.processes() == []


def test_an_interrupted_study_leaves_nothing(run: WarmRun, cluster: PlayedCluster, llamacpp: list[str]) -> None:
    process = run.fork("trials=2", *llamacpp, "workload.min_requests=64")
    wait_until(lambda: cluster.kubelet.processes(), "a server runs")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, output
    assert (cluster.leftovers(), run.processes()) == ([], [])


@pytest.fixture
def living(cluster: PlayedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The InferenceService of another study, whose owner, this process, lives."""
    folder = tmp_path_factory.mktemp("living")
    furnish_stub(cluster)
    with backend_at(cluster.kubeconfig(folder)).deploy(stub_spec("serve"), Place("living", 0, folder)) as deployment:
        deployment.wait_ready(answers, PATIENCE_S)
        [service] = services(cluster, "living")
        assert service["spec"]["runtime"]["name"] == RUNTIME
        yield service["metadata"]["uid"]
        assert deployment.exit_status() is None


@pytest.mark.parametrize("stage", ["creating", "waiting", "loading", "deleting"])
def test_clean_removes_what_a_killed_tuner_left_and_nothing_else(
    run: WarmRun, cluster: PlayedCluster, llamacpp: list[str], living: str, stage: str
) -> None:
    cluster.ome.paused = stage == "waiting"
    process = run.fork("trials=2", "study_name=killed", *llamacpp, "workload.levels=[1]", arrange=partial(arrange, stage))
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == -signal.SIGKILL, output
    left = services(cluster, "killed")
    assert len(left) == 1 or stage == "deleting", "nothing to clean"
    code, output = run.finish("clean", "backend=ome", "backend.stop_grace_s=1")
    assert code == 0, output
    assert stage == "deleting" or "of study killed, trial 0, left by a dead tuner" in output
    wait_until(lambda: not services(cluster, "killed"), "its InferenceService is gone")
    [service] = services(cluster)
    assert service["metadata"]["uid"] == living
    assert [name for name in cluster.leftovers() if "/tuner-" in name and service["metadata"]["name"] not in name] == []
    assert len(cluster.kubelet.processes()) == 1
    wait_until(lambda: not run.processes(), "nothing of the killed run is left")


def test_the_next_run_removes_what_a_killed_one_left(run: WarmRun, cluster: PlayedCluster, llamacpp: list[str]) -> None:
    study = ["trials=1", *llamacpp, "workload.levels=[1]"]
    process = run.fork(*study, arrange=partial(arrange, "loading"))
    process.communicate(timeout=DEADLINE_S)
    assert len(services(cluster)) == 1
    code, output = run.finish(*study)
    assert code == 0, output
    assert "left by a dead tuner" in output
    assert "1 trial of a killed run will be tried again" in output
    assert len(run.finished()) == 1
    assert cluster.leftovers() == []


class TestNotReady:
    """What is missing is said in one line, at once, and no study is begun."""

    def refused(self, run: WarmRun, *arguments: str, code: int = 3) -> str:
        returned, output = run.finish(*arguments)
        assert returned == code, output
        assert output.strip().count("\n") == 0, output
        assert run.trials() == []
        return output

    def test_no_cluster_is_configured(self, run: WarmRun) -> None:
        run.environment |= {"HOME": str(run.folder)}
        run.environment.pop("KUBECONFIG", None)
        process = run.start("+experiment=llama1b_ome")  # the imports, too, must have nothing to say
        output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 3, output
        assert output.strip().count("\n") == 0, output
        assert "no cluster is configured: there is neither KUBECONFIG nor ~/.kube/config" in output

    def test_the_cluster_is_down(self, run: WarmRun, cluster: PlayedCluster, llamacpp: list[str]) -> None:
        cluster.server.stop()
        try:
            output = self.refused(run, *llamacpp)
        finally:
            cluster.server.restart()
        assert "does not answer (connection refused): start the cluster, or choose another by backend.context" in output

    def test_no_such_runtime(self, run: WarmRun, llamacpp: list[str]) -> None:
        output = self.refused(run, *llamacpp, "backend.runtime.name=another")
        assert "backend.runtime: there is no ClusterServingRuntime another: `kubectl get clusterservingruntimes` lists" in output

    def test_no_such_model(self, run: WarmRun, llamacpp: list[str]) -> None:
        assert "another" in self.refused(run, *llamacpp, "backend.model.name=another")

    def test_no_name_of_a_model(self, run: WarmRun, llamacpp: list[str]) -> None:
        output = self.refused(run, *llamacpp, "backend.model.name=null", code=2)
        assert output.startswith("tuner: backend.model.name: missing; backend=ome needs the name of a ClusterBaseModel")

    def test_a_wrong_namespace(self, run: WarmRun, llamacpp: list[str]) -> None:
        assert "nowhere" in self.refused(run, *llamacpp, "backend.namespace=nowhere")

    def test_a_context_that_does_not_exist(self, run: WarmRun, llamacpp: list[str]) -> None:
        assert "backend.context" in self.refused(run, *llamacpp, "backend.context=nowhere")

    def test_a_patch_of_what_tuner_sets(self, run: WarmRun, llamacpp: list[str]) -> None:
        output = self.refused(run, *llamacpp, "+backend.patch.spec.engine.minReplicas=2", code=2)
        assert "backend.patch.spec.engine.minReplicas: set by tuner itself" in output
