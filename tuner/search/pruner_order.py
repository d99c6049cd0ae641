"""In which order the load levels of a trial are run, so that a hopeless one shows it early."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal


class Order:
    """The next level to be run.

    `auto` treats the levels as tests of which any may end the trial: the cheapest sequence of those has falling ratios of the chance to end
    it to the cost (Mitten 1960, J. Industrial Engineering 11). What levels cost, the trials before have shown. The chance is that of the
    trials that ran the level, with Jeffreys' prior: one that was not tried yet has one half, and gets its try unless it costs too much.

    Args:
        kind: `up`, `down` or `auto`.
        levels: All load levels, ascending.
        asked: Those that an objective or an SLO needs; the others decide nothing, and come last.
    """

    def __init__(self, kind: Literal["auto", "up", "down"], levels: tuple[int, ...], asked: Collection[int]) -> None:
        self._kind = kind
        self._levels = levels
        self._asked = asked
        self._asks = dict.fromkeys(levels, 0)
        self._ends = dict.fromkeys(levels, 0)
        self._runs = dict.fromkeys(levels, 0)
        self._seconds = dict.fromkeys(levels, 0.0)

    def learn(self, seconds: Mapping[int, float], ends: Collection[int] | None) -> None:
        """Takes over one trial.

        Args:
            seconds: Duration of its levels.
            ends: Those of them that would have ended it, had they been run first; None where nothing could have.
        """
        if ends is not None:
            for level in seconds.keys() & self._runs.keys():
                self._asks[level] += 1
                self._ends[level] += level in ends
        for level in seconds.keys() & self._runs.keys():
            self._runs[level] += 1
            self._seconds[level] += seconds[level]

    def next_level(self, measured: Collection[int]) -> int | None:
        """The level to be run now; None when all have been."""
        left = [level for level in self._levels if level not in measured]
        if not left or self._kind == "up":
            return left[0] if left else None
        deciding = [level for level in left if level in self._asked]
        if self._kind == "down" or not deciding:
            return left[-1]
        if not all(self._runs[level] for level in deciding):
            return deciding[-1]
        return max(deciding, key=self._worth)

    def _worth(self, level: int) -> float:
        chance = (self._ends[level] + 0.5) / (self._asks[level] + 1)
        return chance * self._runs[level] / max(self._seconds[level], 1e-9)
