"""What only pods have: logs, port-forwards, bindings and evictions; for the double of an API server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

from tests.cluster.core_kinds import Kind
from tests.cluster.deletion import Deletion, delete
from tests.cluster.messages import Answer, NodeHooks, PortForward, Stream
from tests.cluster.metadata import now
from tests.cluster.operations import Operations
from tests.cluster.statuses import conflict, error
from tests.cluster.store import Thing


def read_log(pod: Thing, query: Mapping[str, str], node: NodeHooks | None) -> Answer | Stream:
    """The log of a container: 204 before the pod is on a node, 400 before the container has run, 500 without a kubelet."""
    container = _container(pod, query.get("container", ""))
    if not pod["spec"].get("nodeName"):
        return Answer(204, "")
    previous = query.get("previous") == "true"
    _check_ran(pod, container, previous)
    pieces = _kubelet(node).log(
        pod["metadata"]["namespace"],
        pod["metadata"]["name"],
        container,
        previous,
        query.get("follow") == "true",
        _since(query),
        query.get("timestamps") == "true",
        int(query["tailLines"]) if "tailLines" in query else None,
    )
    # What the kubelet refuses it refuses before the first byte.
    first = next(iter_pieces := iter(pieces), b"")
    return Stream(_limited(chain([first], iter_pieces), int(query.get("limitBytes", 0))), "text/plain")


def _container(pod: Thing, asked: str) -> str:
    names = [entry["name"] for entry in [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or [])]]
    if asked and asked not in names:
        raise error(400, f"container {asked} is not valid for pod {pod['metadata']['name']}")
    if asked:
        return asked
    if len(pod["spec"]["containers"]) > 1:
        told = f"a container name must be specified for pod {pod['metadata']['name']}, choose one of: [{' '.join(names)}]"
        raise error(400, told)
    return str(names[0])


def _check_ran(pod: Thing, container: str, previous: bool) -> None:
    """Refuses what the kubelet refuses of a container that has not run, as far as the pod's status tells."""
    entry: dict[str, Any] = next((e for e in pod["status"].get("containerStatuses") or [] if e["name"] == container), {})
    waiting = (entry.get("state") or {}).get("waiting")
    ended = (entry.get("lastState") or {}).get("terminated")
    if previous and entry and not ended:
        raise error(400, f'previous terminated container "{container}" in pod "{pod["metadata"]["name"]}" not found')
    if waiting and not ended:
        reason = waiting.get("reason", "")
        reason = "trying and failing to pull image" if reason in ("ErrImagePull", "ImagePullBackOff") else reason
        raise error(400, f'container "{container}" in pod "{pod["metadata"]["name"]}" is waiting to start: {reason}')


def _since(query: Mapping[str, str]) -> str | None:
    if seconds := query.get("sinceSeconds"):
        return (datetime.now(UTC) - timedelta(seconds=int(seconds))).strftime("%Y-%m-%dT%H:%M:%SZ")
    return query.get("sinceTime")


def _limited(pieces: Iterator[bytes], most: int) -> Iterator[bytes]:
    left = most
    for piece in pieces:
        yield piece[:left] if most else piece
        left -= len(piece)
        if most and left <= 0:
            return


def _kubelet(node: NodeHooks | None) -> NodeHooks:
    if node is None:
        raise error(500, "no preferred addresses found; known addresses: []", None)
    return node


def port_forward(pod: Thing, ports: list[str], upgrade: bool, node: NodeHooks | None) -> PortForward:
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    if not upgrade:
        raise error(400, "Upgrade request required")
    if not pod["spec"].get("nodeName"):
        raise error(400, f"pod {name} does not have a host assigned")
    kubelet = _kubelet(node)
    numbers = tuple(int(port) for part in ports for port in part.split(","))
    if not numbers:
        raise error(400, 'query parameter "ports" is required')
    return PortForward(numbers, lambda port: kubelet.connect(namespace, name, port))


def bind(operations: Operations, kind: Kind, pod: Thing, binding: Mapping[str, Any]) -> Thing:
    """Puts a pod on a node, as a scheduler does, and says so in its status."""
    name, node = pod["metadata"]["name"], binding["target"]["name"]
    if there := pod["spec"].get("nodeName"):
        raise conflict("pods/binding", "", name, f"pod {name} is already assigned to node {there!r}".replace("'", '"'))
    scheduled = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now()}

    def change(new: Thing) -> None:
        new["spec"]["nodeName"] = node
        others = [entry for entry in new["status"].get("conditions") or [] if entry["type"] != "PodScheduled"]
        new["status"]["conditions"] = [*others, scheduled]

    with operations.store.lock:
        operations.edit(kind, operations.get(kind, pod["metadata"]["namespace"], name), change)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def evict(operations: Operations, kind: Kind, pod: Thing, eviction: Mapping[str, Any]) -> Thing:
    grace = (eviction.get("deleteOptions") or {}).get("gracePeriodSeconds")
    delete(operations, kind, pod["metadata"]["namespace"], pod["metadata"]["name"], Deletion(grace_s=grace))
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
