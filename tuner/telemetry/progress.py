"""What a run tells to those who watch it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tuner.benchmark.measurement import Measurement
from tuner.launch import Configuration


class Progress(Protocol):
    """Is told the stages of trials, in their order. Implementations never raise and return at once."""

    def notice(self, line: str) -> None:
        """A sentence that the user should see."""

    def trial(self, number: int, configuration: Configuration, default: bool) -> None:
        """A trial begins."""

    def stage(self, name: str) -> None:
        """It enters a stage: `deploy`, `warm-up`."""

    def level(self, level: int, requests: int) -> None:
        """It enters a load level of `requests` requests."""

    def requests(self, finished: int) -> None:
        """So many requests of the level have finished."""

    def measured(self, level: int, measurement: Measurement) -> None:
        """The level is done."""

    def ended(self, outcome: str, values: Sequence[float] = (), reason: str = "") -> None:
        """The trial is over: its outcome, the values of its objectives, why it failed."""
