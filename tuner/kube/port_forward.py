"""A port of this host that leads to a port of a pod, through the API server and the pod's node. For trying out, not for measuring."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException

from tuner.kube.cluster import Cluster

_CHUNK = 1 << 16


class PortForward:
    """Listens on a free port of 127.0.0.1 until it is closed; each connection becomes one to the pod of the moment.

    Args:
        cluster: Where the pod is.
        pod: Tells the name of the pod; None while there is none, when connections are refused.
        port: The pod's port.
    """

    def __init__(self, cluster: Cluster, pod: Callable[[], str | None], port: int) -> None:
        self._cluster = cluster
        self._pod = pod
        self._port = port
        self._open: set[Any] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._refused = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, name="port-forward", daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def refused(self) -> int:
        """How many connections the API server has not taken on; one that the pod itself refuses does not count."""
        return self._refused

    def close(self) -> None:
        """Ends it, with all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            self._closed = True
            ends, self._open = self._open, set()
        for end in ends:
            _close(end)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), name="port-forward connection", daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        if not self._keep(near):
            return
        far = self._connect()
        if far is not None and self._keep(far):
            back = threading.Thread(target=_pump, args=(far, near), name="port-forward answers", daemon=True)
            back.start()
            _pump(near, far)
            back.join()
        for end in (near, far):
            if end is not None:
                _close(end)
        with self._lock:
            self._open -= {near, far}

    def _keep(self, end: Any) -> bool:
        """Has `end` closed with all others; False where that has happened already."""
        with self._lock:
            if not self._closed:
                self._open.add(end)
                return True
        _close(end)
        return False

    def _connect(self) -> Any | None:
        pod = self._pod()
        if pod is None:
            return None
        from kubernetes.client import CoreV1Api  # slow to import, with all models of the API
        from kubernetes.stream import portforward

        # the call swaps the transport of the client it is given, which is therefore one of its own
        api = CoreV1Api(ApiClient(self._cluster.client.configuration))
        try:
            forward = portforward(api.connect_get_namespaced_pod_portforward, pod, self._cluster.namespace, ports=str(self._port))
        except (ApiException, ConfigException, OSError):
            self._refused += 1
            return None
        return forward.socket(self._port)


def _pump(source: Any, sink: Any) -> None:
    """Copies until the source ends, and passes its end on."""
    try:
        while chunk := source.recv(_CHUNK):
            sink.sendall(chunk)
    except OSError:
        pass
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _close(end: Any) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        end.close()
