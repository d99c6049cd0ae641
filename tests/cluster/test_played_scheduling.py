"""Scheduling in the played cluster: nodes, GPUs, gates and quotas."""

from __future__ import annotations

import pytest

from tests.cluster.connection import Object
from tests.cluster.loop import condition
from tests.cluster.objects import GPU, model_label, node, resource_quota
from tests.cluster.played import NAMESPACE, PlayedCluster
from tests.cluster.playing import MODEL, NAME, delete, is_ready, reasons, service
from tests.conformance.backend import eventually

pytestmark = pytest.mark.slow
pytest_plugins = ("tests.cluster.fixtures",)


def test_unschedulable_until_gpus_are_free(furnished: PlayedCluster) -> None:
    furnished.add(service(name="first-t0001", gpus=4))
    eventually(lambda: is_ready(furnished, "first-t0001"), "the first is ready")
    furnished.add(service())
    eventually(lambda: furnished.pods(NAME), "pod")
    pod = furnished.pods(NAME)[0]["metadata"]["name"]
    eventually(lambda: "FailedScheduling" in reasons(furnished, pod), "event")
    message = (
        f"0/1 nodes are available: 1 Insufficient {GPU}. "
        "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    )
    waiting = condition(furnished.pods(NAME)[0], "PodScheduled")
    assert (waiting["status"], waiting["reason"], waiting["message"]) == ("False", "Unschedulable", message)
    delete(furnished, "first-t0001")
    eventually(lambda: is_ready(furnished), "ready after the first is gone")


def test_no_node_has_the_model(furnished: PlayedCluster) -> None:
    furnished.add_model("elsewhere", "/models/elsewhere", nodes=[])
    furnished.add(service(model="elsewhere"))
    eventually(lambda: any(condition(pod, "PodScheduled").get("message") for pod in furnished.pods(NAME)), "a reason")
    assert "didn't match Pod's node affinity/selector" in condition(furnished.pods(NAME)[0], "PodScheduled")["message"]


def test_scheduling_gate(furnished: PlayedCluster) -> None:
    gated = service()
    gated["spec"]["engine"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
    furnished.add(gated)
    eventually(lambda: any(condition(pod, "PodScheduled").get("reason") == "SchedulingGated" for pod in furnished.pods(NAME)), "gated")


def test_a_second_node_takes_what_the_first_cannot(furnished: PlayedCluster) -> None:
    furnished.add(node("gpu-node-2", 8, {model_label(MODEL): "Ready"}))
    furnished.add(service(gpus=8))
    eventually(lambda: is_ready(furnished), "ready")
    assert furnished.pods(NAME)[0]["spec"]["nodeName"] == "gpu-node-2"


def test_quota_refuses_the_pod(furnished: PlayedCluster) -> None:
    furnished.add(resource_quota("gpus", NAMESPACE, 1))
    furnished.add(service(gpus=2))

    def failure() -> Object:
        deployment = furnished.get("deployments", f"{NAME}-engine")
        return condition(deployment, "ReplicaFailure") if deployment is not None else {}

    eventually(failure, "ReplicaFailure")
    assert failure()["reason"] == "FailedCreate"
    assert f"exceeded quota: gpus, requested: requests.{GPU}=2, used: requests.{GPU}=0, limited: requests.{GPU}=1" in failure()["message"]
    assert furnished.pods(NAME) == []


def test_quota_counts_what_is_used(furnished: PlayedCluster) -> None:
    furnished.add(resource_quota("gpus", NAMESPACE, 3))
    furnished.add(service(gpus=2))

    def used() -> str:
        return str((furnished.get("resourcequotas", "gpus") or {})["status"]["used"][f"requests.{GPU}"])

    eventually(lambda: used() == "2", "two GPUs in use")
    delete(furnished)
    eventually(lambda: used() == "0", "none in use")
