"""The known ways to stop a trial by several metrics, as stop rules of a course: to be compared with, not for use.

Neither knows SLOs, noise, or that an objective has its own load level: at each level they compare what the trial shows there with what the
trials before it showed there, in the metrics of the objectives. Written from their published descriptions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tuner.objectives import Curve
from tuner.settings import Settings

Array = npt.NDArray[np.float64]

STARTUP = 5
"""Trials before the median rule stops one: the default of Optuna's MedianPruner."""
REDUCTION = 3
"""Of successive halving: one trial in so many goes on beyond a level. The default of syne-tune's MOASHA."""


class Reference:
    """Levels from the lowest to the highest, and a rule after each.

    Args:
        settings: Of the study.
    """

    def __init__(self, settings: Settings) -> None:
        self._levels = settings.workload.levels
        self._objectives = settings.objectives
        self._shown: dict[int, list[Array]] = {level: [] for level in self._levels}

    def next_level(self, measured: Curve) -> int | None:
        return next((level for level in self._levels if level not in measured), None)

    def hopeless(self, measured: Curve) -> str | None:
        level = max(measured)
        costs = np.array([(-1.0 if o.more else 1.0) * measured[level].metric(o.metric) for o in self._objectives])
        before = np.array(self._shown[level]).reshape(-1, len(costs))
        self._shown[level].append(costs)
        return type(self).__name__ if len(measured) < len(self._levels) and self.stops(costs, before) else None

    def stops(self, costs: Array, before: Array) -> bool:
        """Whether a trial ends here.

        Args:
            costs: What it has shown at this level, less being better. Shape (objectives,).
            before: What the trials before it have shown there. Shape (trials, objectives).
        """
        raise NotImplementedError


class Median(Reference):
    """The median rule in several metrics, as OptunaHub's `multi_metric_pruner` brings it: stops what is worse than the median in each."""

    def stops(self, costs: Array, before: Array) -> bool:
        return len(before) >= STARTUP and bool((costs > np.median(before, axis=0)).all())


class Moasha(Reference):
    """Multi-objective asynchronous successive halving (Schmucker et al. 2021, arXiv 2106.12639), as a rule that stops.

    Each level is a rung. All that reached it are sorted into non-dominated fronts, and within each by an epsilon-net: the next is the one
    that lies farthest from those before it. A trial goes on if it is among the first 1 / `REDUCTION`.
    """

    def stops(self, costs: Array, before: Array) -> bool:
        everyone = np.vstack([before, costs])
        return len(everyone) >= REDUCTION and _rank(everyone) >= len(everyone) / REDUCTION


def _rank(vectors: Array) -> int:
    """How many come before the last one."""
    left, before = np.arange(len(vectors)), 0
    while len(left):
        some = vectors[left]
        better = (some[:, None] <= some[None]).all(axis=2) & (some[:, None] < some[None]).any(axis=2)
        front = left[~better.any(axis=0)]
        if len(vectors) - 1 in front:
            return before + _net(vectors[front]).index(len(front) - 1)
        before += len(front)
        left = np.setdiff1d(left, front)
    return before


def _net(front: Array) -> list[int]:
    """The order of an epsilon-net: begins with the best in the first objective, then always takes the one farthest from all taken."""
    scaled = (front - front.min(axis=0)) / np.maximum(np.ptp(front, axis=0), 1e-12)
    order = [int(scaled[:, 0].argmin())]
    distance = np.linalg.norm(scaled - scaled[order[0]], axis=1)
    while len(order) < len(front):
        distance[order] = -1.0
        order.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[order[-1]], axis=1))
    return order
