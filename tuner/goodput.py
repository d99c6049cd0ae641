"""Goodput: the largest load at which a deployment still keeps its promises, looked for while its server stays up."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan, sqrt
from typing import Annotated

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt

from tuner.benchmark.measurement import Curve, Measurement
from tuner.bounds import Bound
from tuner.section import Section, as_tuple


@dataclass(frozen=True, slots=True)
class Limit:
    """How far a deployment can be loaded, as far as it has shown by now.

    Attributes:
        users: The largest load that met all bounds; 0 where none did.
        lowest: The lowest load that was measured; 0 where none was.
        violation: How far the worst bound is missed at `lowest`, see `Bounded.violation`; what has no value is missed altogether.
        next_level: The load to be measured next, users; None where the limit is known as well as it is asked for.
        at_least: Whether all loads that may be tried met the bounds, so that the limit lies at `users` or above.
    """

    users: int
    lowest: int
    violation: float
    next_level: int | None
    at_least: bool


class Goodput(Section):
    """Which promises, and how closely the limit is looked for.

    Attributes:
        bounds: All of them hold at a load that counts.
        low: Users below `workload.levels` to be tried where its lowest level misses a bound; by default that level is the last word.
        high: Users above `workload.levels` up to which the load is doubled while the bounds hold; by default its highest level.
        tolerance: The search ends when the limit is known within this share of itself.
    """

    bounds: Annotated[tuple[Bound, ...], BeforeValidator(as_tuple), Field(min_length=1)]
    low: PositiveInt | None = None
    high: PositiveInt | None = None
    tolerance: PositiveFloat = 0.1

    def violation(self, measurement: Measurement) -> float:
        """How far the worst bound is missed; 1 where one has no value, for example of tpot where outputs have one token."""
        violations = [bound.violation(measurement.metric(bound.metric)) for bound in self.bounds]
        return max(1.0 if isnan(violation) else violation for violation in violations)

    def limit(self, levels: tuple[int, ...], curve: Curve) -> Limit:
        """The limit that a curve shows.

        First come the levels that every trial measures, then bisection between the largest load that met the bounds and the smallest above
        it that missed them. Halfway is the geometric mean: what is asked for is a share. One measurement decides about one load: a load
        at the very edge may fall on either side, and moves the limit by no more than the noise of its metrics moves the curve.

        Args:
            levels: Of the workload, ascending.
            curve: What was measured.
        """
        met = max((level for level, shown in curve.items() if self.violation(shown) <= 0), default=0)
        missed = min((level for level, shown in curve.items() if level > met and self.violation(shown) > 0), default=None)
        following = next((level for level in levels if level not in curve), None)
        if following is None:
            following = self._between(met, missed, self.low or levels[0], self.high or levels[-1])
        lowest = min(curve, default=0)
        violation = self.violation(curve[lowest]) if curve else 1.0
        return Limit(met, lowest, violation, following, at_least=missed is None and following is None and met > 0)

    def _between(self, met: int, missed: int | None, low: int, high: int) -> int | None:
        if missed is None:
            return min(2 * met, high) if met < high else None
        if met == 0:
            return low if low < missed else None
        if missed <= max(met * (1 + self.tolerance), met + 1):
            return None
        return min(max(round(sqrt(met * missed)), met + 1), missed - 1)


class GoodputCourse:
    """All levels of the workload, and then those that bisection asks for. See `tuner.course.Course`.

    Args:
        goodput: What is looked for.
        levels: Of the workload, ascending.
    """

    def __init__(self, goodput: Goodput, levels: tuple[int, ...]) -> None:
        self._goodput = goodput
        self._levels = levels

    def next_level(self, measured: Curve) -> int | None:
        return self._goodput.limit(self._levels, measured).next_level

    def hopeless(self, measured: Curve) -> str | None:
        return None
