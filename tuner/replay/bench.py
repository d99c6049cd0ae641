"""The load generator of a replay: tells what the table has of a load level, with noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tuner.benchmark.base import Benchmark, Load, ServerUnusable
from tuner.benchmark.measurement import Measurement
from tuner.launch import Endpoint
from tuner.replay.backend import ReplayBackend
from tuner.replay.measuring import measurement

HOUR_S = 3600.0


class ReplayBench(Benchmark):
    """Measures deployments of a `ReplayBackend`.

    Args:
        backend: Where they are.
    """

    name: ClassVar[str] = "replay_bench"

    def __init__(self, backend: ReplayBackend) -> None:
        self._backend = backend

    def run(
        self,
        endpoint: Endpoint,
        load: Load,
        folder: Path,
        server_alive: Callable[[], bool],
        on_progress: Callable[[int], None] | None = None,
    ) -> Measurement:
        """The table's values; what it does not have is not a number. No raw results are kept."""
        server = self._backend.serving[endpoint.url]
        seconds = server.load(load.concurrency)
        if not server_alive():
            raise ServerUnusable("the server ended under load")
        if on_progress:
            on_progress(load.requests)
        noise, hours = self._backend.noise(server.place.study), self._backend.clock() / HOUR_S

        def factor(metric: str) -> float:
            return noise.factor(server.place.trial, load.concurrency, metric, hours)

        shown = measurement(self._backend.table, server.row, load.concurrency, load.requests, seconds, factor)
        if not shown.completed:
            raise ServerUnusable("all requests failed, as recorded", rejected=True)
        return shown

    def warm_up(self, endpoint: Endpoint, scenario: str, requests: int, users: int) -> None:
        self._backend.serving[endpoint.url].warm_up()

    def version(self) -> str:
        return self._backend.table.digest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing is held."""
