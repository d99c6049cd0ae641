"""The contract of a benchmark: endpoint and load level in, measurement out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tuner.benchmark.measurement import Measurement
from tuner.launch import Endpoint


@dataclass(frozen=True, slots=True)
class Load:
    """One load level.

    Attributes:
        scenario: genai-bench traffic scenario, for example `D(100,64)`: prompt and output tokens.
        concurrency: Users that each keep one request in flight.
        requests: Completed requests after which the level ends.
        max_time_s: Seconds after which it ends in any case, with what was measured.
        stall_s: Seconds in which no request ended well after which the server counts as hung.
    """

    scenario: str
    concurrency: int
    requests: int
    max_time_s: float
    stall_s: float


class ServerUnusable(Exception):
    """The server answered no request well: all failed, or it hung. The deployment's state decides whose fault it was.

    Args:
        reason: One line, for example `all of 64 requests failed: 64 x 503`.
        rejected: The server is well and refused every request for what it asks, as an over-long prompt: the configuration cannot serve
            this traffic.
    """

    def __init__(self, reason: str, rejected: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rejected = rejected


class Benchmark(ABC):
    """Generates load and measures. A context manager: processes it holds live between enter and exit.

    Implementations pass `tests/conformance/benchmark.py`.
    """

    name: ClassVar[str]

    @abstractmethod
    def run(
        self,
        endpoint: Endpoint,
        load: Load,
        folder: Path,
        server_alive: Callable[[], bool],
        on_progress: Callable[[int], None] | None = None,
    ) -> Measurement:
        """Runs one load level and returns what it showed as soon as it ends.

        Args:
            endpoint: The server; `endpoint.model` is the name requests carry.
            load: The level.
            folder: Existing directory that receives the raw results of the level; secrets are redacted in it.
            server_alive: Asked now and then; once it is false the level is given up at once.
            on_progress: Told the number of requests finished so far, where the implementation can know it.

        Raises:
            ServerUnusable: no request ended well, the server hung, or `server_alive` became false.
            Transient: the load generator itself failed.
            Systemic: the load generator cannot work at all (bad tokenizer, bad scenario).
        """

    @abstractmethod
    def warm_up(self, endpoint: Endpoint, scenario: str, requests: int, users: int) -> None:
        """Sends requests before the first load level, which are not measured.

        Args:
            endpoint: A server that is ready.
            scenario: See `Load`.
            requests: Their number, beside one that shows whether the server answers at all.
            users: As many of them are in flight at a time.

        Raises:
            ServerUnusable: the server answers none of them.
            Systemic: it refuses the API key.
        """

    @abstractmethod
    def version(self) -> str:
        """Version of the load generator."""

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
