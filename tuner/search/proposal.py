"""Which configuration to try next: the largest expected improvement of the feasible front's hypervolume, among all candidates.

Expected hypervolume improvement under constraints, by sampling: Daulton, Balandat and Bakshy, `Differentiable Expected Hypervolume
Improvement`, 2020; here the candidates are listed, so that the maximum is exact and needs no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from tuner.search.deployable import Deployable
from tuner.search.gaussian_process import Array, Points, Process
from tuner.search.hypervolume import front_of, improvement

SAMPLES = 64
MARGIN = 0.1
"""The reference point lies so far beyond the worst values of the front, in parts of its range."""
CAUTION = 6.0
"""As if so many deployments hung on whether a configuration serves: for one it would be 1, but a server that fails teaches little,
and at 1 a search comes back to the edge of memory again and again."""
FEW, REFIT = 40, 10
"""With up to `FEW` trials hyperparameters are refined at each call, later at every tenth."""
STEPS_FEW, STEPS_MANY = 15, 8
IN_VAIN = -20.0
"""Logarithm of the probability below which all bounds together are out of reach."""


@dataclass(frozen=True, slots=True)
class Aim:
    """A metric at a load level, and what is wanted of it.

    Attributes:
        metric: Its name.
        level: Index of the load level.
        sign: 1 to minimise it, -1 to maximise it, 0 where it is only bounded.
        bound: Logarithm of its bound, None where it has none.
        below: Whether it must lie below the bound, or else above.
    """

    metric: str
    level: int
    sign: int
    bound: float | None = None
    below: bool = True


@dataclass(slots=True)
class Data:
    """What is known of configurations, one row for each trial.

    Attributes:
        x: In the unit cube; shape (n, d).
        served: Whether it served its load; shape (n,).
        logs: Logarithm of each metric at each level, nan where it was not measured; shape (n, levels) each.
        spread: Relative standard errors of the same, 0 where unknown.
        features: Logarithm of what each prior predicts, by metric; shape (n, levels, priors). Empty without priors.
        risk: Of each configuration, see `Deployable`; shape (n,). None where it cannot be told.
    """

    x: Array
    served: NDArray[np.bool_]
    logs: Mapping[str, Array]
    spread: Mapping[str, Array]
    features: Mapping[str, Array]
    risk: Array | None = None

    def followed_by(self, other: Data) -> Data:
        """Both together."""
        logs, spread, features = (
            {name: np.concatenate([one[name], two[name]]) for name in two}
            for one, two in ((self.logs, other.logs), (self.spread, other.spread), (self.features, other.features))
        )
        risk = None if self.risk is None or other.risk is None else np.concatenate([self.risk, other.risk])
        served = np.concatenate([self.served, other.served])
        return Data(np.concatenate([self.x, other.x]), served, logs, spread, features, risk)


class Proposer:
    """Keeps its models from call to call.

    Args:
        aims: Objectives and bounds.
        positions: Where the load levels of each metric stand, in the unit interval.
        noise: Assumed relative standard deviation of a measurement.
    """

    def __init__(self, aims: Sequence[Aim], positions: Mapping[str, Array], noise: float) -> None:
        self._aims = aims
        self._models = {aim.metric: Process(positions[aim.metric], noise) for aim in aims}
        self._calls = 0

    def rank(
        self,
        data: Data,
        x: Array,
        features: Mapping[str, Array],
        rng: np.random.Generator,
        pending: tuple[Array, Mapping[str, Array]] | None = None,
        before: Data | None = None,
        risk: Array | None = None,
    ) -> Array:
        """The value of trying each candidate, the larger the better, on a scale of no meaning.

        What is known and what is being tried is drawn from the models together with the candidates: a measurement is not taken for the
        truth, and the like of a configuration that has failed a bound by a hair gains nothing.

        Args:
            data: What is known.
            x: Candidates; shape (c, d).
            features: As in `Data`, of the candidates.
            rng: For the samples.
            pending: Configurations and their features that are being tried now.
            before: What earlier studies have shown: it teaches the models, and has no part in the front.
            risk: As in `Data`, of the candidates.
        """
        every = data if before is None else before.followed_by(data)
        serves = Deployable(every.x, every.served, every.risk).probability(x, risk)
        self._fit(every)
        served = {metric: values[data.served] for metric, values in data.features.items()}
        known = data.x[data.served]
        if pending is not None:
            known = np.concatenate([known, pending[0]])
            served = {metric: np.concatenate([values, pending[1][metric]]) for metric, values in served.items()}
        ahead = {aim: _points(aim, x, features) for aim in self._aims}
        drawn = {aim: self._models[aim.metric].sample(_points(aim, known, served), ahead[aim], SAMPLES, rng) for aim in self._aims}
        apart = {aim: rng.standard_normal(SAMPLES) for aim in self._aims}
        objectives = [aim for aim in self._aims if aim.sign]
        bounded = [aim for aim in self._aims if aim.bound is not None]
        here = np.stack([aim.sign * np.exp(drawn[aim][0]) for aim in objectives], axis=2)
        allowed = _all_met(bounded, [drawn[aim][0] for aim in bounded], here.shape[:2])
        fronts = [front_of(here[allowed[:, s], s]) for s in range(SAMPLES)]
        ahead_of = {aim: drawn[aim][1] + drawn[aim][2][:, None] * apart[aim] for aim in self._aims}
        there = np.stack([aim.sign * np.exp(ahead_of[aim]) for aim in objectives], axis=2)
        may = _all_met(bounded, [ahead_of[aim] for aim in bounded], there.shape[:2])
        likely = np.concatenate([allowed.mean(axis=1), may.mean(axis=1) * serves]) > 0.5
        reference = _reference(np.median(np.concatenate([here, there]), axis=1), likely)
        gain = np.zeros(len(x))
        for s, front in enumerate(fronts):
            gain += improvement(there[:, s], front, reference, rng) * may[:, s]
        value = gain * serves**CAUTION
        if value.max() > 0:
            return value
        # where nothing promises a gain, the likeliest to be feasible comes first; of bounds that are out of reach, the nearest
        room = sum((log_ndtr(_room(aim, self._models[aim.metric].predict(ahead[aim]))) for aim in bounded), np.zeros(len(x)))
        nearness = np.exp(room - room.max()) if room.max() > IN_VAIN else room.max() / room
        return np.asarray(nearness * serves**CAUTION)

    def _fit(self, data: Data) -> None:
        self._calls += 1
        early = data.served.sum() <= FEW or self._calls == 1
        steps = STEPS_FEW if early else STEPS_MANY if self._calls % REFIT == 0 else 0
        for metric, model in self._models.items():
            where, levels = np.nonzero(np.isfinite(data.logs[metric]))
            features = data.features[metric][where, levels] if metric in data.features else np.zeros((len(where), 0))
            model.fit(Points(data.x[where], levels, features), data.logs[metric][where, levels], data.spread[metric][where, levels], steps)


def _points(aim: Aim, x: Array, features: Mapping[str, Array]) -> Points:
    told = features[aim.metric][:, aim.level] if aim.metric in features else np.zeros((len(x), 0))
    return Points(x, np.full(len(x), aim.level), told)


def _reference(vectors: Array, feasible: NDArray[np.bool_]) -> Array:
    """Beyond the worst values of the front that is expected, not only of what was found: its ends are worth something too."""
    front = front_of(vectors[feasible] if feasible.any() else vectors)
    low, high = front.min(axis=0), front.max(axis=0)
    return np.asarray(high + MARGIN * np.where(high > low, high - low, np.abs(high)))


def _all_met(bounded: Sequence[Aim], drawn: Sequence[Array], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    met = np.ones(shape, dtype=bool)
    for aim, value in zip(bounded, drawn, strict=True):
        assert aim.bound is not None
        met &= value <= aim.bound if aim.below else value >= aim.bound
    return met


def _room(aim: Aim, predicted: tuple[Array, Array]) -> Array:
    """How far the bound lies from the prediction, in its standard deviations."""
    assert aim.bound is not None
    return (aim.bound - predicted[0]) / predicted[1] * (1 if aim.below else -1)
