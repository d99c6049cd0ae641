"""Fixtures for all tests."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from typing import Any

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
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where a job in the background would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


DOCKER = re.compile("docker|doctor|standin_studies|test_auto|test_cli|test_ome_study|test_session")
"""In the path of tests of the Docker daemon, which look at all that it runs, and of those that remove what dead tuners left there."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The tests of a file run one after the other, because they share what it takes long to make, and those of the daemon do so, too."""
    from xdist.scheduler import LoadScopeScheduling

    class Grouped(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "docker" if DOCKER.search(path) else path

    return Grouped(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests that need a GPU, unless they are asked for."""
    if "gpu" in config.getoption("markexpr"):
        return
    items[:] = [item for item in items if item.get_closest_marker("gpu") is None]
