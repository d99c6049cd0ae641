"""What many searches say together: per arm, and as paired differences to the first arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.efficiency.play import Search

COUNTS = (5, 10, 20, 30, 50)
"""Deployments after which the share is told."""
TARGETS = (0.9, 0.95)
"""Shares of the true front's hypervolume of which is told after how many deployments they were reached."""
RESAMPLES = 10_000
CONFIDENCE = 0.95

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its bootstrap interval, of `CONFIDENCE`."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """An arm less the first one, paired by seed.

    Attributes:
        estimate: The mean difference.
        p: Of the Wilcoxon signed-rank test that the two do not differ; 1 where they never do.
    """

    estimate: Estimate
    p: float


@dataclass(frozen=True)
class Summary:
    """One arm over all seeds; what is a mapping has one entry for each count or target.

    Attributes:
        arm: Its label.
        share: Share of the true front's hypervolume by number of deployments.
        reached: Deployments until a target was reached, median over seeds; infinite where most never did.
        reached_by: Share of the seeds that reached a target.
        certain: Infeasible deployments that the gate's memory formula would have refused, mean over seeds.
        uncertain: The other infeasible deployments.
        duplicates: Deployments of what had been deployed before.
        refused: Suggestions that were refused without a deployment.
        gpu_hours: Charged GPU-hours of the whole search.
        gpu_hours_to: The same until a target was reached, median over seeds; infinite where most never did.
        ask_s: Seconds of real time to choose a configuration, median over all.
    """

    arm: str
    share: Mapping[int, Estimate]
    reached: Mapping[float, float]
    reached_by: Mapping[float, float]
    certain: float
    uncertain: float
    duplicates: float
    refused: float
    gpu_hours: Estimate
    gpu_hours_to: Mapping[float, float]
    ask_s: float


def share_after(search: Search, count: int) -> float:
    """The share that a search had after so many deployments; one that has ended keeps what it had."""
    return search.deployments[min(count, len(search.deployments)) - 1].share if search.deployments else 0.0


def reached_after(search: Search, target: float) -> float:
    """Deployments until a search had reached a share; infinite where it did not."""
    return next((float(i) for i, deployment in enumerate(search.deployments, 1) if deployment.share >= target), np.inf)


def gpu_hours_to(search: Search, target: float) -> float:
    """GPU-hours until a search had reached a share; infinite where it did not."""
    return next((deployment.gpu_hours for deployment in search.deployments if deployment.share >= target), np.inf)


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of independent values."""
    numbers = np.array(values)
    means = _rng().choice(numbers, (RESAMPLES, len(numbers))).mean(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(float(numbers.mean()), float(low), float(high))


def difference(values: Sequence[float], first: Sequence[float]) -> Difference:
    """How `values` differ from `first`, seed by seed."""
    from scipy.stats import wilcoxon

    gaps = np.array(values) - np.array(first)
    p = float(wilcoxon(gaps).pvalue) if np.any(gaps) else 1.0
    return Difference(estimate(gaps.tolist()), p)


def summarise(arm: str, searches: Sequence[Search], counts: Sequence[int]) -> Summary:
    """One arm.

    Args:
        arm: Its label.
        searches: Its searches, one for each seed.
        counts: Deployments after which the share is told.
    """

    def mean(of: Sequence[float]) -> float:
        return float(np.mean(of))

    failed = [[d for d in search.deployments if d.outcome == "infeasible"] for search in searches]
    return Summary(
        arm=arm,
        share={count: estimate([share_after(search, count) for search in searches]) for count in counts},
        reached={target: float(np.median([reached_after(search, target) for search in searches])) for target in TARGETS},
        reached_by={target: mean([np.isfinite(reached_after(search, target)) for search in searches]) for target in TARGETS},
        certain=mean([sum(d.certain for d in some) for some in failed]),
        uncertain=mean([sum(not d.certain for d in some) for some in failed]),
        duplicates=mean([sum(d.duplicate for d in search.deployments) for search in searches]),
        refused=mean([search.refused for search in searches]),
        gpu_hours=estimate([search.deployments[-1].gpu_hours if search.deployments else 0.0 for search in searches]),
        gpu_hours_to={target: float(np.median([gpu_hours_to(search, target) for search in searches])) for target in TARGETS},
        ask_s=float(np.median([d.ask_s for search in searches for d in search.deployments])),
    )


def counts_up_to(trials: int) -> list[int]:
    """Those of `COUNTS` that a search of so many deployments reaches, and its end."""
    return sorted({count for count in COUNTS if count < trials} | {trials})


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)
