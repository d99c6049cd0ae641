"""Which requests of a closed loop tell its throughput, over which time they must be counted, and which tell its times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, variance

SLOWER = 1.1
"""A first wave that is slower by less is no matter worth a third of the requests of a short level."""
SIGMAS = 3.0
MIN_WAVES = 3


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a level's completions, in their order in time.

    Attributes:
        first: Index of the first completion that counts.
        end: Index after the last one that counts.
        seconds: From the completion before `first` (or the start of the level) to the last one that counts.
    """

    first: int
    end: int
    seconds: float


def departures(finished_s: Sequence[float], concurrency: int) -> Window:
    """The window over which completions divided by seconds give the throughput.

    A closed loop always has `concurrency` requests in flight. What was in flight at the end never finishes and must not count, nor must its
    time; what finishes first was not yet queued behind a full house. So count departures: from the end of the first wave, completion
    `concurrency`, to the end of the last whole wave. That is right at both extremes and between them:

    - a server that works on one request at a time finishes them evenly spaced: any stretch between two completions shows its rate;
    - a server that works on all at once finishes them in waves: only a stretch between the ends of two waves does.

    Clusters of another size `s` than the waves leave an error below `s / (end - first)`. With fewer than two whole waves the first one is
    all there is, counted from the start of the level.

    Args:
        finished_s: Seconds from the start of the level to each completion, ascending; at least one.
        concurrency: Users that each keep one request in flight.
    """
    end = len(finished_s) // concurrency * concurrency or len(finished_s)
    if end >= 2 * concurrency and (seconds := finished_s[end - 1] - finished_s[concurrency - 1]) > 0:
        return Window(concurrency, end, seconds)
    return Window(0, end, finished_s[end - 1])


def slow_start(waves: Sequence[Sequence[float]]) -> bool:
    """Whether the first wave of a level was slower than the others beyond their noise.

    What comes first may still pay for what is done once (compiled kernels, captured graphs, grown buffers, cold caches), and it comes all
    at once, while later requests follow each other as the server lets them: neither tells what users meet from then on. The decision is
    made anew for each level, from its own requests: leaving out a wave that is like the others would only cost precision.

    It was slower when its mean lies above that of every other wave, by 10 % of theirs and by three standard errors. The error of a wave's
    mean is taken from the differences between the other waves or from those within them, whichever says more: the former are few, and the
    latter know nothing of what a whole wave shares. Of levels without a slow start fewer than 3 % are taken for one, and 7 % where a wave
    has four requests that scatter by more than their mean.

    Args:
        waves: Times of the requests, s, by waves in the order in which they were sent; a last wave that is not whole is left out. Fewer
            than three waves tell nothing.
    """
    if len(waves) < MIN_WAVES:
        return False
    first, others = fmean(waves[0]), [fmean(wave) for wave in waves[1:]]
    usual = fmean(others)
    within = fmean(variance(wave) if len(wave) > 1 else 0.0 for wave in waves[1:]) / len(waves[0])
    error = sqrt(max(variance(others), within) * (1 + 1 / len(others)))
    return first > max(*others, SLOWER * usual, usual + SIGMAS * error)
