"""The control arm: random trials at the same cost, which say whether the search was worth it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from optuna.trial import FrozenTrial

from tuner.confirm.companion import CONTROL, open_companion
from tuner.confirm.cost import charged_h
from tuner.confirm.race import percent
from tuner.confirm.statistics import Array
from tuner.confirm.values import gains, margins, ranked
from tuner.launch import Value
from tuner.search.history import DEPLOYED
from tuner.settings import Settings
from tuner.study import Ledger

DRAWS = 200
BEYOND = 0.1
"""The reference point of the hypervolume lies so far behind the worst values of both fronts, as a share of their range."""
MEANINGFUL = 5.0
"""Percent by which the search has to be ahead to be worth its trouble: as much as a confirmation of the default size finds."""
SEED_APART = 1_000_003
"""Added to the seed: the search's own first trials may be random too, and should not be these."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The search against random trials, as percentages of random's result; positive where the search is ahead.

    Attributes:
        deployments: Of the search that are counted, and of the control arm.
        hours: GPU-hours charged for them (hours where the engine uses no GPU), in the same order.
        volume: Share by which the search's feasible front covers more, with its interval. None where random found nothing feasible.
        best: By objective the same of the best values.
    """

    deployments: tuple[int, int]
    hours: tuple[float, float]
    volume: tuple[float, float, float] | None
    best: tuple[tuple[float, float, float] | None, ...]

    @property
    def search(self) -> Literal["ahead", "behind", "level", "unclear"]:
        """How the search did, by the front or by all objectives, and against none of them; `level` where no meaningful gain is possible."""
        if self.volume is None:
            return "ahead"
        best = [each for each in self.best if each is not None]
        above, below = [each[1] > 0 for each in best], [each[2] < 0 for each in best]
        if (self.volume[1] > 0 or all(above)) and not any(below):
            return "ahead"
        if (self.volume[2] < 0 or all(below)) and not any(above):
            return "behind"
        return "level" if all(each[2] < MEANINGFUL for each in (self.volume, *best)) and not any(above) else "unclear"


def open_control(ledger: Ledger, defaults: Mapping[str, Value]) -> Ledger:
    """The study of the control arm: random, without pruning, `control.random` trials or as many as the space has."""
    settings = ledger.settings
    changes: dict[str, Any] = {
        "trials": min(settings.control.random, settings.space.size or settings.control.random),
        "seed": None if settings.seed is None else settings.seed + SEED_APART,
    }
    return open_companion(ledger, CONTROL, defaults, **changes)


def compare(ledger: Ledger, control: Ledger) -> tuple[Comparison, Comparison] | None:
    """The search after as many deployments as the control arm had, and after as many GPU-hours; None while either has none."""
    random, search = _deployed(control), _deployed(ledger)
    if not random or not search:
        return None
    spent = np.cumsum([charged_h(trial) for trial in search])
    affordable = max(1, int(np.searchsorted(spent, charged_h(*random) * (1 + 1e-9), side="right")))
    settings = ledger.settings
    return _compare(settings, search[: len(random)], random), _compare(settings, search[:affordable], random)


def _deployed(ledger: Ledger) -> list[FrozenTrial]:
    return [trial for trial in ledger.finished if trial.user_attrs.get("outcome") in DEPLOYED]


def _compare(settings: Settings, search: list[FrozenTrial], random: list[FrozenTrial]) -> Comparison:
    measured = [[trial for trial in arm if trial.values is not None] for arm in (search, random)]
    logs = np.split(ranked(gains(settings, measured[0] + measured[1])), [len(measured[0])])
    met = [margins(settings, arm) for arm in measured]
    found = [arm[np.all(margin > 0, axis=1)] for arm, margin in zip(logs, met, strict=True)]
    counts, hours = (len(search), len(random)), (charged_h(*search), charged_h(*random))
    if not len(found[0]) or not len(found[1]):
        nothing = (-100.0, -100.0, -100.0) if len(found[1]) else None
        return Comparison(counts, hours, nothing, (nothing,) * len(settings.objectives))
    reference = _reference(np.concatenate(found))
    rng = np.random.default_rng(0)
    drawn = [_ahead(logs, met, reference, settings.noise, rng) for _ in range(DRAWS)]
    possible = np.array([ahead for ahead in drawn if ahead is not None])
    shown = _score(found[0], reference) - _score(found[1], reference)
    tails = [(1 - settings.confirm.confidence) / 2, (1 + settings.confirm.confidence) / 2]
    # measured anew, the best of many looks better still: turned round the estimate, this takes off what noise has added to it already
    high, low = 2 * shown - (np.quantile(possible, tails, axis=0) if len(possible) else np.array([shown, shown]))
    more = [True, *(objective.more for objective in settings.objectives)]
    ahead = [
        (percent(estimate, up), percent(min(estimate, bottom), up), percent(max(estimate, top), up))
        for estimate, bottom, top, up in zip(shown, low, high, more, strict=True)
    ]
    return Comparison(counts, hours, ahead[0], tuple(ahead[1:]))


def _ahead(logs: list[Array], met: list[Array], reference: Array, noise: float, rng: np.random.Generator) -> Array | None:
    """One draw of the difference of the scores, with all measurements made anew; None where an arm has nothing feasible in it."""
    scores = []
    for values, margin in zip(logs, met, strict=True):
        feasible = np.all(margin + noise * rng.standard_normal(margin.shape) > 0, axis=1)
        if not feasible.any():
            return None
        scores.append(_score((values + noise * rng.standard_normal(values.shape))[feasible], reference))
    return scores[0] - scores[1]


def _score(found: Array, reference: Array) -> Array:
    """Logarithm of the hypervolume, and the best of each objective."""
    return np.concatenate([[np.log(max(_covered(found - reference), 1e-12))], found.max(axis=0)])


def _covered(above: Array) -> float:
    """The hypervolume of points above the origin."""
    from tuner.search.hypervolume import volume

    inside = np.maximum(above, 0.0)
    if inside.shape[1] != 2:
        return volume(-inside, np.zeros(inside.shape[1]))
    # strips from right to left, each as high as the highest point that is as far right
    inside = inside[np.argsort(-inside[:, 0])]
    widths = inside[:, 0] - np.append(inside[1:, 0], 0.0)
    return float(widths @ np.maximum.accumulate(inside[:, 1]))


def _reference(found: Array) -> Array:
    """A point behind the front of all that was found, by arms of both kinds."""
    from tuner.search.hypervolume import front_of

    front = -front_of(-found)
    spread = front.max(axis=0) - front.min(axis=0)
    return np.asarray(front.min(axis=0) - np.maximum(BEYOND * spread, 0.05))
