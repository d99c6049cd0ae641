"""Finds the cluster that the user means, as kubectl does, and says in one line why it cannot be used."""

from __future__ import annotations

import ipaddress
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3
from kubernetes import config
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import ConfigException
from kubernetes.config.incluster_config import InClusterConfigLoader
from kubernetes.config.kube_config import KubeConfigMerger

from tuner.errors import NotReadyError
from tuner.kube.cluster import Cluster
from tuner.kube.errors import ApiError, one_line
from tuner.kube.resources import inside

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
IN_CLUSTER = "KUBERNETES_SERVICE_HOST"
_CONNECTIONS = 64
"""Connections kept open: each deployment holds some watches."""

_WHERE = "backend.context and backend.kubeconfig"
_SCHEME = "check http or https in the server's address in the kubeconfig"
# Parts of the transport's exceptions, the cause and the remedy. Seen with kubernetes 37.0.1 and urllib3 2.8.0.
_CAUSES = (
    ("Connection refused", "connection refused", f"start the cluster, or choose another by {_WHERE}"),
    ("timed out", "no answer in time", f"check the network and VPN to it, or choose another by {_WHERE}"),
    ("Name or service not known", "unknown host", f"check the server's address in the kubeconfig, or choose another by {_WHERE}"),
    ("Temporary failure in name resolution", "its name cannot be resolved", f"check the network, or choose another by {_WHERE}"),
    ("No route to host", "no route to it", f"check the network and VPN to it, or choose another by {_WHERE}"),
    ("Network is unreachable", "network unreachable", "check the network"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted", "check certificate-authority-data in the kubeconfig"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS there", _SCHEME),
    ("RemoteDisconnected", "it closed the connection", _SCHEME),
    ("Connection reset", "it closed the connection", _SCHEME),
    ("JSONDecodeError", "something else does", f"check the server's address in the kubeconfig, or choose another by {_WHERE}"),
    ("NotAList", "something else does", f"check the server's address in the kubeconfig, or choose another by {_WHERE}"),
)


@dataclass(frozen=True, slots=True)
class Address:
    """Which cluster, and where in it.

    Attributes:
        kubeconfig: Path; None takes KUBECONFIG, or else `~/.kube/config`, or else the service account of the pod that tuner runs in.
        context: Name of the kubeconfig's context; None takes the current one.
        namespace: None takes the context's own, or else `default`.
    """

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None


def connect(address: Address) -> Cluster:
    """The cluster at `address`; nothing is asked yet.

    Raises:
        NotReadyError: no cluster is configured, or not readably.
    """
    path = _kubeconfig(address)
    if path is None:
        return _in_cluster(address)
    configuration = _configuration()
    try:
        parts = _parts(path)
        name = _context(address, path, parts)
        context = parts["contexts"][name]["context"]
        with _complaints() as complaints:
            config.load_kube_config(config_file=path, context=name, client_configuration=configuration)  # type: ignore[no-untyped-call]
    except ConfigException as error:
        raise NotReadyError(
            f"backend.kubeconfig: {path} cannot be used ({one_line(str(error))}): correct it, or name another file"
        ) from error
    except NotReadyError:
        raise
    except (AttributeError, KeyError, TypeError) as error:  # another YAML file, or parts of the wrong type
        lacking = f" (it lacks {error})" if isinstance(error, KeyError) else ""
        raise NotReadyError(
            f"backend.kubeconfig: {path} is no kubeconfig{lacking}: name another file, or make `kubectl config view` work with it"
        ) from error
    except Exception as error:  # broken YAML, unreadable files
        why = one_line(f"{type(error).__name__}: {error}")
        raise NotReadyError(f"backend.kubeconfig: {path} cannot be read ({why}): make `kubectl config view` work with it") from error
    _check_plugin(path, parts["users"].get(context.get("user")), configuration, complaints)
    cluster = parts["clusters"][context["cluster"]]["cluster"]
    if _is_loopback(configuration.host) and "proxy-url" not in cluster:
        configuration.proxy = None  # the environment's is for other hosts: minikube and kind listen here
    namespace = address.namespace or context.get("namespace") or "default"
    return Cluster(ApiClient(configuration), namespace, f"context {name} ({configuration.host})")


def in_cluster() -> bool:
    """Whether tuner itself runs in a pod, whose service account it can use."""
    return IN_CLUSTER in os.environ and SERVICE_ACCOUNT.joinpath("token").exists()


def explain(error: ApiError, cluster: Cluster, doing: str) -> str:
    """One line with cause and remedy for an error of the API.

    Args:
        error: What came instead of an answer.
        cluster: Who was asked.
        doing: What was tried, as `list pods`.
    """
    where = f"the Kubernetes API of {cluster.title}"
    if error.away:
        text = f"{error.reason}: {error.message}"
        known = ((cause, remedy) for part, cause, remedy in _CAUSES if part.lower() in text.lower())
        cause, remedy = next(known, (text, f"check that the cluster runs, and {_WHERE}"))
        return f"{where} does not answer ({cause}): {remedy}"
    if error.status == 401:
        return f"{where} does not accept your credentials ({error.message}): log in anew, as your cluster's provider says"
    if error.status == 403 and "system:anonymous" in error.message:
        return f"{where} was asked without credentials: give the context's user a token or a certificate in the kubeconfig"
    if error.status == 403:
        return f"{where} does not allow to {doing} ({error.message}): bind the role of docs/kubernetes.md to this user or service account"
    if error.status == 404 and error.reason == "" and "page not found" not in error.message:
        return f"{where} does not answer, something else does ({error}): check the server's address in the kubeconfig"
    if error.status == 404 and not error.found_api:
        return f"{where} does not know what {doing} needs: install OME, see docs/kubernetes.md"
    return f"{where} failed to {doing} ({error}): try again"


