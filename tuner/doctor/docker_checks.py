"""The Docker daemon of an experiment: whether it answers, has the image, and can give a GPU to a container."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Lock
from types import TracebackType
from typing import Any, Self

from docker import DockerClient
from docker.errors import NotFound
from docker.utils import version_lt

from tuner.backend_settings import DockerBackendSettings
from tuner.backends.docker import OLDEST_API
from tuner.backends.docker_connection import DAEMON_ERRORS, Address, connect, is_podman
from tuner.backends.docker_failures import explain
from tuner.backends.docker_gpus import REMEDY, TOOLKIT, DockerGpus
from tuner.backends.docker_request import OWNER_LABEL
from tuner.doctor.gpu_container import list_gpus
from tuner.doctor.servers import Server, containers
from tuner.errors import NotReadyError
from tuner.finding import Finding, failed, ok, skipped, warning
from tuner.gpus import discover, select
from tuner.settings import Settings

_ANSWER_S = 5
_REMOVAL_S = 10
_GB = 10**9
_SILENT = "the Docker daemon does not answer"


class DockerChecks:
    """Asks the daemon. `daemon` comes first; where it fails the others are skipped. A context manager, which ends the connection.

    Args:
        settings: The experiment, on whatever backend; on another one than docker nothing is asked.

    Attributes:
        info: The answer to `docker info`; empty where there is none.
        elsewhere: The host of the daemon, where it is another one than this.
        must_pull: Whether it lacks the image.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._backend = settings.backend if isinstance(settings.backend, DockerBackendSettings) else None
        self._image = getattr(settings.engine, "image", None) or ""
        self._client: DockerClient | None = None
        self._container = Lock()
        self._stop = Event()
        self._version: Mapping[str, Any] = {}
        self.info: Mapping[str, Any] = {}
        self.elsewhere: str | None = None
        self.must_pull = False

    @property
    def root(self) -> str | None:
        """The folder of the daemon, where it is one of this host: not one of another, nor of a virtual machine's or container's."""
        root = self.info.get("DockerRootDir")
        return root if root and self.elsewhere is None and Path(root).exists() else None

    @property
    def sees_gpus(self) -> bool:
        """Whether the daemon says that it can give GPUs to containers."""
        return self._ways.usable

    @property
    def _ways(self) -> DockerGpus:
        if self.elsewhere is None:
            return DockerGpus.from_info(self.info)
        # its CDI files and its PATH are not here
        return replace(DockerGpus.from_info({**self.info, "CDISpecDirs": ()}), hook=False)

    def daemon(self) -> Finding:
        """Whether it answers, and is Docker's."""
        address = Address.current()
        self.elsewhere = address.host
        client = connect()
        client.api.timeout = _ANSWER_S
        with self._answers():
            self._version, self.info = client.version(), client.info()
        self._client = client
        if is_podman(self._version):
            return failed(f"podman answers at {address.url}, which ignores requests for GPUs", "start Docker, and point DOCKER_HOST at it")
        return ok(f"Docker {self._version['Version']} at {address.url}")

    def api(self) -> Finding:
        """Whether it is new enough for requests of GPUs."""
        if self._client is None:
            return skipped(_SILENT)
        version = self._version["ApiVersion"]
        if version_lt(version, OLDEST_API):
            return failed(f"API {version} is too old, {OLDEST_API} is needed", "install Docker 19.03 or newer")
        return ok(f"API {version}, {OLDEST_API} is needed")

    def gpus(self) -> Finding:
        """Whether it can give GPUs to containers."""
        if self._client is None:
            return skipped(_SILENT)
        ways = self._ways
        if not ways.usable and self.elsewhere is not None:
            return warning(f"no runtime `nvidia` on {self.elsewhere}; a hook or CDI file cannot be seen from here", f"see {TOOLKIT}")
        if not ways.usable:
            return failed("there is no runtime `nvidia`, no hook of the toolkit, and no CDI device of NVIDIA", REMEDY)
        names = {"the runtime `nvidia`": ways.runtime, "the toolkit's hook": ways.hook, "CDI": ways.cdi}
        return ok(f"Docker gives GPUs to containers by {' and '.join(name for name, there in names.items() if there)}")

    def image(self) -> Finding:
        """Whether it has the experiment's image."""
        if self._client is None or self._backend is None:
            return skipped(_SILENT)
        if not self._image:
            return failed(
                f"engine.image is not set, backend=docker needs an image that holds {self._settings.engine.name}", "set engine.image"
            )
        with self._answers():
            try:
                image = self._client.images.get(self._image)
            except NotFound:
                self.must_pull = True
        if not self.must_pull:
            return ok(f"{self._image}, {image.short_id.removeprefix('sha256:')}, {image.attrs['Size'] / _GB:.1f} GB")
        missing = f"{self._image} is not on the Docker host"
        if self._backend.pull == "never":
            return failed(f"{missing}, and backend.pull=never", f"`docker pull {self._image}`, or set backend.pull=missing")
        return warning(f"{missing}; how large it is shows when it is pulled", f"`docker pull {self._image}`, or let the first run do it")

    def container_gpu(self, count: int) -> Finding:
        """Whether a container of the experiment's image, started as a trial's, sees as many GPUs as the smallest configuration needs."""
        if self._client is None or self._backend is None:
            return skipped(_SILENT)
        if self.must_pull or not self._image:
            return skipped("without the image no container can be tried")
        if self.elsewhere:
            ids = None if self._backend.gpus is None else [str(gpu) for gpu in self._backend.gpus][:count]
        else:
            ids = [gpu.uuid for gpu in select(self._backend.gpus, discover())][:count]
        with self._answers(), self._container:
            return list_gpus(self._client, self._image, self._backend, ids, count, self._stop)

    def servers(self) -> list[Server]:
        """Those that tuner has started there."""
        if self._client is None:
            return []
        with self._answers():
            return list(containers(self._client.api.containers(all=True, filters={"label": OWNER_LABEL})))

    @contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except DAEMON_ERRORS as error:
            raise NotReadyError(explain(error, self._image).reason) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # after Ctrl-C a check may still run in its thread, which ends with this process: it must remove its container first
        self._stop.set()
        if self._container.acquire(timeout=_REMOVAL_S):
            self._container.release()
        if self._client is not None:
            self._client.close()
