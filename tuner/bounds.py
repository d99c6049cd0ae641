"""Bounds on metrics: what SLOs, goodput and targets have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, PositiveFloat, model_validator

from tuner.benchmark.measurement import METRICS, RATES, TIMINGS
from tuner.explain import nearest
from tuner.section import Section

USERS = "concurrency"
"""The load itself as a metric, in users: what goodput is told in."""


def _metric(name: str) -> str:
    if name not in (*METRICS, USERS):
        known = f"{', '.join(TIMINGS)} as in ttft_p99_s, or {', '.join((*RATES, USERS))}"
        raise ValueError(f"'{name}' is no metric{nearest(name, METRICS)}; use {known}")
    return name


Metric = Annotated[str, AfterValidator(_metric)]


class Bounded(Section):
    """A value that must stay on one side of a bound."""

    min: PositiveFloat | None = None
    max: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Bounded:
        if (self.min is None) == (self.max is None):
            raise ValueError("give exactly one of min and max")
        return self

    @property
    def bound(self) -> str:
        """As it reads behind a metric: `<=0.5`."""
        return f"<={self.max:g}" if self.max is not None else f">={self.min:g}"

    def violation(self, value: float) -> float:
        """How far `value` misses the bound, relative to it and clipped to [-1, 1]; <= 0 when it is met, nan where there is no value."""
        excess = value / self.max - 1 if self.max is not None else 1 - value / (self.min or 1.0)
        return min(max(excess, -1.0), 1.0)


class Bound(Bounded):
    """A bound on a metric, at whatever load it is measured."""

    metric: Metric

    @model_validator(mode="after")
    def _is_measured(self) -> Bound:
        if self.metric == USERS:
            raise ValueError(f"{USERS} is the load that is looked for, not what it shows; bound {', '.join(METRICS[:2])} or another metric")
        return self
