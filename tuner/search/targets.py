"""What a study wants, in the terms of the models: logarithms of metrics at load levels, of trials and as priors predict them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isfinite, log

import numpy as np

from tuner.benchmark.measurement import Measurement
from tuner.evaluation import trace_of
from tuner.launch import Configuration
from tuner.objectives import HOUR_S, Objective, Slo, Wanted
from tuner.prior.base import Prior
from tuner.search.gaussian_process import Array
from tuner.search.history import Seen
from tuner.search.proposal import Aim
from tuner.search.pruner_peers import NO_ERRORS
from tuner.settings import Settings


class Targets:
    """The objectives and bounds of a study as aims, and what is known of each.

    A metric at a level is modelled at all levels. What has no level of its own (`best`, `goodput`) is modelled by its value alone.

    Args:
        settings: The experiment.
        gpus: GPUs that a configuration holds.
    """

    def __init__(self, settings: Settings, gpus: Callable[[Configuration], int]) -> None:
        self._settings = settings
        self._gpus = gpus
        self._levels = settings.workload.levels
        self._wanted: dict[str, Wanted] = {}
        self._centre: dict[str, Array] = {}
        self.aims: list[Aim] = []
        for want in (*settings.objectives, *settings.constraints):
            metric, level = self._place(want)
            self._wanted[metric] = want
            if isinstance(want, Objective):
                self.aims.append(Aim(metric, level, 1 if want.direction == "minimize" else -1))
            elif isinstance(want, Slo):
                bound = want.max if want.max is not None else want.min
                assert bound is not None
                self._bind(metric, level, log(bound), want.max is not None)

    def _bind(self, metric: str, level: int, bound: float, below: bool) -> None:
        """Adds a bound, to the objective of the same metric and level where there is one."""
        for i, aim in enumerate(self.aims):
            if (aim.metric, aim.level, aim.bound) == (metric, level, None):
                self.aims[i] = replace(aim, bound=bound, below=below)
                return
        self.aims.append(Aim(metric, level, 0, bound, below))

    @property
    def positions(self) -> dict[str, Array]:
        """Where the levels of each metric stand, by their logarithm, in the unit interval."""
        users = np.log2(self._levels)
        everywhere = (users - users[0]) / max(users[-1] - users[0], 1.0)
        return {metric: everywhere if self._has_levels(want) else np.zeros(1) for metric, want in self._wanted.items()}

    def logs(self, seen: Sequence[Seen]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Logarithms of what trials have shown, nan where they have not, and their relative standard errors.

        Returns:
            Shape (n, levels) each, by metric.
        """
        logs, spread = {}, {}
        for metric, want in self._wanted.items():
            told = [self._told(want, one) for one in seen]
            logs[metric] = np.array([[value for value, _ in row] for row in told])
            spread[metric] = np.array([[error for _, error in row] for row in told])
        return logs, spread

    def served(self, seen: Seen) -> bool:
        """Whether a trial served at all, and at some load as `workload.goodput` promises."""
        placeless = (want for want in self._wanted.values() if not self._has_levels(want))
        return bool(seen.curve) and all(want.value(trace_of(self._settings, seen.curve, seen.gpus)) != 0.0 for want in placeless)

    def predicted(self, priors: Sequence[Prior], configuration: Configuration) -> dict[str, Array]:
        """Logarithms of what priors predict of a configuration, nan where they cannot; shape (levels, priors) by metric."""
        gpus = self._gpus(configuration)
        by_level = [[prior.predict(configuration, level) or {} for prior in priors] for level in self._levels]
        return {
            metric: np.array([[_log(told.get(want.metric, 0.0) * self._share(want, gpus)) for told in row] for row in by_level])
            if self._has_levels(want)
            else np.full((1, len(priors)), np.nan)
            for metric, want in self._wanted.items()
        }

    def around(self, predicted: Mapping[str, Array]) -> dict[str, Array]:
        """Predictions less the first that was ever told of the same level by the same prior; what is not known is 0."""
        for metric, values in predicted.items():
            centre = self._centre.setdefault(metric, np.full(values.shape, np.nan))
            np.copyto(centre, values, where=np.isnan(centre))
        return {metric: np.nan_to_num(values - self._centre[metric]) for metric, values in predicted.items()}

    def _place(self, want: Wanted) -> tuple[str, int]:
        metric = f"{want.metric}/{want.per}" if want.per else want.metric
        level = want.level(self._levels)
        return (metric, self._levels.index(level)) if level is not None else (want.place(self._levels), 0)

    def _has_levels(self, want: Wanted) -> bool:
        return want.level(self._levels) is not None

    def _told(self, want: Wanted, seen: Seen) -> list[tuple[float, float]]:
        if not self._has_levels(want):
            value = want.value(trace_of(self._settings, seen.curve, seen.gpus))
            return [(_log(value if value is not None else 0.0), 0.0)]
        share = self._share(want, seen.gpus)
        return [self._of(want.metric, seen.curve.get(level), share) for level in self._levels]

    def _share(self, want: Wanted, gpus: int) -> float:
        dollars_per_hour = self._settings.cost.gpu_hour or 1.0
        return {None: 1.0, "gpu": 1 / max(gpus, 1), "dollar": HOUR_S / (max(gpus, 1) * dollars_per_hour)}[want.per]

    @staticmethod
    def _of(metric: str, shown: Measurement | None, share: float) -> tuple[float, float]:
        if shown is None:
            return np.nan, 0.0
        value = shown.metric(metric) * share
        return _log(max(value, NO_ERRORS) if metric == "error_rate" else value), shown.spread.get(metric, 0.0)


def _log(value: float) -> float:
    return log(value) if value > 0 and isfinite(value) else np.nan
