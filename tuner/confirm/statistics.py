"""The arithmetic of the confirmation: paired differences of logarithms, a variance with a prior, and sequential looks that stay valid.

All values are logarithms of measurements, turned so that more is better: a difference of 0.05 is a gain of 5.1 %. Round-to-round changes of
the machine drop out, because arms are compared within rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PRIOR_DF = 2.0
"""What `settings.noise` counts for, in degrees of freedom: as much as three runs of one configuration. Enough for three rounds to decide a
clear case (with 1 or less they need four), and little enough that with four times that noise still only 6 % of equal configurations are
told apart (with 4: 9 %; `benchmarks/verdict.py`)."""
SPENDING_POWER = 2.0
"""Of the error probability, the share `t ** SPENDING_POWER` is spent by the time the share `t` of the rounds is done (Kim and DeMets,
Biometrika 74 (1987) 149): between O'Brien-Fleming, which hardly ever ends early, and Pocock, which pays for that with many rounds."""
_GRID = 600


@dataclass(frozen=True, slots=True)
class Variance:
    """An estimate of the run-to-run variance of a logarithm.

    Attributes:
        sd: Its square root; nearly the relative standard deviation.
        df: Degrees of freedom that stand behind it.
    """

    sd: float
    df: float

    def updated(self, squares: float, df: float) -> Variance:
        """With residuals whose squares sum up to `squares` on `df` degrees of freedom (conjugate: scaled inverse chi-squared)."""
        return Variance(math.sqrt((self.df * self.sd**2 + squares) / (self.df + df)), self.df + df)


@dataclass(frozen=True, slots=True)
class Contrast:
    """How much better one arm is than another.

    Attributes:
        log_gain: Mean difference of the logarithms.
        se: Its standard error.
        df: Degrees of freedom of the standard error.
        rounds: Pairs that it rests on.
    """

    log_gain: float
    se: float
    df: float
    rounds: int

    def interval(self, level: float) -> tuple[float, float]:
        """The interval that leaves `level` in each tail, of the logarithm."""
        reach = t_quantile(1 - level, self.df) * self.se
        return self.log_gain - reach, self.log_gain + reach


def contrast(values: Array, arm: int, other: int, prior: Variance) -> Contrast | None:
    """Compares two arms over the rounds that have both.

    Args:
        values: Rounds x arms; nan where an arm was not measured.
        arm: Column of the arm that is asked about.
        other: Column of the one it is compared with.
        prior: What is known of the variance without these rounds.

    Returns:
        None where no round has both.
    """
    both = np.isfinite(values[:, arm]) & np.isfinite(values[:, other])
    differences = values[both, arm] - values[both, other]
    if not len(differences):
        return None
    variance = prior.updated(*residual_squares(values))
    se = variance.sd * math.sqrt(2 / len(differences))
    return Contrast(float(differences.mean()), se, variance.df, len(differences))


def residual_squares(values: Array) -> tuple[float, int]:
    """What an additive model of arms and rounds leaves unexplained, pooled over all arms: sum of squares and degrees of freedom."""
    rounds, arms = np.nonzero(np.isfinite(values))
    if not len(rounds):
        return 0.0, 0
    design = np.concatenate([np.eye(values.shape[0])[rounds], np.eye(values.shape[1])[arms]], axis=1)
    measured = values[rounds, arms]
    fitted, _, rank, _ = np.linalg.lstsq(design, measured, rcond=None)
    return float(((measured - design @ fitted) ** 2).sum()), len(measured) - int(rank)


def successive_variance(series: Sequence[float], prior: Variance) -> Variance:
    """The variance of repeated measurements in the order of time, whatever slow drift lies below them.

    From the squares of successive differences, which count as 2 (n - 1)^2 / (3 n - 4) degrees of freedom (von Neumann, Kent, Bellinson and
    Hart, Annals of Mathematical Statistics 12 (1941) 153).
    """
    n = len(series)
    if n < 2:
        return prior
    df = 2 * (n - 1) ** 2 / (3 * n - 4)
    mean_square = float((np.diff(series) ** 2).mean()) / 2
    return prior.updated(mean_square * df, df)


@lru_cache
def look_levels(error: float, looks: tuple[float, ...]) -> tuple[float, ...]:
    """One-sided levels at which each look may reject, so that all looks together err with probability `error` at most.

    The levels are those of a Brownian motion, found by recursive integration (Armitage, McPherson and Rowe, JRSS A 132 (1969) 235), and are
    applied to t statistics by their level (Jennison and Turnbull, Group Sequential Methods, 2000, section 4.4).

    Args:
        error: Probability of a false rejection.
        looks: Shares of all rounds that are done at each look, ascending, the last 1.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr

    levels: list[float] = []
    spent, at = 0.0, 0.0
    grid, mass = np.zeros(1), np.ones(1)
    for share in looks:
        to_spend = error * share**SPENDING_POWER - spent
        step = math.sqrt(share - at)

        def excess(bound: float, grid: Array = grid, mass: Array = mass, step: float = step, to_spend: float = to_spend) -> float:
            return float(mass @ ndtr((grid - bound) / step)) - to_spend

        bound = float(brentq(excess, 0.0, 10.0))
        levels.append(float(ndtr(-bound / math.sqrt(share))))
        after = np.linspace(-8 * math.sqrt(share), bound, _GRID)
        density = np.exp(-(((after[:, None] - grid) / step) ** 2) / 2) @ mass / (step * math.sqrt(2 * math.pi))
        weights = np.full(_GRID, after[1] - after[0])
        weights[[0, -1]] /= 2
        grid, mass = after, density * weights
        spent, at = error * share**SPENDING_POWER, share
    return tuple(levels)


def chance_of_success(found: Contrast, rounds: int, level: float) -> float:
    """Probability that the difference is significant after all rounds, given those done (predictive power with a flat prior).

    Args:
        found: What the rounds so far show.
        rounds: Rounds in all.
        level: One-sided level of the last look.
    """
    from scipy.special import stdtr

    unit = found.se * math.sqrt(found.rounds)
    needed = t_quantile(1 - level, found.df + rounds - found.rounds) * unit / math.sqrt(rounds)
    if found.rounds >= rounds:
        return float(found.log_gain > needed)
    open_sd = unit * math.sqrt(1 / found.rounds - 1 / rounds)
    return float(stdtr(found.df, (found.log_gain - needed) / open_sd))


def chance_to_meet(margins: Array, arm: int, prior: Variance) -> float:
    """Probability that the true mean of an arm's margins is positive.

    Args:
        margins: Rounds x arms; by how much of the bound an SLO was met, negative where it was missed; nan where not measured.
        arm: Column of the arm.
        prior: What is known of the variance without these rounds.

    Returns:
        1/2 where the arm was not measured.
    """
    from scipy.special import stdtr

    columns = [column[np.isfinite(column)] for column in margins.T]
    own = columns[arm]
    if not len(own):
        return 0.5
    squares = sum(float(((column - column.mean()) ** 2).sum()) for column in columns if len(column))
    variance = prior.updated(squares, sum(max(0, len(column) - 1) for column in columns))
    return float(stdtr(variance.df, own.mean() / (variance.sd / math.sqrt(len(own)))))


@lru_cache(maxsize=4096)
def t_quantile(probability: float, df: float) -> float:
    """Of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))
