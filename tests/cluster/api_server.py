"""A double of a Kubernetes API server, because no package index ships the real one: HTTP on loopback, held to a recording of the real one.

It keeps real state, and plays the garbage collector, the namespace controller and the admission of ResourceQuotas. Schedulers, kubelets and
other controllers are not in it.
"""

from __future__ import annotations

import contextlib
import copy
import http.server
import json
import os
import socket
import socketserver
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.cluster.collector import Collector
from tests.cluster.dispatch import Api, Call, Permissions
from tests.cluster.faults import Fault, Faults, RequestPath
from tests.cluster.messages import Answer, NodeHooks, PortForward, Request, Stream, refusal
from tests.cluster.operations import Options
from tests.cluster.statuses import ApiError, status
from tests.cluster.websocket import Frames, accept_key, chosen_protocol, forward

__all__ = ["ApiServer", "Faults", "NodeHooks", "Request", "RequestPath"]
_POLL_S = 0.02
"""How soon the accepting thread notices that it is to stop."""


class ApiServer:
    """A context manager. What it holds outlives `stop` and is served again after `restart`.

    Attributes:
        url: Where it answers: http://127.0.0.1:PORT.
        token: The bearer token that it accepts.
        admin_token: Another one, for what else acts in a cluster: neither permissions nor faults nor `requests` concern it.
        faults: What is to go wrong.
        requests: Everything that was asked, oldest first.
    """

    def __init__(self, token: str = "double-token", port: int = 0) -> None:
        self.token = token
        self.admin_token = f"{token}-admin"
        self.faults = Faults()
        self.requests: list[Request] = []
        self.api = Api(token, self.admin_token)
        self.stopping = threading.Event()
        self._port = port
        self._server: _Server | None = None
        self._collector: Collector | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def node(self) -> NodeHooks | None:
        return self.api.node

    @node.setter
    def node(self, node: NodeHooks | None) -> None:
        self.api.node = node

    @property
    def permissions(self) -> Permissions | None:
        return self.api.permissions

    @permissions.setter
    def permissions(self, permissions: Permissions | None) -> None:
        self.api.permissions = permissions

    def __enter__(self) -> Self:
        self.restart()
        return self

    def __exit__(self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def restart(self) -> None:
        """Serves (again), at the same address as before."""
        self.stopping.clear()
        self._server = _Server(self, self._port)
        self._port = self._server.server_port
        self._server.start()
        self._collector = Collector(self.api.operations)
        self._collector.start()

    def stop(self) -> None:
        """Ends all connections and listens no more."""
        self.stopping.set()
        if self._server is not None and self._collector is not None:
            self._server.stop()
            self._collector.stop()
        self._server = self._collector = None

    def kubeconfig(self, folder: Path, namespace: str | None = None) -> Path:
        """Writes a kubeconfig with the context `double` into `folder`."""
        context = {"cluster": "double", "user": "double"} | ({"namespace": namespace} if namespace else {})
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "double", "cluster": {"server": self.url}}],
            "users": [{"name": "double", "user": {"token": self.token}}],
            "contexts": [{"name": "double", "context": context}],
            "current-context": "double",
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(content))
        return path

    def compact(self) -> None:
        """Forgets the history, so that a watch from before now is told that its version expired."""
        self.api.operations.store.compact()

    def drop_watches(self) -> None:
        """Breaks all open watches in the middle."""
        if self._server is not None:
            self._server.drop_watches()

    def seed(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Creates an object of any kind, with its status if it has one; in the namespace of its metadata, else in `default`."""
        kind = self.api.operations.kind_of(dict(manifest))
        namespace = manifest["metadata"].get("namespace", "default") if kind.namespaced else None
        return copy.deepcopy(self.api.operations.create(kind, namespace, dict(manifest), Options(keeps_status=True)))

    def objects(self, plural: str, namespace: str | None = None) -> list[dict[str, Any]]:
        """Copies of all stored objects of a kind."""
        store, kinds = self.api.operations.store, self.api.operations.kinds.values()
        groups = dict.fromkeys(kind.group for kind in kinds if kind.plural == plural)
        return [copy.deepcopy(thing) for group in groups for thing in store.all((group, plural), namespace)]

    def install(self, crd: Mapping[str, Any]) -> None:
        """Creates a CustomResourceDefinition, which is served at once."""
        kind = self.api.operations.kind_of(dict(crd))
        self.api.operations.create(kind, None, dict(crd), Options())


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False
    # A client that starts many connections at once is not turned away.
    request_queue_size = 64

    def __init__(self, owner: ApiServer, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.owner = owner
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._watches: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(_POLL_S,), name="API server double", daemon=True)

    def server_bind(self) -> None:
        # The base class asks the resolver for a name of this host, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._lock:
            for connection in self._connections:
                _break(connection)

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)
            self._watches.discard(connection)

    def watching(self, connection: socket.socket) -> None:
        with self._lock:
            self._watches.add(connection)

    def watched(self, connection: socket.socket) -> None:
        with self._lock:
            self._watches.discard(connection)

    def drop_watches(self) -> None:
        with self._lock:
            for connection in self._watches:
                _break(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    connection: socket.socket

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `requests` has it all."""

    def do_GET(self) -> None:
        owner = self.server.owner
        address = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(self.command, address.path, parse_qs(address.query, keep_blank_values=True), headers, body)
        fault = None
        if call.headers.get("authorization") != f"Bearer {owner.admin_token}":
            owner.requests.append(Request(call.method, call.path, call.query, _parsed(body)))
            fault = owner.faults.take(call.method, RequestPath(call.path, call.query))
        if fault is None:
            self._send(self._answer(call))
        else:
            self._fail(call, fault)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _answer(self, call: Call) -> Answer | Stream | PortForward:
        try:
            return self.server.owner.api.answer(call)
        except ApiError as failure:
            return refusal(failure)

    def _fail(self, call: Call, fault: Fault) -> None:
        done = self._answer(call) if fault.after else None
        if fault.delay_s and self.server.owner.stopping.wait(fault.delay_s):
            self.close_connection = True
        elif fault.reset:
            self.close_connection = True
            _reset(self.connection)
        elif fault.status:
            body = status(fault.status, f"injected fault {fault.status}") if fault.body is None else fault.body
            self._send(Answer(fault.status, body, fault.headers))
        else:
            self._send(done or self._answer(call))

    def _send(self, answer: Answer | Stream | PortForward) -> None:
        try:
            if isinstance(answer, Answer):
                self._send_whole(answer)
            elif isinstance(answer, Stream):
                self._send_pieces(answer)
            else:
                self._send_forward(answer)
        except OSError:
            self.close_connection = True

    def _send_whole(self, answer: Answer) -> None:
        content = answer.content
        self.send_response(answer.code)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.code != 204:
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send_pieces(self, answer: Stream) -> None:
        if answer.is_watch:
            self.server.watching(self.connection)
        self.send_response(200)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in answer.pieces:
                if piece:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                elif self.server.owner.stopping.is_set() or self._client_gone():
                    raise ConnectionAbortedError
        except Exception:
            # A source that fails breaks the answer off; the client must not take what it has for the whole.
            self.close_connection = True
            return
        finally:
            self.server.watched(self.connection)
        self.wfile.write(b"0\r\n\r\n")

    def _client_gone(self) -> bool:
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False

    def _send_forward(self, answer: PortForward) -> None:
        protocol = chosen_protocol(self.headers.get("Sec-WebSocket-Protocol", ""))
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept_key(self.headers.get("Sec-WebSocket-Key", "")))
        if protocol is not None:
            self.send_header("Sec-WebSocket-Protocol", protocol)
        self.end_headers()
        self.close_connection = True
        forward(Frames(self.rfile, self.connection), answer.ports, answer.connect)


def _parsed(body: bytes) -> Any:
    if not body:
        return None
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


def _break(connection: socket.socket) -> None:
    """Ends a connection under whoever uses it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _reset(connection: socket.socket) -> None:
    """Ends a connection so that the other side sees a reset."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Files that were made of the socket keep it open for as long as it has its descriptor.
        os.close(connection.detach())
