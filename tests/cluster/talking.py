"""How the tests of the API server double talk to it: the official client, and manifests that are as small as can be."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes import client

from tests.cluster.api_server import ApiServer

GROUP = ("kt.example.com", "v1", "default", "widgets")
"""Group, version, namespace and plural of the custom resource in these tests."""


def api_client(server: ApiServer, token: str | None = None) -> client.ApiClient:
    """A client of the double, which tries nothing twice by itself."""
    configuration = client.Configuration(host=server.url)
    configuration.api_key["authorization"] = f"Bearer {server.token if token is None else token}"
    configuration.retries = False
    configuration.proxy = None
    return client.ApiClient(configuration)


def widget_definition() -> dict[str, Any]:
    spec = {
        "type": "object",
        "required": ["model"],
        "properties": {"model": {"type": "string"}, "replicas": {"type": "integer", "minimum": 0, "default": 1}},
    }
    schema = {"type": "object", "properties": {"spec": spec, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    version = {"name": "v1", "served": True, "storage": True, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.kt.example.com"},
        "spec": {"group": "kt.example.com", "scope": "Namespaced", "names": names, "versions": [version]},
    }


def widget(name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "kt.example.com/v1", "kind": "Widget", "metadata": {"name": name} | metadata, "spec": {"model": "m"}}


def config_map(name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name} | metadata}


def pod(name: str, node: str | None = None, gpus: int = 0, **metadata: Any) -> dict[str, Any]:
    """A pod with one container `c`, bound to `node` if one is named."""
    container: dict[str, Any] = {"name": "c", "image": "i"}
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    spec: dict[str, Any] = {"containers": [container]} | ({"nodeName": node} if node else {})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name} | metadata, "spec": spec}


def owned_by(owner: dict[str, Any], blocks: bool = True) -> dict[str, Any]:
    """The metadata that makes something a dependent of `owner`."""
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": blocks,
    }
    return {"ownerReferences": [reference]}


def post(server: ApiServer, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    """Status and body of a create that the client, which checks types itself, would not send."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
    try:
        connection.request("POST", path, json.dumps(body), headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def refused(call: Callable[[], object]) -> client.ApiException:
    """How the server refused `call`."""
    with pytest.raises(client.ApiException) as caught:
        call()
    return caught.value
