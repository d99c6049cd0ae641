"""How many deployments a study saves that begins with what an earlier one of the same engine, model and GPUs has measured.

    python -m benchmarks.warm_start --seeds 5 --trials 20

A first study searches a recorded table. A second one asks the same servers for something else, or meets other noise, or has other traffic
(another table); it is run cold, with the analytic prior, with the first study, and with both. Told is the share of the second study's true
front after so many deployments, and after how many it reached 90 %.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks.efficiency.case import Arm, Case, read_case
from benchmarks.efficiency.play import Silence, checked_engine
from benchmarks.efficiency.statistics import estimate
from benchmarks.efficiency.truth import Truth, truth_of
from tuner import host
from tuner.engine_settings import ReplaySettings
from tuner.parties import create_backend, create_benchmark, create_gate, create_knowledge, find_gpus
from tuner.prior import create as analytic
from tuner.prior.earlier import EarlierStudies, known
from tuner.prior.records import lessons, read
from tuner.replay.pages import LastPages
from tuner.runner import run_trials
from tuner.settings import Settings
from tuner.study import Ledger
from tuner.trial import Rig

TABLES = Path(__file__).parent / "landscapes/tables"
TARGET = 0.9
COUNTS = (2, 5, 10, 20)
ARMS: Mapping[str, tuple[bool, bool]] = {"cold": (False, False), "prior": (True, False), "warm": (False, True), "prior+warm": (True, True)}
"""By name, whether the second study has the analytic prior, and whether it has the first study."""


@dataclass(frozen=True)
class Scenario:
    """Two studies.

    Attributes:
        name: What the second one does otherwise.
        case: File of the case.
        first: Sections that differ in the first study.
        second: The same of the second.
    """

    name: str
    case: str
    first: Mapping[str, Any] = field(default_factory=dict)
    second: Mapping[str, Any] = field(default_factory=dict)


def _want(metric: str, at: int, **more: Any) -> dict[str, Any]:
    return {"metric": metric, "at": at, **more}


OTHER_GOALS = {
    "objectives": [_want("ttft_p99_s", 128, direction="minimize"), _want("output_tokens_per_s", 128, direction="maximize", per="gpu")],
    "constraints": [_want("tpot_p90_s", 128, max=0.03)],
}
LOW = {
    "workload": {"scenario": "N(2000,800)/(300,120)", "levels": [8, 32]},
    "objectives": [_want("tpot_p90_s", 8, direction="minimize"), _want("output_tokens_per_s", 32, direction="maximize", per="gpu")],
    "constraints": [],
}
SCENARIOS = (
    Scenario("other noise", "llama8b_h100_chat"),
    Scenario("other objectives", "llama8b_h100_chat", second=OTHER_GOALS),
    Scenario("higher load", "llama8b_h100_chat", first=LOW),
    Scenario("other traffic", "llama8b_h100_chat", first={"table": "llama8b_h100_chat_roofline.csv.gz"}),
)


def main(arguments: list[str] | None = None) -> int:
    """Runs all scenarios, prints a line for each arm, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warm_start", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=20, help="trials of the first study (20)")
    parser.add_argument("--trials", type=int, default=20, help="trials of the second (20)")
    parser.add_argument("--only", default="", help="part of a scenario's name")
    parser.add_argument("--arms", default=",".join(ARMS))
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    counts = [count for count in COUNTS if count <= options.trials]
    print("| second study | arm | " + " | ".join(f"share after {count}" for count in counts) + f" | to {TARGET:.0%} |")
    print("|---|---|" + "---|" * (len(counts) + 1))
    for scenario in SCENARIOS:
        if options.only in scenario.name:
            for arm, found in _compare(scenario, options.arms.split(","), options.seeds, options.first, options.trials):
                shares = [estimate([shares[min(count, len(shares)) - 1] for shares in found]) for count in counts]
                cells = " | ".join(f"{one.mean:.1%} ({one.low:.1%} to {one.high:.1%})" for one in shares)
                reached = np.median([next((i for i, share in enumerate(shares, 1) if share >= TARGET), np.inf) for shares in found])
                print(f"| {scenario.name} | {arm} | {cells} | {reached:g} |", flush=True)
    return 0


