"""Which Docker daemon is used, on which host it runs, and whether it answers."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlparse

from docker import DockerClient
from docker.context import ContextAPI
from docker.errors import APIError, DockerException
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env, parse_host
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from tuner.errors import NotReadyError

DAEMON_ERRORS = (DockerException, RequestException, HTTPError)
"""What the SDK lets through: its own errors, those of requests beneath it, and in the middle of a stream those of urllib3."""

RESTART_S = 20.0
"""A daemon that was killed needs some ten seconds to tidy up and answer again; one that is stopped in order is back earlier."""

_FIRST_ANSWER_S = 10
_ANSWER_S = 60
_POLL_S = 0.2

_CAUSES = (
    ("Permission denied", "permission denied", "add yourself to the group with `sudo usermod -aG docker $USER` and log in again"),
    ("FileNotFoundError", "no socket", "install or start Docker (`sudo systemctl start docker`), or set DOCKER_HOST"),
    ("Connection refused", "connection refused", "start Docker on that host, and check DOCKER_HOST"),
    ("HTTP request to an HTTPS server", "it expects TLS", "set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH"),
    ("SSLError", "TLS fails", "check the certificates in DOCKER_CERT_PATH"),
    ("TLS", "TLS fails", "check the certificates in DOCKER_CERT_PATH"),
    ("Install paramiko", "the docker SDK needs paramiko for ssh", "pip install 'docker[ssh]', or use a tcp address"),
    ("name resolution", "unknown host", "check DOCKER_HOST and `docker context ls`"),
    ("Name or service not known", "unknown host", "check DOCKER_HOST and `docker context ls`"),
    ("timed out", "no answer in time", "check that the daemon runs and that no firewall stands between"),
)
"""Parts of the client's errors, with the cause and the remedy. From docker 7.2, requests, OpenSSL, Go's net/http and glibc."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the daemon listens.

    Attributes:
        url: As DOCKER_HOST has it: `unix:///var/run/docker.sock`, `tcp://gpu-host:2376`, `ssh://user@gpu-host`.
        tls: Certificates for a tcp address, or None.
    """

    url: str
    tls: TLSConfig | None = None

    @classmethod
    def current(cls) -> Self:
        """The address that DOCKER_HOST names, else that of DOCKER_CONTEXT or the current context; so does the docker command.

        `docker.from_env` would silently take the default socket for a context that does not exist.

        Raises:
            NotReadyError: there is no such context, the address makes no sense, or a certificate is missing.
        """
        try:
            named = kwargs_from_env()
            if "base_url" not in named:
                name = os.environ.get("DOCKER_CONTEXT") or None
                context = ContextAPI.get_context(name)
                if context is None or not context.Host:
                    which = f"DOCKER_CONTEXT={name}" if name else "the current docker context"
                    raise NotReadyError(f"{which} does not exist: see `docker context ls`, or set DOCKER_HOST")
                named = {"base_url": context.Host, "tls": context.TLSConfig}
            parse_host(named["base_url"])
        except NotReadyError:
            raise
        except Exception as error:  # a damaged file of a context raises a plain Exception
            remedy = "see DOCKER_HOST, DOCKER_CERT_PATH and `docker context ls`"
            raise NotReadyError(f"the Docker daemon's address cannot be read ({_one_line(error)}): {remedy}") from error
        return cls(named["base_url"], named.get("tls"))

    @property
    def host(self) -> str | None:
        """The other host that runs the daemon; None for this one."""
        url = parse_host(self.url)
        name = None if url.startswith(("http+unix:", "npipe:")) else urlparse(url).hostname
        return None if name is None or is_loopback(name) else name


def is_loopback(name: str) -> bool:
    """Whether an address or host name means the host itself."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")  # RFC 6761


def is_podman(version: Mapping[str, Any]) -> bool:
    """Whether podman's service, which speaks the same protocol, gave this answer to `docker version`."""
    return any("podman" in str(component.get("Name", "")).lower() for component in version.get("Components") or ())


def elsewhere() -> bool:
    """Whether the daemon runs on another host, whose files and GPUs cannot be seen from here.

    Raises:
        NotReadyError: its address cannot be read; see `Address.current`.
    """
    return Address.current().host is not None


def connect(patience_s: float = 0.0) -> DockerClient:
    """A client of the current daemon, which has answered.

    Args:
        patience_s: Seconds to go on trying.

    Raises:
        NotReadyError: it does not answer; names the cause and the fix.
    """
    address = Address.current()
    deadline = time.monotonic() + patience_s
    while True:
        try:
            client = DockerClient(base_url=address.url, tls=address.tls or False, timeout=_FIRST_ANSWER_S)
        except Exception as error:  # over ssh paramiko's own, which have no class in common with the rest
            if time.monotonic() >= deadline:
                raise NotReadyError(unreachable(address.url, error)) from error
            time.sleep(_POLL_S)
        else:
            client.api.timeout = _ANSWER_S  # a start with GPUs takes long
            return client


def answers(client: DockerClient, patience_s: float = 0.0) -> bool:
    """Whether the daemon answers, now or within `patience_s` seconds, as one that restarts does."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            client.ping()
            return True
        except DAEMON_ERRORS:
            if time.monotonic() >= deadline:
                return False
        time.sleep(_POLL_S)


def is_away(error: BaseException) -> bool:
    """Whether an error means that no answer came, where any other is the daemon's answer."""
    return isinstance(error, RequestException | HTTPError) and not isinstance(error, APIError)


def unreachable(url: str, error: BaseException) -> str:
    """One line with cause and remedy for a daemon that does not answer."""
    text = f"{type(error).__name__}: {_one_line(error)}"
    known = ((cause, remedy) for part, cause, remedy in _CAUSES if part in text)
    cause, remedy = next(known, (text[:200], "check that the daemon runs, and DOCKER_HOST"))
    return f"the Docker daemon at {url} does not answer ({cause}): {remedy}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
