"""What the tests of tuner/kube share: a connection to the API server double, and small objects in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cluster.api_server import ApiServer
from tests.cluster.faults import RequestPath
from tests.cluster.talking import widget_definition
from tuner.kube.cluster import Cluster
from tuner.kube.connection import Address, connect
from tuner.kube.mirror import Mirror
from tuner.kube.resources import Resource, uid_of

WIDGET = Resource("kt.example.com", "v1", "widgets", "Widget")
CONFIG_MAP = Resource("", "v1", "configmaps", "ConfigMap")
UNKNOWN = Resource("kt.example.com", "v1", "gadgets", "Gadget")


def widgets_in(server: ApiServer, folder: Path) -> Cluster:
    """A connection to the double, which now knows widgets."""
    server.install(widget_definition())
    return connected(server, folder)


def connected(server: ApiServer, folder: Path) -> Cluster:
    return connect(Address(str(server.kubeconfig(folder))))


def lists(method: str, path: RequestPath) -> bool:
    return method == "GET" and path.endswith("s") and "watch" not in path.query


def watches(method: str, path: RequestPath) -> bool:
    return path.query.get("watch") == "true"


def anything(method: str, path: RequestPath) -> bool:
    return True


def asked(server: ApiServer, method: str = "GET", **query: str) -> int:
    """How many requests of that method with these queries there were."""
    return sum(request.method == method and query.items() <= dict(request.query).items() for request in list(server.requests))


def names(objects: list[dict[str, Any]]) -> list[str]:
    return sorted(entry["metadata"]["name"] for entry in objects)


def same(mirror: Mirror, server: ApiServer) -> bool:
    """Whether the mirror shows what the server holds, in the same state."""

    def states(objects: list[dict[str, Any]]) -> dict[str, Any]:
        return {entry["metadata"]["name"]: (uid_of(entry), entry["metadata"]["resourceVersion"]) for entry in objects}

    return states(mirror.objects) == states(server.objects("widgets"))
