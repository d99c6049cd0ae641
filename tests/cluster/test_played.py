"""Services in the played cluster: what OME shows of one that is resolved, served, broken and deleted."""

from __future__ import annotations

from pathlib import Path

import pytest
from kubernetes import client

from tests.cluster.connection import Object, Refused
from tests.cluster.loop import condition
from tests.cluster.objects import model_label
from tests.cluster.played import NAMESPACE, NODE, PlayedCluster
from tests.cluster.playing import CRASH, MODEL, NAME, RUNTIME, core, current, delete, fetch, is_ready, model_status, reasons, service, stub
from tests.conformance.backend import STUB, eventually

pytestmark = pytest.mark.slow
pytest_plugins = ("tests.cluster.fixtures",)


def test_service_becomes_ready_answers_and_goes(furnished: PlayedCluster) -> None:
    furnished.add(service(**stub("serve"), env=[{"name": "STUB_ANSWER", "value": "it works"}]))
    eventually(lambda: is_ready(furnished), "ready")
    status = current(furnished)["status"]
    assert status["url"] == f"http://{NAME}.tuner.svc.cluster.local:8080"
    assert status["components"]["engine"]["url"] == f"http://{NAME}-engine.tuner.svc.cluster.local:8080"
    assert status["modelStatus"]["transitionStatus"] == "UpToDate"
    assert status["modelStatus"]["modelCopies"] == {"failedCopies": 0, "totalCopies": 1}
    pod = furnished.pods(NAME)[0]
    assert fetch(pod["status"]["podIP"]) == b"it works"
    eventually(lambda: "InferenceServiceReady" in reasons(furnished), "event")
    delete(furnished)
    eventually(lambda: furnished.get("inferenceservices", NAME) is None, "the service's end")
    assert furnished.leftovers() == []


def test_everything_that_is_written_fits_the_real_definitions(strict_cluster: PlayedCluster) -> None:
    strict_cluster.add_model(MODEL, "/models/tiny")
    strict_cluster.add_runtime(RUNTIME, ["python3", "no-such-launcher.py"], probe_path="/")
    strict_cluster.add(service())
    eventually(lambda: is_ready(strict_cluster), "ready")
    assert fetch(strict_cluster.pods(NAME)[0]["status"]["podIP"]) == b"hello"
    strict_cluster.add(service(name="crash-t0002", command=CRASH, args=[], terminationMessagePolicy="FallbackToLogsOnError"))
    eventually(lambda: "lastFailureInfo" in model_status(strict_cluster, "crash-t0002"), "the failure")


