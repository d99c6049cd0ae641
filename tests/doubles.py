"""Doubles: an engine, a backend, a benchmark and a feasibility gate in memory, which fail at any stage, on demand, at once.

The real ones are tested by their conformance suites and together by the end-to-end study.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tuner.backends.base import Backend, Deployment, Place
from tuner.benchmark.base import Benchmark, Load
from tuner.benchmark.measurement import Measurement, Timing
from tuner.engines.base import Engine
from tuner.errors import Infeasible, MemoryStage, TrialFailure
from tuner.feasibility.gate import Gate
from tuner.launch import Configuration, Endpoint, ExitStatus, LaunchSpec, Value
from tuner.server_facts import ServerMetrics, Startup
from tuner.settings import Settings, load

DEFAULTS: Mapping[str, Value] = {"n_parallel": 4, "n_batch": 2048, "cont_batching": True}
SPACE: Mapping[str, Any] = {
    "n_parallel": {"type": "power_of_two", "low": 1, "high": 16},
    "n_batch": {"type": "power_of_two", "low": 64, "high": 512},
    "cont_batching": {"type": "categorical", "choices": [True, False]},
    "n_ctx": 8192,
}
OBJECTIVES = [
    {"metric": "latency_p99_s", "at": "min", "direction": "minimize"},
    {"metric": "output_tokens_per_s", "at": "max", "direction": "maximize"},
]


def settings(folder: Path, /, **changes: Any) -> Settings:
    """A small study of the doubles: 40 configurations, 2 levels, no warm-up; `changes` replace whole sections."""
    composed: dict[str, Any] = {
        "study_name": "some-study",
        "trials": 4,
        "seed": 1,
        "folder": str(folder / "studies"),
        "engine": {"name": "llamacpp", "model": "nano"},
        "backend": {"name": "local"},
        "space": dict(SPACE),
        "workload": {"scenario": "D(64,32)", "levels": [1, 4], "warmup_requests": 0},
        "objectives": OBJECTIVES,
        "sampler": {"name": "random"},
        "storage": {"url": f"sqlite:///{folder / 'tuner.db'}"},
    }
    return load(composed | changes)


def timing(seconds: float) -> Timing:
    """The same time for every request."""
    return Timing(seconds, seconds, seconds, seconds, seconds)


def measurement(level: int = 1, **changes: Any) -> Measurement:
    """A measurement of a healthy server."""
    values: dict[str, Any] = {
        "concurrency": level,
        "completed": 16,
        "errors": {},
        "duration_s": 2.0,
        "window_s": 2.0,
        "ttft": timing(0.05),
        "tpot": timing(0.005),
        "latency": timing(0.2),
        "output_tokens_per_s": 150.0,
        "input_tokens_per_s": 300.0,
        "requests_per_s": 5.0,
        "client_cpu_share": 0.1,
        "client_bound": False,
    }
    return Measurement(**values | changes)


def measured(configuration: Configuration, level: int) -> Measurement:
    """What a server of this configuration shows: slots cost latency and bring throughput."""
    slots, batch = float(configuration.get("n_parallel", 4)), float(configuration.get("n_batch", 2048))
    return measurement(level, latency=timing(0.1 * slots * level), output_tokens_per_s=50 * slots + batch / 100)


@dataclass
class World:
    """What happens to the doubles, and what they saw.

    Attributes:
        at: Called at every stage with its name; raises what is to go wrong there.
        calls: The stages so far.
        deployed: The configurations so far.
        measures: What a load level shows.
        open: Deployments that were not closed.
        status: How the server has ended.
        flushes: Whether the engine can drop its prompt cache.
        refuses: What the engine refuses to launch, and why.
        taught: What the gate was taught.
    """

    at: Callable[[str], None] = lambda stage: None
    calls: list[str] = field(default_factory=list)
    deployed: list[dict[str, Value]] = field(default_factory=list)
    measures: Callable[[Configuration, int], Measurement] = measured
    open: int = 0
    status: ExitStatus | None = None
    flushes: bool = True
    refuses: Callable[[Configuration], str | None] = lambda configuration: None
    taught: list[tuple[dict[str, Value], Startup, MemoryStage | None, bool]] = field(default_factory=list)

    def reach(self, stage: str) -> None:
        self.calls.append(stage)
        self.at(stage)


class EngineDouble(Engine):
    name = "llamacpp"

    def __init__(self, world: World, defaults: Mapping[str, Value] = DEFAULTS) -> None:
        self.world = world
        self._defaults = defaults

    @property
    def parameters(self) -> frozenset[str]:
        return frozenset(SPACE)

    @property
    def defaults(self) -> Mapping[str, Value]:
        return self._defaults

    def prepare(self) -> None:
        self.world.reach("prepare")

    @property
    def tokenizer(self) -> str:
        return "no-tokenizer"

    def launch(self, configuration: Configuration, token: str) -> LaunchSpec:
        if token:
            self.world.reach("launch")
        if reason := self.world.refuses(configuration):
            raise Infeasible(reason)
        words = [f"--{name}={value}" for name, value in configuration.items()]
        return LaunchSpec(("serve", json.dumps(dict(configuration))) if token else ("serve", *words), f"double-{token}")

    def ready(self, endpoint: Endpoint) -> bool:
        self.world.reach("ready")
        return True

    def effective(self, endpoint: Endpoint) -> Mapping[str, Value]:
        self.world.reach("effective")
        return {"n_parallel": 4, "n_ctx_slot": 2048}

    def version(self, endpoint: Endpoint) -> str:
        self.world.reach("version")
        return "double 1.0"

    def flush_cache(self, endpoint: Endpoint) -> bool:
        self.world.reach("flush")
        return self.world.flushes

    def metrics(self, endpoint: Endpoint) -> ServerMetrics:
        return ServerMetrics(running=2.0, preemptions=float(self.world.calls.count("run 1")))

    def startup(self, log: str) -> Startup:
        return Startup(weights_gib=float(len(log)))

    def diagnose(self, status: ExitStatus) -> TrialFailure:
        return Infeasible(f"diagnosed: exit code {status.code}", status.log_tail)


class DeploymentDouble(Deployment):
    def __init__(self, world: World, endpoint: Endpoint, log_path: Path) -> None:
        self.world = world
        self.endpoint = endpoint
        self.log_path = log_path
        world.open += 1

    def exit_status(self) -> ExitStatus | None:
        return self.world.status

    def log_tail(self, lines: int = 40) -> str:
        return "the end of the log"

    def close(self) -> None:
        self.world.open -= 1
        self.world.reach("close")


class BackendDouble(Backend):
    name = "local"

    def __init__(self, world: World) -> None:
        self.world = world

    def check(self) -> None:
        self.world.reach("check")

    def deploy(self, spec: LaunchSpec, place: Place) -> Deployment:
        self.world.reach("deploy")
        self.world.deployed.append(json.loads(spec.argv[1]))
        return DeploymentDouble(self.world, Endpoint("http://127.0.0.1:1", spec.served_model), place.folder / "server.log")

    def reap(self) -> list[str]:
        self.world.reach("reap")
        return []


class BenchmarkDouble(Benchmark):
    name = "genai_bench"

    def __init__(self, world: World) -> None:
        self.world = world

    def run(
        self,
        endpoint: Endpoint,
        load: Load,
        folder: Path,
        server_alive: Callable[[], bool],
        on_progress: Callable[[int], None] | None = None,
    ) -> Measurement:
        self.world.reach(f"run {load.concurrency}")
        if on_progress:
            on_progress(load.requests)
        return self.world.measures(self.world.deployed[-1], load.concurrency)

    def warm_up(self, endpoint: Endpoint, scenario: str, requests: int, users: int) -> None:
        self.world.reach(f"warm-up {requests} by {users}")

    def version(self) -> str:
        return "0.0.5"

    def __enter__(self) -> Self:
        self.world.reach("benchmark enter")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.world.reach("benchmark exit")


class GateDouble(Gate):
    """Refuses nothing by itself, and remembers what it was taught."""

    def __init__(self, world: World, refuses: Callable[[Configuration], str | None] = lambda configuration: None) -> None:
        self.world = world
        self._refuses = refuses

    def refuse(self, configuration: Configuration) -> str | None:
        return self._refuses(configuration)

    def learn(self, configuration: Configuration, startup: Startup, failed: MemoryStage | None, measured: bool) -> None:
        self.world.taught.append((dict(configuration), startup, failed, measured))


class ProgressDouble:
    """Remembers what it was told, as lines."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.lines: list[str] = []

    def _tell(self, line: str) -> None:
        self.lines.append(line)
        self.world.reach(f"progress {line.split()[0]}")

    def notice(self, line: str) -> None:
        self._tell(f"notice {line}")

    def trial(self, number: int, configuration: Configuration, default: bool) -> None:
        self._tell(f"trial {number}{' default' if default else ''}")

    def stage(self, name: str) -> None:
        self._tell(f"stage {name}")

    def level(self, level: int, requests: int) -> None:
        self._tell(f"level {level} {requests}")

    def requests(self, finished: int) -> None:
        self._tell(f"requests {finished}")

    def measured(self, level: int, measurement: Measurement) -> None:
        self._tell(f"measured {level}")

    def ended(self, outcome: str, values: Any = (), reason: str = "") -> None:
        self._tell(f"ended {outcome} {reason}".rstrip())
