"""Pods in the played cluster: how containers start, crash, restart and end, and what their logs and ports show."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest
from kubernetes.stream import portforward

from tests.cluster.connection import Object
from tests.cluster.loop import condition
from tests.cluster.objects import secret
from tests.cluster.played import NAMESPACE, PlayedCluster
from tests.cluster.playing import (
    CRASH,
    NAME,
    container_states,
    core,
    delete,
    fetch,
    is_ready,
    message_of,
    model_status,
    reasons,
    service,
    stub,
    waits_for,
)
from tests.conformance.backend import eventually

pytestmark = pytest.mark.slow
pytest_plugins = ("tests.cluster.fixtures",)


def test_crash_loop(furnished: PlayedCluster) -> None:
    furnished.add(service(command=CRASH, args=[], terminationMessagePolicy="FallbackToLogsOnError"))
    eventually(lambda: any(status["restartCount"] >= 2 for status in container_states(furnished)), "restarts")
    eventually(waits_for(furnished, "CrashLoopBackOff"), "CrashLoopBackOff")
    ended = container_states(furnished)[0]["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (1, "Error")
    assert "CUDA out of memory" in ended["message"]
    eventually(lambda: model_status(furnished).get("transitionStatus") == "BlockedByFailedLoad", "failed load")
    failure = model_status(furnished)["lastFailureInfo"]
    assert (failure["reason"], failure["exitCode"]) == ("ModelLoadFailed", 1)
    assert "CUDA out of memory" in failure["message"]
    assert not is_ready(furnished)
    delete(furnished)
    eventually(lambda: furnished.leftovers() == [], "nothing left")


def test_message_stays_empty_by_default(furnished: PlayedCluster) -> None:
    furnished.add(service(command=CRASH, args=[]))
    eventually(waits_for(furnished, "CrashLoopBackOff"), "CrashLoopBackOff")
    assert "message" not in container_states(furnished)[0]["lastState"]["terminated"]


def test_image_that_cannot_be_pulled(furnished: PlayedCluster) -> None:
    furnished.kubelet.bad_images["no/such:image"] = "failed to resolve reference: not found"
    furnished.add(service(image="no/such:image", **stub("serve")))
    assert "not found" in message_of(furnished, "ImagePullBackOff")
    eventually(lambda: model_status(furnished)["transitionStatus"] == "InProgress", "OME does not tell")
    delete(furnished)
    eventually(lambda: furnished.leftovers() == [], "nothing left")


def test_pull_that_fails_once(furnished: PlayedCluster) -> None:
    furnished.kubelet.fail_pull(2, "i/o timeout")
    furnished.add(service())
    assert "i/o timeout" in message_of(furnished, "ErrImagePull")
    eventually(lambda: is_ready(furnished), "ready after all")


def test_missing_executable(furnished: PlayedCluster) -> None:
    furnished.add(service(command=["no-such-server"], args=[]))
    assert 'exec: "no-such-server": executable file not found in $PATH' in message_of(furnished, "RunContainerError")
    eventually(waits_for(furnished, "CrashLoopBackOff"), "CrashLoopBackOff")
    assert container_states(furnished)[0]["lastState"]["terminated"]["reason"] == "StartError"


def test_missing_secret(furnished: PlayedCluster) -> None:
    reference = {"name": "hub", "key": "token"}
    environment = [{"name": "STUB_ANSWER", "valueFrom": {"secretKeyRef": reference}}]
    furnished.add(service(**stub("serve"), env=environment))
    assert message_of(furnished, "CreateContainerConfigError") == 'secret "hub" not found'
    furnished.add(secret("hub", NAMESPACE, token="a secret"))
    eventually(lambda: is_ready(furnished), "ready once the secret is there")
    assert fetch(furnished.pods(NAME)[0]["status"]["podIP"]) == b"a secret"


def test_out_of_memory(furnished: PlayedCluster) -> None:
    furnished.add(service())
    eventually(lambda: is_ready(furnished), "ready")
    furnished.kubelet.oom_kill(furnished.pods(NAME)[0])
    ended: list[Object] = []

    def look() -> bool:
        states = [status[key].get("terminated", {}) for status in container_states(furnished) for key in ("state", "lastState")]
        ended.extend(state for state in states if state)
        return bool(ended)

    eventually(look, "its end")
    assert (ended[0]["exitCode"], ended[0]["reason"]) == (137, "OOMKilled")
    eventually(lambda: "InferenceServiceNotReady" in reasons(furnished), "event")
    eventually(lambda: is_ready(furnished), "ready again after the restart")
    assert container_states(furnished)[0]["restartCount"] == 1


@pytest.mark.parametrize("how", ["preempted", "evicted", "deleted"])
def test_pod_is_replaced(furnished: PlayedCluster, how: str) -> None:
    furnished.add(service())
    eventually(lambda: is_ready(furnished), "ready")
    pod = furnished.pods(NAME)[0]
    {
        "preempted": furnished.scheduler.preempt,
        "evicted": furnished.kubelet.evict,
        "deleted": furnished.connection.delete,
    }[how](pod)
    name = pod["metadata"]["name"]
    eventually(lambda: {each["metadata"]["name"] for each in furnished.pods(NAME)} - {name}, "another pod")
    if how == "evicted":
        eventually(lambda: (furnished.get("pods", name) or {})["status"].get("reason") == "Evicted", "the old one tells why")
        assert condition(furnished.get("pods", name) or {}, "DisruptionTarget")["status"] == "True"
    else:
        eventually(lambda: furnished.get("pods", name) is None, "the old one's end")
    eventually(lambda: is_ready(furnished), "ready again")
    delete(furnished)
    eventually(lambda: furnished.leftovers() == [], "nothing left")


@pytest.mark.parametrize("mode", ["stubborn", "forking"])
def test_processes_that_hold_on(furnished: PlayedCluster, mode: str) -> None:
    furnished.add(service(**stub(mode)))
    eventually(lambda: is_ready(furnished), "ready")
    assert furnished.kubelet.processes()
    delete(furnished)
    eventually(lambda: furnished.leftovers() == [], "nothing left")


def test_log_can_be_followed(furnished: PlayedCluster, tmp_path: Path) -> None:
    furnished.add(service())
    eventually(lambda: is_ready(furnished), "ready")
    pod = furnished.pods(NAME)[0]["metadata"]["name"]
    stream = core(furnished, tmp_path).read_namespaced_pod_log(pod, NAMESPACE, follow=True, _preload_content=False)
    text: list[bytes] = []
    reader = threading.Thread(target=lambda: text.extend(stream.stream()))
    reader.start()
    eventually(lambda: b"stub server: serve" in b"".join(text), "the first line")
    delete(furnished)
    reader.join(60)
    assert not reader.is_alive()


def test_port_forward_reaches_the_pod(furnished: PlayedCluster, tmp_path: Path) -> None:
    furnished.add(service())
    eventually(lambda: is_ready(furnished), "ready")
    pod = furnished.pods(NAME)[0]["metadata"]["name"]
    forward = portforward(core(furnished, tmp_path).connect_get_namespaced_pod_portforward, pod, NAMESPACE, ports="8080")
    with contextlib.closing(forward.socket(8080)) as tunnel:
        tunnel.setblocking(True)
        tunnel.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while piece := tunnel.recv(4096):
            answer += piece
    assert answer.endswith(b"hello")


def test_log_of_the_crashed_run(furnished: PlayedCluster, tmp_path: Path) -> None:
    furnished.add(service(command=CRASH, args=[]))
    eventually(lambda: any(status["restartCount"] >= 1 for status in container_states(furnished)), "a restart")
    pod = furnished.pods(NAME)[0]["metadata"]["name"]
    eventually(
        lambda: "CUDA out of memory" in (core(furnished, tmp_path).read_namespaced_pod_log(pod, NAMESPACE, previous=True) or ""),
        "the previous run's log",
    )