def test_pod_has_the_names_and_labels_of_ome(furnished: PlayedCluster) -> None:
    furnished.add(service())
    eventually(lambda: furnished.pods(NAME), "pod")
    pod = furnished.pods(NAME)[0]
    assert pod["metadata"]["name"].startswith(f"{NAME}-engine-")
    expected = {"component": "engine", "app": f"{NAME}-engine", "serving-runtime": RUNTIME, "base-model-name": MODEL, "tuner.trial": "1"}
    assert expected.items() <= pod["metadata"]["labels"].items()
    assert pod["metadata"]["annotations"]["tuner.expires"] == "never"
    assert pod["spec"]["nodeSelector"] == {model_label(MODEL): "Ready"}
    container = pod["spec"]["containers"][0]
    assert {"name": "MODEL_PATH", "value": "/models/tiny"} in container["env"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/"
    assert container["command"] == ["python3", str(STUB)]
    assert container["image"].startswith("docker.io/lmsysorg/sglang:")


def test_status_begins_with_a_url_and_is_not_ready(furnished: PlayedCluster) -> None:
    furnished.scheduler.silent = True
    furnished.add(service())
    eventually(lambda: model_status(furnished).get("transitionStatus") == "InProgress", "initialising")
    status = current(furnished)["status"]
    assert status["url"]
    assert condition(current(furnished), "Ready")["reason"] == "Initializing"
    assert condition(current(furnished), "IngressReady")["reason"] == "IngressDisabled"
    assert status["components"] == {"engine": {}}


@pytest.mark.parametrize(
    ("change", "reason", "text"),
    [
        ({"model": {"name": "nope"}}, "ModelReconcileError", "nope"),
        ({"model": None}, "ModelReconcileError", "model reference is required"),
        ({"runtime": {"name": "nope"}}, "RuntimeValidationError", "nope"),
        ({"engine": None}, "DeploymentModeError", "engine component is required"),
        ({"engine": {"runner": {"name": "ome-container", "args": ["{{.Nope}}"]}}}, "MergeSpecsError", "{{.Nope}}"),
        ({"engine": {"runner": {"args": ["--x"]}}}, "InternalError", "containers[0].name"),
    ],
)
def test_what_cannot_be_resolved_shows_only_in_events(furnished: PlayedCluster, change: Object, reason: str, text: str) -> None:
    body = service()
    body["spec"] = {key: value for key, value in (body["spec"] | change).items() if value is not None}
    furnished.add(body)

    def repeated() -> list[Object]:
        return [event for event in furnished.events(NAME) if event["reason"] == reason and event["count"] >= 2]

    eventually(repeated, "the event, again")
    assert text in repeated()[0]["message"]
    assert repeated()[0]["type"] == "Warning"
    assert "status" not in current(furnished)
    assert furnished.objects("deployments") == []
    delete(furnished)
    eventually(lambda: furnished.leftovers() == [], "nothing left")


def test_progress_deadline(furnished: PlayedCluster) -> None:
    furnished.ome.progress_deadline_s = 1
    furnished.add(service(**stub("deaf")))

    def progressing() -> Object:
        deployment = furnished.get("deployments", f"{NAME}-engine")
        return condition(deployment, "Progressing") if deployment is not None else {}

    eventually(lambda: progressing().get("reason") == "ProgressDeadlineExceeded", "the deadline")
    assert progressing()["status"] == "False"


def test_knobs_of_the_controller(furnished: PlayedCluster) -> None:
    furnished.ome.stuck_finalizer = True
    furnished.add(service())
    eventually(lambda: is_ready(furnished), "ready")
    delete(furnished)
    eventually(lambda: not furnished.kubelet.processes(), "the process's end")
    eventually(lambda: furnished.leftovers() == [f"inferenceservices/{NAME}"], "the service alone")
    furnished.ome.silent = True
    furnished.ome.stuck_finalizer = False
    furnished.add(service(name="other-t0002"))
    furnished.ome.silent = False
    eventually(lambda: furnished.get("inferenceservices", NAME) is None, "the service's end")
    eventually(lambda: is_ready(furnished, "other-t0002"), "the other one ready")


def test_background_deletion_leaves_the_pod_for_a_moment(furnished: PlayedCluster) -> None:
    furnished.kubelet.stuck = True
    furnished.add(service())
    eventually(lambda: is_ready(furnished), "ready")
    delete(furnished, policy="Background")
    eventually(lambda: furnished.get("inferenceservices", NAME) is None, "the service's end")
    eventually(lambda: all("deletionTimestamp" in pod["metadata"] for pod in furnished.pods(NAME)), "the pod is terminating")
    assert len(furnished.pods(NAME)) == 1
    furnished.kubelet.stuck = False
    eventually(lambda: furnished.leftovers() == [], "nothing left")


def test_server_away_for_a_moment(furnished: PlayedCluster) -> None:
    if furnished.real:
        pytest.skip("a real API server is not taken away")
    furnished.add(service())
    eventually(lambda: is_ready(furnished), "ready")
    furnished.server.stop()
    with pytest.raises(OSError):
        furnished.connection.get("nodes", None, NODE)
    furnished.server.restart()
    furnished.server.drop_watches()
    delete(furnished)
    eventually(lambda: furnished.leftovers() == [], "nothing left")


def test_faults_are_not_for_the_played_parts(furnished: PlayedCluster, tmp_path: Path) -> None:
    if furnished.real:
        pytest.skip("a real API server has no faults on command")
    furnished.server.faults.add(lambda method, path: True, status=500, times=None)
    furnished.server.permissions = lambda *asked: False
    furnished.add(service())
    eventually(lambda: is_ready(furnished), "ready all the same")
    with pytest.raises(client.ApiException, match="500"):
        core(furnished, tmp_path).read_namespace(NAMESPACE)


def test_another_object_by_the_same_name_is_not_touched(furnished: PlayedCluster) -> None:
    created = furnished.add(service())
    stale = created | {"metadata": created["metadata"] | {"uid": "of-an-earlier-one"}}
    furnished.connection.delete(stale)
    assert current(furnished)["metadata"]["uid"] == created["metadata"]["uid"]
    with pytest.raises(Refused, match="404"):
        furnished.connection.change(stale, lambda found: found["metadata"].update(labels={}))
