"""Studies for the tests of what follows the search: searched with doubles, whose measurements scatter as told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from tests.doubles import (
    DEFAULTS,
    BackendDouble,
    BenchmarkDouble,
    EngineDouble,
    GateDouble,
    ProgressDouble,
    World,
    measurement,
    settings,
    timing,
)
from tuner.benchmark.measurement import Measurement
from tuner.confirm.run import Confirmation
from tuner.launch import Configuration
from tuner.report.pages import Pages
from tuner.study import Ledger
from tuner.trial import Rig

Shown = Callable[[Configuration], tuple[float, float]]
"""True latency, seconds, and throughput, tokens per second, of a configuration; the default has no `n_parallel`."""


class Progress(ProgressDouble):
    """Remembers notices too."""

    def notice(self, line: str) -> None:
        self.lines.append(line)


class Study:
    """A study whose trials are told by hand, and what its confirmation meets.

    Args:
        folder: For its logs.
        shown: What each configuration is worth.
        noise: Relative standard deviation of the measurements of the confirmation; the search measures without.
        changes: Of the settings.
    """

    def __init__(self, folder: Path, shown: Shown, noise: float = 0.0, /, **changes: Any) -> None:
        self.folder = folder
        self.shown = shown
        self.world = World(measures=self._measure)
        self.noise = noise
        self.rng = np.random.default_rng(1)
        self.storage = optuna.storages.InMemoryStorage()
        self.changes = changes
        self.ledger = self._open()
        self.progress = Progress(self.world)

    def _open(self) -> Ledger:
        return Ledger(settings(self.folder, **self.changes), self.storage, DEFAULTS)

    def _measure(self, configuration: Configuration, level: int) -> Measurement:
        latency, throughput = np.array(self.shown(configuration)) * np.exp(self.noise * self.rng.normal(size=2))
        return measurement(level, latency=timing(float(latency)), output_tokens_per_s=float(throughput))

    def search(self, trials: int | None = None) -> Study:
        """Runs the trials of the search, without noise."""
        for _ in range(self.ledger.remaining if trials is None else trials):
            asked = self.ledger.ask()
            assert asked is not None
            asked.trial.set_user_attr("configuration", dict(asked.configuration))
            asked.trial.set_user_attr("gpus", 2)
            asked.trial.set_user_attr("durations_s", {"deploy": 60.0, "queue": 1000.0, "warm-up": 10.0, "load": 110.0})
            latency, throughput = self.shown(asked.configuration)
            curve = {level: measurement(level, latency=timing(latency), output_tokens_per_s=throughput) for level in (1, 4)}
            asked.trial.set_user_attr("measurements", {str(level): shown.to_dict() for level, shown in curve.items()})
            self.ledger.tell_measured(asked.trial, curve)
        return self

    @property
    def rig(self) -> Rig:
        world = self.world
        return Rig(GateDouble(world), EngineDouble(world), BackendDouble(world), BenchmarkDouble(world), self.ledger.settings.workload)

    @property
    def pages(self) -> Pages:
        return Pages(self.ledger, self.folder / "artifacts")

    @property
    def confirmation(self) -> Confirmation:
        """As a new process finds it."""
        return Confirmation(self._open(), DEFAULTS)

    def confirm(self) -> Confirmation:
        """The same command again."""
        confirmation = self.confirmation
        confirmation.run(self.rig, self.progress, self.pages)
        return confirmation


def gaining(latency: float, throughput: float) -> Shown:
    """A front of two ends, few slots for latency and many for throughput, that are better than the default by these factors."""

    def shown(configuration: Configuration) -> tuple[float, float]:
        if "n_parallel" not in configuration:
            return 0.4, 100.0
        many = float(configuration["n_parallel"]) >= 8
        return 0.4 / (latency if not many else 0.9), 100.0 * (throughput if many else 0.9)

    return shown


def flat(configuration: Configuration) -> tuple[float, float]:
    """All configurations are the same."""
    return 0.4, 100.0


def attributes(study: Study, part: str = "confirm") -> list[Mapping[str, Any]]:
    """Of the trials of a companion study."""
    return [trial.user_attrs for trial in optuna.load_study(study_name=f"some-study.{part}", storage=study.storage).trials]
