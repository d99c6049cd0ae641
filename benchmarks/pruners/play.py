"""One search with a pruner: the real study, loop and replay, until it has cost as much as it may."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks.efficiency.case import Arm, Case
from benchmarks.efficiency.play import HOUR_S, Silence, checked_engine
from benchmarks.efficiency.truth import Truth
from benchmarks.pruners.references import Median, Moasha, Reference
from tuner.course import EveryLevel
from tuner.engine_settings import ReplaySettings
from tuner.parties import create_backend, create_benchmark, create_gate, create_knowledge, find_gpus
from tuner.replay.engine import Replay
from tuner.replay.pages import LastPages
from tuner.replay.table import LOAD, Row
from tuner.runner import Patience, run_trial
from tuner.search.pruning import course_of
from tuner.settings import Settings
from tuner.study import Ledger
from tuner.trial import Rig

REFERENCES: Mapping[str, type[Reference]] = {"median": Median, "moasha": Moasha}
"""Rules that tuner does not have."""
PRUNERS = ("none", "slo", "front", *REFERENCES)
MOST = 5
"""A search that saves much gets this many times the trials of one that saves nothing, at most."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One deployment.

    Attributes:
        row: Of its configuration in the table.
        outcome: As the study was told.
        load_s: Seconds of warm-up and load that were charged.
        full_s: What they would have been with every level.
        gpu_hours: Charged for the whole trial.
        full_gpu_hours: The same with every level.
        share: Share of the true front's hypervolume that the search has measured by now.
    """

    row: int
    outcome: str
    load_s: float
    full_s: float
    gpu_hours: float
    full_gpu_hours: float
    share: float


def play(case: Case, sampler: Arm, pruner: str, truth: Truth, trials: int, seed: int, gpu_hours: float | None = None) -> list[Trial]:
    """Runs one search. The same arguments give the same one.

    Args:
        case: What is searched.
        sampler: Who suggests.
        pruner: One of `PRUNERS`, with settings behind colons: `front:order=down:confidence=0.9`.
        truth: That of the case.
        trials: Deployments, where there is no budget.
        seed: Of the sampler and the noise.
        gpu_hours: Budget: the search ends when it is spent.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name, *words = pruner.split(":")
    known = {"name": "none" if name in REFERENCES else name, **dict(word.split("=", 1) for word in words)}
    most = trials if gpu_hours is None else MOST * trials
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="tuner-pruning-") as folder:
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        settings = case.settings(replace(sampler, pruner=known), most, seed, Path(folder))
        engine, gpus = checked_engine(settings), find_gpus(settings)
        backend = create_backend(settings, gpus, lambda line: None)
        gate = create_gate(settings, engine, backend, gpus)
        rig = Rig(gate, engine, backend, create_benchmark(settings, engine, backend), settings.workload)
        ledger = Ledger(settings, optuna.storages.InMemoryStorage(), engine.defaults, knowledge=create_knowledge(settings, engine, gpus))
        pages, patience, progress = LastPages(ledger, Path(folder)), Patience(settings.max_consecutive_failures, measured=True), Silence()
        rule = REFERENCES[name](settings) if name in REFERENCES else None
        done: list[Trial] = []
        measured: list[int] = []
        spent = 0.0
        while ledger.remaining and (gpu_hours is None or spent < gpu_hours):
            asked = ledger.ask(rig.refuse)
            if asked is None:
                break
            held = engine.launch(asked.configuration, "").gpus
            course = (EveryLevel(settings.workload.levels) if asked.default else rule) if rule else course_of(ledger, asked, held)
            run_trial(ledger, rig, progress, pages, patience, asked, course)
            facts = ledger.study._storage.get_trial(asked.trial._trial_id).user_attrs
            row = engine.row(asked.configuration)
            if facts["outcome"] == "measured":
                measured.append(row.index)
            done.append(_trial(settings, engine, row, facts, truth.share(measured)))
            spent += done[-1].gpu_hours
    return done


def members(truth: Truth) -> frozenset[int]:
    """Rows on the true feasible front, all of those that share a place on it."""
    on_it = (truth.vectors[:, None] == truth.front[None]).all(axis=2).any(axis=1)
    return frozenset(np.flatnonzero(on_it & truth.feasible).tolist())


def _trial(settings: Settings, engine: Replay, row: Row, facts: Mapping[str, Any], share: float) -> Trial:
    assert isinstance(settings.engine, ReplaySettings)
    durations, gpus, outcome = facts["durations_s"], facts["gpus"], facts["outcome"]
    load_s = full_s = durations.get("warm-up", 0.0) + durations.get("load", 0.0)
    if outcome in ("measured", "pruned"):
        recorded = [engine.table.value(row, LOAD, level) for level in settings.workload.levels]
        full_s = durations["warm-up"] + sum(seconds if seconds >= 0 else settings.engine.load_s for seconds in recorded)  # nan is not
    hours = gpus / HOUR_S
    return Trial(row.index, outcome, load_s, full_s, hours * (durations["deploy"] + load_s), hours * (durations["deploy"] + full_s), share)


def share_at(trials: Sequence[Trial], gpu_hours: float) -> float:
    """The share of the front that a search had measured when so much was spent; a trial that is not over by then does not count."""
    spent, share = 0.0, 0.0
    for trial in trials:
        spent += trial.gpu_hours
        if spent > gpu_hours * (1 + 1e-9):
            break
        share = trial.share
    return share
