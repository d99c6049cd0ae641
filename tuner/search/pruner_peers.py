"""What a trial's curve lets one expect of the levels it has not run: from the trials before it, and from what load does to any server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, inf, isfinite, log, nan
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tuner.benchmark.measurement import TIMINGS
from tuner.bounds import USERS
from tuner.objectives import FLOWS, Trace, Wanted

Array = NDArray[np.float64]

FEWEST = 6
"""Peers below which their curves say nothing about another trial's: a regression on fewer has no residuals to speak of."""
MOST = 200
"""Peers that are asked, the latest: they are most like what the search is at, and thousands would take milliseconds."""
PENALTIES = (0.03, 0.3, 3.0, 30.0)
"""Of the ridge regression, in units of one peer's weight; the one that predicts left-out peers best is taken."""
MOST_DOF = 8.0
"""Degrees of freedom of a prediction at most: its errors have heavier tails than the normal distribution, as curves bend where slots or
memory run out. On bending curves that a straight line predicts, 3 % of the truths lay below the 1 % quantile without this bound, and 1 %
with it."""
SLACK = 0.05
"""By so much, relatively, a time may be lower or a rate lower with more users. On simulated servers times fell by 2 % and rates by 7 % at
most, these where an overloaded server drops work and starts it again."""

NO_ERRORS = 1e-6
"""An error rate that stands for none: 0 has no logarithm."""


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of the logarithm of a value: Student's t distribution, moved and scaled.

    Attributes:
        mean: Of the logarithm.
        sd: Its scale; for a small one, the relative standard deviation of the value itself.
        dof: Degrees of freedom.
        source: Whether the value was `measured`, is `expected` from the peers, or `bounded`: no better than what another level has shown.
    """

    mean: float
    sd: float
    dof: float = inf
    source: Literal["measured", "expected", "bounded"] = "measured"


class Peers:
    """The curves of all trials that served some load, as logarithms.

    Args:
        wants: Objectives and SLOs of the study.
        levels: Its load levels, concurrent users.

    Attributes:
        numbers: Of the trials.
        values: Logarithms of what is wanted; nan where not known. Shape (trials, wants).
        spreads: See `spread`. Shape (trials, wants).
    """

    def __init__(self, wants: Sequence[Wanted], levels: tuple[int, ...]) -> None:
        self._wants = wants
        self._cells = [(metric, level) for level in levels for metric in sorted({want.metric for want in wants} - {USERS})]
        self._per_gpu = any(want.per for want in wants)
        self.numbers: list[int] = []
        self._features = np.empty((0, len(self._cells) + 1))
        self.values = np.empty((0, len(wants)))
        self.spreads = np.empty((0, len(wants)))

    def add(self, number: int, trace: Trace) -> None:
        """Takes over what a trial has shown."""
        self.numbers.append(number)
        self._features = np.vstack([self._features, self._features_of(trace)])
        self.values = np.vstack([self.values, [logarithm(want, trace) for want in self._wants]])
        self.spreads = np.vstack([self.spreads, [spread(want, trace) for want in self._wants]])

    def beliefs(self, trace: Trace, noise: float) -> list[list[Belief]]:
        """What is believed of each want of a trial, seen in every way there is; none where nothing is known.

        Args:
            trace: What the trial has shown.
            noise: Relative standard deviation between runs of one configuration.
        """
        features = self._features_of(trace)
        return [self._of(i, want, trace, features, noise) for i, want in enumerate(self._wants)]

    def _of(self, i: int, want: Wanted, trace: Trace, features: Array, noise: float) -> list[Belief]:
        value = logarithm(want, trace)
        if isfinite(value):
            return [Belief(value, max(noise, spread(want, trace)))]
        ways = (self._expected(i, features, noise), bounded(want, trace, noise))
        return [belief for belief in ways if belief is not None]

    def _features_of(self, trace: Trace) -> Array:
        shown = [_log(trace.curve[level].metric(metric)) if level in trace.curve else nan for metric, level in self._cells]
        return np.array([*shown, _log(trace.gpus) if self._per_gpu else nan])

    def _expected(self, want: int, features: Array, noise: float) -> Belief | None:
        given = np.isfinite(features)
        peers = np.isfinite(self.values[:, want]) & np.isfinite(self._features[:, given]).all(axis=1)
        rows = np.flatnonzero(peers)[-MOST:]
        known = self._features[np.ix_(rows, given)]
        if len(rows) < FEWEST or not alike(known, features[given], noise):
            return None
        return regress(known, self.values[rows, want], features[given], noise)


def bounded(want: Wanted, trace: Trace, noise: float) -> Belief | None:
    """What a want cannot be better than: times do not fall with more users, rates do not rise with fewer. None where that says nothing."""
    level = want.level(trace.levels)
    if level is None or level in trace.curve:
        return None
    if want.metric.startswith(TIMINGS) and not want.more:
        nearest = max((shown for shown in trace.curve if shown < level), default=None)
    elif want.metric in FLOWS and want.more:
        nearest = min((shown for shown in trace.curve if shown > level), default=None)
    else:
        nearest = None
    if nearest is None or not isfinite(value := logarithm(there := want.model_copy(update={"at": nearest}), trace)):
        return None
    return Belief(value, hypot(max(noise, spread(there, trace)), SLACK), source="bounded")


def alike(features: Array, new: Array, noise: float) -> bool:
    """Whether a trial is no farther from its nearest peer than every peer from its own, noise aside: elsewhere no line through them holds.

    The peers of a want are those that were not stopped before they showed it, and may all be of one kind; a trial of another kind, maybe
    the first of a better one, is not theirs to judge.

    Args:
        features: Shape (peers, features).
        new: Features of the trial, shape (features,).
        noise: Relative standard deviation between runs.
    """
    scale = np.maximum(features.std(axis=0), noise)
    tree = cKDTree(features / scale)
    usual = tree.query(tree.data, k=2)[0][:, 1].max()
    allowed = hypot(usual, 2 * noise * float(np.linalg.norm(1 / scale)))
    return bool(tree.query(new / scale)[0] <= allowed)


def regress(features: Array, targets: Array, new: Array, noise: float) -> Belief:
    """The prediction of a ridge regression with an intercept, as far off as such predictions are for peers that were left out.

    Args:
        features: Shape (peers, features).
        targets: Shape (peers,).
        new: Features of the trial, shape (features,).
        noise: Least scale of the prediction.
    """
    count = len(targets)
    centre, scale = features.mean(axis=0), np.maximum(features.std(axis=0), noise)
    left, singular, right = np.linalg.svd((features - centre) / scale, full_matrices=False)
    middle = targets.mean()
    rotated, projected = left.T @ (targets - middle), right @ ((new - centre) / scale)
    best: tuple[float, Belief] = (inf, Belief(middle, inf))
    for penalty in PENALTIES:
        shrunk = singular**2 / (singular**2 + penalty)
        leverage = 1 / count + left**2 @ shrunk
        residuals = (targets - middle - left @ (shrunk * rotated)) / np.maximum(1 - leverage, 1e-6)
        off = float(residuals @ residuals) / count
        if off < best[0]:
            own = 1 / count + float((projected**2 / (singular**2 + penalty)).sum())
            mean = middle + float(projected @ (singular / (singular**2 + penalty) * rotated))
            dof = min(max(1.0, count - 1 - float(shrunk.sum())), MOST_DOF)
            best = off, Belief(float(mean), max(noise, (off * (1 + own)) ** 0.5), dof, "expected")
    return best[1]


def logarithm(want: Wanted, trace: Trace) -> float:
    """The logarithm of what a trial has shown; nan while it has not, and where there is none."""
    value = want.value(trace)
    if want.metric == "error_rate" and value is not None:
        value = max(value, NO_ERRORS)
    return nan if value is None else _log(value)


def spread(want: Wanted, trace: Trace) -> float:
    """How far the value of one run may be off by what that run itself has shown, relatively; 0 where it says nothing.

    The limit of goodput is known only within its tolerance, whatever metric is taken there. Failures are so few that their count scatters
    like a Poisson variable, by its own root; none at all is taken at its word.
    """
    source = want.source(trace)
    if source is None:
        return 0.0
    shown = trace.curve[source]
    failed = sum(shown.errors.values())
    own = failed**-0.5 if want.metric == "error_rate" and failed else shown.spread.get(want.metric, 0.0)
    return hypot(own, trace.goodput.tolerance) if want.at == "goodput" and trace.goodput else own


def _log(value: float) -> float:
    return log(value) if isfinite(value) and value > 0 else nan
