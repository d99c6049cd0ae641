"""Which completions of a closed loop tell its throughput, and over which time they must be counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
