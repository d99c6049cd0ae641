"""Virtual time."""

from __future__ import annotations


class Clock:
    """Seconds that a study was charged. Called, it tells them, as `time.monotonic` tells real ones."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        return self._now_s

    def charge(self, seconds: float) -> None:
        """Lets `seconds` pass."""
        self._now_s += seconds
