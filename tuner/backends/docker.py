"""The backend `docker`: a server is a container of a Docker daemon, on this host or another."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from http import HTTPStatus
from typing import Any

from docker import DockerClient
from docker.errors import APIError
from docker.models.containers import Container
from docker.utils import version_lt

from tuner.backend_settings import DockerBackendSettings
from tuner.backends import docker_image
from tuner.backends.base import Backend, Deployment, Place
from tuner.backends.docker_command import docker_command
from tuner.backends.docker_connection import DAEMON_ERRORS, RESTART_S, Address, answers, connect, is_loopback, is_podman
from tuner.backends.docker_container import DockerDeployment
from tuner.backends.docker_failures import explain
from tuner.backends.docker_gpus import REMEDY, DockerGpus
from tuner.backends.docker_log import LogFollower
from tuner.backends.docker_removal import remove
from tuner.backends.docker_request import OWNER_LABEL, STUDY_LABEL, TRIAL_LABEL, create_arguments, environment
from tuner.backends.docker_state import ContainerState
from tuner.backends.log_file import LOG_NAME
from tuner.errors import NotReadyError, Systemic, Transient
from tuner.gpus import GpuSlots
from tuner.interrupts import interrupts_deferred
from tuner.launch import Endpoint, LaunchSpec
from tuner.owner import Owner

_LOG = logging.getLogger(__name__)
OLDEST_API = "1.40"
"""The first with device requests, which is how GPUs are asked for: Docker 19.03."""

_EVERYWHERE = {"0.0.0.0", "::"}


class Docker(Backend):
    """Starts servers as containers.

    Args:
        settings: The keys of `backend`.
        gpus: Whose GPUs the containers get.
        image: The experiment's image, for `check`; None where servers are only removed.
        on_progress: Is told, in a line, how far the pull of the image is.
    """

    name = "docker"

    def __init__(
        self,
        settings: DockerBackendSettings,
        gpus: GpuSlots,
        image: str | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        self._settings = settings
        self._gpus = gpus
        self._image = image
        self._on_progress = on_progress or _LOG.info
        self._connected: DockerClient | None = None
        self._facts: dict[str, str] = {}
        self._programs: set[tuple[str, str]] = set()
        self._left_behind: set[str] = set()

    def check(self) -> None:
        client = self._client()
        try:
            version, info = client.version(), client.info()
        except DAEMON_ERRORS as error:
            raise NotReadyError(f"the Docker daemon answers with an error: {explain(error, '').reason}") from error
        if is_podman(version):
            raise NotReadyError("this is podman's service, which ignores requests for GPUs: start Docker, and point DOCKER_HOST at it")
        if version_lt(version["ApiVersion"], OLDEST_API):
            raise NotReadyError(f"Docker {version['Version']} is too old (API {version['ApiVersion']}): install 19.03 or newer")
        host = Address.current().host
        if host is not None and is_loopback(self._settings.bind):
            raise NotReadyError(
                f"backend.bind={self._settings.bind}: servers of the Docker daemon on {host} cannot be reached there; "
                f"set it to an address of {host} in a network that you trust"
            )
        if host is None and not self._gpus.none and not DockerGpus.from_info(info).usable:
            raise NotReadyError(f"Docker cannot give GPUs to containers: {REMEDY}")
        try:
            environment({}, self._settings)
        except Systemic as missing:
            raise NotReadyError(missing.reason) from missing
        if self._image is not None:
            settings = self._settings
            image = docker_image.ensure(client, self._image, settings.pull, settings.pull_timeout_s, self._on_progress)
            self._facts = {"image": self._image, "image_id": str(image.id), "docker": str(version["Version"])}
            if digests := image.attrs.get("RepoDigests"):
                self._facts["image_digest"] = str(digests[0])

    def deploy(self, spec: LaunchSpec, place: Place) -> Deployment:
        client = self._ready_client()
        log_path = place.folder / LOG_NAME
        with ExitStack() as undo:
            gpus = self._gpus.take(spec.gpus)
            undo.callback(self._gpus.give_back, gpus)
            try:
                log = LogFollower(log_path)
            except OSError as error:
                raise Systemic(f"cannot write {log_path} ({error.strerror}): check the study's folder and the free disk space") from error
            undo.callback(log.finish, 0.0)
            arguments = create_arguments(spec, self._settings, place, gpus)
            with interrupts_deferred():
                try:
                    container, state = self._launch(client, spec, arguments)
                except DAEMON_ERRORS as error:
                    own_mounts = {mount.source for mount in self._settings.mounts}
                    raise explain(error, str(spec.image), own_mounts, spec.gpus if gpus is None else 0) from error
                undo.callback(self._discard, client, container.name)
            log.follow(container)

            def closed(gone: bool) -> None:
                self._gpus.give_back(gpus)
                if not gone:
                    self._leave(container.name)

            # a server that has ended already has no port, and nobody will ask it
            endpoint = Endpoint(f"http://{self._reachable_at()}:{state.port or 0}", spec.served_model)
            deployment = DockerDeployment(container, state.started, endpoint, log_path, log, self._settings.stop_grace_s, closed)
            undo.pop_all()
        return deployment

    def reap(self) -> list[str]:
        client = self._client()
        try:
            self._remove_left_behind(client, 0.0)
            found = client.api.containers(all=True, filters={"label": OWNER_LABEL})
        except DAEMON_ERRORS as error:
            raise NotReadyError(f"the Docker daemon answers with an error: {explain(error, '').reason}") from error
        left = [container for container in found if not Owner.living(container["Labels"][OWNER_LABEL])]
        return [_line(container) for container in left if remove(client, container["Id"], RESTART_S)]

    def describe(self) -> Mapping[str, str]:
        return self._facts

    def launch_text(self, spec: LaunchSpec) -> str:
        return shlex.join(docker_command(spec, self._settings))

    def _client(self) -> DockerClient:
        if self._connected is None:
            self._connected = connect()
        return self._connected

    def _ready_client(self) -> DockerClient:
        """The client of a daemon that answers now or, if it is restarting, soon.

        Raises:
            Systemic: it does not.
            Transient: what an earlier deployment could not remove is still there.
        """
        try:
            client = self._connected = self._connected or connect(RESTART_S)
            if not answers(client, RESTART_S):
                connect()  # tells why
                raise Transient("the Docker daemon does not answer")
        except NotReadyError as error:
            raise Systemic(str(error)) from error
        if not self._remove_left_behind(client, RESTART_S):
            raise Transient("the container of an earlier trial cannot be removed: see `docker ps` and the daemon's log")
        return client

    def _remove_left_behind(self, client: DockerClient, patience_s: float) -> bool:
        self._left_behind -= {container for container in self._left_behind if remove(client, container, patience_s)}
        return not self._left_behind

    def _launch(self, client: DockerClient, spec: LaunchSpec, arguments: dict[str, Any]) -> tuple[Container, ContainerState]:
        """Creates and starts a container; if that fails, it is discarded."""
        try:
            container = client.containers.create(**arguments)
        except (TypeError, ValueError) as error:
            raise Systemic(f"backend.container: the docker SDK refuses an argument: {' '.join(str(error).split())}") from error
        except BaseException as error:  # no answer, or an interrupt: it may have been created nevertheless
            taken = isinstance(error, APIError) and error.status_code == HTTPStatus.CONFLICT
            if not taken:  # otherwise the container of this name is not ours
                self._discard(client, arguments["name"])
            raise
        try:
            self._require_program(container, str(spec.image), spec.argv[0])
            container.start()
            state = ContainerState.of(container)
            if state is None:
                raise Transient("somebody removed the server's container as soon as it was started")
            if state.running and state.port is None:
                mode = self._settings.container.get("network_mode")
                raise Systemic(f"backend.container.network_mode={mode}: no port can be published there; use a bridge network")
            return container, state
        except BaseException:
            self._discard(client, container.name)
            raise

    def _discard(self, client: DockerClient, container: str) -> None:
        if not remove(client, container, RESTART_S):
            self._leave(container)

    def _leave(self, container: str) -> None:
        self._left_behind.add(container)
        _LOG.warning("container %s cannot be removed now; the next deployment, or `tuner clean` later, removes it", container)

    def _require_program(self, container: Container, image: str, program: str) -> None:
        if (image, program) in self._programs:
            return
        if not docker_image.holds_program(container, program):
            raise Systemic(
                f"engine.executable: there is no {program!r} in the image {image}: set it to the server's program, or change engine.image"
            )
        self._programs.add((image, program))

    def _reachable_at(self) -> str:
        bind, host = self._settings.bind, Address.current().host
        if bind in _EVERYWHERE:
            bind = host or "127.0.0.1"
        return f"[{bind}]" if ":" in bind else bind


def _line(container: Mapping[str, Any]) -> str:
    labels = container["Labels"]
    name = container["Names"][0].removeprefix("/") if container.get("Names") else container["Id"][:12]
    return f"removed the container of study {labels.get(STUDY_LABEL)}, trial {labels.get(TRIAL_LABEL)}, left by a dead tuner ({name})"
