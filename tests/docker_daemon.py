"""The Docker daemon of this machine, for tests; a plugin of `tests/conftest.py`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import docker
import pytest


@pytest.fixture(scope="session")
def daemon() -> Iterator[docker.DockerClient]:
    """A client of the daemon. Without one the test is skipped, or fails where CI=true."""
    try:
        client = docker.from_env(timeout=60)
    except docker.errors.DockerException as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no Docker daemon in CI: {error}")
        pytest.skip(f"NO DOCKER DAEMON, its tests did not run: {error}")
    yield client
    client.close()
