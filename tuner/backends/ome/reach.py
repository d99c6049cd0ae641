"""How tuner reaches a server: by its name in the cluster, by an address of the user's, or through the API server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from tuner.kube import connection
from tuner.kube.cluster import Cluster
from tuner.kube.port_forward import PortForward
from tuner.launch import Endpoint
from tuner.ome_settings import OmeBackendSettings

Access = Literal["cluster", "port_forward", "url"]


def access(settings: OmeBackendSettings) -> Access:
    """What `backend.access` means here."""
    if settings.access != "auto":
        return settings.access
    if settings.url is not None:
        return "url"
    return "cluster" if connection.in_cluster() else "port_forward"


class Reach:
    """The addresses of one server.

    Args:
        cluster: Where it runs.
        settings: The keys of `backend`.
        name: Name of its InferenceService.
        port: Its port.
        pod: Tells the name of its pod; None while there is none.
    """

    def __init__(self, cluster: Cluster, settings: OmeBackendSettings, name: str, port: int, pod: Callable[[], str | None]) -> None:
        self._settings = settings
        self._name = name
        self._port = port
        self._namespace = cluster.namespace
        # OME makes this Service always; the one without `-engine` only where its ingress is switched off
        self._inside = f"http://{name}-engine.{cluster.namespace}.svc.cluster.local:{port}"
        self._forward = PortForward(cluster, pod, port) if access(settings) == "port_forward" else None

    def endpoint(self, model: str, pod_address: str = "") -> Endpoint:
        """Where the server answers.

        Args:
            model: The name that requests carry.
            pod_address: IP address of its pod, for `{pod_ip}` in `backend.url`; empty while there is none.
        """
        url = self._inside
        if self._forward is not None:
            url = self._forward.url
        elif access(self._settings) == "url":
            assert self._settings.url is not None
            address = f"[{pod_address}]" if ":" in pod_address else pod_address
            url = self._settings.url.format(name=self._name, namespace=self._namespace, port=self._port, pod_ip=address).rstrip("/")
        return Endpoint(url, model, self._inside)

    @property
    def broken(self) -> int:
        """How often the way to the server failed, where the server itself had no part in it."""
        return 0 if self._forward is None else self._forward.refused

    def close(self) -> None:
        """Ends a port-forward."""
        if self._forward is not None:
            self._forward.close()