def _kubeconfig(address: Address) -> str | None:
    if address.kubeconfig is not None:
        path = Path(address.kubeconfig).expanduser()
        if path.is_dir():
            raise NotReadyError(f"backend.kubeconfig: {path} is a directory; name the file in it")
        if not path.is_file():
            raise NotReadyError(f"backend.kubeconfig: there is no file {path}; leave it out for KUBECONFIG or ~/.kube/config")
        return str(path)
    named = os.environ.get("KUBECONFIG", "")
    paths = [Path(part) for part in named.split(os.pathsep) if part] or [Path("~/.kube/config").expanduser()]
    if any(path.is_file() for path in paths):
        return named or str(paths[0])
    if named:
        why = "it is a directory" if any(path.is_dir() for path in paths) else "there is no such file"
        raise NotReadyError(f"KUBECONFIG={named}: {why}; correct or unset it")
    if in_cluster() and address.context is None:
        return None
    raise NotReadyError(
        "no cluster is configured: there is neither KUBECONFIG nor ~/.kube/config, and tuner does not run in a pod; "
        "name a kubeconfig with backend.kubeconfig=..."
    )


def _parts(path: str) -> dict[str, Any]:
    """The contexts, clusters and users of all files of `path` by name, and the `current-context`."""
    merged = KubeConfigMerger(path).config  # type: ignore[no-untyped-call]
    kinds = ("contexts", "clusters", "users")
    named = {kind: {node.value["name"]: node.value for node in merged.value[kind]} for kind in kinds}
    return {**named, "current-context": merged.value.get("current-context")}


def _context(address: Address, path: str, parts: Mapping[str, Any]) -> str:
    contexts = parts["contexts"]
    if not contexts:
        raise NotReadyError(f"backend.context: {path} has no contexts at all; name another file with backend.kubeconfig=...")
    name = address.context or parts["current-context"]
    choose = f"choose one of {', '.join(contexts)}"
    if not name:
        raise NotReadyError(f"backend.context: {path} does not say which context to use; {choose}")
    if name not in contexts:
        raise NotReadyError(f"backend.context: {path} has no context {name}; {choose}")
    return str(name)


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Keeps what the client says of the command for credentials: instead of raising it, it logs it on the root logger, as a second line."""
    complaints: list[str] = []
    thread = threading.get_ident()

    def is_of_others(record: logging.LogRecord) -> bool:
        if (record.module, record.thread) != ("kube_config", thread):
            return True
        complaints.append(record.getMessage())
        return False

    root = logging.getLogger()
    root.addFilter(is_of_others)
    try:
        yield complaints
    finally:
        root.removeFilter(is_of_others)


def _check_plugin(path: str, user: Any, configuration: Any, complaints: list[str]) -> None:
    """The client goes on without credentials where the command for them fails, which the server would take for an anonymous user."""
    plugin = inside(user, "user", "exec")
    if plugin is None or configuration.api_key or configuration.cert_file:
        return
    command = inside(plugin, "command")
    if not isinstance(command, str):
        raise NotReadyError(
            f"backend.kubeconfig: {path} has a user with exec, but without a command; name one with which `kubectl get pods` works"
        )
    if not shutil.which(command):
        why, remedy = "is not installed", "install it, or put its folder into PATH"
    else:
        why, remedy = f"failed ({one_line(', '.join(complaints)) or 'it gave none'})", "make `kubectl get pods` work with it"
    raise NotReadyError(f"backend.kubeconfig: {path} gets its credentials from {command}, which {why}: {remedy}")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _in_cluster(address: Address) -> Cluster:
    configuration = _configuration()
    try:
        loader = InClusterConfigLoader(str(SERVICE_ACCOUNT / "token"), str(SERVICE_ACCOUNT / "ca.crt"))  # type: ignore[no-untyped-call]
        loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
        own = SERVICE_ACCOUNT.joinpath("namespace").read_text().strip()
    except (ConfigException, OSError) as error:
        raise NotReadyError(
            f"the service account of this pod cannot be used ({one_line(str(error))}): check its serviceAccountName"
        ) from error
    return Cluster(ApiClient(configuration), address.namespace or own or "default", f"this pod ({configuration.host})")


def _configuration() -> Any:
    configuration = type.__call__(Configuration)  # without the defaults that others in this process may have set
    configuration.api_key = _Keys()
    configuration.retries = urllib3.Retry(0, redirect=0)  # Cluster repeats what may be repeated
    configuration.connection_pool_maxsize = _CONNECTIONS
    configuration.keep_alive = True  # a log may be silent for hours, in which a lost connection would go unnoticed
    return configuration


class _Keys(dict[str, str]):
    """Credentials without the end of the line that stands behind them in a token file, and that HTTP refuses."""

    def __setitem__(self, name: str, value: str) -> None:
        super().__setitem__(name, value.strip())
