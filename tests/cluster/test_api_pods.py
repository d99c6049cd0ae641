"""The double's logs, port-forwards and bindings, by the official client."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3
from kubernetes import client
from kubernetes.stream import portforward

from tests.cluster.api_server import ApiServer
from tests.cluster.statuses import error
from tests.cluster.talking import api_client, pod, refused
from tests.conformance.backend import eventually


class Node:
    """Plays a kubelet: it has a log in memory, and one port where an echo listens."""

    def __init__(self) -> None:
        self.asked: tuple[Any, ...] = ()
        self.log_pieces: list[bytes | Exception] = [b"one\n", b"two\n"]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._echo, daemon=True).start()

    def log(self, *asked: Any) -> Iterator[bytes]:
        self.asked = asked
        for piece in self.log_pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def connect(self, namespace: str, name: str, port: int) -> socket.socket:
        assert (namespace, name) == ("default", "p")
        return socket.create_connection(("127.0.0.1", self.port if port == 8080 else 1))

    def _echo(self) -> None:
        with self._listener:
            connection, _ = self._listener.accept()
            with connection:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)
                    if data.endswith(b"bye"):
                        return


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def server(node: Node) -> Iterator[ApiServer]:
    with ApiServer() as started:
        started.node = node
        started.seed(pod("p", node="n"))
        yield started


@pytest.fixture
def core(server: ApiServer) -> client.CoreV1Api:
    return client.CoreV1Api(api_client(server))


def state(core: client.CoreV1Api, **entry: Any) -> None:
    """Writes the container's status, as a kubelet does."""
    core.patch_namespaced_pod_status("p", "default", {"status": {"phase": "Running", "containerStatuses": [{"name": "c"} | entry]}})


class TestLog:
    def test_whole(self, core: client.CoreV1Api) -> None:
        assert core.read_namespaced_pod_log("p", "default") == "one\ntwo\n"

    def test_options_reach_the_node(self, core: client.CoreV1Api, node: Node) -> None:
        core.read_namespaced_pod_log("p", "default", container="c", timestamps=True, tail_lines=5)
        assert node.asked == ("default", "p", "c", False, False, None, True, 5)
        reply = core.read_namespaced_pod_log("p", "default", follow=True, _preload_content=False)
        assert list(reply.stream()) == [b"one\n", b"two\n"]
        assert node.asked[4] is True

    def test_limited_in_bytes(self, core: client.CoreV1Api) -> None:
        assert core.read_namespaced_pod_log("p", "default", limit_bytes=5) == "one\nt"

    def test_cut_in_the_middle(self, core: client.CoreV1Api, node: Node) -> None:
        node.log_pieces.append(OSError("node lost"))
        with pytest.raises(urllib3.exceptions.ProtocolError):
            core.read_namespaced_pod_log("p", "default", _preload_content=False).read()

    def test_refused_by_the_node(self, core: client.CoreV1Api, node: Node) -> None:
        node.log_pieces = [error(400, "no such container")]
        assert refused(lambda: core.read_namespaced_pod_log("p", "default")).status == 400

    def test_without_a_node_agent(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.node = None
        failure = refused(lambda: core.read_namespaced_pod_log("p", "default"))
        assert (failure.status, "no preferred addresses found; known addresses: []" in failure.body) == (500, True)

    def test_before_the_pod_has_a_node(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.seed(pod("q"))
        assert core.read_namespaced_pod_log("q", "default") is None

    def test_before_the_container_has_run(self, core: client.CoreV1Api) -> None:
        state(core, state={"waiting": {"reason": "ImagePullBackOff"}})
        assert "is waiting to start: trying and failing to pull image" in refused(lambda: core.read_namespaced_pod_log("p", "default")).body

    def test_of_the_container_before(self, core: client.CoreV1Api, node: Node) -> None:
        state(core, state={"running": {}})
        failure = refused(lambda: core.read_namespaced_pod_log("p", "default", previous=True))
        assert (failure.status, "previous terminated container" in failure.body) == (400, True)
        state(core, restartCount=1, state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState={"terminated": {"exitCode": 1}})
        assert core.read_namespaced_pod_log("p", "default", previous=True) == "one\ntwo\n"
        assert node.asked[3] is True


class TestPortForward:
    def test_bytes_there_and_back(self, core: client.CoreV1Api) -> None:
        forward = portforward(core.connect_get_namespaced_pod_portforward, "p", "default", ports="8080")
        tunnel = forward.socket(8080)
        tunnel.settimeout(10)
        sent = bytes(range(256)) * 1024
        threading.Thread(target=tunnel.sendall, args=(sent + b"bye",), daemon=True).start()
        received = b""
        while data := tunnel.recv(1 << 16):
            received += data
        assert received == sent + b"bye"
        assert forward.error(8080) is None

    def test_nobody_listens(self, core: client.CoreV1Api) -> None:
        forward = portforward(core.connect_get_namespaced_pod_portforward, "p", "default", ports="9090")
        forward.socket(9090).settimeout(10)
        assert forward.socket(9090).recv(1) == b""
        eventually(lambda: forward.error(9090), "the error")
        assert "error forwarding port 9090" in forward.error(9090)

    def test_pod_without_a_node(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.seed(pod("q"))
        failure = refused(lambda: portforward(core.connect_get_namespaced_pod_portforward, "q", "default", ports="8080"))
        assert "400" in failure.reason

    def test_without_an_upgrade(self, server: ApiServer) -> None:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        path = "/api/v1/namespaces/default/pods/p/portforward?ports=8080"
        connection.request("POST", path, headers={"Authorization": f"Bearer {server.token}"})
        assert connection.getresponse().status == 400
        connection.close()


class TestBinding:
    def test_scheduled(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.seed(pod("q"))
        binding = {"metadata": {"name": "q"}, "target": {"kind": "Node", "name": "n"}}
        core.create_namespaced_pod_binding("q", "default", binding, _preload_content=False)
        found = core.read_namespaced_pod("q", "default")
        assert found.spec.node_name == "n"
        assert [(entry.type, entry.status) for entry in found.status.conditions] == [("PodScheduled", "True")]
        assert refused(lambda: core.create_namespaced_pod_binding("q", "default", binding, _preload_content=False)).status == 409

    def test_only_by_a_binding(self, server: ApiServer, core: client.CoreV1Api) -> None:
        server.seed(pod("q"))
        assert refused(lambda: core.patch_namespaced_pod("q", "default", {"spec": {"nodeName": "n"}})).status == 422


def test_status_has_what_go_cannot_leave_out(core: client.CoreV1Api) -> None:
    state(core, state={"running": {}})
    entry = core.read_namespaced_pod_status("p", "default").status.container_statuses[0]
    assert (entry.restart_count, entry.ready, entry.image_id) == (0, False, "")
