"""A port of this host that leads to one of a pod, against the API server double and a server that stands for the pod's."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.api_server import ApiServer
from tests.cluster.talking import pod
from tests.conformance.backend import eventually
from tests.kube.reaching import anything, connected
from tuner.kube.cluster import Cluster
from tuner.kube.port_forward import PortForward

WORDS = b"word " * 100_000


class Pod(http.server.BaseHTTPRequestHandler):
    """Answers with what it was sent, or with many words; streams slowly where it is asked to."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path == "/endless":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"4\r\none\n\r\n")
            self.wfile.flush()
            self.rfile.read(1)
            return
        self.send_header("Content-Length", str(len(WORDS)))
        self.end_headers()
        self.wfile.write(WORDS)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Node:
    """A double of a kubelet, because no pod runs here: all pods' port 8080 is that of one server in this process."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.links: list[socket.socket] = []
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pod)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def log(self, *asked: object) -> Iterator[bytes]:
        yield b""

    def connect(self, namespace: str, pod: str, port: int) -> socket.socket:
        self.asked.append(pod)
        if port != 8080:
            raise ConnectionRefusedError
        link = socket.create_connection(self.server.server_address[:2])
        self.links.append(link)
        return link

    def lose(self) -> None:
        """Breaks all connections."""
        for link in self.links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def server(node: Node) -> Iterator[ApiServer]:
    with ApiServer() as started:
        started.node = node
        for name in ("p", "q"):
            started.seed(pod(name, node="n"))
        yield started


@pytest.fixture
def cluster(server: ApiServer, tmp_path: Path) -> Cluster:
    return connected(server, tmp_path)


@pytest.fixture
def forward(cluster: Cluster) -> Iterator[PortForward]:
    made = PortForward(cluster, lambda: "p", 8080)
    yield made
    made.close()


def open_to(forward: PortForward) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(forward.url.removeprefix("http://"), timeout=20)


def get(forward: PortForward, path: str = "/") -> bytes:
    with contextlib.closing(open_to(forward)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "port-forward" in thread.name or "port forward" in thread.name]


def test_http_there_and_back(forward: PortForward) -> None:
    assert forward.url.startswith("http://127.0.0.1:")
    assert get(forward) == WORDS
    sent = bytes(range(256)) * 4096
    with contextlib.closing(open_to(forward)) as connection:
        for _ in range(3):
            connection.request("POST", "/", sent)
            assert connection.getresponse().read() == sent


def test_answer_comes_as_it_is_written(forward: PortForward) -> None:
    with contextlib.closing(open_to(forward)) as connection:
        connection.request("GET", "/endless")
        assert connection.getresponse().readline() == b"one\n"


def test_several_at_once(forward: PortForward) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda number: get(forward), range(24))) == {WORDS}


def test_each_connection_asks_for_the_pod_of_the_moment(cluster: Cluster, node: Node) -> None:
    names = iter(["p", "q"])
    forward = PortForward(cluster, lambda: next(names), 8080)
    assert get(forward) == get(forward) == WORDS
    assert node.asked == ["p", "q"]
    forward.close()


def refused(forward: PortForward) -> bool:
    try:
        get(forward)
    except (OSError, http.client.HTTPException):
        return True
    return False


class TestNobodyThere:
    def test_no_pod_yet(self, server: ApiServer, cluster: Cluster) -> None:
        known: list[str] = []
        forward = PortForward(cluster, lambda: known[0] if known else None, 8080)
        assert refused(forward)
        assert server.requests == []
        known.append("p")
        assert get(forward) == WORDS
        forward.close()

    def test_no_such_pod_and_no_such_port(self, cluster: Cluster) -> None:
        for name, port in (("gone", 8080), ("p", 9090)):
            forward = PortForward(cluster, lambda name=name: name, port)
            assert refused(forward)
            forward.close()

    def test_pod_without_a_node(self, server: ApiServer, cluster: Cluster) -> None:
        server.seed(pod("waiting"))
        forward = PortForward(cluster, lambda: "waiting", 8080)
        assert refused(forward)
        forward.close()

    def test_server_that_refuses_and_is_away(self, server: ApiServer, forward: PortForward) -> None:
        server.faults.add(anything, status=403)
        assert refused(forward)
        assert get(forward) == WORDS
        server.stop()
        assert refused(forward)
        server.restart()
        assert get(forward) == WORDS

    def test_pod_that_goes_away(self, node: Node, forward: PortForward) -> None:
        with contextlib.closing(open_to(forward)) as connection:
            connection.request("GET", "/endless")
            answer = connection.getresponse()
            assert answer.readline() == b"one\n"
            node.lose()
            with pytest.raises(http.client.IncompleteRead):
                answer.read()
        assert get(forward) == WORDS

    def test_credentials_that_cannot_be_had(self, cluster: Cluster, forward: PortForward) -> None:
        from kubernetes.config import ConfigException

        def fail(configuration: object) -> None:
            raise ConfigException("the command failed")

        cluster.client.configuration.refresh_api_key_hook = fail
        assert refused(forward)


class TestClose:
    def test_frees_port_connections_and_threads(self, node: Node, cluster: Cluster) -> None:
        before = own_threads()
        forward = PortForward(cluster, lambda: "p", 8080)
        port = int(forward.url.rpartition(":")[2])
        with contextlib.closing(open_to(forward)) as connection:
            connection.request("GET", "/endless")
            answer = connection.getresponse()
            assert answer.readline() == b"one\n"
            forward.close()
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                answer.read()
        eventually(lambda: own_threads() == before, "the ends of the threads")
        socket.create_server(("127.0.0.1", port)).close()
        forward.close()

    def test_connections_that_have_ended_leave_nothing(self, cluster: Cluster, forward: PortForward) -> None:
        before = own_threads()
        for _ in range(5):
            get(forward)
        eventually(lambda: own_threads() == before, "the ends of the threads")
        assert forward._open == set()

    def test_while_a_connection_is_made(self, server: ApiServer, cluster: Cluster) -> None:
        before = own_threads()
        server.faults.add(anything, delay_s=60.0)
        forward = PortForward(cluster, lambda: "p", 8080)
        with contextlib.closing(socket.create_connection(("127.0.0.1", int(forward.url.rpartition(":")[2])))) as client:
            client.settimeout(20)
            eventually(lambda: server.requests, "the request")
            forward.close()
            assert client.recv(1) == b"", "it is not kept waiting for the answer"
        server.stop()
        eventually(lambda: own_threads() == before, "the ends of the threads")
