"""The image of an experiment: pulled before the first trial, so that no trial pays for it."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Literal

from docker import DockerClient
from docker.errors import NotFound
from docker.models.containers import Container
from docker.models.images import Image

from tuner.backends.docker_connection import DAEMON_ERRORS
from tuner.backends.docker_failures import explain
from tuner.errors import NotReadyError

PROGRESS_EACH_S = 10.0
_GB = 10**9
_MB = 10**6
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # moby, oci/defaults.go


def ensure(
    client: DockerClient,
    image: str,
    pull: Literal["missing", "always", "never"],
    timeout_s: float,
    on_progress: Callable[[str], None],
) -> Image:
    """The image, pulled where `pull` says so.

    Args:
        client: The daemon.
        image: Its name.
        pull: When to pull.
        timeout_s: Seconds that a pull may take.
        on_progress: Is told how far a pull is, in a line every some seconds.

    Raises:
        NotReadyError: it cannot be had; names the cause and the fix.
    """
    try:
        if pull != "always":
            try:
                return client.images.get(image)
            except NotFound:
                if pull == "never":
                    remedy = f"`docker pull {image}`, or set backend.pull=missing"
                    raise NotReadyError(f"the image {image} is not on the Docker host, and backend.pull=never: {remedy}") from None
        _pull(client, image, timeout_s, on_progress)
        return client.images.get(image)
    except DAEMON_ERRORS as error:
        raise NotReadyError(explain(error, image).reason) from error


def holds_program(container: Container, program: str) -> bool:
    """Whether a created container finds the program that it shall start.

    Its init starts the program, so that without this question a wrong name would only show as an exit of the server with code 127.
    """
    config = container.attrs["Config"]
    if "/" in program:
        return _exists(container, posixpath.join(config.get("WorkingDir") or "/", program))
    environment = dict(variable.partition("=")[::2] for variable in config.get("Env") or ())
    folders = environment.get("PATH", _DEFAULT_PATH).split(":")
    return any(_exists(container, posixpath.join(folder or ".", program)) for folder in folders)


def _exists(container: Container, path: str) -> bool:
    # `Container.get_archive` would fetch the whole file
    api = container.client.api
    url = f"{api.base_url}/v{api.api_version}/containers/{container.id}/archive"
    return bool(api.head(url, params={"path": path}, timeout=api.timeout).status_code != HTTPStatus.NOT_FOUND)


def _pull(client: DockerClient, image: str, timeout_s: float, on_progress: Callable[[str], None]) -> None:
    """Pulls, and gives up after `timeout_s`: the SDK itself waits without end for a registry that is silent.

    It waits in a thread, which is left behind then. The connection breaks when tuner ends, and with it the pull.
    """
    on_progress(f"pulling {image}")
    events: SimpleQueue[Mapping[str, Any] | BaseException | None] = SimpleQueue()

    def follow() -> None:
        try:
            for event in client.api.pull(image, stream=True, decode=True):
                events.put(event)
            events.put(None)
        except BaseException as error:
            events.put(error)

    Thread(target=follow, name="docker pull", daemon=True).start()
    progress = PullProgress(image)
    deadline = time.monotonic() + timeout_s
    next_line = time.monotonic() + PROGRESS_EACH_S
    while True:
        try:
            event = events.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            raise NotReadyError(
                f"pulling {image} took longer than backend.pull_timeout_s={timeout_s:g}: raise it, or `docker pull {image}` beforehand"
            ) from None
        if event is None:
            return
        if isinstance(event, BaseException):
            raise event
        if "error" in event:
            raise NotReadyError(explain(str(event["error"]), image).reason)
        progress.take(event)
        if time.monotonic() >= next_line:
            on_progress(progress.line)
            next_line = time.monotonic() + PROGRESS_EACH_S


class PullProgress:
    """Adds up what the daemon tells about the layers of an image.

    Args:
        image: Its name.
    """

    def __init__(self, image: str) -> None:
        self._image = image
        self._layers: dict[str, tuple[int, int]] = {}
        self._unknown: set[str] = set()
        self._unpacking = False

    def take(self, event: Mapping[str, Any]) -> None:
        """One message of the daemon, as in https://docs.docker.com/reference/api/engine/ (ImageCreate)."""
        layer, detail = str(event.get("id", "")), event.get("progressDetail") or {}
        match event.get("status"):
            case "Pulling fs layer" | "Waiting":
                self._unknown.add(layer)
            case "Downloading" if detail.get("total"):
                self._unknown.discard(layer)
                self._layers[layer] = (int(detail.get("current") or 0), int(detail["total"]))
            case "Verifying Checksum" | "Download complete" | "Already exists" | "Pull complete":
                self._unknown.discard(layer)
                if layer in self._layers:
                    self._layers[layer] = (self._layers[layer][1], self._layers[layer][1])
            case "Extracting":
                self._unpacking = True

    @property
    def line(self) -> str:
        """How far it is. The size of a layer is known only when its turn has come."""
        done, total = (sum(numbers) for numbers in zip(*self._layers.values(), strict=True)) if self._layers else (0, 0)
        scale, digits, unit = (_GB, 1, "GB") if total >= _GB else (_MB, 0, "MB")
        more = "more than " if self._unknown else ""
        state = ", unpacking" if self._unpacking and not self._unknown and done == total else ""
        return f"pulling {self._image}: {done / scale:.{digits}f} of {more}{total / scale:.{digits}f} {unit}{state}"
