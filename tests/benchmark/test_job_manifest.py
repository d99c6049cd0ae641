"""The Job of a load level: what the cluster is asked for, and what it is not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.cluster.api_server import ApiServer
from tests.cluster.connection import Connection, Refused
from tests.cluster.objects import namespace
from tests.cluster.pod_network import expand
from tuner.benchmark.base import Load
from tuner.benchmark.job_manifest import CONTAINER, Marks, ModelMount, job, level_s
from tuner.benchmark.job_request import LevelRequest
from tuner.benchmark_settings import OWN_JOB_PATHS, BenchmarkSettings, JobSettings
from tuner.errors import ConfigError
from tuner.kube.resources import JOB, inside

REQUEST = LevelRequest(
    "http://s-engine.tuner.svc.cluster.local:8080", "trial", Load("D(10,5)", 4, 16, 30.0, 5.0), "/models/m", None, None, {}
)
SETTINGS = JobSettings(image="registry/tuner:1")
MOUNT = ModelMount("/mnt/models/m", {"models.ome.io/clusterbasemodel.m": "Ready"})


def marks(seconds: float) -> Marks:
    return Marks({"app.kubernetes.io/managed-by": "tuner"}, {"tuner.owner": "me:1:2:b", "tuner.expires-at": f"in {seconds:g} s"})


def replace_settings(**changes: Any) -> JobSettings:
    return JobSettings(image="registry/tuner:1", **changes)


def manifest(settings: JobSettings = SETTINGS, request: LevelRequest = REQUEST, mount: ModelMount | None = None) -> dict[str, Any]:
    return job(request, settings, "tuner", marks, mount)


def pod(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = inside(made, "spec", "template", "spec")
    return found


def container(made: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(made)["containers"]
    assert only["name"] == CONTAINER
    return dict(only)


def test_the_api_server_takes_it_as_it_is() -> None:
    settings = replace_settings(node_selector={"pool": "a"}, service_account="puller", resources={"limits": {"memory": "1Gi", "cpu": 2}})
    with ApiServer() as server:
        server.seed(namespace("tuner"))
        connection = Connection(server.url, server.token)
        for made in (manifest(), manifest(settings, mount=MOUNT)):
            created = connection.request("POST", JOB.path("tuner"), made, fieldValidation="Strict")
            assert created["metadata"]["name"] == made["metadata"]["name"]
        with pytest.raises(Refused, match="unknown field"):
            connection.request("POST", JOB.path("tuner"), manifest() | {"spek": {}}, fieldValidation="Strict")


def test_it_runs_once_and_ends_in_any_case() -> None:
    made = manifest()
    assert made["spec"]["backoffLimit"] == 0
    assert pod(made)["restartPolicy"] == "Never"
    assert made["spec"]["activeDeadlineSeconds"] == SETTINGS.start_timeout_s + level_s(30.0)
    assert made["spec"]["ttlSecondsAfterFinished"] > 0


def test_it_is_found_by_its_marks_and_not_taken_for_abandoned_while_it_may_run() -> None:
    made = manifest()
    assert made["metadata"]["labels"] == made["spec"]["template"]["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "tuner"}
    longest_s = made["spec"]["activeDeadlineSeconds"] + made["spec"]["ttlSecondsAfterFinished"]
    assert made["metadata"]["annotations"] == {"tuner.owner": "me:1:2:b", "tuner.expires-at": f"in {longest_s:g} s"}


def test_no_two_have_the_same_name() -> None:
    assert len({manifest()["metadata"]["name"] for _ in range(50)}) == 50


def test_it_has_no_rights() -> None:
    made = manifest()
    assert pod(made)["automountServiceAccountToken"] is False
    assert pod(made)["securityContext"]["runAsNonRoot"] is True
    assert container(made)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_it_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    text = json.dumps(manifest(mount=MOUNT))
    assert "hf_secret" not in text
    assert "api_key" not in text


def test_the_command_does_not_depend_on_the_image() -> None:
    command = container(manifest())["command"]
    assert command[:3] == ["python", "-m", "tuner.benchmark.job_worker"]
    assert LevelRequest.parse(command[3]) == REQUEST


def test_dollars_arrive() -> None:
    request = replace(REQUEST, request_params={"stop": "$(HOME) $$ $"})
    word = container(manifest(request=request))["command"][3]
    assert LevelRequest.parse(expand(word, {"HOME": "/tmp"})) == request


def test_the_models_folder_ties_it_to_nodes_that_have_it() -> None:
    made = manifest(replace_settings(node_selector={"pool": "a"}), mount=MOUNT)
    assert pod(made)["nodeSelector"] == {"pool": "a", **MOUNT.node_selector}
    volume = next(volume for volume in pod(made)["volumes"] if "hostPath" in volume)
    assert volume["hostPath"] == {"path": "/mnt/models/m", "type": "Directory"}
    mount = next(mount for mount in container(made)["volumeMounts"] if mount["name"] == volume["name"])
    assert (mount["mountPath"], mount["readOnly"]) == ("/mnt/models/m", True)


def test_without_it_any_node_will_do() -> None:
    made = manifest()
    assert "nodeSelector" not in pod(made)
    assert not any("hostPath" in volume for volume in pod(made)["volumes"])


def test_resources_replace_tuners_own() -> None:
    assert container(manifest())["resources"]["limits"] == {"memory": "4Gi"}
    stated = {"requests": {"cpu": 2}}
    assert container(manifest(replace_settings(resources=stated)))["resources"] == stated


def test_a_patch_changes_what_is_free() -> None:
    patch = {
        "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q"}},
        "spec": {"template": {"spec": {"tolerations": None, "securityContext": {"runAsUser": None}, "priorityClassName": "high"}}},
    }
    made = manifest(replace_settings(patch=patch), mount=MOUNT)
    assert made["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "tuner", "kueue.x-k8s.io/queue-name": "q"}
    assert "tolerations" not in pod(made)
    assert "runAsUser" not in pod(made)["securityContext"]
    assert pod(made)["securityContext"]["runAsNonRoot"] is True
    assert pod(made)["priorityClassName"] == "high"


@pytest.mark.parametrize("path", OWN_JOB_PATHS, ids=".".join)
@pytest.mark.parametrize("value", ["x", None])
def test_a_patch_of_what_tuner_sets_is_refused(path: tuple[str, ...], value: str | None) -> None:
    patch: Any = value
    for key in reversed(path):
        patch = {key: patch}
    with pytest.raises(ConfigError, match=rf"^benchmark\.job\.patch\.{'.'.join(path)}: set by tuner itself"):
        JobSettings(patch=patch)


@pytest.mark.parametrize("depth", range(1, 3))
@pytest.mark.parametrize(("value", "says"), [(None, "null would remove"), ("x", "must be a mapping")])
def test_a_patch_of_what_holds_it_is_refused(depth: int, value: str | None, says: str) -> None:
    patch: Any = value
    for key in reversed(("spec", "template", "spec")[:depth]):
        patch = {key: patch}
    with pytest.raises(ConfigError, match=says):
        JobSettings(patch=patch)


def test_the_mode_job_needs_an_image() -> None:
    with pytest.raises(ConfigError, match=r"^benchmark\.job\.image: missing; "):
        BenchmarkSettings(mode="job")


def test_the_other_modes_leave_the_job_aside() -> None:
    assert BenchmarkSettings(mode="driver", job=SETTINGS).job == SETTINGS
