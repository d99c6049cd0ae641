from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.ome.prepared import MODEL, NAMESPACE, NODE, RUNTIME, Prepared, gpu_node, model, prepared
from tests.doctor.conftest import composed
from tuner.backends.ome import preflight
from tuner.doctor.examination import examine
from tuner.finding import Finding
from tuner.kube import connection
from tuner.settings import Settings

HERE = ["tokenizer", "disk", "port", "limits", "storage"]


@pytest.fixture(autouse=True)
def _no_cluster_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", connection.IN_CLUSTER):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Prepared]:
    with prepared(tmp_path) as cluster:
        yield cluster


def experiment(tmp_path: Path, *overrides: str) -> Settings:
    """An experiment on the prepared cluster, with the configuration of its model in a folder."""
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    names = (f"backend.model.name={MODEL}", f"backend.runtime.name={RUNTIME}", f"backend.namespace={NAMESPACE}")
    return composed("backend=ome", "engine=sglang", "space=sglang", f"engine.model={folder}", *names, *overrides)


def on(ready: Prepared, tmp_path: Path, *overrides: str) -> dict[str, Finding]:
    config = ready.server.kubeconfig(tmp_path)
    return dict(examine(experiment(tmp_path, f"backend.kubeconfig={config}", *overrides)).findings)


def test_a_cluster_that_is_ready(ready: Prepared, tmp_path: Path) -> None:
    found = on(ready, tmp_path)
    assert list(found) == ["experiment", "configuration", "packages", *preflight.names(1), *HERE]
    assert {name: finding.verdict for name, finding in found.items()} == dict.fromkeys(found, "ok")
    assert found["experiment"].seen.endswith("on backend ome")
    assert found["tokenizer"].seen.endswith("the weights are those of backend.model")
    assert ready.server.objects("inferenceservices") == []


def test_checks_that_the_experiment_does_not_need_are_not_there(ready: Prepared, tmp_path: Path) -> None:
    found = on(ready, tmp_path, "backend.access=cluster")
    assert "port" not in found  # servers are reached by their own addresses
    found = on(ready, tmp_path, "benchmark.mode=job", "benchmark.job.image=tuner:1")
    assert "limits" not in found  # the users are in the cluster


def test_the_largest_configuration_is_compared_with_the_nodes(ready: Prepared, tmp_path: Path) -> None:
    found = on(ready, tmp_path, "space.tp_size={type:power_of_two,low:1,high:8}")
    assert found["gpus"].verdict == "warning"
    assert "more than 4 will be refused" in found["gpus"].seen


def test_a_plain_minikube(tmp_path: Path) -> None:
    with prepared(tmp_path, without=("Node", "ClusterBaseModel")) as ready:
        ready.add(gpu_node("minikube", None, {"minikube.k8s.io/name": "minikube"}), model(nodes=("minikube",)))
        found = on(ready, tmp_path)
    assert found["gpus"].verdict == "failed"
    assert found["gpus"].seen == "no node offers nvidia.com/gpu: minikube. This is Minikube, started without GPUs"
    assert "minikube start --driver=docker" in found["gpus"].fix


def test_no_cluster_is_configured(tmp_path: Path) -> None:
    report = examine(experiment(tmp_path))
    assert not report.ready
    assert report.backend == "ome"
    found = dict(report.findings)
    assert found["experiment"].verdict == found["cluster"].verdict == "failed"
    assert found["cluster"].seen.startswith("no cluster is configured")
    assert {found[name].verdict for name in preflight.names(1)[1:]} == {"skipped"}
    assert found["storage"].verdict == "ok"


def test_the_cluster_is_down(tmp_path: Path) -> None:
    with prepared(tmp_path) as ready:
        config = ready.server.kubeconfig(tmp_path)
    report = examine(experiment(tmp_path, f"backend.kubeconfig={config}"))
    found = dict(report.findings)
    assert not report.ready
    assert found["cluster"].verdict == "failed"
    assert "connection refused" in found["cluster"].seen
    assert found["cluster"].fix.startswith("start the cluster")
    assert {found[name].verdict for name in preflight.names(1)[1:]} == {"skipped"}


def test_a_runtime_that_is_not_there(ready: Prepared, tmp_path: Path) -> None:
    found = on(ready, tmp_path, "backend.runtime.name=srt")
    assert found["experiment"].verdict == "failed"
    assert found["runtime"].seen == "there is no ClusterServingRuntime srt"
    assert RUNTIME in found["runtime"].fix
    assert found["dry_run"].verdict == "skipped"
    assert found["gpus"].verdict == "ok"


def test_names_that_are_not_set(ready: Prepared, tmp_path: Path) -> None:
    found = on(ready, tmp_path, "backend.model.name=null")
    assert found["configuration"].verdict == "failed"
    assert found["model"].seen == "backend.model.name is not set"
    assert found["gpus"].verdict == "ok"


def test_a_token_that_the_cluster_repeats_is_not_shown(ready: Prepared, tmp_path: Path) -> None:
    text = f"denied for Bearer {ready.server.token}"
    ready.server.faults.add(lambda method, path: path == f"/api/v1/namespaces/{NAMESPACE}", status=403, body={"message": text}, times=None)
    ready.server.faults.add(lambda method, path: "clusterbasemodels" in path, status=422, body={"message": text}, times=None)
    told = str(on(ready, tmp_path))
    assert "denied for Bearer <secret>" in told
    assert ready.server.token not in told


def test_a_node_is_named(ready: Prepared, tmp_path: Path) -> None:
    assert NODE in on(ready, tmp_path)["gpus"].seen
