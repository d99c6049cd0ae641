"""Fixtures for all tests."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.engines.fake_server import FakeServer
from tuner.engines.llamacpp import LlamaCpp

pytest_plugins = ("tests.cluster.fixtures", "tests.docker_daemon", "tests.docker_image", "tests.warm_tuner")


@pytest.fixture(scope="session")
def nano_engine(tmp_path_factory: pytest.TempPathFactory) -> LlamaCpp:
    """A prepared llama.cpp engine with the smallest random-weight model, built in this session's own cache."""
    pytest.importorskip("xllamacpp")
    engine = LlamaCpp(model="nano")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        engine.prepare()
    return engine


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


DOCKER = re.compile("daemon|docker|doctor|standin_studies")
"""In the path of a test, or the name of one of its fixtures: what the Docker daemon runs."""


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests that need a GPU, unless they are asked for, and keeps together what must not run side by side."""
    if "gpu" not in config.getoption("markexpr"):
        items[:] = [item for item in items if item.get_closest_marker("gpu") is None]
    for item in items:
        path = item.nodeid.partition("::")[0]
        # tests of the daemon look at all that it runs; those of a file share what it takes long to make
        docker = any(map(DOCKER.search, (path, *getattr(item, "fixturenames", ()))))
        item.add_marker(pytest.mark.xdist_group("docker" if docker else path))
