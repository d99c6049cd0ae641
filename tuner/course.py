"""The course of a trial over the load levels: which comes next, and whether to go on."""

from __future__ import annotations

from typing import Protocol

from tuner.objectives import Curve


class Course(Protocol):
    """Is asked before and after each load level of a trial."""

    def next_level(self, measured: Curve) -> int | None:
        """The load level to be measured next, concurrent users; None when the trial has shown all it should."""

    def hopeless(self, measured: Curve) -> str | None:
        """Why the trial is not worth going on with, in one line; None where it may be."""


class EveryLevel:
    """All levels in their order, whatever they show.

    Args:
        levels: Concurrent users.
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        self._levels = levels

    def next_level(self, measured: Curve) -> int | None:
        return next((level for level in self._levels if level not in measured), None)

    def hopeless(self, measured: Curve) -> str | None:
        return None
