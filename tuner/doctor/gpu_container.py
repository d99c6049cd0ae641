"""A container that lists the GPUs it sees."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from docker import DockerClient

from tuner.backend_settings import DockerBackendSettings
from tuner.backends.base import Place
from tuner.backends.docker_removal import remove
from tuner.backends.docker_request import create_arguments
from tuner.backends.docker_state import ContainerState
from tuner.finding import Finding, failed, ok, skipped, warning
from tuner.launch import LaunchSpec

DEADLINE_S = 30.0
"""Without persistence mode the driver wakes each GPU for about a second."""

_POLL_S = 0.1
_REMOVAL_S = 5.0
_NOT_FOUND = 127
"""docker-init's exit code where there is no such program."""


def list_gpus(
    client: DockerClient, image: str, settings: DockerBackendSettings, gpus: Sequence[str] | None, count: int, stop: Event
) -> Finding:
    """Runs `nvidia-smi -L` in a container with the options of a trial's. None is left.

    Args:
        client: The daemon.
        image: An image that is there.
        settings: The keys of `backend`.
        gpus: Ids of the GPUs; None lets the daemon choose.
        count: How many.
        stop: Set by another thread, it ends this one early.

    Raises:
        DAEMON_ERRORS: it refuses, or does not answer.
        Systemic: a variable that the settings take from tuner's environment is not there.
    """
    spec = LaunchSpec(("nvidia-smi", "-L"), "", gpus=count, image=image)
    arguments = create_arguments(spec, settings, Place("doctor", 0, Path()), gpus)
    client.api.timeout = DEADLINE_S
    deadline = time.monotonic() + DEADLINE_S
    try:
        container = client.containers.create(**arguments)
        container.start()
        while (state := ContainerState.of(container)) is not None and state.running:
            if time.monotonic() >= deadline:
                return failed(
                    f"a container did not list its GPUs within {DEADLINE_S:g} s", "see whether `nvidia-smi` hangs on the Docker host"
                )
            if stop.wait(_POLL_S):
                return skipped("broken off")
        output = container.logs().decode(errors="replace")
    finally:
        remove(client, arguments["name"], _REMOVAL_S)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if state is not None and state.exit_code == _NOT_FOUND:
        return warning(
            f"there is no nvidia-smi in a container of {image}, so that it cannot be seen",
            "let NVIDIA_DRIVER_CAPABILITIES in the image hold `utility`",
        )
    seen = [line for line in lines if "UUID" in line]
    if state is None or state.exit_code or not seen:
        said = " ".join(lines[-1:]) or "nothing"
        return failed(
            f"no GPU is seen in a container of {image}; nvidia-smi says: {said}",
            f"see whether `docker run --rm --gpus all {image} nvidia-smi` works",
        )
    if len(seen) < count:
        return failed(
            f"a container of {image} sees {len(seen)} of {count} GPUs", "compare `nvidia-smi -L` on the Docker host and in a container"
        )
    return ok(f"a container of {image} sees {len(seen)}: {', '.join(line.partition(' (UUID')[0] for line in seen)}")
