"""What tests of and with a played cluster share: a service whose server is a stub, a Job, and looking at how they fare."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from tests.cluster.connection import Object
from tests.cluster.loop import condition
from tests.cluster.objects import GPU
from tests.cluster.played import NAMESPACE, PlayedCluster
from tests.conformance.backend import STUB, eventually

RUNTIME = "srt-stub"
MODEL = "tiny"
NAME = "at-s7f3-t0001"
CRASH = ["python3", "-c", "import sys; sys.exit('torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB')"]


def stub(mode: str) -> dict[str, Any]:
    return {"command": ["python3", str(STUB)], "args": [mode, "0.0.0.0", "8080"]}


def service(*, name: str = NAME, gpus: int = 1, model: str = MODEL, runtime: str = RUNTIME, **runner: Any) -> Object:
    resources = {GPU: str(gpus)}
    stated = {"name": "ome-container", "resources": {"requests": resources, "limits": resources}, **(runner or stub("serve"))}
    return {
        "apiVersion": "ome.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"tuner.trial": "1"}, "annotations": {"tuner.expires": "never"}},
        "spec": {
            "model": {"name": model},
            "runtime": {"name": runtime},
            "engine": {"minReplicas": 1, "maxReplicas": 1, "terminationGracePeriodSeconds": 2, "runner": stated},
        },
    }


def current(cluster: PlayedCluster, name: str = NAME) -> Object:
    found = cluster.get("inferenceservices", name)
    assert found is not None
    return found


def is_ready(cluster: PlayedCluster, name: str = NAME) -> bool:
    return condition(current(cluster, name), "Ready").get("status") == "True"


def container_states(cluster: PlayedCluster, name: str = NAME) -> list[Object]:
    """The status of the containers of all pods, none before the kubelet came to them."""
    return [status for pod in cluster.pods(name) for status in pod.get("status", {}).get("containerStatuses", [])]


def waits_for(cluster: PlayedCluster, reason: str) -> Callable[[], bool]:
    return lambda: any(status["state"].get("waiting", {}).get("reason") == reason for status in container_states(cluster))


def message_of(cluster: PlayedCluster, reason: str) -> str:
    """The message of the container that waits for `reason`."""
    found: list[str] = []

    def look() -> bool:
        waiting = [status["state"].get("waiting", {}) for status in container_states(cluster)]
        found.extend(each["message"] for each in waiting if each.get("reason") == reason)
        return bool(found)

    eventually(look, reason)
    return found[0]


def model_status(cluster: PlayedCluster, name: str = NAME) -> Object:
    status: Object = current(cluster, name).get("status", {}).get("modelStatus", {})
    return status


def reasons(cluster: PlayedCluster, name: str = NAME) -> set[str]:
    return {event["reason"] for event in cluster.events(name)}


def fetch(address: str) -> bytes:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://{address}:8080/", timeout=5) as reply:
        return bytes(reply.read())


def delete(cluster: PlayedCluster, name: str = NAME, policy: str = "Foreground") -> None:
    cluster.connection.delete(current(cluster, name), policy=policy)


def job(command: list[str], name: str = "bench-1", **spec: Any) -> Object:
    container = {"name": "bench", "image": "tuner:1", "command": command}
    pod = {"restartPolicy": "Never", "containers": [container]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}, **spec},
    }


def core(cluster: PlayedCluster, folder: Path) -> client.CoreV1Api:
    """The official client, for what a real API server without nodes cannot do: such tests are skipped there."""
    if cluster.real:
        pytest.skip("needs a kubelet that the API server can reach")
    return client.CoreV1Api(config.new_client_from_config(str(cluster.kubeconfig(folder))))


def finished(cluster: PlayedCluster, kind: str, name: str = "bench-1") -> Callable[[], bool]:
    return lambda: condition(cluster.get("jobs", name) or {}, kind).get("status") == "True"
