"""What is added to recorded values, so that a study on them meets what a study on servers does."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from statistics import NormalDist

from tuner.benchmark.measurement import RATES
from tuner.engine_settings import NoiseSettings

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise of one study.

    It depends on nothing but what it is asked for: a study that was interrupted, or runs again under the same name, sees the same.

    Attributes:
        settings: How much.
        seed: Another one gives other noise.
        study: Name of the study.
    """

    settings: NoiseSettings
    seed: int
    study: str

    def factor(self, trial: int, level: int, metric: str, hours: float) -> float:
        """What a recorded value is to be multiplied with.

        Log-normal around 1, so that nothing becomes negative. What all levels of a deployment share, and drift, make a server slower or
        faster: times and rates then go opposite ways.

        Args:
            trial: Number of the trial.
            level: Load level.
            metric: One of `tuner.benchmark.measurement.METRICS`.
            hours: Virtual time, for drift.
        """
        slower = self.settings.deployment * self._normal(trial, "deployment") + math.log1p(self.settings.drift) * hours
        run = self.settings.run.get(metric, 0.0)
        own = run * self._normal(trial, level, metric) if run else 0.0
        return math.exp(own + (-slower if metric in RATES else slower))

    def fails(self, trial: int) -> float | None:
        """How much of its start a deployment gets through before it fails, 0 to 1; None where it does not fail."""
        uniform = self._uniform(trial, "failure")
        return uniform / self.settings.failures if uniform < self.settings.failures else None

    def _normal(self, *what: object) -> float:
        return _NORMAL.inv_cdf(self._uniform(*what))

    def _uniform(self, *what: object) -> float:
        """A number between 0 and 1, never one of them."""
        key = "\0".join(map(str, (self.seed, self.study, *what)))
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 12) / 2**52 + 2**-54
