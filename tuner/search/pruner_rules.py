"""Whether a trial can still enter the feasible front: tests that carry the noise of all that they compare.

The hypothesis that has to be rejected is that the trial belongs to the front: it meets every SLO, and each trial that was measured before
is worse in one objective at least, or misses an SLO itself. One other trial dominates it where *every* part of that is unlikely by itself
(an intersection-union test needs no more: Berger 1982, Technometrics 24(4)). As any of several others may be mistaken for one that
dominates, their number divides the error that is allowed (Bonferroni), and so does the number of SLOs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr

from tuner.objectives import Objective, Slo
from tuner.search.pruner_peers import Array, Belief

Beliefs = Sequence[Sequence[Belief]]


class Goals:
    """Objectives and SLOs as costs: logarithms of which less is better.

    Args:
        objectives: Of the study.
        constraints: Its SLOs.
    """

    def __init__(self, objectives: Sequence[Objective], constraints: Sequence[Slo]) -> None:
        self._count = len(objectives)
        self._sign = np.array([-1.0 if objective.more else 1.0 for objective in objectives])
        self._slo_sign = np.array([-1.0 if slo.more else 1.0 for slo in constraints])
        self._bound = np.log([slo.max or slo.min or 1.0 for slo in constraints])

    def violation(self, values: Array) -> Array:
        """By which share of its bound a trial misses the SLO that it misses most, as measured; nan where an SLO is not known.

        Args:
            values: Logarithms, shape (trials, wants).

        Returns:
            Shape (trials,); below 0 where all SLOs are met with room.
        """
        shares = self._slo_sign * np.expm1(self._slo_sign * self._excess(values))
        return np.asarray(shares.max(axis=1, initial=-np.inf))

    def eased(self, share: float) -> Array:
        """Logarithms of the bounds that a trial meets which misses none of the SLOs by more than this share. Shape (SLOs,)."""
        with np.errstate(divide="ignore"):  # a rate that may be missed by all of its bound has none
            return np.asarray(self._bound + np.log(np.maximum(0.0, 1 + self._slo_sign * share)))

    def meets(self, beliefs: Beliefs, share: float = 0.0) -> Array:
        """How well what a trial has shown agrees with its meeting each SLO: p-values.

        Args:
            beliefs: Of the trial, of all objectives and then of all SLOs.
            share: By which the bounds are eased.

        Returns:
            Shape (SLOs,).
        """
        goals = zip(beliefs[self._count :], self._slo_sign, self.eased(share), strict=True)
        chances = [min((tail(sign * (b.mean - bound) / b.sd, b.dof) for b in ways), default=1.0) for ways, sign, bound in goals]
        return np.array(chances, dtype=float)

    def front(self, values: Array) -> NDArray[np.intp]:
        """The trials that are measured in all, meet all SLOs as measured, and are dominated by none.

        Args:
            values: Logarithms, shape (trials, wants).

        Returns:
            Their rows.
        """
        rows = np.flatnonzero(np.isfinite(values).all(axis=1) & (self._excess(values) <= 0).all(axis=1))
        costs = self._sign * values[rows, : self._count]
        before = (costs[:, None] <= costs[None]).all(axis=2) & (costs[:, None] < costs[None]).any(axis=2)
        return rows[~before.any(axis=0)]

    def undominated(self, beliefs: Beliefs, values: Array, sds: Array) -> Array:
        """How well what has been shown agrees with a trial's not being dominated by each of some others: p-values.

        Args:
            beliefs: Of the trial, as for `meets`.
            values: Logarithms of the others' values, shape (others, wants).
            sds: Their standard deviations, of the same shape.

        Returns:
            Shape (others,).
        """
        chances = ndtr(self._excess(values) / sds[:, self._count :]).max(axis=1, initial=0.0)
        for k, ways in enumerate(beliefs[: self._count]):
            better = np.ones(len(values))
            for belief in ways:
                behind = self._sign[k] * (belief.mean - values[:, k]) / np.hypot(belief.sd, sds[:, k])
                better = np.minimum(better, tail(behind, belief.dof))
            chances = np.maximum(chances, better)
        return np.asarray(chances)

    def _excess(self, values: Array) -> Array:
        return np.asarray(self._slo_sign * (values[:, self._count :] - self._bound))


def tail(behind: Array | float, dof: float) -> Array:
    """The chance that Student's t lies above `behind`."""
    return np.asarray(ndtr(np.negative(behind)) if np.isinf(dof) else stdtr(dof, np.negative(behind)))
