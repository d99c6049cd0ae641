"""How far the metrics of one load level would scatter if its requests were drawn again: the bootstrap's standard errors.

Means and rates need no drawing, the bootstrap's limit is known in closed form (Efron & Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 5). Of a percentile it is the scatter of an order statistic of resamples: the rank-k value of n draws from the sorted sample is the
one at the place of the k-th of n uniform numbers, which has a beta distribution. So no request is resampled.

Requests are not independent. Those of one wave share their batches, so rates are drawn by waves. Where users queue, each waits for those
before it, so the errors of times grow with the correlation of neighbours, as those of a first-order autoregressive series do; of waves
there would be too few. On simulated servers, queueing and not, with 3 or 4 waves, this told between half and twice the scatter of repeated
levels for nearly all metrics, and a third to three times at worst. Of the extremes of few requests (`Measurement.unresolved`) no bootstrap
knows how far they reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, sqrt

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
"""Resamples of a percentile: its standard error is then known within 5 %, and a level takes 2 ms."""
PERCENTS = (50, 90, 95, 99)
MIN_REQUESTS = 3
MIN_WAVES = 2
DIGITS = 4


def spread_of_times(values: Sequence[float]) -> dict[str, float]:
    """Relative standard errors of `mean`, `p50`, `p90`, `p95` and `p99` of requests' times; empty where there are fewer than three.

    Drawn with the same numbers each time: the same requests give the same answer.

    Args:
        values: Seconds, above 0, in the order in which the requests were sent.
    """
    count = len(values)
    if count < MIN_REQUESTS:
        return {}
    ordered = np.sort(np.asarray(values, dtype=float))
    source = np.random.default_rng(count)
    found = {"mean": ordered.std(ddof=1) / sqrt(count) / ordered.mean()}
    for percent in PERCENTS:
        position = percent / 100 * (count - 1)
        rank = floor(position) + 1  # of the order statistic below the percentile, from 1
        below = source.beta(rank, count - rank + 1, DRAWS)
        above = below + (1 - below) * source.beta(1, max(1, count - rank), DRAWS)
        low, high = (ordered[np.minimum((place * count).astype(int), count - 1)] for place in (below, above))
        drawn = low + (position - floor(position)) * (high - low)
        found[f"p{percent}"] = drawn.std() / drawn.mean()
    wider = _by_neighbours(np.asarray(values, dtype=float))
    return {name: round(float(error) * wider, DIGITS) for name, error in found.items()}


def _by_neighbours(values: NDArray[np.float64]) -> float:
    """By how much an error grows because neighbours are alike: that of a first-order autoregressive series; 1 where they are not."""
    off = values - values.mean()
    if not (total := (off**2).sum()):
        return 1.0
    alike = min(max((off[1:] * off[:-1]).sum() / total, 0.0), 1 - 1 / len(values))
    return float(sqrt((1 + alike) / (1 - alike)))


def spread_of_rates(waves: Sequence[Mapping[str, float]], seconds: Sequence[float]) -> dict[str, float]:
    """Relative standard errors of rates, each the sum over all waves divided by their seconds; empty for fewer than two waves.

    Args:
        waves: What each wave of completions brought, by the name of the rate.
        seconds: How long each wave took.
    """
    count = len(waves)
    if count < MIN_WAVES:
        return {}
    durations = np.asarray(seconds, dtype=float)
    found = {}
    for name in waves[0]:
        brought = np.array([wave[name] for wave in waves], dtype=float)
        if (total := brought.sum()) > 0:
            off = brought - total / durations.sum() * durations
            found[name] = round(float(sqrt(count / (count - 1) * (off**2).sum()) / total), DIGITS)
    return found