def _compare(scenario: Scenario, arms: Sequence[str], seeds: int, first: int, trials: int) -> Iterator[tuple[str, list[list[float]]]]:
    before, after = (_case(scenario.case, changes) for changes in (scenario.first, scenario.second))
    truth: Truth | None = None
    found: dict[str, list[list[float]]] = {arm: [] for arm in arms}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory(prefix="tuner-warm-") as folder:
            before_it = optuna.storages.InMemoryStorage()
            _play(_settings(before, first, 100 + seed, Path(folder)), before_it, None, prior=True, warm=False)
            for arm in arms:
                storage = copy.deepcopy(before_it)  # a cold study does not look into it
                settings = _settings(replace(after, name="second"), trials, seed, Path(folder))
                truth = truth or truth_of(settings, checked_engine(settings))
                found[arm].append(_play(settings, storage, truth, *ARMS[arm]))
                print(f"{scenario.name}, seed {seed}, {arm}: {found[arm][-1][-1]:.1%}", file=sys.stderr, flush=True)
    yield from found.items()


def _case(name: str, changes: Mapping[str, Any]) -> Case:
    case = read_case(TABLES / f"{name}.yaml")
    engine = dict(case.composed["engine"])
    if "table" in changes:
        engine["table"] = str(TABLES / changes["table"])
    return replace(case, composed={**case.composed, **{k: v for k, v in changes.items() if k != "table"}, "engine": engine})


def _settings(case: Case, trials: int, seed: int, folder: Path) -> Settings:
    return case.settings(Arm("ehvi", {"name": "ehvi"}), trials, seed, folder)


def _play(settings: Settings, storage: optuna.storages.BaseStorage, truth: Truth | None, prior: bool, warm: bool) -> list[float]:
    """Runs a study, and returns the share of the true front after each of its deployments."""
    engine = checked_engine(settings)
    gpus = find_gpus(settings)
    backend = create_backend(settings, gpus, lambda line: None)
    gate = create_gate(settings, engine, backend, gpus)
    facts = {
        "host": host.describe() | {"gpus": [f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB" for gpu in gpus or ()]},
        "engine": dict(engine.describe()),
        "backend": dict(backend.describe()),
    }
    knowledge = create_knowledge(settings, engine, gpus)
    if not prior:
        knowledge = replace(knowledge, priors=())
    if warm:
        earlier = read(settings, facts, storage)
        assert isinstance(settings.engine, ReplaySettings)
        name = settings.engine.replays or engine.name
        told = EarlierStudies.create(
            settings,
            [study for study in earlier if not study.alike],
            engine.defaults,
            lambda workload: analytic.create(name, engine.defaults, engine.model_folder, gpus, workload) if prior else None,
        )
        knowledge = replace(
            knowledge, priors=knowledge.priors if told is None else (told,), known=known(settings, earlier, engine.defaults)
        )
        for lesson in lessons(settings, facts, earlier):
            gate.learn(*lesson)
    ledger = Ledger(settings, storage, engine.defaults, knowledge=knowledge)
    for key, value in facts.items():
        ledger.note(key, value)
    progress = Silence()
    rig = Rig(gate, engine, backend, create_benchmark(settings, engine, backend), settings.workload)
    run_trials(ledger, rig, progress, LastPages(ledger, settings.study_folder))
    measured: list[int] = []
    shares: list[float] = []
    outcomes = {trial.number: trial.user_attrs["outcome"] for trial in ledger.study.get_trials(deepcopy=False)}
    for number, configuration in progress.deployed if truth is not None else ():
        measured += [engine.row(configuration).index] if outcomes[number] == "measured" else []
        shares.append(truth.share(measured))
    return shares


if __name__ == "__main__":
    sys.exit(main())
