"""genai-bench as load generator: a warm driver process for daily use, its plain command line as reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tuner.benchmark.base import Benchmark, Load
from tuner.benchmark.cli_mode import run_level
from tuner.benchmark.client import Client, genai_bench_version
from tuner.benchmark.driver_process import DriverProcess
from tuner.benchmark.measurement import Measurement
from tuner.benchmark.results import Level, Request, measure
from tuner.benchmark.warmup import warm_up
from tuner.launch import Endpoint


class GenaiBench(Benchmark):
    """Runs load levels with genai-bench.

    Args:
        tokenizer: Directory or hub id of the tokenizer that measures out the prompts.
        mode: `driver` for one warm process, which costs next to nothing beyond a level's own load; `cli` for the plain command, 11 to 15 s
            more for each level. See `tuner.benchmark.cli_mode` for what the latter cannot do.
        api_key: Key for the server; never written anywhere.
        dataset: File or hub id of prompts for the scenario `dataset`; None for genai-bench's own text.
        prompt_column: Column of the dataset that holds the prompts.
        request_params: Further fields of the request body.
    """

    name = "genai_bench"

    def __init__(
        self,
        tokenizer: str,
        mode: Literal["driver", "cli"] = "driver",
        api_key: str | None = None,
        dataset: str | None = None,
        prompt_column: str | None = None,
        request_params: Mapping[str, object] | None = None,
    ) -> None:
        self._client = Client(tokenizer, api_key, dataset, prompt_column, request_params or {})
        self._mode = mode
        self._driver: DriverProcess | None = None

    def run(
        self,
        endpoint: Endpoint,
        load: Load,
        folder: Path,
        server_alive: Callable[[], bool],
        on_progress: Callable[[int], None] | None = None,
    ) -> Measurement:
        """Runs one load level; its raw results go into `folder/level-<concurrency>.json`. Errors: see `Benchmark.run`."""
        if self._mode == "cli":
            level = run_level(self._client, endpoint, load, folder, server_alive)
        else:
            request = {"url": endpoint.url, "model": endpoint.model} | asdict(load)
            level = self._level(self._ready_driver().level(request, load.max_time_s, server_alive, on_progress))
        level.save(folder / f"level-{load.concurrency}.json", load, f"genai-bench {self.version()} ({self._mode})")
        return measure(level, load)

    def warm_up(self, endpoint: Endpoint, scenario: str, requests: int, users: int) -> None:
        warm_up(endpoint, scenario, requests, users)

    def version(self) -> str:
        return genai_bench_version()

    def __enter__(self) -> Self:
        if self._mode == "driver":
            self._driver = DriverProcess(self._client)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._driver:
            self._driver.kill()
            self._driver = None

    def _ready_driver(self) -> DriverProcess:
        """The driver, or a new one where it crashed or had to be killed."""
        if self._driver is None or not self._driver.alive:
            if self._driver:
                self._driver.kill()
            self._driver = DriverProcess(self._client)
        return self._driver

    def _level(self, reply: Mapping[str, Any]) -> Level:
        requests = [Request.from_genai_bench(metrics, metrics["finished_s"]) for metrics in reply["requests"]]
        return Level(
            stop=reply["stop"],
            duration_s=reply["duration_s"],
            requests=sorted(requests, key=lambda request: request.finished_s or 0.0),
            errors=reply["errors"],
            messages=[self._client.redact(message) for message in reply["messages"]],
            client_cpu_s=reply["client_cpu_s"],
        )
