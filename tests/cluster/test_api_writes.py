"""What the double fills in, drops and refuses of objects of built-in kinds, by the official client."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client

from tests.cluster.api_server import ApiServer
from tests.cluster.crds import FOLDER, ome_crds
from tests.cluster.talking import GROUP, api_client, config_map, pod, post, refused, widget, widget_definition

PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as started:
        started.install(widget_definition())
        yield started


@pytest.fixture
def core(server: ApiServer) -> client.CoreV1Api:
    return client.CoreV1Api(api_client(server))


def deployment(name: str, labels: dict[str, str]) -> dict[str, Any]:
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template}}


def job(**spec: Any) -> dict[str, Any]:
    containers = {"containers": [{"name": "c", "image": "i"}]}
    return {"metadata": {"name": "j"}, "spec": {"template": {"spec": containers | spec}}}


class TestTypes:
    """The client refuses all this by itself, but other clients do not."""

    def test_wrong_type_is_refused_as_go_does(self, server: ApiServer) -> None:
        body = pod("p")
        body["spec"]["containers"][0]["args"] = ["--port", 8080]
        status, answer = post(server, PODS, body)
        told = "json: cannot unmarshal number into Go struct field Container.spec.containers.args of type string"
        assert (status, answer["message"]) == (400, f'Pod in version "v1" cannot be handled as a Pod: {told}')

    def test_missing_field_is_refused(self, server: ApiServer) -> None:
        body = pod("p")
        del body["spec"]["containers"][0]["name"]
        status, answer = post(server, PODS, body)
        assert (status, answer["message"]) == (422, 'Pod "p" is invalid: spec.containers[0].name: Required value')

    def test_unknown_field_is_dropped_unless_strict(self, server: ApiServer) -> None:
        body = pod("p") | {"dada": {"x": "y"}}
        status, answer = post(server, f"{PODS}?fieldValidation=Strict", body)
        told = 'strict decoding error: unknown field "dada"'
        assert (status, answer["message"]) == (400, f'Pod in version "v1" cannot be handled as a Pod: {told}')
        status, answer = post(server, PODS, body)
        assert (status, "dada" in answer) == (201, False)

    def test_quantities_may_be_numbers(self, server: ApiServer) -> None:
        body = pod("p")
        body["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": 2}}
        status, answer = post(server, PODS, body)
        assert (status, answer["spec"]["containers"][0]["resources"]["requests"]) == (201, {"nvidia.com/gpu": "2"})

    def test_times_of_leases_have_microseconds(self, server: ApiServer) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
        status, answer = post(server, path, {"metadata": {"name": "l"}, "spec": {"renewTime": "2026-01-01T00:00:00+00:00"}})
        assert (status, 'as "2006-01-02T15:04:05.000000Z07:00"' in answer["message"]) == (400, True)
        status, answer = post(server, path, {"metadata": {"name": "l"}, "spec": {"renewTime": "2026-01-01T02:00:00.000000+02:00"}})
        assert (status, answer["spec"]["renewTime"]) == (201, "2026-01-01T00:00:00.000000Z")

    def test_secrets_are_base64(self, server: ApiServer) -> None:
        path = "/api/v1/namespaces/default/secrets"
        status, answer = post(server, path, {"metadata": {"name": "s"}, "data": {"token": "?"}})
        assert (status, "illegal base64 data" in answer["message"]) == (400, True)


class TestDefaults:
    def test_job(self, server: ApiServer) -> None:
        made = client.BatchV1Api(api_client(server)).create_namespaced_job("default", job(restartPolicy="Never"))
        assert (made.spec.backoff_limit, made.spec.completions) == (6, 1)
        assert made.spec.selector.match_labels == {"batch.kubernetes.io/controller-uid": made.metadata.uid}
        assert made.spec.template.metadata.labels["batch.kubernetes.io/job-name"] == "j"

    def test_job_needs_a_restart_policy(self, server: ApiServer) -> None:
        failure = refused(lambda: client.BatchV1Api(api_client(server)).create_namespaced_job("default", job()))
        assert 'supported values: "OnFailure", "Never"' in json.loads(failure.body)["message"]

    def test_job_name_becomes_a_label_of_its_pods(self, server: ApiServer) -> None:
        body = job(restartPolicy="Never") | {"metadata": {"name": "j" * 64}}
        failure = refused(lambda: client.BatchV1Api(api_client(server)).create_namespaced_job("default", body))
        assert (failure.status, "spec.template.labels" in failure.body) == (422, True)

    def test_mount_needs_a_volume(self, core: client.CoreV1Api) -> None:
        body = pod("p")
        body["spec"]["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": "/v"}]
        failure = refused(lambda: core.create_namespaced_pod("default", body))
        assert (failure.status, "spec.containers[0].volumeMounts[0].name: Not found" in failure.body) == (422, True)
        core.create_namespaced_pod("default", body | {"spec": body["spec"] | {"volumes": [{"name": "v", "emptyDir": {}}]}})

    def test_job_template_never_changes(self, server: ApiServer) -> None:
        jobs = client.BatchV1Api(api_client(server))
        jobs.create_namespaced_job("default", job(restartPolicy="Never"))
        patch = {"spec": {"template": {"spec": {"restartPolicy": "OnFailure"}}}}
        failure = refused(lambda: jobs.patch_namespaced_job("j", "default", patch))
        assert (failure.status, "field is immutable" in failure.body) == (422, True)

    def test_deployment(self, server: ApiServer) -> None:
        apps = client.AppsV1Api(api_client(server))
        made = apps.create_namespaced_deployment("default", deployment("d", {"app": "a"}))
        assert (made.spec.replicas, made.spec.progress_deadline_seconds) == (1, 600)
        failure = refused(lambda: apps.create_namespaced_deployment("default", deployment("e", {"app": "b"})))
        assert "`selector` does not match template `labels`" in failure.body

    def test_secret_and_service(self, core: client.CoreV1Api) -> None:
        secret = core.create_namespaced_secret("default", {"metadata": {"name": "s"}, "stringData": {"token": "t"}})
        assert (secret.type, base64.b64decode(secret.data["token"]), secret.string_data) == ("Opaque", b"t", None)
        service = core.create_namespaced_service("default", {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}})
        assert (service.spec.type, service.spec.ports[0].target_port) == ("ClusterIP", 80)
        assert service.spec.cluster_ip

    def test_node_keeps_its_status_and_may_be_patched(self, core: client.CoreV1Api) -> None:
        core.create_node({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "4"}}})
        core.patch_node_status("n", {"status": {"allocatable": {"nvidia.com/gpu": "8"}}})
        found = core.read_node("n")
        assert (found.status.capacity, found.status.allocatable) == ({"cpu": "4"}, {"nvidia.com/gpu": "8"})


class TestChanges:
    def test_conditions_are_merged_by_type(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.seed(pod("p"))
        for status in ("False", "True"):
            for kind in ("Ready", "PodScheduled"):
                patch = {"status": {"conditions": [{"type": kind, "status": status}]}}
                server_patch(core, "p", patch)
        conditions = core.read_namespaced_pod("p", "default").status.conditions
        assert [(entry.type, entry.status) for entry in conditions] == [("Ready", "True"), ("PodScheduled", "True")]

    def test_lease_is_taken_by_one(self, server: ApiServer) -> None:
        leases = client.CoordinationV1Api(api_client(server))
        lease = leases.create_namespaced_lease("default", {"metadata": {"name": "l"}, "spec": {"holderIdentity": "a"}})
        lease.spec.holder_identity = "b"
        leases.replace_namespaced_lease("l", "default", lease)
        failure = refused(lambda: leases.replace_namespaced_lease("l", "default", lease))
        assert (failure.status, failure.reason) == (409, "Conflict")

    def test_status_does_not_count_as_a_generation(self, server: ApiServer) -> None:
        custom = client.CustomObjectsApi(api_client(server))
        custom.create_namespaced_custom_object(*GROUP, widget("a"))
        after_status = custom.patch_namespaced_custom_object_status(*GROUP, "a", {"status": {"url": "u"}})
        after_spec = custom.patch_namespaced_custom_object(*GROUP, "a", {"spec": {"replicas": 2}})
        assert (after_status["metadata"]["generation"], after_spec["metadata"]["generation"]) == (1, 2)
        assert after_spec["status"] == {"url": "u"}

    def test_list_is_no_merge_patch(self, server: ApiServer) -> None:
        server.seed(widget("a"))
        custom = client.CustomObjectsApi(api_client(server))
        failure = refused(lambda: custom.patch_namespaced_custom_object(*GROUP, "a", [{"op": "remove", "path": "/spec/replicas"}]))
        told = "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        assert (failure.status, json.loads(failure.body)["message"]) == (400, told)

    def test_apply_again_drops_what_is_no_more_said(self, server: ApiServer, core: client.CoreV1Api) -> None:
        def apply(manager: str, force: bool, **data: str) -> Any:
            body = config_map("a") | {"data": data}
            arguments = {"field_manager": manager, "force": force, "_content_type": "application/apply-patch+yaml"}
            return core.patch_namespaced_config_map("a", "default", body, **arguments)

        apply("one", False, x="1", y="1")
        assert apply("one", False, x="1").data == {"x": "1"}
        failure = refused(lambda: apply("two", False, x="2"))
        assert json.loads(failure.body)["message"] == 'Apply failed with 1 conflict: conflict with "one": .data.x'
        assert apply("two", True, x="2").data == {"x": "2"}


def server_patch(core: client.CoreV1Api, name: str, patch: dict[str, Any]) -> None:
    core.patch_namespaced_pod_status(name, "default", patch, _content_type="application/strategic-merge-patch+json")


def test_quota_has_no_room(server: ApiServer, core: client.CoreV1Api) -> None:
    quota = {"metadata": {"name": "q"}, "spec": {"hard": {"requests.nvidia.com/gpu": "2"}}}
    core.create_namespaced_resource_quota("default", quota)
    core.create_namespaced_pod("default", pod("p", gpus=2))
    failure = refused(lambda: core.create_namespaced_pod("default", pod("q", gpus=1)))
    told = "exceeded quota: q, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=2, limited: requests.nvidia.com/gpu=2"
    assert (failure.status, json.loads(failure.body)["message"]) == (403, f'pods "q" is forbidden: {told}')
    server.seed(pod("other", gpus=1, namespace="kube-system"))


def test_seeding_what_nobody_knows(server: ApiServer) -> None:
    with pytest.raises(LookupError, match=r"ome.io/v1beta1/BaseModel"):
        server.seed({"apiVersion": "ome.io/v1beta1", "kind": "BaseModel", "metadata": {"name": "m"}})


def test_readers_cannot_change_what_is_stored(server: ApiServer) -> None:
    server.seed(config_map("a"))["metadata"]["labels"] = {"x": "y"}
    server.objects("configmaps")[0]["metadata"]["labels"] = {"x": "y"}
    assert "labels" not in server.objects("configmaps")[0]["metadata"]


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.exists(), reason="needs OME's definitions beside the project")
def test_real_definitions_load(server: ApiServer) -> None:
    for definition in ome_crds():
        server.install(definition)
    service = {"apiVersion": "ome.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "a"}, "spec": {"engine": {"nope": 1}}}
    custom = client.CustomObjectsApi(api_client(server))
    place = ("ome.io", "v1beta1", "default", "inferenceservices")
    failure = refused(lambda: custom.create_namespaced_custom_object(*place, service, field_validation="Strict"))
    assert 'unknown field "spec.engine.nope"' in json.loads(failure.body)["message"]
    assert custom.create_namespaced_custom_object(*place, service)["spec"] == {"engine": {}}
