"""What a study is judged by: objectives and SLOs, each a metric at a load level, and what a trial's measurements say about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, PositiveFloat, PositiveInt, model_validator

from tuner.benchmark.measurement import METRICS, RATES, TIMINGS, Measurement
from tuner.explain import nearest, show
from tuner.section import Section

Curve = Mapping[int, Measurement]
"""What one trial has shown, by load level; levels that were not run are missing."""


def _metric(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"'{name}' is no metric{nearest(name, METRICS)}; use {', '.join(TIMINGS)} as in ttft_p99_s, or {', '.join(RATES)}")
    return name


Metric = Annotated[str, AfterValidator(_metric)]


def _at(value: Any) -> Any:
    if value in ("min", "max") or (type(value) is int and value > 0):
        return value
    raise ValueError(f"{show(value)} is not allowed; use min, max, or one of workload.levels{nearest(str(value), ('min', 'max'))}")


class _AtLevel(Section):
    """A metric at one load level; `min` and `max` stand for the lowest and highest that are run."""

    metric: Metric
    at: Annotated[PositiveInt | Literal["min", "max"], BeforeValidator(_at)] = "max"

    def level(self, levels: tuple[int, ...]) -> int:
        """The load level that is meant."""
        return {"min": levels[0], "max": levels[-1]}[self.at] if isinstance(self.at, str) else self.at


class Objective(_AtLevel):
    """What is optimised."""

    direction: Literal["minimize", "maximize"]

    def label(self, levels: tuple[int, ...]) -> str:
        """The objective's name in the study and the dashboard: `latency_p99_s@16`."""
        return f"{self.metric}@{self.level(levels)}"


class Slo(_AtLevel):
    """A bound on a metric; a trial that misses it is measured, but not feasible."""

    min: PositiveFloat | None = None
    max: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Slo:
        if (self.min is None) == (self.max is None):
            raise ValueError("give exactly one of min and max")
        return self

    def label(self, levels: tuple[int, ...]) -> str:
        """The constraint's name in the study: `ttft_p99_s@16<=0.5`."""
        sign, bound = ("<=", self.max) if self.max is not None else (">=", self.min)
        return f"{self.metric}@{self.level(levels)}{sign}{bound:g}"

    def violation(self, value: float) -> float:
        """How far `value` misses the bound, relative to it and clipped to [-1, 1]; <= 0 when it is met."""
        excess = value / self.max - 1 if self.max is not None else 1 - value / (self.min or 1.0)
        return min(max(excess, -1.0), 1.0)
