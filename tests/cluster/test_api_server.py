"""The double's transport, by the official client: faults, restarts, access and discovery."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from kubernetes import client, config

from tests.cluster.api_server import ApiServer
from tests.cluster.crds import small_ome_crds
from tests.cluster.talking import GROUP, api_client, config_map, refused, widget, widget_definition
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


def test_kubeconfig_leads_to_it(server: ApiServer, tmp_path: Path) -> None:
    path = server.kubeconfig(tmp_path, namespace="tuner")
    contexts, active = config.list_kube_config_contexts(str(path))
    assert [context["name"] for context in contexts] == ["double"]
    assert active["context"]["namespace"] == "tuner"
    loaded = client.CoreV1Api(config.new_client_from_config(str(path)))
    assert "default" in [namespace.metadata.name for namespace in loaded.list_namespace().items]


def test_requests_are_logged_with_query_and_body(server: ApiServer, core: client.CoreV1Api) -> None:
    core.create_namespaced_config_map("default", config_map("a"), dry_run="All")
    request = server.requests[-1]
    assert (request.method, request.path, request.query) == ("POST", "/api/v1/namespaces/default/configmaps", {"dryRun": "All"})
    assert request.body["metadata"] == {"name": "a"}
    assert server.objects("configmaps") == []


def test_state_outlives_a_restart_at_the_same_address(server: ApiServer, core: client.CoreV1Api) -> None:
    core.create_namespaced_config_map("default", config_map("a"))
    url = server.url
    server.stop()
    with pytest.raises(urllib3.exceptions.HTTPError):
        core.list_namespaced_config_map("default")
    server.restart()
    assert server.url == url
    assert [found.metadata.name for found in core.list_namespaced_config_map("default").items] == ["a"]


class TestFaults:
    def test_status_once_with_headers(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.faults.add(lambda method, path: path.endswith("/configmaps"), status=429, headers={"Retry-After": "1"})
        failure = refused(lambda: core.list_namespaced_config_map("default"))
        assert (failure.status, failure.headers["Retry-After"]) == (429, "1")
        assert json.loads(failure.body)["reason"] == "TooManyRequests"
        assert core.list_namespaced_config_map("default").items == []

    def test_own_body_for_ever_until_cleared(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.faults.add(lambda method, path: True, status=500, body="failed calling webhook", times=None)
        for _ in range(3):
            assert refused(core.list_namespace).body == "failed calling webhook"
        server.faults.clear()
        assert core.list_namespace().items

    def test_other_requests_are_spared(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.faults.add(lambda method, path: method == "DELETE", status=503)
        core.create_namespaced_config_map("default", config_map("a"))
        assert refused(lambda: core.delete_namespaced_config_map("a", "default")).status == 503

    def test_query_tells_a_watch_from_a_list(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.faults.add(lambda method, path: "watch" in path.query, status=500)
        assert core.list_namespaced_config_map("default").items == []
        assert refused(lambda: core.list_namespaced_config_map("default", watch=True, timeout_seconds=1)).status == 500

    def test_reset(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.faults.add(lambda method, path: True, reset=True)
        with pytest.raises(urllib3.exceptions.ProtocolError, match="reset by peer"):
            core.create_namespaced_config_map("default", config_map("a"))
        assert server.objects("configmaps") == []

    def test_stored_but_the_answer_is_lost(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.faults.add(lambda method, path: method == "POST", reset=True, after=True)
        with pytest.raises(urllib3.exceptions.HTTPError):
            core.create_namespaced_config_map("default", config_map("a"))
        assert refused(lambda: core.create_namespaced_config_map("default", config_map("a"))).status == 409

    def test_stored_but_the_answer_is_late(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.faults.add(lambda method, path: method == "POST", delay_s=30, after=True)
        with pytest.raises(urllib3.exceptions.HTTPError):
            core.create_namespaced_config_map("default", config_map("a"), _request_timeout=0.2)
        eventually(lambda: [found["metadata"]["name"] for found in server.objects("configmaps")] == ["a"], "the stored object")

    def test_late_answer_is_the_right_one(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.faults.add(lambda method, path: True, delay_s=0.01)
        assert core.list_namespaced_config_map("default").items == []


class TestAccess:
    def test_one_verb_is_refused(self, server: ApiServer, custom: client.CustomObjectsApi) -> None:
        server.permissions = lambda verb, group, resource, namespace: (verb, resource) != ("delete", "widgets")
        custom.create_namespaced_custom_object(*GROUP, widget("a"))
        failure = refused(lambda: custom.delete_namespaced_custom_object(*GROUP, "a"))
        told = 'widgets.kt.example.com "a" is forbidden: User "tuner" cannot delete resource "widgets" in API group "kt.example.com"'
        assert (failure.status, json.loads(failure.body)["message"]) == (403, f'{told} in the namespace "default"')

    def test_subresources_have_rights_of_their_own(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.permissions = lambda verb, group, resource, namespace: resource != "pods/log"
        assert core.list_namespaced_pod("default").items == []
        failure = refused(lambda: core.read_namespaced_pod_log("p", "default"))
        assert 'cannot get resource "pods/log" in API group ""' in json.loads(failure.body)["message"]

    def test_review_tells_what_the_permissions_say(self, server: ApiServer) -> None:
        server.permissions = lambda verb, group, resource, namespace: (verb, group, resource, namespace) == ("get", "", "pods/log", "x")
        reviews = client.AuthorizationV1Api(api_client(server))

        def allowed(namespace: str) -> bool:
            attributes = {"verb": "get", "group": "", "resource": "pods", "subresource": "log", "namespace": namespace}
            body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes}}
            return bool(reviews.create_self_subject_access_review(body).status.allowed)

        assert (allowed("x"), allowed("y")) == (True, False)

    def test_token_is_checked_and_may_expire(self, server: ApiServer) -> None:
        assert refused(client.CoreV1Api(api_client(server, token="old")).list_namespace).status == 401
        server.faults.add(lambda method, path: True, status=401)
        assert refused(client.CoreV1Api(api_client(server)).list_namespace).reason == "Unauthorized"

    def test_administrator_is_not_concerned(self, server: ApiServer) -> None:
        server.permissions = lambda verb, group, resource, namespace: False
        server.faults.add(lambda method, path: True, status=500, times=None)
        admin = client.CoreV1Api(api_client(server, token=server.admin_token))
        assert admin.list_namespace().items
        assert server.requests == []


class TestDiscovery:
    def test_version_is_complete(self, server: ApiServer) -> None:
        assert client.VersionApi(api_client(server)).get_code().git_version.startswith("v1.")

    def test_groups_come_with_their_definitions(self, server: ApiServer) -> None:
        groups = client.ApisApi(api_client(server))
        assert "ome.io" not in [group.name for group in groups.get_api_versions().groups]
        for definition in small_ome_crds():
            server.install(definition)
        assert "ome.io" in [group.name for group in groups.get_api_versions().groups]

    def test_resources_of_a_group(self, server: ApiServer) -> None:
        found = {entry.name: entry for entry in client.CoreV1Api(api_client(server)).get_api_resources().resources}
        assert {"pods", "pods/log", "pods/portforward", "nodes/status", "events"} <= found.keys()
        assert not found["nodes"].namespaced
        custom = client.CustomObjectsApi(api_client(server)).get_api_resources("kt.example.com", "v1")
        assert [entry.name for entry in custom.resources] == ["widgets", "widgets/status"]

    def test_absent_group_is_no_status_object(self, server: ApiServer) -> None:
        failure = refused(lambda: client.CustomObjectsApi(api_client(server)).get_api_resources("no.example.com", "v1"))
        assert (failure.status, failure.body) == (404, "404 page not found\n")
