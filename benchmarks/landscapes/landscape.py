"""From a case to its table: every configuration of the space, deployed and measured in simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import islice
from math import log2
from typing import Any

from benchmarks.landscapes.cases import Case
from benchmarks.landscapes.kernels import Kernels
from benchmarks.landscapes.memory import Memory
from benchmarks.landscapes.model import FOLDER, Model
from benchmarks.landscapes.roofline import H100, Roofline
from benchmarks.landscapes.simulator import Host, Server, Trace, Unservable, simulate
from benchmarks.landscapes.steps import StepTimes, captures
from benchmarks.landscapes.traffic import lengths
from tuner.benchmark.base import Load
from tuner.benchmark.results import Level, measure
from tuner.space import Space
from tuner.space_settings import read_space

REQUESTS_PER_USER, MIN_REQUESTS, MAX_TIME_S, WARMUP_REQUESTS = 4, 32, 300.0, 8
"""As conf/workload/chat.yaml has them."""

METRICS = (
    "ttft_mean_s",
    "ttft_p99_s",
    "tpot_mean_s",
    "tpot_p90_s",
    "tpot_p99_s",
    "latency_mean_s",
    "latency_p99_s",
    "output_tokens_per_s",
    "requests_per_s",
)
"""The columns of each load level."""

DEFAULTS: Mapping[str, Any] = {
    "tp_size": 1,
    "dp_size": 1,
    "schedule_conservativeness": 1.0,
    "enable_mixed_chunk": False,
    "cuda_graph_max_bs_decode": 256,
}
"""SGLang's own values of what a space may leave out; of the graphs' batch that of an 80 GB GPU with tp < 4."""

EAGER_LAYER_S = 0.00025
"""Seconds in which the processor launches the kernels of one layer."""

IMPORT_S, TP_S, DISK_GIB_PER_S = 24.0, 3.0, 2.0
CAPTURE_LAYER_S = 0.006
"""Parts of a deployment: imports and start, more processes (for each doubling of tp), weights from a local disk, one graph for each layer.
Orders of magnitude from public start-up logs."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Level:
    """What one load level showed: the most that one step of a replica had to hold, and the columns of the table."""

    peak_prefill_tokens: int
    peak_batch: int
    columns: Row


@dataclass(frozen=True)
class Landscape:
    """A case and what it takes to simulate it."""

    case: Case

    @cached_property
    def space(self) -> Space:
        """Of the case."""
        return read_space(dict(self.case.space))

    @cached_property
    def model(self) -> Model:
        """Of the case."""
        return Model.read(self.case.model)

    def rows(self) -> Iterator[Row]:
        """The table, in the order of the space."""
        return map(self.row, self.space.configurations())

    def row(self, configuration: Mapping[str, Any]) -> Row:
        """What one configuration shows."""
        full = dict(DEFAULTS) | dict(configuration)
        tp, dp, graphs = full["tp_size"], full["dp_size"], full["cuda_graph_max_bs_decode"]
        memory = Memory(self.model, self.case.memory_gib, tp, full["mem_fraction_static"], graphs, self.case.appetite)
        row: Row = dict(configuration) | {"gpus": tp * dp}
        load_s = IMPORT_S + TP_S * log2(tp) + self.model.weights_gib / DISK_GIB_PER_S
        capture_s = captures(graphs) * self.model.layers * CAPTURE_LAYER_S
        if memory.kv_tokens <= 0:
            return row | {"outcome": "oom_load", "deploy_s": load_s}
        if not memory.captures:
            # the largest graph is captured first
            return row | {"outcome": "oom_capture", "deploy_s": load_s + 0.1 * capture_s}
        server = Server(
            min(full["max_running_requests"], max(1, memory.kv_tokens // 2)),
            full["chunked_prefill_size"],
            full["enable_mixed_chunk"],
            full["schedule_conservativeness"],
            graphs,
            memory.kv_tokens,
        )
        row |= {"outcome": "measured", "deploy_s": load_s + capture_s}
        for level in self.case.levels:
            try:
                shown = self._level(tp, dp, level, self._told_apart(server, -(-level // dp)))
            except Unservable as reason:
                return row | {"outcome": "rejected", "reason": str(reason)}
            if not memory.runs(shown.peak_prefill_tokens, shown.peak_batch):
                return row | {"outcome": "oom_run", "reason": f"at {level} users"}
            row |= shown.columns
        return row

    @cached_property
    def _level(self) -> Callable[[int, int, int, Server], _Level]:
        return cache(self._run_level)

    def _run_level(self, tp: int, dp: int, level: int, server: Server) -> _Level:
        """What `dp` replicas show together; the users are divided evenly among them."""
        host = Host(eager_s=EAGER_LAYER_S * self.model.layers)
        traces: list[Trace] = []
        for replica in range(min(dp, level)):
            users = (level + dp - 1 - replica) // dp
            requests = lengths(self.case.scenario, replica)
            traces.append(simulate(self._steps(tp), server, host, requests, users, requests_of(users), MAX_TIME_S))
        return _Level(
            max(trace.peak_prefill_tokens for trace in traces),
            max(trace.peak_batch for trace in traces),
            self._measured(level, traces),
        )

    @cached_property
    def _steps(self) -> Callable[[int], StepTimes]:
        @cache
        def of(tp: int) -> StepTimes:
            if self.case.system:
                return StepTimes(Kernels(str(FOLDER / self.case.model), self.case.system, tp))
            return StepTimes(Roofline(self.model, H100, tp))

        return of

    def _told_apart(self, server: Server, users: int) -> Server:
        """`server` without what makes no difference with so few users, so that it is simulated once."""
        most_in, most_out = self._longest
        running = min(server.max_running, users)
        ample = server.kv_tokens > users * (most_in + most_out)
        return replace(
            server,
            max_running=running,
            chunk=min(server.chunk, users * (most_in + 1)),
            conservativeness=1.0 if ample else server.conservativeness,
            graph_batch=min(server.graph_batch, running),
            kv_tokens=users * (most_in + most_out) + 1 if ample else server.kv_tokens,
        )

    @cached_property
    def _longest(self) -> tuple[int, int]:
        """Longest prompt and output of the traffic."""
        drawn = [length for replica in range(8) for length in islice(lengths(self.case.scenario, replica), 6 * max(self.case.levels))]
        return max(prompt for prompt, _ in drawn), max(output for _, output in drawn)

    def _measured(self, level: int, traces: list[Trace]) -> Row:
        """The columns of one level: completions of all replicas, in their order in time."""
        finished = sorted((request for trace in traces for request in trace.requests), key=lambda request: request.finished_s or 0.0)
        finished = finished[: requests_of(level)]
        whole = len(finished) == requests_of(level)
        duration_s = (finished[-1].finished_s or 0.0) if whole else MAX_TIME_S
        load = Load(self.case.scenario, level, requests_of(level), MAX_TIME_S, MAX_TIME_S)
        measurement = measure(Level("requests" if whole else "time", duration_s, finished), load)
        columns: Row = {f"{metric}@{level}": measurement.metric(metric) for metric in METRICS}
        if level == min(self.case.levels):
            columns["warmup_s"] = WARMUP_REQUESTS / level * measurement.latency.mean
        return columns | {f"load_s@{level}": duration_s}


def requests_of(users: int) -> int:
    """As `Workload.requests`."""
    return max(REQUESTS_PER_USER, -(-MIN_REQUESTS // users)) * users
