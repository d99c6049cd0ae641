"""Fixtures for the tests of backends."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.backends.docker_deploying import containers_of
from tests.backends.private_daemon import PrivateDaemon
from tests.docker_image import import_image
from tuner.backends.base import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = tmp_path / "trial"
    folder.mkdir()
    return Place("some-study", 7, folder)


@pytest.fixture
def nothing_left(daemon: docker.DockerClient, tmp_path: Path) -> Iterator[None]:
    """Fails a test that leaves a container or a volume behind."""
    yield
    left = containers_of(daemon, tmp_path)
    for container in left:
        container.remove(v=True, force=True)
    assert left == []


@pytest.fixture(scope="module")
def private_daemon(image_archive: Path) -> Iterator[PrivateDaemon]:
    """A daemon for this module alone, which it may kill."""
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no second Docker daemon in CI: not root, or no dockerd")
        pytest.skip("NO SECOND DOCKER DAEMON, its tests did not run: not root, or no dockerd")
    with PrivateDaemon() as private:
        client = private.client()
        private.image = import_image(client, image_archive)
        client.close()
        yield private
