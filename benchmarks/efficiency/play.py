"""One search on a table: the real study and the real trial loop, on a storage in memory."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from benchmarks.efficiency.case import Arm, Case
from benchmarks.efficiency.truth import Truth
from tuner.benchmark.measurement import Measurement
from tuner.feasibility.gate import Gate
from tuner.launch import Configuration, Value
from tuner.parties import check_parameters, create_backend, create_benchmark, create_engine, create_gate, create_knowledge, find_gpus
from tuner.replay.engine import Replay
from tuner.replay.pages import LastPages
from tuner.runner import run_trials
from tuner.search.knowledge import Knowledge
from tuner.settings import Settings
from tuner.study import Asked, Ledger
from tuner.trial import Rig

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment of a search.

    Attributes:
        line: Line of its configuration in the table.
        outcome: As the study was told.
        certain: Whether the memory formula of the gate refuses the configuration, without a lesson of earlier deployments.
        duplicate: Whether the configuration had been deployed before and ended by its own doing.
        share: Share of the true front's hypervolume that this search has measured by now.
        gpu_hours: GPU-hours that were charged by now.
        ask_s: Seconds of real time to choose it.
    """

    line: int
    outcome: str
    certain: bool
    duplicate: bool
    share: float
    gpu_hours: float
    ask_s: float


@dataclass(frozen=True, slots=True)
class Search:
    """One arm at one seed.

    Attributes:
        arm: Its label.
        seed: The seed.
        deployments: In their order.
        refused: Configurations that were suggested and refused without a deployment.
        seconds: Real time of the whole search.
    """

    arm: str
    seed: int
    deployments: Sequence[Deployment]
    refused: int
    seconds: float


class Silence:
    """Progress that nobody watches; remembers which trials were deployed."""

    def __init__(self) -> None:
        self.deployed: list[tuple[int, Configuration]] = []

    def trial(self, number: int, configuration: Configuration, default: bool) -> None:
        self.deployed.append((number, configuration))

    def notice(self, line: str) -> None: ...

    def stage(self, name: str) -> None: ...

    def level(self, level: int, requests: int) -> None: ...

    def requests(self, finished: int) -> None: ...

    def measured(self, level: int, measurement: Measurement) -> None: ...

    def ended(self, outcome: str, values: Sequence[float] = (), reason: str = "") -> None: ...


class TimedLedger(Ledger):
    """A study that remembers how long each of its choices took.

    Attributes:
        ask_s: Seconds, in the order of the deployments.
    """

    def __init__(
        self, settings: Settings, storage: optuna.storages.BaseStorage, defaults: Mapping[str, Value], knowledge: Knowledge
    ) -> None:
        self.ask_s: list[float] = []
        super().__init__(settings, storage, defaults, knowledge=knowledge)

    def ask(self, refuse: Callable[[Configuration], str | None] = lambda configuration: None) -> Asked | None:
        begun = time.perf_counter()
        asked = super().ask(refuse)
        self.ask_s.append(time.perf_counter() - begun)
        return asked


def search(case: Case, arm: Arm, trials: int, seed: int, truth: Truth) -> Search:
    """Runs one arm at one seed. The same arguments give the same search, but for its times.

    Args:
        case: What is searched.
        arm: Who searches.
        trials: Deployments.
        seed: Of the sampler and the noise.
        truth: That of the case, which judges what was found.

    Raises:
        ConfigError: something in the case is wrong.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="tuner-efficiency-") as folder:
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        settings = case.settings(arm, trials, seed, Path(folder))
        engine = checked_engine(settings)
        gpus = find_gpus(settings)
        backend = create_backend(settings, gpus, lambda line: None)
        fresh = create_gate(settings, engine, backend, gpus)
        gate = create_gate(settings, engine, backend, gpus) if arm.gate else Gate(None, {}, None, None)
        knowledge = create_knowledge(settings, engine, gpus)
        ledger = TimedLedger(settings, optuna.storages.InMemoryStorage(), engine.defaults, knowledge)
        progress = Silence()
        rig = Rig(gate, engine, backend, create_benchmark(settings, engine, backend), settings.workload)
        begun = time.perf_counter()
        run_trials(ledger, rig, progress, LastPages(ledger, Path(folder)))
        seconds = time.perf_counter() - begun
        deployments = _deployments(ledger, engine, fresh, truth, progress.deployed)
    return Search(arm.label, seed, deployments, len(ledger.refused), seconds)


def checked_engine(settings: Settings) -> Replay:
    """The engine of a case that the table can answer.

    Raises:
        ConfigError: it cannot.
    """
    engine = create_engine(settings)
    check_parameters(settings, engine)
    assert isinstance(engine, Replay)
    return engine


def _deployments(
    ledger: TimedLedger, engine: Replay, gate: Gate, truth: Truth, deployed: Sequence[tuple[int, Configuration]]
) -> list[Deployment]:
    trials = {trial.number: trial for trial in ledger.study.get_trials(deepcopy=False)}
    found: list[Deployment] = []
    measured: list[int] = []
    judged: set[int] = set()
    gpu_hours = 0.0
    for (number, configuration), ask_s in zip(deployed, ledger.ask_s, strict=False):
        row, facts = engine.row(configuration), trials[number].user_attrs
        gpu_hours += facts["gpus"] * sum(facts["durations_s"].values()) / HOUR_S
        if facts["outcome"] == "measured":
            measured.append(row.index)
        found.append(
            Deployment(
                line=row.line,
                outcome=facts["outcome"],
                certain=gate.refuse(row.configuration) is not None,
                duplicate=row.index in judged,
                share=truth.share(measured),
                gpu_hours=gpu_hours,
                ask_s=ask_s,
            )
        )
        if facts["outcome"] != "failed":
            judged.add(row.index)
    return found
