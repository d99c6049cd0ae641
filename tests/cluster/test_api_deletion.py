"""The double's deletions and its garbage collector, by the official client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client

from tests.cluster.api_server import ApiServer
from tests.cluster.talking import GROUP, api_client, config_map, owned_by, pod, refused, widget, widget_definition
from tests.conformance.backend import eventually


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as started:
        started.install(widget_definition())
        yield started


@pytest.fixture
def core(server: ApiServer) -> client.CoreV1Api:
    return client.CoreV1Api(api_client(server))


@pytest.fixture
def custom(server: ApiServer) -> client.CustomObjectsApi:
    return client.CustomObjectsApi(api_client(server))


def names(server: ApiServer, plural: str) -> list[str]:
    return [thing["metadata"]["name"] for thing in server.objects(plural)]


def job(name: str) -> dict[str, Any]:
    spec = {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": {"spec": spec}}}


class TestPropagation:
    def test_foreground_waits_for_dependents_that_block(self, server: ApiServer, custom: client.CustomObjectsApi) -> None:
        owner = server.seed(widget("a"))
        server.seed(pod("p", node="n", **owned_by(owner)))
        answer = custom.delete_namespaced_custom_object(*GROUP, "a", propagation_policy="Foreground")
        assert answer["metadata"]["finalizers"] == ["foregroundDeletion"]
        eventually(lambda: "deletionTimestamp" in server.objects("pods")[0]["metadata"], "the pod's deletion")
        assert names(server, "widgets") == ["a"]
        core = client.CoreV1Api(api_client(server))
        core.delete_namespaced_pod("p", "default", grace_period_seconds=0)
        eventually(lambda: names(server, "widgets") == [], "the owner's end")

    def test_foreground_reaches_grandchildren_first(self, server: ApiServer, custom: client.CustomObjectsApi) -> None:
        owner = server.seed(widget("a"))
        child = server.seed(widget("b", **owned_by(owner)))
        server.seed(config_map("c", finalizers=["kt.io/hold"], **owned_by(child)))
        custom.delete_namespaced_custom_object(*GROUP, "a", propagation_policy="Foreground")
        eventually(lambda: "deletionTimestamp" in server.objects("configmaps")[0]["metadata"], "the grandchild's deletion")
        assert names(server, "widgets") == ["a", "b"]
        client.CoreV1Api(api_client(server)).patch_namespaced_config_map("c", "default", {"metadata": {"finalizers": None}})
        eventually(lambda: names(server, "widgets") == [], "the end of all")

    def test_foreground_does_not_wait_for_others(self, server: ApiServer, custom: client.CustomObjectsApi) -> None:
        owner = server.seed(widget("a"))
        server.seed(pod("p", node="n", **owned_by(owner, blocks=False)))
        custom.delete_namespaced_custom_object(*GROUP, "a", propagation_policy="Foreground")
        eventually(lambda: names(server, "widgets") == [], "the owner's end")
        assert names(server, "pods") == ["p"]

    def test_foreground_leaves_other_finalizers(self, server: ApiServer, custom: client.CustomObjectsApi) -> None:
        server.seed(widget("a", finalizers=["inferenceservice.finalizers"]))
        custom.delete_namespaced_custom_object(*GROUP, "a", propagation_policy="Foreground")
        eventually(lambda: server.objects("widgets")[0]["metadata"]["finalizers"] == ["inferenceservice.finalizers"], "one finalizer")

    def test_background_collects_afterwards(self, server: ApiServer, custom: client.CustomObjectsApi) -> None:
        owner = server.seed(widget("a"))
        server.seed(config_map("c", **owned_by(owner)))
        assert custom.delete_namespaced_custom_object(*GROUP, "a")["status"] == "Success"
        eventually(lambda: names(server, "configmaps") == [], "the dependent's end")

    def test_dependent_of_nobody_is_collected(self, server: ApiServer) -> None:
        owner = widget("a", uid="gone")
        server.seed(config_map("c", **owned_by(owner)))
        eventually(lambda: names(server, "configmaps") == [], "the end of what belongs to nobody")

    def test_owner_that_is_torn_away_leaves_nothing(self, server: ApiServer, custom: client.CustomObjectsApi) -> None:
        owner = server.seed(widget("a"))
        child = server.seed(widget("b", **owned_by(owner)))
        server.seed(config_map("c", finalizers=["kt.io/hold"], **owned_by(child)))
        custom.delete_namespaced_custom_object(*GROUP, "a", propagation_policy="Foreground")
        eventually(lambda: "deletionTimestamp" in server.objects("configmaps")[0]["metadata"], "the grandchild's deletion")
        custom.patch_namespaced_custom_object(*GROUP, "a", {"metadata": {"finalizers": None}})
        client.CoreV1Api(api_client(server)).patch_namespaced_config_map("c", "default", {"metadata": {"finalizers": None}})
        eventually(lambda: names(server, "widgets") == names(server, "configmaps") == [], "the end of all")

    def test_orphans_stay_and_forget_their_owner(self, server: ApiServer, custom: client.CustomObjectsApi) -> None:
        owner = server.seed(widget("a"))
        server.seed(config_map("c", **owned_by(owner)))
        custom.delete_namespaced_custom_object(*GROUP, "a", propagation_policy="Orphan")
        eventually(lambda: names(server, "widgets") == [], "the owner's end")
        assert "ownerReferences" not in server.objects("configmaps")[0]["metadata"]

    @pytest.mark.parametrize(("policy", "left"), [(None, ["p"]), ("Background", [])])
    def test_pods_of_a_job_stay_unless_told(self, server: ApiServer, policy: str | None, left: list[str]) -> None:
        owner = server.seed(job("j"))
        server.seed(pod("p", **owned_by(owner)))
        jobs = client.BatchV1Api(api_client(server))
        jobs.delete_namespaced_job("j", "default", **({"propagation_policy": policy} if policy else {}))
        eventually(lambda: names(server, "jobs") == [], "the job's end")
        eventually(lambda: not any("ownerReferences" in thing["metadata"] for thing in server.objects("pods")), "the collector's work")
        assert names(server, "pods") == left


class TestPods:
    def test_pod_on_a_node_waits_for_its_kubelet(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.seed(pod("p", node="n"))
        assert core.delete_namespaced_pod("p", "default").metadata.deletion_grace_period_seconds == 30
        core.patch_namespaced_pod("p", "default", {"metadata": {"labels": {"x": "y"}}})
        assert names(server, "pods") == ["p"]
        core.delete_namespaced_pod("p", "default", grace_period_seconds=0)
        assert names(server, "pods") == []

    def test_pod_without_a_node_goes_at_once(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.seed(pod("p"))
        core.delete_namespaced_pod("p", "default")
        assert names(server, "pods") == []

    def test_pod_that_has_ended_goes_at_once(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.seed(pod("p", node="n") | {"status": {"phase": "Failed"}})
        core.delete_namespaced_pod("p", "default")
        assert names(server, "pods") == []

    def test_finalizer_holds_a_pod_after_its_kubelet(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.seed(pod("p", node="n", finalizers=["kt.io/hold"]))
        core.delete_namespaced_pod("p", "default", grace_period_seconds=0)
        assert names(server, "pods") == ["p"]
        core.patch_namespaced_pod("p", "default", {"metadata": {"$deleteFromPrimitiveList/finalizers": ["kt.io/hold"]}})
        assert names(server, "pods") == []


def test_same_name_gets_another_uid(server: ApiServer, custom: client.CustomObjectsApi) -> None:
    first = server.seed(widget("a"))
    options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=first["metadata"]["uid"]))
    custom.delete_namespaced_custom_object(*GROUP, "a", body=options)
    second = server.seed(widget("a"))
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert refused(lambda: custom.delete_namespaced_custom_object(*GROUP, "a", body=options)).status == 409
    assert names(server, "widgets") == ["a"]


def test_dry_run_deletes_nothing(server: ApiServer, core: client.CoreV1Api) -> None:
    server.seed(config_map("a"))
    core.delete_namespaced_config_map("a", "default", dry_run="All")
    assert names(server, "configmaps") == ["a"]


def test_namespace_takes_its_contents_along(server: ApiServer, core: client.CoreV1Api) -> None:
    core.create_namespace({"metadata": {"name": "x"}})
    server.seed(config_map("a", namespace="x", finalizers=["kt.io/hold"]))
    core.delete_namespace("x")
    eventually(lambda: "deletionTimestamp" in server.objects("configmaps")[0]["metadata"], "the deletion of the contents")
    assert core.read_namespace("x").status.phase == "Terminating"
    failure = refused(lambda: core.create_namespaced_config_map("x", config_map("b")))
    assert (failure.status, "because it is being terminated" in failure.body) == (403, True)
    core.patch_namespaced_config_map("a", "x", {"metadata": {"finalizers": None}})
    eventually(lambda: "x" not in names(server, "namespaces"), "the namespace's end")


def test_definition_takes_its_objects_along(server: ApiServer, custom: client.CustomObjectsApi) -> None:
    server.seed(widget("a"))
    client.ApiextensionsV1Api(api_client(server)).delete_custom_resource_definition("widgets.kt.example.com")
    assert refused(lambda: custom.list_namespaced_custom_object(*GROUP)).body == "404 page not found\n"
    server.install(widget_definition())
    assert names(server, "widgets") == []
