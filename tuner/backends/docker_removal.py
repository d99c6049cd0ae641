"""Removing a container for good, whatever its state and whoever else is at it."""

from __future__ import annotations

import time

from docker import DockerClient
from docker.errors import NotFound

from tuner.backends.docker_connection import DAEMON_ERRORS

_POLL_S = 0.1


def remove(client: DockerClient, container: str, patience_s: float) -> bool:
    """Kills a container if it still runs, and removes it with its anonymous volumes.

    A container that does not exist is fine. So is one that is being started or removed by somebody else, which Docker answers with a
    conflict or a busy device, and a daemon that is away for a moment: the request is repeated.

    Args:
        client: The daemon.
        container: Id or name.
        patience_s: Seconds to go on trying.

    Returns:
        Whether it is gone.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            client.api.remove_container(container, v=True, force=True)
            return True
        except NotFound:
            return True
        except DAEMON_ERRORS:
            if time.monotonic() >= deadline:
                return False
        time.sleep(_POLL_S)
